//! One client session, without its sockets: bytes in, bytes out. What is not looked into leaves
//! as it came; everything else is decided by one routing snapshot per statement.
//!
//! The invariant that keeps both sides in step: every frame that goes to the server and is
//! answered has one entry in `replies`, in order; after an error the server skips to the next
//! Sync, and so does the queue.

mod apart;
mod bind;
mod call;
mod client;
mod copied_in;
mod copy;
mod decide;
mod dropped;
mod execute;
mod executed;
mod expect;
mod fetch;
mod gone;
mod hidden;
mod inject;
mod marked;
mod mirrored;
mod named;
mod named_by_protocol;
mod parse;
mod plan;
mod planned;
mod portal;
mod prepared;
mod query;
mod retried;
mod retry;
mod server;
mod settle;
mod skipped;
mod spelled;
mod steps;
mod stream;
mod transaction;
mod watch;

#[cfg(test)]
mod cuts;
#[cfg(test)]
mod stand;
#[cfg(test)]
mod tests;

use super::context::{Context, Readable};
use crate::routing::{InFlight, Routes};
use crate::sql::splice::Spliced;
use crate::wire::backend::TransactionStatus;
use crate::wire::build::Report;
use expect::Expect;
use foldhash::fast::FixedState;
use prepared::Names;
use retry::Retry;
use std::collections::VecDeque;
use std::sync::Arc;
use transaction::{Facts, Transaction};

/// Bytes to be written, per side.
#[derive(Debug, Default)]
pub(super) struct Out {
    pub(super) to_server: Vec<u8>,
    pub(super) to_client: Vec<u8>,
}

/// A session that cannot go on; the client has to be told.
pub(super) type Fatal = Box<Report>;

/// The state of one session.
#[derive(Debug)]
pub(super) struct Session {
    context: Arc<Context>,
    flight: InFlight,
    /// Epochs of the groups of frames (up to a Sync or a simple query) not answered yet.
    epochs: VecDeque<u64>,
    /// The epoch of the first group whose portal or cursor may run in a later one of its transaction block.
    kept: Option<u64>,
    /// Groups so far, the current one included.
    groups: u64,
    /// Whether frames were sent since the last Sync or simple query.
    in_group: bool,
    parameters: Parameters,
    status: TransactionStatus,
    replies: VecDeque<Expect>,
    names: Names,
    transaction: Transaction,
    facts: Option<Facts>,
    hold: Option<Hold>,
    /// An error was answered; the server ignores frames up to the next Sync.
    skipping: bool,
    said: Said,
    retry: Retry,
    /// The simple query that a mark was written for.
    marked: Option<marked::MarkedQuery>,
    /// The mirrored COPY that the client sends.
    copying: Option<Box<copy::Copying>>,
    takes: Takes,
    /// What is to be done when nothing is under way.
    owed: settle::Owed,
    /// The portals that what is sent last closes, or declares cursors under their names.
    ending: fetch::Ending,
    /// The tag of a statement whose steps are run.
    completed: Vec<u8>,
    draws: u64,
    /// Bytes of the current frame that pass without a look.
    client_pass: usize,
    /// What is for the server as soon as they have: what it said has asked for it.
    behind_frame: Vec<u8>,
    server_pass: usize,
    /// Bytes of the server's current frame that go nowhere.
    server_drop: usize,
    /// Bytes of the client's current frame that go nowhere.
    client_drop: usize,
}

