//! Publishing and loading routes, and knowing when nobody works under old ones any more.

use super::routes::Routes;
use arc_swap::{ArcSwap, Cache};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst, fence};
use std::sync::{Arc, Mutex, PoisonError};

const IDLE: u64 = u64::MAX;

/// The routes of this process. Cheap to share.
#[derive(Debug)]
pub struct Handle {
    routes: Arc<ArcSwap<Routes>>,
    // A std mutex: held for a map operation, never over an await.
    sessions: Mutex<HashMap<u64, Arc<AtomicU64>>>,
    next_session: AtomicU64,
}

/// One session's place in the registry: the epoch of its oldest statement that has not been
/// answered. Dropping it leaves the registry.
pub struct InFlight {
    handle: Arc<Handle>,
    seen: Cache<Arc<ArcSwap<Routes>>, Arc<Routes>>,
    id: u64,
    oldest: Arc<AtomicU64>,
}

impl Handle {
    /// A handle with the given first routes.
    pub fn new(routes: Routes) -> Arc<Self> {
        Arc::new(Self {
            routes: Arc::new(ArcSwap::from_pointee(routes)),
            sessions: Mutex::default(),
            next_session: AtomicU64::new(1),
        })
    }

    /// The routes in force now. Load once per statement; do not keep over statements.
    pub fn load(&self) -> Arc<Routes> {
        self.routes.load_full()
    }

    /// Puts new routes in force for every statement that is looked at from now on, and returns
    /// their epoch. `next` gets the routes in force and the epoch of the new ones; it may run
    /// more than once.
    pub fn publish(&self, mut next: impl FnMut(&Routes, u64) -> Routes) -> u64 {
        let before = self.routes.rcu(|now| Arc::new(next(now, now.epoch + 1)));
        before.epoch + 1
    }

    /// Enters a session into the registry.
    pub fn register(self: &Arc<Self>) -> InFlight {
        let id = self.next_session.fetch_add(1, SeqCst);
        let oldest = Arc::new(AtomicU64::new(IDLE));
        self.sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, Arc::clone(&oldest));
        let seen = Cache::new(Arc::clone(&self.routes));
        InFlight { handle: Arc::clone(self), seen, id, oldest }
    }

    /// Whether every session has got the replies of all statements decided before `epoch`.
    pub fn all_reached(&self, epoch: u64) -> bool {
        fence(SeqCst); // what was published, and then what is announced
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.values().all(|oldest| oldest.load(SeqCst) >= epoch)
    }
}

impl InFlight {
    /// The routes for a statement of a session that has nothing in flight. The epoch is announced
    /// before the routes are taken and checked after, so a barrier that does not see the
    /// announcement has published before the routes were taken.
    pub fn begin(&self) -> Arc<Routes> {
        loop {
            let routes = self.handle.load();
            self.oldest.store(routes.epoch, SeqCst);
            fence(SeqCst); // what is announced, and then what was published: an ArcSwap promises no such order
            if self.handle.load().epoch == routes.epoch {
                return routes;
            }
        }
    }

    /// The routes for one more statement while older ones are in flight: what was announced for
    /// those holds a barrier off, so looking without a fence will do.
    pub fn another(&mut self) -> Arc<Routes> {
        Arc::clone(self.seen.load())
    }

    /// The oldest unanswered statement is now one of this epoch.
    pub fn oldest_is(&self, epoch: u64) {
        self.oldest.store(epoch, SeqCst);
    }

    /// All statements have been answered.
    pub fn idle(&self) {
        self.oldest.store(IDLE, SeqCst);
    }

    /// This session's number, unique in the process.
    pub fn session_id(&self) -> u64 {
        self.id
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.handle.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl std::fmt::Debug for InFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InFlight").field("id", &self.id).field("oldest", &self.oldest).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bump(now: &Routes, epoch: u64) -> Routes {
        Routes { epoch, generation: now.generation, routes: Vec::new(), functions: Arc::default() }
    }

    #[test]
    fn an_epoch_is_reached_when_older_statements_are_answered() {
        let handle = Handle::new(Routes::none());
        let session = handle.register();
        assert_eq!(session.begin().epoch, 0);
        let epoch = handle.publish(bump);
        assert!(!handle.all_reached(epoch));
        session.idle();
        assert!(handle.all_reached(epoch));
        assert_eq!(session.begin().epoch, epoch);
        assert!(handle.all_reached(epoch));
    }

    #[test]
    fn a_session_that_ends_is_not_waited_for() {
        let handle = Handle::new(Routes::none());
        let session = handle.register();
        let _routes = session.begin();
        let epoch = handle.publish(bump);
        drop(session);
        assert!(handle.all_reached(epoch));
    }
}
