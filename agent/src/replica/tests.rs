//! The replica over real sled: staging, flips, refusals, restarts, and what is left on disk.

use std::sync::Mutex;

use cpis_protocol::answer::CannotAnswer;
use cpis_protocol::cell::{CellKind, FeedKey, LookupPrf as _, Place};
use cpis_protocol::flag::{Flag, FlagKind, Record};
use cpis_protocol::grant::{self, FeedKeys, Grant, NamedFeedKey};
use cpis_protocol::id::{BlindId, DeviceId, SiteId};
use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_protocol::policy::Policy;
use cpis_protocol::query::{LookupParameters, Query, Token};
use cpis_protocol::seal::{MemoryHard, OpeningKey};
use cpis_protocol::sign::{Kind, Signer};
use cpis_protocol::text::Text;
use cpis_protocol::trust::{Role, RoleKeys, Root};

use super::*;
use crate::store::SledStore;

const T0: i64 = 1_790_000_000_000;

/// Keys in memory: what is destroyed is gone.
#[derive(Default)]
struct MemoryKeys(Mutex<BTreeMap<Generation, [u8; 32]>>);

impl GenerationKeys for std::sync::Arc<MemoryKeys> {
    fn get(&self, generation: Generation) -> Option<Key> {
        self.0.lock().unwrap().get(&generation).map(|key| Key::from_bytes(*key))
    }
    fn names(&self) -> Key {
        Key::from_bytes([7; 32])
    }
    fn generations(&self) -> Vec<Generation> {
        self.0.lock().unwrap().keys().copied().collect()
    }
    fn add(&self, keys: &[(FeedId, Generation, &Key)]) -> Result<(), StoreError> {
        self.0.lock().unwrap().extend(keys.iter().map(|(_, generation, key)| (*generation, *key.expose())));
        Ok(())
    }
    fn retain(&self, keep: &[Generation]) -> Result<(), StoreError> {
        self.0.lock().unwrap().retain(|generation, _| keep.contains(generation));
        Ok(())
    }
}

/// A publisher of one feed, small and honest.
struct Publisher {
    signer: Signer,
    trust: Trust,
    place: Place,
    key: [u8; 32],
    log: Vec<Cell>,
    gseq: u64,
}

impl Publisher {
    fn new() -> Self {
        let signer = Signer::from_seed([1; 32]);
        let keys = |role| RoleKeys { role, keys: vec![signer.public_key()] };
        let root = Root {
            version: 1,
            deployment: Text::lossy("test"),
            synthetic: true,
            issued_ms: 1,
            expires_ms: i64::MAX,
            threshold: 1,
            root_keys: vec![signer.public_key()],
            roles: vec![keys(Role::Publisher), keys(Role::Beat), keys(Role::DeviceAuthority)],
            audit_recipients: vec![[1; 32]],
            authority_certificate: Vec::new(),
        };
        let trust = Trust::pin(&signer.sign(Kind::Root, &root).unwrap()).unwrap();
        let place = Place { feed: Text::lossy("E09000033"), epoch: 5 };
        Self { signer, trust, place, key: [9; 32], log: Vec::new(), gseq: 0 }
    }

    fn lookup() -> LookupParameters {
        LookupParameters { salt_epoch: 1, salt: [2; 16], cost: MemoryHard { memory_kib: 8, passes: 1 } }
    }

    fn token(child: u32) -> Token {
        let body = 999_000_000 + u64::from(child) * 10;
        let number = (body..).find_map(|nine| NhsNumber::new(nine * 10 + NhsNumber::check_digit(nine)?).ok()).unwrap();
        Query::nhs_number(number, Date::new(2015, 3, 4).unwrap()).token(&Self::lookup()).unwrap()
    }

    fn put(&mut self, child: u32, start: i8) {
        let secret = FeedKey(Key::from_bytes(self.key)).evaluate(&self.place, &Self::token(child)).unwrap();
        let flag = Flag {
            kind: FlagKind::Cpp,
            authority: 1,
            start: Date::new(2026, 1, start).ok(),
            end: None,
            visible_until_min: None,
        };
        let record = Record { flags: vec![flag], more: false, restricted: false, initials: [0; 2], last_three: 0 };
        let seq = self.log.len() as u32 + 1;
        self.log.push(Cell::put(&self.place, Self::blind(child), seq, &record, &[(secret, 0)], &mut OsRandom).unwrap());
    }

    fn blind(child: u32) -> BlindId {
        let [a, b, c, d] = child.to_be_bytes();
        BlindId([d, 1, 2, 3, a, b, c, d])
    }

    fn remove(&mut self, child: u32) {
        let seq = self.log.len() as u32 + 1;
        self.log.push(Cell::filled(CellKind::Remove, Self::blind(child), seq, &mut OsRandom));
    }

    fn live(&self) -> Vec<Cell> {
        replica::changes(&self.log).into_values().flatten().collect()
    }

