//! Waits for news while the copy is up to date: one question that the server holds back until there is some.
//! It must not touch the copy nor believe what it hears: it only says when an ordinary sync is worth it.

use std::time::Duration;

use cpis_protocol::message::Request;
use cpis_protocol::sync::news::News;

use crate::agent::Agent;
use crate::port::Transport;

/// Returns when a sync is worth it. Never returns where there is nobody to ask, or where it was turned off; whoever waits
/// for this waits for the next poll beside it, and drops it then.
pub(crate) async fn wait<T: Transport>(agent: &Agent, transport: &T, news: &mut News, spread_s: u16) {
    loop {
        until(agent, news.ask_at()).await;
        let head = agent.replica().view().head.as_ref().map(|head| head.hash());
        let Some(head) = head.filter(|_| agent.wants_news()) else { return core::future::pending().await };
        news.asked(agent.now().tick_ms);
        let reply = transport.send(Request::News(head)).await;
        if let Err(failure) = &reply {
            tracing::debug!(?failure, "nobody tells of news; polls go on");
        }
        if let Some(at_ms) = news.heard(&reply, spread_s, agent.now().tick_ms) {
            return until(agent, at_ms).await;
        }
    }
}

async fn until(agent: &Agent, tick_ms: u64) {
    let wait_ms = tick_ms.saturating_sub(agent.now().tick_ms);
    if wait_ms > 0 {
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
}
