//! New feed keys: a rotation for new cells, a re-seal of all cells in a new epoch, and when each is due.
//! It must not leave a head that names a key which is not stored: each step is one transaction with all heads.
//!
//! A *rotation* makes the next key; cells sealed before stay as they are, and their keys stay in use. A *re-seal* makes a
//! new random epoch whose cells are all sealed under one new key with new blind identities: who was granted no more than
//! that can open nothing of the log before. The log of an earlier epoch is kept, since earlier heads name it.

use std::collections::BTreeSet;

use cpis_protocol::cell::FeedKey;
use cpis_protocol::id::{DeviceId, FeedId, UnixMs};
use cpis_protocol::query::LookupParameters;
use cpis_protocol::seal::Key;
use cpis_protocol::tree;

use crate::config::Config;
use crate::keys::ServerKeys;
use crate::port::{CellLog, FeedRow, Feeds as _, PersonId, Placement, Store, StoreError, Tx};
use crate::publish::{self, PAGE, PublishError, Published, Run, Step, feed_key_aad};
use crate::{entropy, record, token};

/// Keys in use in one feed at once: one more and it is re-sealed, so that the grant of the largest scope stays small.
const KEYS_MAX: u32 = 2;
/// Cells re-sealed in one transaction, but for one feed that holds more: other writers get their turn in between.
const BATCH_CELLS: u32 = 50_000;
const HOUR_MS: i64 = 3_600_000;

/// What is to be done with which feeds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rekey {
    /// These get a new key for new cells.
    pub rotate: BTreeSet<FeedId>,
    /// These are sealed anew, whole.
    pub reseal: BTreeSet<FeedId>,
}

impl Rekey {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rotate.is_empty() && self.reseal.is_empty()
    }
}

/// Carries out a plan. Interrupted, it leaves whole feeds done and whole feeds not: [`due`] finds the rest again.
///
/// # Errors
/// [`PublishError`]; the feeds of the transaction that failed are as before.
pub fn run<S: Store>(
    store: &S,
    keys: &ServerKeys,
    plan: &Rekey,
    now_ms: UnixMs,
    tick: &mut dyn FnMut(Step),
) -> Result<(), PublishError> {
    if plan.is_empty() {
        return Ok(());
    }
    let lookup = store.read(|tx| publish::lookup(tx))?;
    token::fill(store, &keys.storage, &lookup, &mut |done, total| tick(Step::Tokens { done, total }))?;
    if !plan.rotate.is_empty() {
        let part = Rekey { rotate: plan.rotate.clone(), ..Rekey::default() };
        store.write(|tx| run_in(tx, keys, lookup, &part, now_ms, tick))?;
    }
    let counts = store.read::<_, StoreError>(|tx| tx.feeds())?;
    let mut batch = BTreeSet::new();
    let mut cells = 0u32;
    for row in counts.iter().filter(|row| plan.reseal.contains(&row.feed)) {
        if !batch.is_empty() && cells.saturating_add(row.count) > BATCH_CELLS {
            let part = Rekey { reseal: std::mem::take(&mut batch), ..Rekey::default() };
            store.write(|tx| run_in(tx, keys, lookup, &part, now_ms, tick))?;
            cells = 0;
        }
        cells = cells.saturating_add(row.count);
        batch.insert(row.feed);
    }
    if !batch.is_empty() {
        let part = Rekey { reseal: batch, ..Rekey::default() };
        store.write(|tx| run_in(tx, keys, lookup, &part, now_ms, tick))?;
    }
    Ok(())
}

/// The same within a transaction: publishes what is waiting, then rotates and re-seals, then signs every head anew that
/// is another.
///
/// # Errors
/// [`PublishError`].
pub fn run_in<T: Tx>(
    tx: &T,
    keys: &ServerKeys,
    lookup: LookupParameters,
    plan: &Rekey,
    now_ms: UnixMs,
    tick: &mut dyn FnMut(Step),
) -> Result<Published, PublishError> {
    let mut run = Run::begin(tx, keys, lookup, now_ms)?;
    run.persons(tick)?;
    let mut reseal = plan.reseal.clone();
    for feed in plan.rotate.difference(&plan.reseal) {
        if !run.rotate(*feed)? {
            reseal.insert(*feed);
        }
    }
    run.reseal(&reseal, tick)?;
    run.finish()
}

/// What the calendar asks for: a key older than `feed_key_days` is rotated, and a feed is re-sealed `reseal_hours` after
/// the rotation that left cells under an older key.
///
/// # Errors
/// [`StoreError`].
pub fn due<S: Store>(store: &S, config: &Config, now_ms: UnixMs) -> Result<Rekey, StoreError> {
    let key_ms = i64::from(config.feed_key_days) * 24 * HOUR_MS;
    let wait_ms = i64::from(config.reseal_hours) * HOUR_MS;
    store.read(|tx| {
        let mut plan = Rekey::default();
        for row in tx.feeds()? {
            let log = CellLog { feed: row.feed, epoch: row.epoch };
            let made = |key_id| -> Result<UnixMs, StoreError> {
                tx.feed_key_made(log, key_id)?.ok_or(StoreError::Corrupt("feed_key"))
            };
            let old = made(row.key_id)?.saturating_add(key_ms) <= now_ms;
            let mixed = row.oldest_key_id < row.key_id;
            // Counted from the oldest rotation that is still waiting: further ones do not put it off.
            let overdue = mixed && made(row.oldest_key_id + 1)?.saturating_add(wait_ms) <= now_ms;
            if overdue || (old && config.reseal_hours == 0) {
                plan.reseal.insert(row.feed);
            } else if old {
                plan.rotate.insert(row.feed);
            }
        }
        Ok(plan)
    })
}