    fn publish(&mut self) -> (Verified<Beat>, Verified<Head>) {
        self.gseq += 1;
        let live = self.live();
        let (count, state_root) = replica::state_root(&live);
        let state = FeedState {
            feed: self.place.feed,
            epoch: self.place.epoch,
            seq: self.log.len() as u32,
            count,
            state_root,
            key_id: 1,
        };
        let head = Head {
            scope: Text::lossy("scope"),
            gseq: self.gseq,
            issued_ms: T0,
            lookup: Self::lookup(),
            reference: cpis_protocol::digest::sha256(&Reference::default().encode().unwrap()),
            feeds: vec![state],
        };
        let head = self.signer.sign(Kind::Head, &head).unwrap();
        let beat = Beat {
            scope: Text::lossy("scope"),
            gseq: self.gseq,
            head: cpis_protocol::digest::sha256(&head),
            issued_ms: T0 + self.gseq as i64,
            valid_s: 1000,
            next_poll_s: 300,
            spread_s: 5,
        };
        let beat = self.signer.sign(Kind::Beat, &beat).unwrap();
        let beat = Beat::verify(&beat, &Text::lossy("scope"), &self.trust, None, None).unwrap();
        let head = Head::verify(&head, &beat.head, &Text::lossy("scope"), &self.trust).unwrap();
        (beat, head)
    }

    fn keys(&self) -> FeedKeys {
        let opening = OpeningKey::from_seed([3; 32]);
        let device = DeviceId([0; 16]);
        let key = NamedFeedKey {
            feed: self.place.feed,
            epoch: self.place.epoch,
            key_id: 1,
            key: FeedKey(Key::from_bytes(self.key)),
        };
        let scope = Text::lossy("scope");
        let sealed = grant::seal_keys(&[key], &device, &scope, &opening.sealing_key(), &mut OsRandom).unwrap();
        let grant = Grant {
            number: 1,
            device,
            site: SiteId::EMPTY,
            scope,
            issued_ms: T0,
            lease_until_ms: i64::MAX,
            policy: Policy::default(),
            badges: Vec::new(),
            feeds: Vec::new(),
            sealed_keys: sealed,
        };
        grant.open_keys(&opening).unwrap()
    }
}

struct Bench {
    dir: tempfile::TempDir,
    keys: std::sync::Arc<MemoryKeys>,
    publisher: Publisher,
}

type TestReplica = Replica<SledStore, std::sync::Arc<MemoryKeys>>;

fn reading() -> Reading {
    Reading { wall_ms: T0, boot_ms: 1000, boot_id: [1; 16] }
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), keys: Default::default(), publisher: Publisher::new() }
    }

    fn open(&self) -> TestReplica {
        let store = SledStore::open(&self.dir.path().join("replica")).unwrap();
        Replica::open(store, self.keys.clone(), &self.publisher.trust, &Text::lossy("scope")).unwrap()
    }

    fn plan(&mut self, source: Source) -> Plan {
        let (beat, head) = self.publisher.publish();
        Plan { beat, head, reference: Some(Reference::default().encode().unwrap()), sources: vec![source] }
    }

    fn snapshot(&mut self, replica: &TestReplica) -> Result<(), Vec<FeedId>> {
        let plan = self.plan(Source::Staged);
        let live = self.publisher.live();
        let state = plan.head.feeds[0].clone();
        let chunks = live.chunks(256).zip(0..).map(|(cells, index)| StagedChunk {
            state: state.clone(),
            index,
            cells: cells.to_vec(),
        });
        // The order of arrival does not matter.
        let mut chunks: Vec<_> = chunks.collect();
        chunks.reverse();
        replica.stage(chunks).unwrap();
        replica.apply(plan, Carrier::Live, reading()).unwrap()
    }

    fn delta(&mut self, replica: &TestReplica, from: usize) -> Result<(), Vec<FeedId>> {
        let plan = self.plan(Source::Delta(self.publisher.log[from..].to_vec()));
        replica.apply(plan, Carrier::Live, reading()).unwrap()
    }

    fn find(&self, replica: &TestReplica, child: u32) -> Result<usize, CannotAnswer> {
        let view = replica.view();
        view.find(replica.store(), &self.publisher.keys(), &Publisher::token(child)).map(|found| found.len())
    }
}

