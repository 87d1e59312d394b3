//! The queue of expected replies: for every frame that was sent, what comes back and what is done
//! with it.

use super::copy::{Behind, Copied};
use super::portal::{Bound, Closed, Portal, Ran};
use super::prepared::Undo;
use super::steps::Steps;
use super::watch::Watch;
use crate::routing::Route;
use crate::sql::splice::Spliced;
use crate::sql::statement::Effect;
use crate::sql::write::{Layout, Verb};
use crate::wire::backend::Called;
use crate::wire::build::Report;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// What comes back for one frame.
#[derive(Debug)]
pub(super) enum Expect {
    /// Everything up to the first ReadyForQuery of a connection.
    Startup,
    /// `1`
    Parse(Reply, Option<Box<Undo>>),
    /// `2`; what the name of its portal stood for before
    Bind(Reply, Option<Box<Bound>>),
    /// `t` (of a statement), then `T` or `n`
    Describe(Reply, Rows),
    /// `D… C`, `I` or `s`; a COPY
    Execute(Reply, Rows),
    /// `3`; the statement that is closed with it
    Close(Reply, Option<Box<Closed>>),
    /// Whatever the proxy sent to learn the session's facts; its row.
    Probe(Arc<crate::proxy::context::Understander>),
    /// A frame that fails on purpose: its error becomes this one.
    Refusal(Box<Report>),
    /// `Z`
    Sync(Reply),
    /// What is run at the end of a marked query; the `Z` behind it is the query's.
    Commit,
    /// A group of ours by which the session settles this: whatever the server says of it, up to its `Z`.
    Settled(Box<super::settle::Owed>),
    /// A mark as a transaction of its own, before a Bind, up to its `Z`; whether it has failed, and by a cancel.
    Apart { failed: Option<bool> },
    /// `D C`: what is asked before a mirrored COPY, for the feed of this number.
    Before(usize),
    /// `D C`: what runs behind a mirrored COPY.
    Behind(Box<Behind>),
    /// The Sync of ours behind a mirrored COPY that came as a simple query: its completion, then
    /// `Z`.
    Completion(Vec<u8>),
    /// A simple query: per statement what is done with its replies, then `Z`.
    Query(VecDeque<Rows>),
    /// Not a frame: CopyDone or CopyFail was sent here. A Sync before it, within a COPY, is
    /// ignored by the server.
    CopyEnd,
}

/// Whether the client asked for a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// It did.
    Forward,
    /// The proxy did.
    Swallow,
}

/// What is done with a statement's description, rows and tag.
#[derive(Debug, Clone)]
pub(super) enum Rows {
    /// Nothing: they go on as they come.
    Plain,
    /// The same, of a FunctionCall: it is no query, and leaves the unnamed statement alone.
    Called,
    /// The same, of a statement that begins a transaction block.
    Begins,
    /// The client has the description already.
    Undescribed,
    /// Those of a mirrored write.
    Mirrored(Box<Mirrored>),
    /// Those of a FETCH from a portal of one.
    Fetched(Box<Mirrored>),
    /// Those of a mirrored COPY: its completion waits.
    Copied(Box<Copied>),
    /// Those of a query on a migrated table.
    Read(Box<ReadRows>),
    /// Those of a statement that fails on purpose: its error becomes this one.
    Refused(Box<Report>),
    /// Those of a mark within the client's text: they are ours.
    Mark(Arc<Form>),
    /// Those of a statement with steps behind it: its completion waits for theirs.
    Followed(Option<Arc<Form>>),
    /// Those of the steps; then the completion of the statement before them.
    Steps(Arc<Steps>, Option<Arc<Form>>),
    /// Those of a statement that changes what names of statements stand for.
    Names(Arc<super::named::Change>, Option<Arc<Form>>),
    /// Those of the client's own statement, in a text that is not its own everywhere.
    Among(Arc<Form>),
    /// Those of a statement that is counted when it is answered; what is done with them.
    Watched(Box<(Watch, Rows)>),
}

/// A mirrored write in flight.
#[derive(Debug, Clone)]
pub(super) struct Mirrored {
    pub(super) mirrors: Arc<Mirrors>,
    /// The statement's, where it is a write on a source itself.
    pub(super) verb: Option<Verb>,
    /// The same, where the form locks the rows before it.
    pub(super) locked_for: Option<Verb>,
    /// What its rows are.
    pub(super) layout: Layout,
    /// For the positions of errors.
    pub(super) form: Arc<Form>,
    /// Rows touched so far.
    pub(super) rows: u64,
    /// The portal that is run, where it cannot be run again.
    pub(super) ran: Option<Ran>,
}

