//! The turn to move the copy: one at a time, and whoever came for less gives way.
//! It must not be held by a slow carrier while the server's own pull waits.

use tokio::sync::{Mutex, MutexGuard, watch};

/// The turn.
#[derive(Debug, Default)]
pub struct Turn {
    held: Mutex<()>,
    waiting: watch::Sender<usize>,
}

/// Counts somebody who waits, also when they stop waiting without having got it.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl Turn {
    /// Waits for the turn; who holds it and gives way is told.
    pub async fn lock(&self) -> MutexGuard<'_, ()> {
        self.waiting.send_modify(|waiting| *waiting += 1);
        let _waiting = Waiting(&self.waiting);
        self.held.lock().await
    }

    /// Waits for the turn without telling anybody.
    pub async fn lock_giving_way(&self) -> MutexGuard<'_, ()> {
        self.held.lock().await
    }

    /// Returns once somebody waits for the turn.
    pub async fn wanted(&self) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives as long as this.
        let _ = waiting.wait_for(|waiting| *waiting > 0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    #[tokio::test]
    async fn whoever_waits_is_heard_of_and_forgotten() {
        let turn = Arc::new(Turn::default());
        let quiet = |turn: Arc<Turn>| async move {
            tokio::time::timeout(Duration::from_millis(20), turn.wanted()).await.is_err()
        };
        let guard = turn.lock_giving_way().await;
        assert!(quiet(Arc::clone(&turn)).await);
        let other = Arc::clone(&turn);
        let waiter = tokio::spawn(async move { drop(other.lock().await) });
        turn.wanted().await;
        waiter.abort();
        let _ = waiter.await;
        assert!(quiet(Arc::clone(&turn)).await, "who gave up waits no more");
        drop(guard);
        drop(turn.lock().await);
        assert!(quiet(turn).await);
    }
}
