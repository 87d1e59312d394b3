//! What one client was told: the last acknowledged state of every row that only it writes.

use super::random::Random;
use super::tables::{ROWS, SHARED_ROWS, USERS, first_total};
use std::collections::HashMap;

/// How many clients there are; the rows of the start belong to them in turn.
pub(super) const CLIENTS: i32 = 8;

/// A row as the clients read and write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) user: i32,
    pub(super) total: i32,
    pub(super) status: &'static str,
}

/// A change that is acknowledged, or will be with its transaction: none for a row that is gone.
pub(super) type Change = (i32, Option<Order>);

/// One client's rows.
#[derive(Debug)]
pub(super) struct History {
    client: i32,
    changed: HashMap<i32, Option<Order>>,
    /// Rows that it inserted, newest last.
    inserted: Vec<i32>,
    /// What it added to the shared rows, one by one.
    added: u64,
}

impl History {
    pub(super) fn new(client: i32) -> Self {
        Self { client, changed: HashMap::new(), inserted: Vec::new(), added: 0 }
    }

    /// A row that only this client writes: mostly one of the start, else one of its own.
    pub(super) fn any_own(&self, random: &mut Random) -> i32 {
        let own = i32::try_from(self.inserted.len()).unwrap_or(i32::MAX);
        if own > 0 && random.below(10) < 4 {
            let place = usize::try_from(random.below(own)).unwrap_or(0);
            if let Some(id) = self.inserted.get(place) {
                return *id;
            }
        }
        let turn = random.below((ROWS - SHARED_ROWS) / CLIENTS - 1) + SHARED_ROWS / CLIENTS + 1;
        turn * CLIENTS + self.client
    }

    /// Whether a row of the start is this client's.
    pub(super) fn owns_from_the_start(&self, id: i32) -> bool {
        id > SHARED_ROWS && id <= ROWS && id % CLIENTS == self.client
    }

    /// The state of an own row, with the changes of an open transaction on top.
    pub(super) fn state(&self, id: i32, open: &[Change]) -> Option<Order> {
        if let Some((_, state)) = open.iter().rev().find(|(of, _)| *of == id) {
            return *state;
        }
        match self.changed.get(&id) {
            Some(state) => *state,
            None if self.owns_from_the_start(id) => {
                Some(Order { user: id % USERS, total: first_total(id), status: "new" })
            }
            None => None,
        }
    }

    pub(super) fn acknowledged(&mut self, changes: impl IntoIterator<Item = Change>) {
        for (id, state) in changes {
            if id > ROWS && !self.changed.contains_key(&id) {
                self.inserted.push(id);
            }
            self.changed.insert(id, state);
        }
    }

    pub(super) fn added_to_shared(&mut self) {
        self.added += 1;
    }
}

/// All clients' histories together, as columns for one statement.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) ids: Vec<i32>,
    pub(super) users: Vec<Option<i32>>,
    pub(super) totals: Vec<Option<i32>>,
    pub(super) statuses: Vec<Option<&'static str>>,
    /// What must have been added to the shared rows.
    pub(super) added: u64,
    /// By how many rows the source must have grown.
    pub(super) grown: i64,
}

impl Ledger {
    pub(super) fn add(&mut self, history: &History) {
        self.added += history.added;
        for (id, state) in &history.changed {
            self.ids.push(*id);
            self.users.push(state.map(|s| s.user));
            self.totals.push(state.map(|s| s.total));
            self.statuses.push(state.map(|s| s.status));
            self.grown += i64::from(state.is_some()) - i64::from(history.owns_from_the_start(*id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_row_of_the_start_is_nobody_elses_and_there() {
        let mut random = Random::new(1);
        for client in 0..CLIENTS {
            let history = History::new(client);
            for _ in 0..10_000 {
                let id = history.any_own(&mut random);
                assert!(history.owns_from_the_start(id), "client {client} chose {id}");
                assert!(history.state(id, &[]).is_some());
            }
        }
    }

    #[test]
    fn a_ledger_counts_rows_that_came_and_went() {
        let mut history = History::new(0);
        let order = Order { user: 1, total: 2, status: "new" };
        history.acknowledged([(ROWS + 1, Some(order)), (80, None), (88, Some(order))]);
        history.acknowledged([(ROWS + 2, Some(order)), (ROWS + 2, None)]);
        let mut ledger = Ledger::default();
        ledger.add(&history);
        assert_eq!((ledger.ids.len(), ledger.grown), (4, 0));
        assert_eq!(history.state(80, &[(80, Some(order))]), Some(order), "open changes come first");
    }
}