/// The migrations that a write is fed to.
#[derive(Debug, Default)]
pub(super) struct Mirrors {
    /// Those whose outcomes are the first columns of its rows.
    pub(super) in_rows: Vec<Arc<Route>>,
    /// Those whose outcomes come as notices.
    pub(super) by_notice: Vec<Arc<Route>>,
}

/// A longer Bind is not kept: what fails by it is not looked into.
const BOUND_BYTES_MAX: usize = 16 * 1024;

/// A query on a migrated table in flight.
#[derive(Debug, Clone)]
pub(super) struct ReadRows {
    pub(super) route: Arc<Route>,
    pub(super) began: Instant,
    /// The blocks begun before it.
    pub(super) begun: u64,
    /// The Bind by which the shadow reads; empty for a simple query, none where it is long.
    pub(super) bound: Option<Box<[u8]>>,
    pub(super) served_by: ServedBy,
}

/// Which table answers.
#[derive(Debug, Clone)]
pub(super) enum ServedBy {
    /// The table that the client named.
    Source(Waits),
    /// The shadow; its description is replaced by the source's.
    Shadow(Arc<Form>, Arc<crate::proxy::vet::Native>),
}

/// Whether a query may wait for other transactions: it locks rows, or calls what may do anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    Never,
    Perhaps,
}

/// A statement in the form it was sent in, with the client's text.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) spliced: Spliced,
    pub(super) original: Arc<str>,
    /// What its rows are, if it is a mirrored form.
    pub(super) layout: Option<Layout>,
    /// Names of statements of ours in it, and the client's for them: errors may have them.
    pub(super) renamed: Vec<(String, String)>,
    /// Of a read's: how the source describes it.
    pub(super) native: Option<Arc<crate::proxy::vet::Native>>,
}

impl Expect {
    /// The number of the client's statement that a Parse is of.
    pub(super) fn parsed(&self) -> Option<u64> {
        let Self::Parse(_, Some(undo)) = self else { return None };
        match &**undo {
            Undo::Client { id, .. } => Some(*id),
            Undo::Form { .. } => None,
        }
    }

    /// Whether it answers a frame of the client's own.
    pub(super) fn is_the_clients(&self) -> bool {
        match self {
            Self::Parse(reply, _)
            | Self::Bind(reply, _)
            | Self::Describe(reply, _)
            | Self::Close(reply, _)
            | Self::Execute(reply, _) => *reply == Reply::Forward,
            _ => false,
        }
    }

    /// Whether it may wait for other transactions, or write: what is sent behind it begins nobody knows when.
    pub(super) fn may_wait(&self) -> bool {
        match self {
            Self::Execute(_, rows) => rows.may_wait(),
            Self::Query(rows) => rows.is_empty() || rows.iter().any(Rows::may_wait),
            Self::Commit | Self::Before(_) | Self::Behind(_) | Self::Completion(_) => true,
            Self::Startup
            | Self::Parse(..)
            | Self::Bind(..)
            | Self::Describe(..)
            | Self::Close(..)
            | Self::Probe(_)
            | Self::Refusal(_)
            | Self::Settled(_)
            | Self::Apart { .. }
            | Self::Sync(_)
            | Self::CopyEnd => false,
        }
    }
}

impl Form {
    pub(super) fn original_position(&self, position: usize) -> Option<usize> {
        self.spliced.original_position(&self.original, position)
    }
}

impl Rows {
    /// What is done with them, watched or not.
    pub(super) fn bare(&self) -> &Self {
        match self {
            Self::Watched(watched) => watched.1.bare(),
            other => other,
        }
    }

    /// The same, to be changed.
    pub(super) fn bare_mut(&mut self) -> &mut Self {
        match self {
            Self::Watched(watched) => watched.1.bare_mut(),
            other => other,
        }
    }

    /// They are counted when they are answered.
    pub(super) fn watched(self, watch: Option<Watch>) -> Self {
        match watch {
            Some(watch) => Self::Watched(Box::new((watch, self))),
            None => self,
        }
    }

