//! A small honest publisher of one feed, and generation keys in memory: for tests of the agent's replica by itself.
//! It must not stand in for the server where the server itself can be run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use cpis_agent::port::{Generation, GenerationKeys, StoreError};
use cpis_agent::random::OsRandom;
use cpis_protocol::cell::{Cell, CellKind, FeedKey, LookupPrf as _, Place};
use cpis_protocol::clock::Reading;
use cpis_protocol::digest::sha256;
use cpis_protocol::flag::{Flag, FlagKind, Record};
use cpis_protocol::grant::{self, FeedKeys, Grant, NamedFeedKey};
use cpis_protocol::head::{Beat, FeedState, Head, Reference};
use cpis_protocol::id::{BlindId, DeviceId, FeedId, ScopeId, SiteId};
use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_protocol::policy::Policy;
use cpis_protocol::query::{LookupParameters, Query, Token};
use cpis_protocol::replica;
use cpis_protocol::seal::{Key, MemoryHard, OpeningKey};
use cpis_protocol::sign::{Kind, Signer, Verified};
use cpis_protocol::sync::pull::{Plan, Source, StagedChunk};
use cpis_protocol::text::Text;
use cpis_protocol::trust::{Role, RoleKeys, Root, Trust};

/// The time of everything here.
pub const T0: i64 = 1_790_000_000_000;

/// The scope of everything here.
#[must_use]
pub fn scope() -> ScopeId {
    Text::lossy("scope")
}

/// Clocks that stand still.
#[must_use]
pub const fn reading() -> Reading {
    Reading { wall_ms: T0, boot_ms: 1000, boot_id: [1; 16] }
}

/// Keys in memory: what is destroyed is gone.
#[derive(Debug, Default, Clone)]
pub struct MemoryKeys(Arc<Mutex<BTreeMap<Generation, [u8; 32]>>>);

impl MemoryKeys {
    /// All keys held now.
    #[must_use]
    pub fn all(&self) -> Vec<[u8; 32]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }
}

impl GenerationKeys for MemoryKeys {
    fn get(&self, generation: Generation) -> Option<Key> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&generation).map(|key| Key::from_bytes(*key))
    }
    fn names(&self) -> Key {
        Key::from_bytes([7; 32])
    }
    fn generations(&self) -> Vec<Generation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
    fn add(&self, keys: &[(FeedId, Generation, &Key)]) -> Result<(), StoreError> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.extend(keys.iter().map(|(_, generation, key)| (*generation, *key.expose())));
        Ok(())
    }
    fn retain(&self, keep: &[Generation]) -> Result<(), StoreError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|generation, _| keep.contains(generation));
        Ok(())
    }
}

/// A publisher of one feed, small and honest.
#[derive(Debug)]
pub struct Publisher {
    signer: Signer,
    trust: Trust,
    place: Place,
    key: [u8; 32],
    /// The feed's log.
    pub log: Vec<Cell>,
    gseq: u64,
}

const fn lookup() -> LookupParameters {
    LookupParameters { salt_epoch: 1, salt: [2; 16], cost: MemoryHard { memory_kib: 8, passes: 1 } }
}

/// The blind id of a child here.
#[must_use]
pub const fn blind(child: u32) -> BlindId {
    let [a, b, c, d] = child.to_be_bytes();
    BlindId([d, 1, 2, 3, a, b, c, d])
}

/// The question that asks for a child here.
///
/// # Errors
/// When the memory-hard step cannot be done.
pub fn token(child: u32) -> anyhow::Result<Token> {
    let body = 999_000_000 + u64::from(child) * 10;
    let number = (body..).find_map(|nine| NhsNumber::new(nine * 10 + NhsNumber::check_digit(nine)?).ok());
    Ok(Query::nhs_number(number.context("no number")?, Date::new(2015, 3, 4)?).token(&lookup())?)
}

impl Publisher {
    /// A feed without records. The same root and keys each time.
    ///
    /// # Errors
    /// When the root does not verify.
    pub fn new() -> anyhow::Result<Self> {
        Self::signed_by([1; 32])
    }

    /// With keys of another seed: somebody else's deployment.
    ///
    /// # Errors
    /// When the root does not verify.
    pub fn signed_by(seed: [u8; 32]) -> anyhow::Result<Self> {
        let signer = Signer::from_seed(seed);
        let keys = |role| RoleKeys { role, keys: vec![signer.public_key()], expires_ms: i64::MAX };
        let root = Root {
            version: 1,
            deployment: Text::lossy("test"),
            synthetic: true,
            issued_ms: 1,
            expires_ms: i64::MAX,
            threshold: 1,
            root_keys: vec![signer.public_key()],
            roles: vec![keys(Role::Publisher), keys(Role::Beat), keys(Role::DeviceAuthority)],
            audit_recipients: vec![OpeningKey::from_seed([4; 32]).sealing_key()],
            authority_certificates: vec![Vec::new()],
        };
        let trust = Trust::pin(&signer.sign(Kind::Root, &root)?)?;
        let place = Place { feed: Text::lossy("E09000033"), epoch: 5 };
        Ok(Self { signer, trust, place, key: [9; 32], log: Vec::new(), gseq: 0 })
    }

