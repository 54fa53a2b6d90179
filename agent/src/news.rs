//! Waits for news while the copy is up to date: one question that the server holds back until there is some.
//! It must not touch the copy nor believe what it hears: it only says when an ordinary sync is worth it.

use std::sync::Arc;
use std::time::Duration;

use cpis_protocol::digest::Hash;
use cpis_protocol::id::DeviceId;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::sync::news::News;
use tokio::task::JoinHandle;

use crate::agent::Agent;
use crate::port::Transport;

/// The question, which stays open over the polls that find nothing new: it costs nothing meanwhile, and they keep its
/// connection alive.
pub(crate) struct Question {
    news: News,
    open: Option<Open>,
}

struct Open {
    named: Hash,
    reply: JoinHandle<Result<Vec<u8>, Failure>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.reply.abort();
    }
}

impl Question {
    pub(crate) const fn new(device: DeviceId) -> Self {
        Self { news: News::new(device), open: None }
    }

    /// A sync has ended: whether it brought anything, and whether the server was reached.
    pub(crate) fn synced(&mut self, agent: &Agent, moved: bool, online: bool) {
        self.news.synced(moved, agent.now().tick_ms);
        if !online {
            self.open = None;
        }
    }

    /// The connections are new ones: the question is asked anew.
    pub(crate) fn let_go(&mut self) {
        self.open = None;
    }

    /// Returns when a sync is worth it. Never returns where there is nobody to ask, or where it was turned off; whoever
    /// waits for this waits for the next poll beside it, and lets go of it then.
    pub(crate) async fn answered<T: Transport>(&mut self, agent: &Agent, transport: &Arc<T>, spread_s: u16) {
        loop {
            let head = agent.replica().view().head.as_ref().map(|head| head.hash());
            let Some(head) = head.filter(|_| agent.wants_news()) else {
                self.open = None;
                return core::future::pending().await;
            };
            self.open = self.open.take().filter(|open| open.named == head);
            let open = match &mut self.open {
                Some(open) => open,
                none => {
                    until(agent, self.news.ask_at()).await;
                    self.news.asked(agent.now().tick_ms);
                    let transport = Arc::clone(transport);
                    let reply = tokio::spawn(async move { transport.send(Request::News(head)).await });
                    none.insert(Open { named: head, reply })
                }
            };
            let reply = (&mut open.reply).await.unwrap_or(Err(Failure::Offline));
            self.open = None;
            if let Err(failure) = &reply {
                tracing::debug!(?failure, "nobody tells of news; polls go on");
            }
            if let Some(at_ms) = self.news.heard(&reply, spread_s, agent.now().tick_ms) {
                return until(agent, at_ms).await;
            }
        }
    }
}

async fn until(agent: &Agent, tick_ms: u64) {
    let wait_ms = tick_ms.saturating_sub(agent.now().tick_ms);
    if wait_ms > 0 {
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
}