/// Why the client's frames wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// The client sent more than a password before the server was ready.
    Startup,
    /// The session's facts are asked for.
    Facts,
    /// Earlier groups are to be answered first.
    Drain,
    /// A mark is being written; then the frame may pass.
    Mark,
    /// The mark is written.
    Marked,
    /// A mark of its own transaction is being written before a Bind.
    Apart,
    /// It has failed.
    Unmarked { canceled: bool },
    /// The server has not said whether it takes the data of a COPY.
    Copy,
    /// A frame came that is none of the data of a COPY: either the server takes them no more, or the client
    /// does not keep to the protocol.
    CopyFails,
    /// The server is asked whether a Sync among the data of a COPY has ended its group: how it has said that it
    /// is ready, if it has.
    CopySynced { ready: Option<u8> },
    /// A marked query runs, and has to be brought to its end before anything else is sent.
    Commit,
    /// Asking failed and the client has the error: the waiting simple query is not sent.
    Failed,
}

/// What the server takes from the client, as far as no COPY is mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Frames,
    /// The data of a COPY; whether a Sync, which it ignores, was among them.
    Data {
        synced: bool,
    },
    /// Nothing more: what comes in the place of data ends the session.
    Nothing,
    /// Frames up to a Sync, which it skips, or has been ready for by a Sync among data of a COPY that has failed:
    /// it has ignored that if it was among them still.
    Either,
    /// Frames from the next Sync on: what comes before goes nowhere.
    Sync,
}

/// What the server has answered since it was ready last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Said {
    #[default]
    Nothing,
    Something,
}

/// Which sub-protocol a statement came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Simple,
    Extended,
}

/// What became of a frame.
enum Flow {
    /// It is dealt with.
    Done,
    /// It has to be looked at again when the hold is over.
    Hold,
}

/// What the server reported about the session.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    pub(super) user: String,
    pub(super) database: String,
    application_name: String,
    client_encoding: String,
    escapes_in_strings: bool,
    /// The major version of the server; 0: unknown.
    server_version: u32,
    pub(super) output: super::dark::OutputSettings,
}

impl Session {
    pub(super) fn new(context: Arc<Context>, user: String, database: String) -> Self {
        let flight = context.routes.register();
        let parameters = Parameters { user, database, ..Parameters::default() };
        Self {
            context,
            flight,
            epochs: VecDeque::new(),
            kept: None,
            groups: 0,
            in_group: false,
            parameters,
            status: TransactionStatus::Idle,
            replies: VecDeque::from([Expect::Startup]),
            names: Names::default(),
            transaction: Transaction::default(),
            facts: None,
            hold: None,
            skipping: false,
            said: Said::Nothing,
            retry: Retry::default(),
            marked: None,
            copying: None,
            takes: Takes::Frames,
            draws: 0,
            client_pass: 0,
            server_pass: 0,
            server_drop: 0,
            client_drop: 0,
            behind_frame: Vec::new(),
            completed: Vec::new(),
            ending: fetch::Ending::default(),
            owed: settle::Owed::default(),
        }
    }

    /// Whether the client's input has to wait for the server.
    pub(super) fn is_held(&self) -> bool {
        let held = match self.hold {
            Some(
                Hold::Startup
                | Hold::Drain
                | Hold::Facts
                | Hold::Mark
                | Hold::Apart
                | Hold::CopyFails
                | Hold::CopySynced { .. },
            ) => true,
            // A long text, or the end of data, has to be sent to its end.
            Some(Hold::Commit | Hold::Copy) => self.client_pass == 0,
            Some(Hold::Marked | Hold::Unmarked { .. } | Hold::Failed) | None => false,
        };
        held || self.retry.is_pending()
    }

    /// Whether every frame has been answered.
    pub(super) fn is_idle(&self) -> bool {
        self.replies.is_empty() && self.status == TransactionStatus::Idle
    }

    /// Whether the server has not let the client in yet.
    pub(super) fn is_starting(&self) -> bool {
        matches!(self.replies.front(), Some(Expect::Startup))
    }

    /// Whether no frame is half way through, to either side.
    pub(super) fn is_between_frames(&self) -> bool {
        self.client_pass == 0
            && self.client_drop == 0
            && self.server_pass == 0
            && self.server_drop == 0
    }

