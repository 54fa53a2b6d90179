//! The present copy as look-ups see it, and its named rows on disk.
//! It must not turn a doubt into an absence: a locator that is there and does not open is a failure, not a miss.

use std::collections::{BTreeMap, BTreeSet};

use cpis_protocol::answer::CannotAnswer;
use cpis_protocol::cell::{LookupPrf as _, Place, SHARED_TOKEN_MAX};
use cpis_protocol::clock::TrustedClock;
use cpis_protocol::flag::Record;
use cpis_protocol::grant::FeedKeys;
use cpis_protocol::head::{Beat, Head, Reference};
use cpis_protocol::id::{BlindId, FeedId, FeedSeq};
use cpis_protocol::query::Token;
use cpis_protocol::seal::Key;
use cpis_protocol::sign::Verified;
use cpis_protocol::{codec, digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::FeedCopy;
use crate::port::{Generation, RowName, Store, StoreError};
use crate::random::OsRandom;

/// The present copy.
#[derive(Debug, Default)]
pub struct View {
    /// The newest beat accepted for the head.
    pub beat: Option<Verified<Beat>>,
    /// The head that every feed was proved against.
    pub head: Option<Verified<Head>>,
    /// Who to ring.
    pub reference: Reference,
    /// The proved feeds.
    pub feeds: BTreeMap<FeedId, FeedCopy>,
    /// Feeds of the head that could not be proved.
    pub damaged: BTreeSet<FeedId>,
    /// Something was stored, and does not verify.
    pub unreadable: bool,
    /// Trusted time.
    pub clock: TrustedClock,
}

/// A record that a look-up found.
#[derive(Debug, Clone)]
pub struct Found {
    /// In which feed.
    pub feed: FeedId,
    /// Its blind id.
    pub blind: BlindId,
    /// Its version.
    pub version: FeedSeq,
    /// What it says.
    pub record: Record,
}

impl View {
    /// Whether every feed of the head is there and proved.
    #[must_use]
    pub fn is_proved(&self) -> bool {
        let whole = self.head.as_ref().is_none_or(|head| head.feeds.len() == self.feeds.len());
        !self.unreadable && self.damaged.is_empty() && whole
    }

    /// The names of the authorities whose feeds the copy holds.
    #[must_use]
    pub fn covers(&self) -> Vec<String> {
        let name = |feed: &FeedId| {
            self.reference
                .authorities
                .iter()
                .find(|a| a.code == *feed)
                .map_or_else(|| feed.to_string(), |a| a.name.clone())
        };
        let mut names: Vec<_> = self.feeds.keys().map(name).collect();
        names.sort_unstable();
        names
    }

    /// Whether these keys open every cell that the copy may hold: where one is missing, nothing found means nothing.
    #[must_use]
    pub fn covered_by(&self, keys: &FeedKeys) -> bool {
        self.feeds.values().all(|copy| keys.cover(copy.state()))
    }

    /// Every record for a token, over all feeds and all held keys. Hit and miss read and open the same number of cells.
    ///
    /// # Errors
    /// [`CannotAnswer::IntegrityFailure`] when a feed cannot be searched to the end: the storage changed, or a locator
    /// is there whose record does not open. [`CannotAnswer::KeyMissing`] when nothing was found and a key is missing.
    pub fn find(&self, store: &impl Store, keys: &FeedKeys, token: &Token) -> Result<Vec<Found>, CannotAnswer> {
        let mut found = Vec::new();
        for copy in self.feeds.values() {
            let state = copy.state();
            let place = Place { feed: state.feed, epoch: state.epoch };
            for key in keys.of(state.feed, state.epoch) {
                let secret = key.evaluate(&place, token).map_err(|_| CannotAnswer::IntegrityFailure)?;
                for index in 0..SHARED_TOKEN_MAX {
                    let locator = secret.locator(index);
                    let mut hit = false;
                    for number in copy.find(locator) {
                        hit = true;
                        let cell = copy.cell(store, number).map_err(|_| CannotAnswer::IntegrityFailure)?;
                        let slot = cell.locators().iter().position(|l| *l == locator);
                        // A false locator comes up once in millions of look-ups by name; a changed cell is likelier.
                        let record = cell
                            .open(&place, &secret, index, slot.unwrap_or(usize::MAX))
                            .map_err(|_| CannotAnswer::IntegrityFailure)?;
                        found.push(Found { feed: state.feed, blind: cell.blind(), version: cell.seq(), record });
                    }
                    if !hit && state.count > 0 {
                        let [a, b, c, d, ..] = locator;
                        let number = u32::from_be_bytes([a, b, c, d]) % state.count;
                        let cell = copy.cell(store, number).map_err(|_| CannotAnswer::IntegrityFailure)?;
                        let _ = cell.open(&place, &secret, index, 0);
                    }
                }
            }
        }
        // R79
        if found.is_empty() && !self.covered_by(keys) { Err(CannotAnswer::KeyMissing) } else { Ok(found) }
    }
}

/// The row `beat`.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredBeat {
    /// The signed beat; empty before the first.
    pub(crate) beat: Vec<u8>,
    pub(crate) clock: TrustedClock,
}

/// The row `head`.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredHead {
    pub(crate) head: Vec<u8>,
    pub(crate) generations: Vec<(FeedId, Generation)>,
}

/// Named rows: keyed hashes for names, sealed values.
#[derive(Debug)]
pub(crate) struct NamedRows(Key);

impl NamedRows {
    pub(crate) const fn new(key: Key) -> Self {
        Self(key)
    }

    fn name(&self, name: &str) -> RowName {
        let hash = digest::prf(self.0.expose(), name.as_bytes());
        hash.first_chunk().copied().unwrap_or_default()
    }

    pub(crate) fn seal<T: Serialize>(&self, name: &str, value: &T) -> Result<(RowName, Vec<u8>), StoreError> {
        let plain = codec::encode(value).map_err(|e| StoreError::Io(e.to_string()))?;
        let sealed = self.0.seal(name.as_bytes(), &plain, &mut OsRandom);
        Ok((self.name(name), sealed.map_err(|e| StoreError::Io(e.to_string()))?))
    }

    pub(crate) fn load<T: DeserializeOwned>(&self, store: &impl Store, name: &str) -> Result<Option<T>, StoreError> {
        let Some(sealed) = store.load(&self.name(name))? else { return Ok(None) };
        let damaged = |_| StoreError::DoesNotOpen(format!("row {name} is damaged"));
        let plain = self.0.open(name.as_bytes(), &sealed).map_err(damaged)?;
        codec::decode(&plain, 1024 * 1024).map(Some).map_err(damaged)
    }
}
