//! Somebody asks for a sync while one is under way: one that gets on is left alone, one that hangs is given up.
//! It must not throw away what has arrived, nor break into anything that is being stored.

use std::time::Duration;

use crate::agent::Agent;
use crate::port::Transport;

/// How long nothing may have come in before a request counts as hanging. Longer than a round trip by satellite.
const HANGS: Duration = Duration::from_secs(5);

/// Returns when a sync was asked for and nothing comes in any more. What was asked for is still wanted then, and the
/// connections are new ones: what hangs is most often a connection that nobody is at the other end of.
pub(crate) async fn hangs<T: Transport>(agent: &Agent, transport: &T) {
    agent.wake_pull().notified().await;
    // Wanted still, whether this is given up or comes to its end by itself.
    agent.wake_pull().notify_one();
    let mut before = transport.heard();
    loop {
        tokio::time::sleep(HANGS).await;
        let now = transport.heard();
        if now == before {
            tracing::warn!("a sync is wanted, and the one under way hangs: it is given up");
            agent.renew_transports();
            return;
        }
        before = now;
    }
}
