//! What a session owes when nothing of it is under way: run by a group of ours, behind a ReadyForQuery that
//! says so, which the client does not wait for and sees nothing of. What the client sends next is behind it.
//!
//! * A mark that may have been undone: of a text that was not read, may have committed writes on its way, and
//!   has left a transaction open, in which its mark ends with it. Until this one is written the gates stay
//!   closed.
//! * Marks that were held while statements ran that may commit on their way (`hold_…`) are released. If the lock is
//!   gone by then, somebody else has given it back, and what was written behind that is marked.
//! * Forms of statements that the client has dropped in SQL are closed.

use super::expect::Expect;
use super::inject::{MARK, WRITABLE, mark_alone};
use super::portal::Marks;
use super::{Out, Session};
use crate::routing::{KeptClosed, Unlooked};
use crate::wire::{backend, build};

const RELEASE: &str = "pgsegue release";

/// What is owed.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// The calls that mark.
    marks: Vec<String>,
    /// Closed until these are written. Should the session end before, the engine marks.
    gates: Vec<KeptClosed>,
    /// The calls that release.
    releases: Vec<String>,
    /// A cancel of the client's has hit it.
    is_canceled: bool,
}

impl Owed {
    fn is_none(&self) -> bool {
        self.marks.is_empty() && self.releases.is_empty()
    }

    fn add(&mut self, mut more: Self) {
        self.marks.append(&mut more.marks);
        self.gates.append(&mut more.gates);
        self.releases.append(&mut more.releases);
    }

    /// The marks are written.
    fn are_written(&mut self) {
        self.marks.clear();
        self.gates.drain(..).for_each(KeptClosed::leaves_nothing);
    }
}

impl Session {
    /// Whatever becomes of the transaction that the text at hand leaves open, it is marked behind that.
    pub(super) fn owes_mark(&mut self, marks: &Marks) {
        let mark = mark_alone(marks);
        if !self.owed.marks.contains(&mark) {
            self.owed.marks.push(mark);
            let gates =
                marks.routes.iter().map(|route| route.gate.defined_in_transaction(Unlooked::Way));
            self.owed.gates.extend(gates);
        }
    }

    /// It has been marked in a transaction of its own.
    pub(super) fn owes_no_mark(&mut self) {
        self.owed.are_written();
    }

    /// A mark is held; whether it is: not so where the functions for it are not there yet.
    pub(super) fn holds(&mut self, marks: &Marks) -> bool {
        for hold in marks.routes.iter().filter_map(|route| route.target.hold.as_ref()) {
            let release = format!("{}()", hold.release);
            if !self.owed.releases.contains(&release) {
                self.owed.releases.push(release);
            }
        }
        marks.routes.iter().all(|route| route.target.hold.is_some())
    }

    /// The server is ready.
    pub(super) fn settles(&mut self, out: &mut Out) {
        let nothing = self.is_idle() && !self.in_group && self.hold.is_none();
        let owes = !self.owed.is_none() || !self.names.in_sql.orphans.is_empty();
        if !owes || !nothing || !self.is_between_frames() {
            return;
        }
        for form in std::mem::take(&mut self.names.in_sql.orphans) {
            build::close_statement(&mut out.to_server, form.as_bytes());
        }
        let owed = std::mem::take(&mut self.owed);
        if !owed.is_none() {
            build::run_once(&mut out.to_server, MARK, WRITABLE);
        }
        for mark in &owed.marks {
            build::run_once(&mut out.to_server, MARK, &self.ours_as_read(mark.clone()));
        }
        if !owed.releases.is_empty() {
            let releases = self.ours_as_read(format!("SELECT {}", owed.releases.join(", ")));
            build::run_once(&mut out.to_server, RELEASE, &releases);
        }
        build::sync(&mut out.to_server);
        self.replies.push_back(Expect::Settled(Box::new(owed)));
    }

    /// Whether this frame answers that. What has failed is owed still, if it marks, or a cancel of the client's
    /// has hit it: then it is sent again at once.
    pub(super) fn answers_settling(&mut self, tag: u8, body: &[u8], out: &mut Out) -> bool {
        // The migration is aborted: no function of it, or no schema of ours.
        const GONE: [&[u8]; 2] = [b"42883", b"3F000"];
        let Some(Expect::Settled(owed)) = self.replies.front_mut() else { return false };
        match Ours::of(tag, body) {
            Ours::NoAnswer => return false,
            Ours::Part => {}
            Ours::Fails { sqlstate } => {
                let is_canceled = sqlstate == CANCELED;
                let marks = !owed.marks.is_empty() && !GONE.contains(&sqlstate);
                if is_canceled || marks {
                    self.owed.add(std::mem::take(owed));
                    self.owed.is_canceled = is_canceled;
                }
            }
            Ours::Over => {
                owed.are_written();
                self.replies.pop_front();
                if std::mem::take(&mut self.owed.is_canceled) {
                    self.settles(out);
                }
            }
        }
        true
    }
}

/// The SQLSTATE of a statement that a cancel request has met.
pub(super) const CANCELED: &[u8] = b"57014";

/// What a frame of the server is to a group of ours that is answered as a whole, up to its ReadyForQuery.
pub(super) enum Ours<'a> {
    /// It says something besides, or ends the session.
    NoAnswer,
    /// A part of the answer.
    Part,
    /// A statement of it has failed, and those behind it were skipped.
    Fails { sqlstate: &'a [u8] },
    /// The end of it.
    Over,
}

impl<'a> Ours<'a> {
    pub(super) fn of(tag: u8, body: &'a [u8]) -> Self {
        match tag {
            b'S' | b'N' | b'A' => Self::NoAnswer,
            b'E' if backend::field(body, b'V') != Some(b"ERROR") => Self::NoAnswer,
            b'E' => Self::Fails { sqlstate: backend::sqlstate(body).unwrap_or_default() },
            b'Z' => Self::Over,
            _ => Self::Part,
        }
    }
}
