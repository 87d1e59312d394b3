//! Portals, and what is put back of them where the server has skipped the frames that changed them.

use super::expect::{Form, Rows};
use super::prepared::{Acts, counting};
use super::watch::Watch;
use crate::sql::reason::Reason;
use crate::sql::statement::Effect;
use std::sync::Arc;

/// A portal: what its Execute will give.
#[derive(Debug, Clone)]
pub(super) struct Portal {
    pub(super) rows: Rows,
    pub(super) effect: Effect,
    /// What is run behind it.
    pub(super) steps: Option<Arc<super::steps::Steps>>,
    /// A dark read to be offered when it runs.
    pub(super) dark: Option<Arc<crate::proxy::dark::Job>>,
    /// What counts it, until it is executed.
    pub(super) watch: Option<Watch>,
    /// The group that has executed it; a write without rows to give cannot be executed again.
    pub(super) ran_in: Option<u64>,
    /// It has been sent to be run to its end.
    pub(super) is_run: bool,
    /// Its number: another one may have its name by now.
    pub(super) id: u64,
    /// The group that has bound it.
    pub(super) bound_in: u64,
    /// What its statement may do that is of no table.
    pub(super) acts: Acts,
    /// The text of one that may end portals, or runs what another says.
    pub(super) text: Option<Arc<[u8]>>,
}

/// The server's name of a statement, and the client's.
pub(super) type Asked = (Box<[u8]>, Box<[u8]>);

/// A portal that the server has been asked for. Should it not make it, the name stands for
/// what it stood for before: a failed transaction has room for no more than the server has.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) name: Box<[u8]>,
    /// The number of the portal.
    pub(super) id: u64,
    pub(super) previous: Option<Portal>,
    /// The server's name of the statement and the client's, where they differ: an error has the former.
    pub(super) asked: Option<Asked>,
    /// What is bound, where that is not the client's own text: an error may have places in it.
    pub(super) form: Option<Arc<Form>>,
}

/// What a Close has been sent for.
#[derive(Debug)]
pub(super) enum Closed {
    /// A statement by its name and number; number 0 is one of SQL's, if there is one.
    Statement(Box<[u8]>, u64),
    /// A portal, as it was.
    Portal(Box<[u8]>, Portal),
}

impl Closed {
    /// The number of the statement that is closed.
    pub(super) fn statement(&self) -> Option<u64> {
        match self {
            Self::Statement(_, id) => Some(*id),
            Self::Portal(..) => None,
        }
    }

    /// Whether it is a statement of such a name.
    pub(super) fn is_of_statement(&self, is_it: impl Fn(&[u8]) -> bool) -> bool {
        matches!(self, Self::Statement(name, _) if is_it(name))
    }
}

/// What is to be put back where the server has skipped frames.
#[derive(Debug)]
pub(super) enum Skipped {
    Bind(Bound),
    ClosePortal(Box<[u8]>, Portal),
    Execute(Ran),
}

/// A portal that is sent to be run.
#[derive(Debug, Clone)]
pub(super) struct Ran {
    pub(super) name: Box<[u8]>,
    pub(super) id: u64,
}

/// Migrations that a statement may change in a way that is not understood.
#[derive(Debug)]
pub(super) struct Marks {
    pub(super) routes: Vec<Arc<crate::routing::Route>>,
    pub(super) why: Reason,
}

impl Bound {
    /// Whether it is of this name.
    pub(super) fn is_of(&self, name: &[u8]) -> bool {
        counting(&self.name) == counting(name)
    }

    /// Puts `before` where this would restore a portal that has turned out never to have been; whether it
    /// would.
    pub(super) fn correct(&mut self, id: u64, before: &mut Option<Portal>) -> bool {
        let restores = self.previous.as_ref().is_some_and(|previous| previous.id == id);
        if restores {
            self.previous = before.take();
        }
        restores
    }
}

impl Portal {
    /// Whether nothing is done with what it gives, and nothing behind it.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.rows, Rows::Plain) && self.effect == Effect::None && self.steps.is_none()
    }

    pub(super) fn plain() -> Self {
        Self {
            rows: Rows::Plain,
            effect: Effect::None,
            steps: None,
            dark: None,
            watch: None,
            ran_in: None,
            is_run: false,
            id: 0,
            bound_in: 0,
            acts: Acts::Otherwise,
            text: None,
        }
    }
}