#[test]
fn snapshot_then_delta_then_restart() {
    let mut bench = Bench::new();
    let replica = bench.open();
    for child in 0..600 {
        bench.publisher.put(child, 1);
    }
    assert_eq!(bench.snapshot(&replica), Ok(()));
    assert_eq!([bench.find(&replica, 0), bench.find(&replica, 599), bench.find(&replica, 600)], [Ok(1), Ok(1), Ok(0)]);
    let from = bench.publisher.log.len();
    bench.publisher.remove(5);
    bench.publisher.put(6, 2);
    bench.publisher.put(600, 1);
    assert_eq!(bench.delta(&replica, from), Ok(()));
    let expected = [Ok(0), Ok(1), Ok(1)];
    assert_eq!([bench.find(&replica, 5), bench.find(&replica, 6), bench.find(&replica, 600)], expected);
    assert_eq!(bench.keys.generations().len(), 1, "the old generation's key is destroyed");
    assert_eq!(replica.store().generations().unwrap().len(), 1, "and its rows are gone");
    drop(replica);
    let replica = bench.open();
    assert!(replica.view().is_proved());
    assert_eq!([bench.find(&replica, 5), bench.find(&replica, 6), bench.find(&replica, 600)], expected);
}

#[test]
fn a_wrong_delta_changes_nothing() {
    let mut bench = Bench::new();
    let replica = bench.open();
    bench.publisher.put(1, 1);
    bench.publisher.put(2, 1);
    assert_eq!(bench.snapshot(&replica), Ok(()));
    bench.publisher.remove(1);
    bench.publisher.put(3, 1);
    // A mirror leaves a cell out.
    let feed = bench.publisher.place.feed;
    assert_eq!(bench.delta(&replica, 3), Err(vec![feed]));
    assert_eq!([bench.find(&replica, 1), bench.find(&replica, 2), bench.find(&replica, 3)], [Ok(1), Ok(1), Ok(0)]);
    drop(replica);
    let replica = bench.open();
    assert!(replica.view().is_proved());
    assert_eq!(bench.find(&replica, 1), Ok(1));
    assert_eq!(replica.store().generations().unwrap().len(), 1, "the failed generation was cleared away");
}

#[test]
fn deleted_swapped_or_foreign_rows_are_never_an_absence() {
    let mut bench = Bench::new();
    let replica = bench.open();
    for child in 0..40 {
        bench.publisher.put(child, 1);
    }
    assert_eq!(bench.snapshot(&replica), Ok(()));
    let generation = replica.store().generations().unwrap()[0];
    let first = replica.store().row(generation, 0).unwrap().unwrap();
    // Behind the running agent's back: the cell is indexed, so the look-up is a failure and not a miss.
    let second = replica.store().row(generation, 1).unwrap().unwrap();
    replica.store().write_rows(generation, vec![(0, second.clone()), (1, first.clone())]).unwrap();
    assert!((0..32).any(|child| bench.find(&replica, child) == Err(CannotAnswer::IntegrityFailure)));
    assert!((0..32).all(|child| bench.find(&replica, child) != Ok(0)), "nobody disappears");
    drop(replica);
    let replica = bench.open();
    assert!(!replica.view().is_proved(), "found again at the next start");
    assert_eq!(replica.view().damaged.len(), 1);
    // The next snapshot repairs it.
    assert_eq!(bench.snapshot(&replica), Ok(()));
    assert!(replica.view().is_proved());
    assert_eq!(bench.find(&replica, 0), Ok(1));
}

#[test]
fn nothing_of_a_removed_record_opens_from_what_is_left_on_disk() {
    let mut bench = Bench::new();
    let replica = bench.open();
    for child in 0..30 {
        bench.publisher.put(child, 1);
    }
    assert_eq!(bench.snapshot(&replica), Ok(()));
    let old = bench.publisher.live().iter().find(|c| c.blind() == Publisher::blind(7)).cloned().unwrap();
    let keys_before: Vec<_> = bench.keys.0.lock().unwrap().values().copied().collect();
    let from = bench.publisher.log.len();
    bench.publisher.remove(7);
    assert_eq!(bench.delta(&replica, from), Ok(()));
    let keys_after: Vec<_> = bench.keys.0.lock().unwrap().values().copied().collect();
    assert!(keys_before.iter().all(|key| !keys_after.contains(key)), "the key that sealed it is gone");
    drop(replica);
    for entry in std::fs::read_dir(bench.dir.path().join("replica")).unwrap() {
        let Ok(bytes) = std::fs::read(entry.unwrap().path()) else { continue };
        let needle = &old.as_bytes()[100..];
        assert!(!bytes.windows(needle.len()).any(|window| window == needle), "no cell lies on disk unsealed");
    }
}

#[test]
fn a_stored_head_that_does_not_verify_cannot_answer() {
    let mut bench = Bench::new();
    let replica = bench.open();
    bench.publisher.put(1, 1);
    assert_eq!(bench.snapshot(&replica), Ok(()));
    let other = StoredHead { head: vec![1, 2, 3], generations: Vec::new() };
    let row = NamedRows::new(bench.keys.names()).seal("head", &other).unwrap();
    replica.store().commit(&[row]).unwrap();
    drop(replica);
    let replica = bench.open();
    assert!(!replica.view().is_proved());
    assert!(replica.view().head.is_none());
}