    /// Goes on after a register sequence that was published before.
    pub const fn resume(&mut self, gseq: u64) {
        self.gseq = gseq;
    }

    /// The root to trust.
    #[must_use]
    pub const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The feed.
    #[must_use]
    pub const fn feed(&self) -> FeedId {
        self.place.feed
    }

    fn next_seq(&self) -> anyhow::Result<u32> {
        Ok(u32::try_from(self.log.len())? + 1)
    }

    /// Adds or replaces a child's record; `day` makes versions differ.
    ///
    /// # Errors
    /// When the record does not seal.
    pub fn put(&mut self, child: u32, day: i8) -> anyhow::Result<()> {
        let secret = FeedKey(Key::from_bytes(self.key)).evaluate(&self.place, &token(child)?)?;
        let flag = Flag {
            kind: FlagKind::Cpp,
            authority: 1,
            start: Some(Date::new(2026, 1, day)?),
            end: None,
            visible_until_min: None,
        };
        let record = Record { flags: vec![flag], more: false, restricted: false, initials: [0; 2], last_three: 0 };
        let seq = self.next_seq()?;
        self.log.push(Cell::put(&self.place, blind(child), seq, &record, &[(secret, 0)], &mut OsRandom)?);
        Ok(())
    }

    /// Takes a child's record out.
    ///
    /// # Errors
    /// When the log is full.
    pub fn remove(&mut self, child: u32) -> anyhow::Result<()> {
        let seq = self.next_seq()?;
        self.log.push(Cell::filled(CellKind::Remove, blind(child), seq, &mut OsRandom));
        Ok(())
    }

    /// The live set.
    #[must_use]
    pub fn live(&self) -> Vec<Cell> {
        replica::changes(&self.log).into_values().flatten().collect()
    }

    /// The signed state of now.
    ///
    /// # Errors
    /// When something does not verify.
    pub fn publish(&mut self) -> anyhow::Result<(Verified<Beat>, Verified<Head>)> {
        self.gseq += 1;
        let (count, state_root) = replica::state_root(&self.live());
        let seq = u32::try_from(self.log.len())?;
        let feeds = vec![FeedState {
            feed: self.place.feed,
            epoch: self.place.epoch,
            seq,
            count,
            state_root,
            key_id: 1,
            oldest_key_id: 1,
        }];
        let reference = sha256(&Reference::default().encode()?);
        let head = Head { scope: scope(), gseq: self.gseq, issued_ms: T0, lookup: lookup(), reference, feeds };
        let head = self.signer.sign(Kind::Head, &head)?;
        let beat = Beat {
            scope: scope(),
            gseq: self.gseq,
            head: sha256(&head),
            issued_ms: T0 + i64::try_from(self.gseq)?,
            valid_s: 1000,
            next_poll_s: 300,
            spread_s: 5,
        };
        let beat = Beat::verify(&self.signer.sign(Kind::Beat, &beat)?, &scope(), &self.trust, None, None)?;
        let head = Head::verify(&head, &beat.head, &scope(), &self.trust)?;
        Ok((beat, head))
    }

    /// A plan to the state of now.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn plan(&mut self, source: Source) -> anyhow::Result<Plan> {
        let (beat, head) = self.publish()?;
        Ok(Plan {
            beat,
            head,
            asked_ms: Some(0),
            reference: Some(Reference::default().encode()?),
            sources: vec![source],
        })
    }

    /// The chunks of the live set for a plan's head.
    #[must_use]
    pub fn chunks(&self, plan: &Plan) -> Vec<StagedChunk> {
        let states = plan.head.feeds.iter();
        let chunks = |state: &FeedState| -> Vec<StagedChunk> {
            let live = self.live();
            let chunk =
                |(cells, index): (&[Cell], u32)| StagedChunk { state: state.clone(), index, cells: cells.to_vec() };
            live.chunks(256).zip(0..).map(chunk).collect()
        };
        states.flat_map(chunks).collect()
    }

    /// The feed keys of an unlocked vault.
    ///
    /// # Errors
    /// When they do not open.
    pub fn keys(&self) -> anyhow::Result<FeedKeys> {
        let opening = OpeningKey::from_seed([3; 32]);
        let device = DeviceId([0; 16]);
        let (feed, epoch) = (self.place.feed, self.place.epoch);
        let key = NamedFeedKey { feed, epoch, key_id: 1, key: FeedKey(Key::from_bytes(self.key)) };
        let sealed_keys = grant::seal_keys(&[key], &device, &scope(), &opening.sealing_key(), &mut OsRandom)?;
        let grant = Grant {
            number: 1,
            device,
            site: SiteId::EMPTY,
            scope: scope(),
            issued_ms: T0,
            lease_until_ms: i64::MAX,
            policy: Policy::default(),
            badges: Vec::new(),
            feeds: Vec::new(),
            sealed_keys,
        };
        Ok(grant.open_keys(&opening)?)
    }
}
