//! Somebody asks for a sync: one that is under way and gets on is left alone, one that hangs is begun anew.
//! It must not throw away what has arrived, nor break into anything that is being stored.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::agent::Agent;
use crate::port::Transport;

/// How long nothing may have come in before a request counts as hanging. Longer than round trips by satellite.
const HANGS: Duration = Duration::from_secs(5);

/// Whether somebody waits for the attempt under way.
#[derive(Debug, Default)]
pub(crate) struct Hurry {
    wanted: AtomicBool,
    given_up: AtomicBool,
}

impl Hurry {
    /// An attempt begins, because somebody asked for it or because it was time. The one after an attempt that was given
    /// up is not given up as well: what hangs on a new connection too is not mended by a third.
    pub(crate) fn begin(&self, wanted: bool) {
        let again = self.given_up.swap(false, Ordering::Relaxed);
        self.wanted.store(wanted && !again, Ordering::Relaxed);
    }

    /// Whether the attempt was given up, and another is to begin at once.
    pub(crate) fn gave_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }
}

/// Returns when somebody waits and nothing comes in any more. The connections are new ones then: what hangs is most
/// often a connection that nobody is at the other end of.
pub(crate) async fn hangs<T: Transport>(agent: &Agent, transport: &T) {
    if !agent.hurry().wanted.load(Ordering::Relaxed) {
        agent.wake_pull().notified().await;
        // Wanted still, should this one come to its end by itself.
        agent.wake_pull().notify_one();
    }
    let mut before = transport.heard();
    loop {
        tokio::time::sleep(HANGS).await;
        let now = transport.heard();
        if now == before {
            tracing::info!("somebody waits for the sync, and it hangs: it begins anew");
            agent.hurry().given_up.store(true, Ordering::Relaxed);
            agent.renew_transports();
            return;
        }
        before = now;
    }
}