    /// The routes for the next statement; the first of a group enters its epoch.
    fn routes(&mut self) -> Arc<Routes> {
        if self.in_group {
            return self.flight.another();
        }
        self.in_group = true;
        let routes = match self.epochs.is_empty() && self.kept.is_none() {
            true => self.flight.begin(),
            false => self.flight.another(),
        };
        self.epochs.push_back(routes.epoch);
        self.groups += 1;
        routes
    }

    /// Which group the server answers.
    fn answered_now(&self) -> u64 {
        let unanswered = u64::try_from(self.epochs.len()).unwrap_or(u64::MAX);
        (self.groups + 1).saturating_sub(unanswered)
    }

    /// A group was answered. What it has bound or declared is executed as it was decided, or runs what it calls,
    /// later in the block.
    fn group_answered(&mut self) {
        let answered = self.epochs.pop_front();
        match self.status {
            TransactionStatus::Idle => self.kept = None,
            TransactionStatus::InTransaction if self.names.leaves_a_portal() => {
                self.kept = self.kept.or(answered);
            }
            TransactionStatus::InTransaction | TransactionStatus::Failed => {}
        }
        match self.kept.or_else(|| self.epochs.front().copied()) {
            Some(epoch) => self.flight.oldest_is(epoch),
            None => self.flight.idle(),
        }
    }

    /// A statement is complete: a cursor lives on.
    fn keeps_a_cursor(&mut self, tag: &[u8]) {
        if tag.starts_with(b"DECLARE ") {
            self.kept = self.kept.or_else(|| self.epochs.front().copied());
        }
    }

    /// How a text is read that may be read otherwise by what runs before it in its group: the server says of its
    /// settings only when it is ready.
    fn readable_as(&self, sql: &[u8]) -> Readable {
        match self.retry.is_mid_group() && self.may_be_read_otherwise(sql) {
            true => Readable::Never,
            false => self.readable(),
        }
    }

    /// Whether a text has to wait for the settings that earlier groups may change.
    fn waits_to_read(&mut self, sql: &[u8], out: &mut Out) -> bool {
        self.epochs.len() > 1 && self.may_be_read_otherwise(sql) && self.drains(out)
    }

    /// Whether backslashes of a text may mean something else by now: by `standard_conforming_strings`, or by an
    /// encoding in which some end a letter.
    fn may_be_read_otherwise(&self, sql: &[u8]) -> bool {
        self.transaction.is_stateful()
            && sql.contains(&b'\\')
            && (!sql.is_ascii() || sql.windows(2).any(|pair| pair == b"\\'"))
    }

    fn readable(&self) -> Readable {
        if self.parameters.escapes_in_strings {
            return Readable::Never;
        }
        match self.parameters.client_encoding.as_str() {
            "UTF8" => Readable::Always,
            _ => Readable::Ascii,
        }
    }

    /// A text of ours, or one that was read here, so that the server reads it alike: how it reads may
    /// have changed since, and what is spelled in the config file is UTF-8.
    fn as_read_here(&self, text: Spliced) -> Spliced {
        let quotes = || text.text().contains("\\'");
        let is_alike = match self.readable() {
            Readable::Always => !quotes(),
            Readable::Ascii => text.text().is_ascii() && !quotes(),
            Readable::Never => false,
        };
        match is_alike {
            true => text,
            false => text.respelled(&crate::sql::plain::respelled(text.text())),
        }
    }

    /// The same for what is ours alone.
    fn ours_as_read(&self, sql: String) -> String {
        if self.readable() == Readable::Always {
            return sql;
        }
        let mut ours = Spliced::default();
        ours.ours(&sql);
        self.as_read_here(ours).text().to_owned()
    }

    /// A number from 0 to 9,999, the same for the same thing.
    fn draw(thing: impl std::hash::Hash) -> u16 {
        use std::hash::BuildHasher as _;
        u16::try_from(FixedState::default().hash_one(thing) % 10_000).unwrap_or(0)
    }
}
