//! How far back the logs reach: what no device is owed any more is taken out, a little at a time.
//! It must not take out a cell that is live, nor one that a head of the last `log_days` needs for its live sets or deltas.
//!
//! A device that was away for longer compares ranges, or takes the snapshot of the newest head: both are always there.

use cpis_protocol::head::Head;
use cpis_protocol::id::{FeedSeq, UnixMs};
use cpis_protocol::{limits, sign};

use crate::config::Config;
use crate::port::{CellLog, Feeds as _, Store, StoreError, Tx};

const DAY_MS: i64 = 86_400_000;
/// Cells taken out in one transaction: other writers wait no longer than for that.
const BATCH: usize = 5000;

/// What was taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Cells.
    pub cells: u64,
    /// Logs of earlier epochs that are wholly gone.
    pub logs: u64,
}

/// Takes out what is older than the configuration keeps.
///
/// # Errors
/// [`StoreError`]; what is taken out by then was not owed to anybody.
pub fn run<S: Store>(store: &S, config: &Config, now_ms: UnixMs) -> Result<Pruned, StoreError> {
    let cutoff_ms = now_ms.saturating_sub(i64::from(config.log_days) * DAY_MS);
    let mut pruned = Pruned::default();
    let logs = store.read::<_, StoreError>(|tx| tx.logs())?;
    for log in logs {
        // The floor is durable before the first cell goes: nobody is given part of a live set for the whole.
        let floor = store.write::<_, StoreError>(|tx| {
            let floor = floor(tx, log, cutoff_ms, now_ms)?;
            if let Some(floor) = floor {
                tx.raise_floor(log, floor)?;
            }
            Ok(floor)
        })?;
        let Some(floor) = floor else { continue };
        loop {
            let gone = store.write::<_, StoreError>(|tx| tx.prune(log, floor, BATCH))?;
            pruned.cells += gone as u64;
            if gone < BATCH {
                pruned.logs += u64::from(floor == FeedSeq::MAX && gone > 0);
                break;
            }
        }
    }
    Ok(pruned)
}

/// Up to which position of a log nothing but the live cells is owed; `None` for nothing to do.
fn floor<T: Tx>(tx: &T, log: CellLog, cutoff_ms: UnixMs, now_ms: UnixMs) -> Result<Option<FeedSeq>, StoreError> {
    if tx.feed(log.feed)?.is_none_or(|row| row.epoch != log.epoch) {
        // Heads that name it were the newest until it ended.
        let ended_ms = tx.end_log(log, now_ms)?;
        return Ok((ended_ms <= cutoff_ms).then_some(FeedSeq::MAX));
    }
    let mut lowest: Option<FeedSeq> = None;
    for scope in tx.scopes()?.into_iter().filter(|scope| scope.feeds.contains(&log.feed)) {
        // R259: whoever was up to date at the cutoff holds this head, or a later one.
        let Some(row) = tx.head_at(scope.scope, cutoff_ms)? else { continue };
        let head: Head = sign::peek_unverified(&row.bytes, sign::Kind::Head, limits::HEAD_BYTES_MAX)
            .map_err(|_| StoreError::Corrupt("head.bytes"))?;
        let seq = head.feed(&log.feed).filter(|state| state.epoch == log.epoch).map_or(0, |state| state.seq);
        lowest = Some(lowest.map_or(seq, |lowest| lowest.min(seq)));
    }
    let before = tx.log_floor(log)?;
    Ok(lowest.filter(|floor| *floor > before))
}
