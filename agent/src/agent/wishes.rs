//! What is wanted of the sync: now, anew, to be told of news. Set by the API, the configuration and other carriers.
//! It must not carry anything out: the driver does.

use std::sync::atomic::Ordering;

use tokio::sync::Notify;

use super::Agent;
use crate::hurry::Hurry;

impl Agent {
    /// Rings when a sync is wanted now.
    pub const fn wake_pull(&self) -> &Notify {
        &self.wake_pull
    }

    /// Rings when an event was queued.
    pub const fn wake_push(&self) -> &Notify {
        &self.wake_push
    }

    /// Whether somebody waits for the sync under way.
    pub(crate) const fn hurry(&self) -> &Hurry {
        &self.hurry
    }

    /// Whether it is to be told of news, and not only to poll.
    pub fn wants_news(&self) -> bool {
        self.news.load(Ordering::Relaxed)
    }

    /// Sets whether it is to be told of news: from the next poll on.
    pub fn set_news(&self, wanted: bool) {
        self.news.store(wanted, Ordering::Relaxed);
    }

    /// Marks that something other than the pull loop moved the copy.
    pub fn mark_moved(&self) {
        self.moved.store(true, Ordering::Release);
    }

    /// Whether something other than the pull loop moved the copy since the last call.
    pub fn copy_moved(&self) -> bool {
        self.moved.swap(false, Ordering::AcqRel)
    }
}
