//! The daily reading of the whole copy, and at once where a look-up met damage: what is damaged is repaired by itself.
//! It must not be in the way: a piece at a time, with pauses, one timer a day.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::agent::Agent;
use crate::driver;
use crate::replica::Scrubbed;

/// How often the whole copy is read.
const EVERY: Duration = Duration::from_secs(24 * 3600);
/// Rows read at a time: 164 KB, a millisecond or two of one core.
const PIECE_ROWS: u32 = 64;
/// The pause after each piece, so that a national copy takes a minute and nobody notices.
const PAUSE: Duration = Duration::from_millis(100);

/// What the readings found, for status and the doctor.
#[derive(Debug, Default)]
pub struct ScrubStatus {
    wake: Notify,
    turn: tokio::sync::Mutex<()>,
    done: AtomicU64,
    damaged: AtomicU64,
    last_ms: AtomicI64,
}

impl ScrubStatus {
    /// Asks for a reading at once.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Readings since the start, how many feeds they found damaged, and when the last one ended by trusted time, if that
    /// was known.
    pub fn found(&self) -> (u64, u64, Option<i64>) {
        let last_ms = self.last_ms.load(Ordering::Relaxed);
        let counts = (self.done.load(Ordering::Relaxed), self.damaged.load(Ordering::Relaxed));
        (counts.0, counts.1, (last_ms > 0).then_some(last_ms))
    }
}

/// Reads the whole copy once, with a pause after each piece; gives the number of feeds found damaged. One at a time.
pub async fn pass(agent: &Arc<Agent>, pause: Duration) -> u64 {
    let status = agent.scrub_status();
    let _turn = status.turn.lock().await;
    let mut damaged = 0;
    for feed in agent.replica().feeds() {
        let Some(mut scrub) = agent.replica().begin_scrub(&feed) else { continue };
        loop {
            let read = driver::blocking(agent, move |agent| {
                let result = agent.replica().scrub(&mut scrub, PIECE_ROWS);
                (scrub, result)
            });
            let Some((read, result)) = read.await else { break };
            scrub = read;
            damaged += u64::from(result == Scrubbed::Damaged);
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            if result != Scrubbed::More {
                break;
            }
        }
    }
    status.done.fetch_add(1, Ordering::Relaxed);
    status.damaged.fetch_add(damaged, Ordering::Relaxed);
    status.last_ms.store(agent.now().time_ms.unwrap_or(0), Ordering::Relaxed);
    if damaged > 0 {
        // The machine learns of it with its next start, and fetches what is missing.
        agent.mark_moved();
        agent.wake_pull().notify_one();
    }
    damaged
}

/// Until shutdown: once a day at a time of the device's own, and whenever it is asked for.
pub async fn run(agent: Arc<Agent>, mut shutdown: watch::Receiver<bool>) {
    // The copy was proved when the agent started; devices of one rota do not all begin at one moment.
    let [first, ..] = agent.device().0;
    let mut wait = EVERY.mul_f64(0.5 + f64::from(first) / 512.0);
    loop {
        let pause = tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => PAUSE,
            () = agent.scrub_status().wake.notified() => Duration::ZERO,
            _ = shutdown.changed() => return,
        };
        tokio::select! {
            biased;
            _ = pass(&agent, pause) => {}
            _ = shutdown.changed() => return,
        }
        wait = EVERY;
    }
}
