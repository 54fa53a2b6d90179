//! One thread for all work that builds a copy: staging chunks and applying plans.
//! It must not be given anything that a look-up waits for, nor die with the work that panics on it.
//!
//! Such work needs megabytes for a moment. On tokio's blocking threads, of which each has a malloc arena of its own, that
//! much stays in every arena that ever did it; on one thread it stays once, and is used again by the next update.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

type Job = Box<dyn FnOnce() + Send>;

/// Runs work on the builder's thread, one after the other. `None` when it panicked, or the thread does not start.
pub(crate) async fn run<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    let (reply, answer) = tokio::sync::oneshot::channel();
    let job: Job = Box::new(move || {
        // Nobody waits any more when the agent stops: the work is done all the same, and its result is on the disk.
        let _ = reply.send(work());
    });
    queue()?.send(job).ok()?;
    answer.await.ok()
}

fn queue() -> Option<&'static Sender<Job>> {
    static QUEUE: OnceLock<Option<Sender<Job>>> = OnceLock::new();
    QUEUE.get_or_init(start).as_ref()
}

fn start() -> Option<Sender<Job>> {
    let (sender, jobs) = channel::<Job>();
    let run = move || {
        for job in jobs {
            // The panic itself has been reported by the panic hook; whoever waits gets `None`.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    };
    std::thread::Builder::new().name("builder".into()).spawn(run).ok().map(|_| sender)
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn one_thread_that_outlives_a_panic() {
        let thread = || std::thread::current().id();
        let first = super::run(thread).await;
        assert!(first.is_some());
        assert_eq!(super::run(|| -> u32 { panic!("expected in this test") }).await, None);
        assert_eq!(super::run(thread).await, first);
    }
}