    /// The form whose positions an error has.
    pub(super) fn form(&self) -> Option<&Form> {
        match self {
            Self::Mirrored(m) => Some(&m.form),
            Self::Read(r) => match &r.served_by {
                ServedBy::Shadow(form, _) => Some(form),
                ServedBy::Source(_) => None,
            },
            Self::Mark(form) | Self::Among(form) => Some(form),
            Self::Followed(form) | Self::Steps(_, form) | Self::Names(_, form) => form.as_deref(),
            Self::Plain
            | Self::Called
            | Self::Begins
            | Self::Undescribed
            | Self::Fetched(_)
            | Self::Copied(_)
            | Self::Refused(_) => None,
            Self::Watched(watched) => watched.1.form(),
        }
    }

    /// The form that is bound, where that is not the client's own text.
    pub(super) fn bound_form(&self) -> Option<Arc<Form>> {
        match self.bare() {
            Self::Mirrored(m) => Some(Arc::clone(&m.form)),
            Self::Among(form) => Some(Arc::clone(form)),
            Self::Read(r) => match &r.served_by {
                ServedBy::Shadow(form, _) => Some(Arc::clone(form)),
                ServedBy::Source(_) => None,
            },
            _ => None,
        }
    }

    /// Whether rows go on as they come, with nothing to be noted.
    pub(super) fn rows_pass(&self) -> bool {
        match self {
            Self::Plain
            | Self::Called
            | Self::Begins
            | Self::Undescribed
            | Self::Refused(_)
            | Self::Among(_) => true,
            Self::Read(read) => matches!(read.served_by, ServedBy::Source(_)),
            Self::Mirrored(mirrored) => mirrored.layout == Layout::Own,
            Self::Copied(_)
            | Self::Fetched(_)
            | Self::Mark(_)
            | Self::Followed(_)
            | Self::Steps(..)
            | Self::Names(..) => false,
            Self::Watched(watched) => watched.1.rows_pass(),
        }
    }

    /// What it does to the names of prepared statements.
    pub(super) fn change(&self) -> Option<&Arc<super::named::Change>> {
        match self.bare() {
            Self::Names(change, _) => Some(change),
            _ => None,
        }
    }

    /// Those of a read by the Bind with this body.
    pub(super) fn bound_by(mut self, bind: &[u8]) -> Self {
        if let Self::Read(read) = self.bare_mut() {
            read.bound = (bind.len() <= BOUND_BYTES_MAX).then(|| bind.into());
        }
        self
    }

    /// Whether the statement may wait for other transactions, or write.
    fn may_wait(&self) -> bool {
        match self.bare() {
            Self::Begins => false,
            Self::Read(read) => {
                !matches!(read.served_by, ServedBy::Shadow(..) | ServedBy::Source(Waits::Never))
            }
            _ => true,
        }
    }

    /// Whether the shadow answers.
    pub(super) fn is_on_shadow(&self) -> bool {
        matches!(self.bare(), Self::Read(r) if matches!(r.served_by, ServedBy::Shadow(..)))
    }

    /// How the client's own statement is called in errors, where another stands before it in what
    /// was sent.
    pub(super) fn called(&self) -> Called {
        let Some(m) = self.mirrored() else { return Called::default() };
        // A query over writes: the locks are those of ours within it.
        let verb = m.verb.map_or("SELECT", Verb::as_str);
        Called { verb: Some(verb), waits: m.locked_for.map(Verb::as_str) }
    }

    /// The mirrored write that is behind it.
    pub(super) fn mirrored(&self) -> Option<&Mirrored> {
        match self {
            Self::Mirrored(m) | Self::Fetched(m) => Some(m),
            Self::Watched(watched) => watched.1.mirrored(),
            Self::Plain
            | Self::Called
            | Self::Begins
            | Self::Undescribed
            | Self::Copied(_)
            | Self::Read(_)
            | Self::Refused(_)
            | Self::Mark(_)
            | Self::Followed(_)
            | Self::Steps(..)
            | Self::Names(..)
            | Self::Among(_) => None,
        }
    }

    /// What an Execute of this portal gives.
    pub(super) fn of_portal(portal: &Portal) -> Self {
        match &portal.rows {
            Self::Plain if matches!(portal.effect, Effect::Begin(_)) => Self::Begins,
            Self::Read(read) => {
                let mut read = read.clone();
                read.began = Instant::now();
                Self::Read(read)
            }
            other => other.clone(),
        }
    }
}
