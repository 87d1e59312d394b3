//! The protocol's FunctionCall. It names a function by its object id, and is answered like a simple query:
//! so it has its mark like one, where the function may write a migrated table.

use super::decide::{Decision, mark_or_refuse};
use super::expect::{Expect, Rows};
use super::inject::{Lasts, Text};
use super::{Hold, Out, Session};
use crate::routing::{Mirror, Route};
use crate::sql::reason::Reason;
use crate::sql::statement::Effect;
use crate::wire::frame::Header;
use std::collections::VecDeque;
use std::sync::Arc;

/// The frame up to the function's object id.
const HEAD_BYTES: usize = 9;

/// What becomes of a FunctionCall. What it hands over may be long, and is never read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// It goes on as it comes.
    Passes,
    /// It has to wait for its mark, or for the rest of its head.
    Waits,
    /// The client has its answer.
    Answered,
}

impl Session {
    pub(super) fn on_call(&mut self, header: Header, rest: &[u8], out: &mut Out) -> Call {
        if self.hold == Some(Hold::Failed) {
            self.hold = None;
            self.in_group = false;
            self.client_drop = header.frame_bytes;
            return Call::Answered;
        }
        let head = rest.get(5..HEAD_BYTES).and_then(|oid| oid.try_into().ok());
        let function = match head.map(u32::from_be_bytes) {
            None if header.frame_bytes >= HEAD_BYTES => return Call::Waits,
            // It is none; the server says so.
            None => 0,
            Some(function) => function,
        };
        let concerned = match self.is_surely_failed() {
            true => Vec::new(),
            false => self.written_by(function),
        };
        match mark_or_refuse(concerned, Reason::Through) {
            Decision::Marked(marks) if !self.take_marked() => {
                self.count("recorded", "write");
                self.inject_mark(&marks, Text::Statement(Lasts::Transaction), out);
                Call::Waits
            }
            Decision::Refused(report) => {
                self.refuse_query(report, out);
                self.client_drop = header.frame_bytes;
                Call::Answered
            }
            _ => {
                self.take_marked();
                let routes = self.routes();
                self.apply(Effect::State, &routes);
                self.replies.push_back(Expect::Query(VecDeque::from([Rows::Called])));
                self.in_group = false;
                self.marked_query_is_sent();
                self.client_pass = header.frame_bytes;
                Call::Passes
            }
        }
    }

    /// The migrations whose tables a function may write.
    fn written_by(&mut self, function: u32) -> Vec<Arc<Route>> {
        let routes = self.routes();
        let ways = &routes.functions.ways;
        let name = ways.called.get(&function);
        let Some(migrations) = name.and_then(|name| ways.functions.get(name)) else {
            return Vec::new();
        };
        let concerns =
            |r: &&Arc<Route>| r.mirror != Mirror::Off && migrations.contains(&r.target.migration);
        routes.routes.iter().filter(concerns).cloned().collect()
    }
}
