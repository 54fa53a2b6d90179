//! From the register to signed heads: what changed becomes cells, feeds move on, every scope gets one head.
//! It must not let anything out before it is durable, nor one feed without the others: it is one transaction.
//!
//! Invariant 7: a child who moves between authorities gets the new PUT and the old REMOVE in the same head.

use std::collections::{BTreeMap, BTreeSet};

use cpis_protocol::cell::{Cell, CellKind, FeedKey, LookupPrf as _, Place};
use cpis_protocol::digest::{self, Hash};
use cpis_protocol::flag::Record;
use cpis_protocol::head::{Authority, Head, Reference};
use cpis_protocol::id::{BlindId, FeedId, RegisterSeq, ScopeId, UnixMs};
use cpis_protocol::query::{LookupParameters, Query};
use cpis_protocol::seal::Key;
use cpis_protocol::sign::{self, Kind};
use cpis_protocol::tree::{self, TreeHasher};
use cpis_protocol::{Refusal, codec, limits};

use crate::keys::ServerKeys;
use crate::port::{
    AuthorityEntry, CellLog, FeedRow, Feeds as _, HeadRow, Meta, Person, PersonId, Placement, Register as _, Store,
    StoreError, Tx,
};
use crate::slots::Crowd;
use crate::token::{self, TokenError};
use crate::{entropy, record, removal, slots};

/// Persons read at once.
pub(crate) const PAGE: usize = 1024;

