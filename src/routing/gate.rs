//! The gate of shadow reads: closed while any key of the migration may be stale.
//!
//! A stale key is known in two places: durably in `dirty_keys` (what the engine polls), and in a
//! session that has just seen its own write fail to mirror, before that write commits. The gate
//! is closed by either and opened only by the engine, with a ticket taken *before* its poll: a
//! session that closed the gate in between makes the ticket void, and so does one whose
//! transaction is still open (its dirty key is not visible to any poll yet).

use crate::clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// How long after a lock timeout the writers of a migration only record keys.
const RECORD_ONLY_MS: u64 = 1_000;

/// The state of one migration's shadow as this process knows it.
#[derive(Debug, Default)]
pub struct Gate {
    open: AtomicBool,
    generation: AtomicU64,
    open_dirty: AtomicU64,
    record_only_until_ms: AtomicU64,
}

/// The right to open the gate, if nobody closed it since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateTicket(u64);

/// A transaction that has recorded dirty keys and has not ended yet; dropping it says it has.
#[derive(Debug)]
pub struct OpenDirty {
    gate: Arc<Gate>,
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
        if self.open_dirty.load(SeqCst) > 0 || self.ticket() != ticket {
            return;
        }
        self.open.store(true, SeqCst);
        // A close between the test and the store must win: it raised the generation first.
        if self.open_dirty.load(SeqCst) > 0 || self.ticket() != ticket {
            self.open.store(false, SeqCst);
        }
    }

    /// A session has seen its write record dirty keys; the guard is dropped when its transaction
    /// has ended.
    pub fn dirty_in_transaction(self: &Arc<Self>) -> OpenDirty {
        self.open_dirty.fetch_add(1, SeqCst);
        self.close();
        OpenDirty { gate: Arc::clone(self) }
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

impl Drop for OpenDirty {
    fn drop(&mut self) {
        // Closing again voids tickets taken while the transaction was open.
        self.gate.close();
        self.gate.open_dirty.fetch_sub(1, SeqCst);
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
}