/// Rotates every feed whose current key a lost device was ever granted; gives those feeds. What the device could read
/// before it can read on until the re-seal that [`due`] asks for reaches nothing that it holds: what it holds it keeps.
/// A feed whose current key it never had is left: what it could open there is gone with the same re-seal.
///
/// # Errors
/// [`PublishError`].
pub fn rotate_for_loss<S: Store>(
    store: &S,
    keys: &ServerKeys,
    device: DeviceId,
    now_ms: UnixMs,
) -> Result<BTreeSet<FeedId>, PublishError> {
    let rotate = store.read::<_, StoreError>(|tx| {
        let mut rotate = BTreeSet::new();
        for row in tx.feeds()? {
            let held = tx.held_keys(device, CellLog { feed: row.feed, epoch: row.epoch })?;
            if held.iter().any(|(key_id, _)| *key_id == row.key_id) {
                rotate.insert(row.feed);
            }
        }
        Ok(rotate)
    })?;
    run(store, keys, &Rekey { rotate: rotate.clone(), ..Rekey::default() }, now_ms, &mut |_| ())?;
    Ok(rotate)
}

/// Which of these feeds must be re-sealed before a device may be granted them: cells are under a key that it did not
/// hold all the time, and must not get.
///
/// # Errors
/// [`StoreError`].
pub fn before_grant<T: Tx>(tx: &T, device: DeviceId, feeds: &[FeedId]) -> Result<BTreeSet<FeedId>, StoreError> {
    let mut out = BTreeSet::new();
    for feed in feeds {
        let row = tx.feed(*feed)?.ok_or(StoreError::Corrupt("scope_feed.feed"))?;
        let held = tx.held_keys(device, CellLog { feed: *feed, epoch: row.epoch })?;
        if row.oldest_key_id < row.key_id && !held.contains(&(row.oldest_key_id, true)) {
            out.insert(*feed);
        }
    }
    Ok(out)
}

impl<T: Tx> Run<'_, T> {
    fn new_key(&self, log: CellLog, key_id: u32) -> Result<FeedKey, PublishError> {
        let key = Key::random(&mut entropy::system());
        let sealed = self.keys.storage.seal(&feed_key_aad(log, key_id), key.expose(), &mut entropy::system())?;
        self.tx.put_feed_key(log, key_id, &sealed, self.now_ms)?;
        Ok(FeedKey(key))
    }

    /// The next key of a feed, for new cells; false when it has too many keys already and must be re-sealed.
    fn rotate(&mut self, feed: FeedId) -> Result<bool, PublishError> {
        let row = self.feeds.get(&feed).ok_or(StoreError::Corrupt("feed"))?.row.clone();
        if row.key_id - row.oldest_key_id + 1 >= KEYS_MAX {
            return Ok(false);
        }
        let row = FeedRow { key_id: row.key_id + 1, ..row };
        let key = self.new_key(CellLog { feed, epoch: row.epoch }, row.key_id)?;
        self.tx.put_feed(&row)?;
        if let Some(open) = self.feeds.get_mut(&feed) {
            (open.row, open.key) = (row, key);
        }
        Ok(true)
    }

    /// Seals every record of these feeds anew, in a new epoch, under a new key, with new blind identities.
    fn reseal(&mut self, feeds: &BTreeSet<FeedId>, tick: &mut dyn FnMut(Step)) -> Result<(), PublishError> {
        let total = feeds.iter().filter_map(|feed| self.feeds.get(feed)).map(|open| u64::from(open.row.count)).sum();
        let mut done = 0;
        for feed in feeds {
            self.new_epoch(*feed)?;
            let mut above = PersonId::MIN;
            loop {
                let page = self.tx.placed_after(*feed, above, PAGE)?;
                let Some(last) = page.last() else { break };
                above = *last;
                for id in &page {
                    self.reseal_one(*id, *feed)?;
                }
                done += page.len() as u64;
                tick(Step::Persons { done, total });
            }
        }
        // Somebody may have waited for the place of one that was not carried over.
        self.move_up()
    }

    fn new_epoch(&mut self, feed: FeedId) -> Result<(), PublishError> {
        let key_id = self.feeds.get(&feed).ok_or(StoreError::Corrupt("feed"))?.row.key_id + 1;
        let epoch = u64::from_be_bytes(entropy::bytes());
        let row = FeedRow { feed, epoch, seq: 0, count: 0, state_root: tree::root([]), key_id, oldest_key_id: key_id };
        let key = self.new_key(CellLog { feed, epoch }, key_id)?;
        self.tx.put_feed(&row)?;
        if let Some(open) = self.feeds.get_mut(&feed) {
            (open.row, open.key, open.touched) = (row, key, true);
        }
        Ok(())
    }

    fn reseal_one(&mut self, id: PersonId, feed: FeedId) -> Result<(), PublishError> {
        let Some(person) = self.tx.person(id)? else { return Err(StoreError::Corrupt("placement.person").into()) };
        let number = self.authorities.values().find(|a| a.code == feed).map(|a| a.number);
        let records = record::records(&person, self.now_ms);
        match records.into_iter().find(|(authority, _)| Some(*authority) == number) {
            Some((_, record)) => self.put(id, &person, feed, &record, None::<&Placement>),
            // Its time was over since the last publication: it is not carried over.
            None => self.leave(id, feed),
        }
    }
}
