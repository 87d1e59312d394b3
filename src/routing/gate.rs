//! The gate of shadow reads: closed while any key of the migration may be stale.
//!
//! A stale key is known in two places: durably in `dirty_keys` (what the engine polls), and in a
//! session that has just seen its own write fail to mirror, before that write commits. The gate
//! is closed by either and opened only by the engine, with a ticket taken *before* its poll: a
//! session that closed the gate in between makes the ticket void, and so does one whose
//! transaction is still open (its dirty key is not visible to any poll yet).
//!
//! The same holds for a session that has defined something by which the source may be written, or may
//! hold rows, under another name: until the engine has looked at the catalog, begun after that
//! transaction's end, writes by that name are neither mirrored nor marked.

use crate::clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};

/// How long after a lock timeout the writers of a migration only record keys.
const RECORD_ONLY_MS: u64 = 1_000;

/// The state of one migration's shadow as this process knows it.
#[derive(Debug, Default)]
pub struct Gate {
    open: AtomicBool,
    generation: AtomicU64,
    kept_closed: AtomicU64,
    /// [`Unlooked`], as a number.
    unlooked: AtomicU8,
    record_only_until_ms: AtomicU64,
}

/// The right to open the gate, if nobody closed it since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateTicket(u64);

/// A transaction that has recorded dirty keys, or defined something, and has not ended yet; dropping it says
/// it has.
#[derive(Debug)]
pub struct KeptClosed {
    gate: Arc<Gate>,
    leaves: Unlooked,
}

/// What a session has defined since the engine last looked at the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Unlooked {
    /// Nothing.
    Nothing = 0,
    /// Something that may hold rows of the source: if it is still there, its rows are seen.
    Part = 1,
    /// Something by which the source may be written: it may be gone by then, and what it wrote is not.
    Way = 2,
}

impl Gate {
    /// Whether the shadow may serve reads.
    pub fn is_open(&self) -> bool {
        self.open.load(SeqCst)
    }

    /// Closes the gate.
    pub fn close(&self) {
        self.generation.fetch_add(1, SeqCst);
        self.open.store(false, SeqCst);
    }

    /// To be taken before reading the backlog of dirty keys.
    pub fn ticket(&self) -> GateTicket {
        GateTicket(self.generation.load(SeqCst))
    }

    /// Opens the gate after a poll that began after `ticket` found no dirty key. Does nothing when
    /// the gate was closed since, or a transaction with dirty keys is open.
    pub fn open_if(&self, ticket: GateTicket) {
        let may_not = |ticket| {
            self.kept_closed.load(SeqCst) > 0
                || self.unlooked.load(SeqCst) > 0
                || self.ticket() != ticket
        };
        if self.is_open() || may_not(ticket) {
            return;
        }
        // What was chosen while it was open before is told from what is chosen from now on.
        let opened = GateTicket(ticket.0 + 1);
        if self.generation.compare_exchange(ticket.0, opened.0, SeqCst, SeqCst).is_err() {
            return;
        }
        self.open.store(true, SeqCst);
        // A close between the test and the store must win: it raised the generation first.
        if may_not(opened) {
            self.open.store(false, SeqCst);
        }
    }

    /// A session has seen its write record dirty keys; the guard is dropped when its transaction
    /// has ended.
    pub fn dirty_in_transaction(self: &Arc<Self>) -> KeptClosed {
        self.defined_in_transaction(Unlooked::Nothing)
    }

    /// A session has defined this; the guard is dropped when its transaction has ended.
    pub fn defined_in_transaction(self: &Arc<Self>, leaves: Unlooked) -> KeptClosed {
        self.kept_closed.fetch_add(1, SeqCst);
        self.close();
        KeptClosed { gate: Arc::clone(self), leaves }
    }

    /// Whether the engine has to look at the catalog before the gate may open.
    pub fn is_unlooked(&self) -> bool {
        self.unlooked.load(SeqCst) > 0
    }

    /// To be called before a look: what it is for.
    pub fn take_unlooked(&self) -> Unlooked {
        match self.unlooked.swap(0, SeqCst) {
            0 => Unlooked::Nothing,
            1 => Unlooked::Part,
            _ => Unlooked::Way,
        }
    }

    /// The look has failed.
    pub fn is_still_unlooked(&self, unlooked: Unlooked) {
        self.unlooked.fetch_max(unlooked as u8, SeqCst);
    }

    /// A mirrored write ran into the lock budget: for a while all writers only record keys.
    pub fn shadow_is_locked(&self) {
        self.record_only_until_ms.store(clock::now_ms().saturating_add(RECORD_ONLY_MS), SeqCst);
    }

    /// Whether writers should only record keys at present.
    pub fn is_record_only(&self) -> bool {
        let until = self.record_only_until_ms.load(SeqCst);
        until > 0 && clock::now_ms() < until
    }
}

impl KeptClosed {
    /// Whether it keeps this gate closed, and leaves as much to look at.
    pub fn covers(&self, gate: &Arc<Gate>, leaves: Unlooked) -> bool {
        Arc::ptr_eq(&self.gate, gate) && self.leaves >= leaves
    }

    /// It has ended, and what it was to leave is done already.
    pub fn leaves_nothing(mut self) {
        self.leaves = Unlooked::Nothing;
    }

    /// Whether both keep the same gate closed.
    pub fn is_of_the_gate_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.gate, &other.gate)
    }
}

impl Drop for KeptClosed {
    fn drop(&mut self) {
        self.gate.is_still_unlooked(self.leaves);
        // Closing again voids tickets taken while the transaction was open.
        self.gate.close();
        self.gate.kept_closed.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_with_a_ticket_nobody_voided() {
        let gate = Arc::new(Gate::default());
        assert!(!gate.is_open(), "a new gate is closed: nothing is known yet");
        let ticket = gate.ticket();
        gate.close();
        gate.open_if(ticket);
        assert!(!gate.is_open());
        gate.open_if(gate.ticket());
        assert!(gate.is_open());
    }

    #[test]
    fn stays_closed_while_a_dirty_transaction_is_open_and_for_tickets_taken_meanwhile() {
        let gate = Arc::new(Gate::default());
        let dirty = gate.dirty_in_transaction();
        let during = gate.ticket();
        gate.open_if(during);
        assert!(!gate.is_open());
        drop(dirty);
        gate.open_if(during);
        assert!(!gate.is_open(), "the poll may have missed the commit");
        gate.open_if(gate.ticket());
        assert!(gate.is_open());
    }

    #[test]
    fn stays_closed_until_the_catalog_was_looked_at_after_a_definition() {
        let gate = Arc::new(Gate::default());
        let part = gate.defined_in_transaction(Unlooked::Part);
        assert_eq!(gate.take_unlooked(), Unlooked::Nothing, "its transaction is open");
        drop(gate.defined_in_transaction(Unlooked::Way));
        drop(part);
        gate.open_if(gate.ticket());
        assert!(!gate.is_open() && gate.is_unlooked());
        let taken = gate.take_unlooked();
        assert_eq!(taken, Unlooked::Way);
        gate.is_still_unlooked(taken);
        gate.open_if(gate.ticket());
        assert!(!gate.is_open(), "the look has failed");
        gate.take_unlooked();
        gate.open_if(gate.ticket());
        assert!(gate.is_open());
    }
}