/// Why nothing was published. What was published before stands.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Tokens could not be made.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The protocol does not allow it.
    #[error("the protocol refuses what would be published: {0}")]
    Refused(#[from] Refusal),
    /// The deployment is not set up.
    #[error("the deployment has no look-up parameters: run init")]
    NotSetUp,
    /// The storage key does not open a feed key.
    #[error("the storage key does not open the key of feed {0}: is it the key of another server?")]
    StorageKey(FeedId),
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Computing look-up tokens.
    Tokens {
        /// So many are done.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// Sealing cells, person by person.
    Persons {
        /// So many are done.
        done: u64,
        /// Of so many.
        total: u64,
    },
}

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Published {
    /// The register sequence that is published now.
    pub gseq: RegisterSeq,
    /// Cells that add or replace.
    pub puts: u64,
    /// Cells that remove.
    pub removes: u64,
    /// Scopes that got a new head.
    pub heads: Vec<ScopeId>,
    /// People of whom a slot found no place, because too many share their details: they are found by NHS number, and a
    /// device says that there may be more than it shows. More than none raises an alert.
    pub crowded: u64,
}

/// Publishes what changed since the last time; nothing when nothing did. Safe with several processes: the work is in
/// one transaction that excludes other writers, and reads what is already published inside it.
///
/// # Errors
/// [`PublishError`].
pub fn publish<S: Store>(
    store: &S,
    keys: &ServerKeys,
    now_ms: UnixMs,
    tick: &mut dyn FnMut(Step),
) -> Result<Published, PublishError> {
    let lookup = store.read(|tx| lookup(tx))?;
    // The long part comes first and outside: the transaction below finds every token it needs, or nearly.
    token::fill(store, &keys.storage, &lookup, &mut |done, total| tick(Step::Tokens { done, total }))?;
    store.write(|tx| {
        let mut run = Run::begin(tx, keys, lookup, now_ms)?;
        run.persons(tick)?;
        run.finish()
    })
}

/// Gives every plan whose time to be shown is over its register sequence, so that the next publication removes it.
///
/// # Errors
/// [`StoreError`].
pub fn expire<S: Store>(store: &S, now_ms: UnixMs) -> Result<usize, StoreError> {
    let minute = u32::try_from(now_ms.div_euclid(60_000)).unwrap_or(0);
    if store.read(|tx| tx.outlived(minute))?.is_empty() {
        return Ok(0);
    }
    store.write(|tx| {
        let persons = tx.outlived(minute)?;
        for person in &persons {
            tx.log_change(Some(*person), now_ms)?;
        }
        tx.settle_outlived(minute)?;
        Ok(persons.len())
    })
}

/// Whether there is anything to publish.
///
/// # Errors
/// [`StoreError`].
pub fn is_due<S: Store>(store: &S) -> Result<bool, StoreError> {
    store.read(|tx| {
        if published_gseq(tx)? < tx.last_gseq()? {
            return Ok(true);
        }
        for scope in tx.scopes()? {
            // Added by a process that ended before it could publish.
            if tx.newest_head(scope.scope)?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

/// The look-up parameters of the deployment.
///
/// # Errors
/// [`PublishError`].
pub fn lookup<T: Tx>(tx: &T) -> Result<LookupParameters, PublishError> {
    let bytes = tx.meta(Meta::Lookup)?.ok_or(PublishError::NotSetUp)?;
    Ok(codec::decode(&bytes, 256)?)
}

/// The register sequence up to which everything is published.
///
/// # Errors
/// [`StoreError`].
pub fn published_gseq<T: Tx>(tx: &T) -> Result<RegisterSeq, StoreError> {
    let Some(bytes) = tx.meta(Meta::PublishedGseq)? else { return Ok(0) };
    let bytes = bytes.try_into().map_err(|_| StoreError::Corrupt("meta.published-gseq"))?;
    Ok(RegisterSeq::from_be_bytes(bytes))
}

/// What binds a sealed feed key to its place in the database.
#[must_use]
pub fn feed_key_aad(log: CellLog, key_id: u32) -> Vec<u8> {
    let mut aad = b"cpis-edge/1/stored-feed-key\0".to_vec();
    aad.extend_from_slice(log.feed.as_bytes());
    aad.extend_from_slice(&log.epoch.to_be_bytes());
    aad.extend_from_slice(&key_id.to_be_bytes());
    aad
}

/// Opens a stored feed key.
///
/// # Errors
/// [`PublishError::StorageKey`].
pub fn open_feed_key(storage: &Key, log: CellLog, key_id: u32, sealed: &[u8]) -> Result<FeedKey, PublishError> {
    let opened = storage.open(&feed_key_aad(log, key_id), sealed).map_err(|_| PublishError::StorageKey(log.feed))?;
    let bytes = opened.as_slice().try_into().map_err(|_| PublishError::StorageKey(log.feed))?;
    Ok(FeedKey(Key::from_bytes(bytes)))
}

/// A feed while it is written to.
pub(crate) struct OpenFeed {
    pub(crate) row: FeedRow,
    pub(crate) key: FeedKey,
    pub(crate) touched: bool,
}

impl OpenFeed {
    pub(crate) const fn log(&self) -> CellLog {
        CellLog { feed: self.row.feed, epoch: self.row.epoch }
    }

    fn next(&mut self) -> Result<u32, Refusal> {
        self.row.seq = self.row.seq.checked_add(1).ok_or(Refusal::TooLarge)?;
        self.touched = true;
        Ok(self.row.seq)
    }
}

/// One publication under way: feeds move on in it, and every head that changed is signed at its end.
pub(crate) struct Run<'a, T: Tx> {
    pub(crate) tx: &'a T,
    pub(crate) keys: &'a ServerKeys,
    lookup: LookupParameters,
    pub(crate) parameters: Hash,
    pub(crate) now_ms: UnixMs,
    pub(crate) authorities: BTreeMap<u16, AuthorityEntry>,
    pub(crate) feeds: BTreeMap<FeedId, OpenFeed>,
    from: RegisterSeq,
    pub(crate) published: Published,
    crowd: Crowd,
}

impl<'a, T: Tx> Run<'a, T> {
    pub(crate) fn begin(
        tx: &'a T,
        keys: &'a ServerKeys,
        lookup: LookupParameters,
        now_ms: UnixMs,
    ) -> Result<Self, PublishError> {
        let authorities: BTreeMap<_, _> =
            tx.authorities()?.into_iter().map(|authority| (authority.number, authority)).collect();
        let mut feeds = BTreeMap::new();
        for row in tx.feeds()? {
            let log = CellLog { feed: row.feed, epoch: row.epoch };
            let stored = tx.feed_keys(log)?;
            let (key_id, sealed) =
                stored.iter().find(|(key_id, _)| *key_id == row.key_id).ok_or(StoreError::Corrupt("feed_key"))?;
            let key = open_feed_key(&keys.storage, log, *key_id, sealed)?;
            feeds.insert(row.feed, OpenFeed { row, key, touched: false });
        }
        let (from, to) = (published_gseq(tx)?, tx.last_gseq()?);
        let parameters = token::fingerprint(&lookup)?;
        let published = Published { gseq: to, ..Published::default() };
        let crowd = Crowd::default();
        let mut run = Self { tx, keys, lookup, parameters, now_ms, authorities, feeds, from, published, crowd };
        run.make_feeds()?;
        Ok(run)
    }

    /// Every authority has a feed, with an epoch and a first key of its own.
    fn make_feeds(&mut self) -> Result<(), PublishError> {
        let missing: Vec<FeedId> =
            self.authorities.values().map(|a| a.code).filter(|code| !self.feeds.contains_key(code)).collect();
        for feed in missing {
            let epoch = u64::from_be_bytes(entropy::bytes());
            let log = CellLog { feed, epoch };
            let row =
                FeedRow { feed, epoch, seq: 0, count: 0, state_root: tree::root([]), key_id: 1, oldest_key_id: 1 };
            let key = Key::random(&mut entropy::system());
            let sealed = self.keys.storage.seal(&feed_key_aad(log, 1), key.expose(), &mut entropy::system())?;
            self.tx.put_feed(&row)?;
            self.tx.put_feed_key(log, 1, &sealed, self.now_ms)?;
            self.feeds.insert(feed, OpenFeed { row, key: FeedKey(key), touched: false });
        }
        Ok(())
    }

    pub(crate) fn persons(&mut self, tick: &mut dyn FnMut(Step)) -> Result<(), PublishError> {
        let total = self.tx.count_changed_after(self.from)?;
        let (mut above, mut done) = (PersonId::MIN, 0);
        loop {
            let page = self.tx.changed_after(self.from, above, PAGE)?;
            let Some(last) = page.last() else { break };
            above = *last;
            for id in &page {
                self.person(*id)?;
            }
            done += page.len() as u64;
            tick(Step::Persons { done, total });
        }
        self.move_up()
    }

    /// Seals everybody anew for whom a place has fallen free. Each moves up for good, so this ends.
    pub(crate) fn move_up(&mut self) -> Result<(), PublishError> {
        while let Some(id) = self.crowd.moved.pop_first() {
            self.person(id)?;
        }
        Ok(())
    }

    fn person(&mut self, id: PersonId) -> Result<(), PublishError> {
        let person = self.tx.person(id)?;
        let mut placed: BTreeMap<FeedId, Placement> =
            self.tx.placements(id)?.into_iter().map(|placement| (placement.feed, placement)).collect();
        if let Some(person) = &person {
            for (authority, record) in record::records(person, self.now_ms) {
                let code = self.authorities.get(&authority).ok_or(StoreError::Corrupt("plan.authority"))?.code;
                let before = placed.remove(&code);
                self.put(id, person, code, &record, before.as_ref())?;
            }
        }
        for placement in placed.values() {
            self.remove(id, placement)?;
        }
        Ok(())
    }

    pub(crate) fn put(
        &mut self,
        id: PersonId,
        person: &Person,
        feed: FeedId,
        record: &Record,
        before: Option<&Placement>,
    ) -> Result<(), PublishError> {
        let queries = slots::questions(person);
        let seats = slots::seats(self.tx, &self.keys.storage, id, feed, &queries, &mut self.crowd.moved)?;
        let fingerprint = self.fingerprint(&queries, &seats, record, feed)?;
        if before.is_some_and(|before| before.fingerprint == fingerprint) {
            return Ok(());
        }
        removal::placed(self.tx, &self.keys.storage, id, person.number, before.is_none().then_some(feed))?;
        let tokens = token::of_person(self.tx, id, &queries, &self.lookup, &self.keys.storage)?;
        let blind = before.map_or_else(|| BlindId(entropy::bytes()), |before| before.blind);
        let open = self.feeds.get_mut(&feed).ok_or(StoreError::Corrupt("feed"))?;
        let (seq, log) = (open.next()?, open.log());
        let place = Place { feed: log.feed, epoch: log.epoch };
        let mut slots = Vec::with_capacity(tokens.len());
        for (token, seat) in tokens.iter().zip(&seats) {
            if let Some(seat) = slots::place(*seat) {
                slots.push((open.key.evaluate(&place, token)?, seat));
            }
        }
        self.crowd.seated(id, feed, &seats);
        let cell = Cell::put(&place, blind, seq, record, &slots, &mut entropy::system())?;
        self.tx.append(log, &cell)?;
        self.tx.put_placement(id, &Placement { feed, blind, fingerprint })?;
        self.published.puts += 1;
        Ok(())
    }

    fn remove(&mut self, id: PersonId, placement: &Placement) -> Result<(), PublishError> {
        let open = self.feeds.get_mut(&placement.feed).ok_or(StoreError::Corrupt("feed"))?;
        let (seq, log) = (open.next()?, open.log());
        let cell = Cell::filled(CellKind::Remove, placement.blind, seq, &mut entropy::system());
        self.tx.append(log, &cell)?;
        self.leave(id, placement.feed)?;
        self.published.removes += 1;
        Ok(())
    }

    /// A person is in a feed no more: whoever waited for one of the places there moves up.
    pub(crate) fn leave(&mut self, id: PersonId, feed: FeedId) -> Result<(), PublishError> {
        slots::seats(self.tx, &self.keys.storage, id, feed, &[], &mut self.crowd.moved)?;
        self.crowd.seated(id, feed, &[]);
        self.tx.delete_placement(id, feed)?;
        Ok(removal::removed(self.tx, id, feed, self.now_ms, self.published.gseq)?)
    }

    /// Changes whenever the cell would have to be sealed anew: other content, other question, other key.
    fn fingerprint(
        &self,
        queries: &[Query],
        seats: &[u32],
        record: &Record,
        feed: FeedId,
    ) -> Result<Hash, PublishError> {
        let open = self.feeds.get(&feed).ok_or(StoreError::Corrupt("feed"))?;
        let mut questions = zeroize::Zeroizing::new(Vec::new());
        for (query, seat) in queries.iter().zip(seats) {
            questions.extend_from_slice(&digest::sha256(query.expose()));
            questions.extend_from_slice(&seat.to_be_bytes());
        }
        Ok(digest::hash(
            "cpis-edge/1/placement",
            &[
                &record.pack()?,
                &questions,
                &self.parameters,
                &open.row.epoch.to_be_bytes(),
                &open.row.key_id.to_be_bytes(),
            ],
        ))
    }

    pub(crate) fn finish(mut self) -> Result<Published, PublishError> {
        for open in self.feeds.values_mut().filter(|open| open.touched) {
            let mut hasher = TreeHasher::default();
            let log = open.log();
            self.tx.live(log, u32::MAX, &mut |bytes| {
                hasher.push(tree::leaf(bytes));
                Ok(())
            })?;
            if hasher.count() > limits::FEED_CELLS_MAX {
                return Err(Refusal::TooLarge.into());
            }
            (open.row.count, open.row.state_root) = (hasher.count(), hasher.root());
            self.tx.put_feed(&open.row)?;
        }
        self.heads()?;
        self.published.crowded = self.crowd.tell(self.tx, self.published.gseq, self.now_ms)?;
        self.tx.set_meta(Meta::PublishedGseq, &self.published.gseq.to_be_bytes())?;
        Ok(self.published)
    }

    /// One head for each scope whose content changed, all at one register sequence. A scope in which nothing changed
    /// keeps its head: the beat goes on saying that it is the newest, and its devices fetch nothing.
    fn heads(&mut self) -> Result<(), PublishError> {
        let authorities = self.authorities.values().map(|a| Authority {
            number: a.number,
            code: a.code,
            name: a.name.clone(),
            office_phone: a.office_phone.clone(),
            duty_phone: a.duty_phone.clone(),
        });
        let bytes = Reference { authorities: authorities.collect() }.encode()?;
        if bytes.len() > limits::REFERENCE_BYTES_MAX {
            return Err(Refusal::TooLarge.into());
        }
        let reference = digest::sha256(&bytes);
        self.tx.put_reference(&reference, &bytes)?;
        for scope in self.tx.scopes()? {
            let wanted: BTreeSet<FeedId> = scope.feeds.into_iter().collect();
            let feeds = self.feeds.values().filter(|open| wanted.contains(&open.row.feed));
            let feeds: Vec<FeedRow> = feeds.map(|open| open.row.clone()).collect();
            self.head(scope.scope, reference, feeds)?;
        }
        Ok(())
    }

    fn head(&mut self, scope: ScopeId, reference: Hash, feeds: Vec<FeedRow>) -> Result<(), PublishError> {
        let newest = self.tx.newest_head(scope)?;
        let mut issued_ms = self.now_ms;
        if let Some(newest) = &newest {
            let old: Head = sign::peek_unverified(&newest.bytes, Kind::Head, limits::HEAD_BYTES_MAX)?;
            if old.reference == reference && old.lookup == self.lookup && old.feeds == feeds {
                return Ok(());
            }
            // A clock that was set back must not make a head look older than the one before.
            issued_ms = issued_ms.max(newest.issued_ms + 1);
        }
        let head = Head { scope, gseq: self.published.gseq, issued_ms, lookup: self.lookup, reference, feeds };
        let bytes = self.keys.publisher.sign(Kind::Head, &head)?;
        if bytes.len() > limits::HEAD_BYTES_MAX {
            return Err(Refusal::TooLarge.into());
        }
        let hash = digest::sha256(&bytes);
        self.tx.put_head(&HeadRow { hash, scope, gseq: head.gseq, issued_ms, bytes })?;
        self.published.heads.push(scope);
        Ok(())
    }
}
