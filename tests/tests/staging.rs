//! What is on its way in, over real sled: restarts, rot, a full disk and refused commits at every point.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use cpis_agent::port::{Generation, GenerationKeys as _, RowName, Store, StoreError};
use cpis_agent::replica::{Replica, Scrubbed};
use cpis_agent::store::SledStore;
use cpis_protocol::answer::CannotAnswer;
use cpis_protocol::cell::Cell;
use cpis_protocol::clock::Carrier;
use cpis_protocol::compare::Bounds;
use cpis_protocol::replica;
use cpis_protocol::sync::pull::{Comparison, Pinned, Plan, Source, StagedChunk};
use cpis_protocol::tree::Manifest;
use cpis_tests::publisher::{MemoryKeys, Publisher, reading, scope, token};

/// sled whose next writes come through, until there are none left: then the disk is full, for as long as it is.
struct Failing {
    sled: SledStore,
    left: Arc<AtomicI64>,
    /// A commit that is refused may have reached the disk all the same.
    late: Arc<AtomicBool>,
}

impl Failing {
    fn write(&self) -> Result<(), StoreError> {
        if self.left.fetch_sub(1, Ordering::SeqCst) > 0 {
            Ok(())
        } else {
            Err(StoreError::Io("the disk is full".into()))
        }
    }
}

impl Store for Failing {
    fn load(&self, name: &RowName) -> Result<Option<Vec<u8>>, StoreError> {
        self.sled.load(name)
    }
    fn row(&self, generation: Generation, row: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.sled.row(generation, row)
    }
    fn write_rows(&self, generation: Generation, rows: Vec<(u32, Vec<u8>)>) -> Result<(), StoreError> {
        self.write()?;
        self.sled.write_rows(generation, rows)
    }
    fn commit(&self, rows: &[(RowName, Vec<u8>)]) -> Result<(), StoreError> {
        let taken = self.write();
        if taken.is_ok() || self.late.load(Ordering::SeqCst) {
            self.sled.commit(rows)?;
        }
        taken
    }
    fn generations(&self) -> Result<Vec<Generation>, StoreError> {
        self.sled.generations()
    }
    fn drop_generation(&self, generation: Generation) -> Result<(), StoreError> {
        self.write()?;
        self.sled.drop_generation(generation)
    }
    fn bytes(&self) -> u64 {
        self.sled.bytes()
    }
}

type TestReplica = Replica<Failing, MemoryKeys>;

struct Bench {
    dir: tempfile::TempDir,
    keys: MemoryKeys,
    publisher: Publisher,
    left: Arc<AtomicI64>,
    late: Arc<AtomicBool>,
}

impl Bench {
    /// A publisher of so many children.
    fn new(children: u32) -> Self {
        let mut publisher = Publisher::new().unwrap();
        (0..children).for_each(|child| publisher.put(child, 1).unwrap());
        let dir = tempfile::tempdir().unwrap();
        Self {
            dir,
            keys: MemoryKeys::default(),
            publisher,
            left: Arc::new(AtomicI64::new(i64::MAX)),
            late: Arc::default(),
        }
    }

    fn open(&self) -> TestReplica {
        let sled = SledStore::open(&self.dir.path().join("replica")).unwrap();
        let store = Failing { sled, left: Arc::clone(&self.left), late: Arc::clone(&self.late) };
        Replica::open(store, self.keys.clone(), self.publisher.trust(), &scope()).unwrap()
    }

    fn comparison(&self, plan: &Plan, with_bounds: bool) -> Comparison {
        let live = self.publisher.live();
        let bounds = with_bounds.then(|| Bounds::of(live.iter().map(Cell::blind)));
        Comparison { state: plan.head.feeds[0].clone(), manifest: Manifest::of(&replica::leaves(&live)), bounds }
    }

    /// The numbers of the chunks that are held of a plan's head.
    fn held(&self, replica: &TestReplica, plan: &Plan, with_bounds: bool) -> Vec<u32> {
        replica.take_over(&[self.comparison(plan, with_bounds)]).unwrap().remove(0).1
    }

    /// Stages the chunks of a plan's head that are not held, and flips; gives their numbers.
    fn complete(&self, replica: &TestReplica, plan: Plan, with_bounds: bool) -> Vec<u32> {
        let held = self.held(replica, &plan, with_bounds);
        let missing: Vec<StagedChunk> =
            self.publisher.chunks(&plan).into_iter().filter(|chunk| !held.contains(&chunk.index)).collect();
        let numbers = missing.iter().map(|chunk| chunk.index).collect();
        replica.stage(missing).unwrap();
        replica.apply(plan, Carrier::Live, reading()).unwrap().unwrap();
        numbers
    }

    fn find(&self, replica: &TestReplica, child: u32) -> Result<usize, CannotAnswer> {
        let view = replica.view();
        let keys = self.publisher.keys().unwrap();
        view.find(replica.store(), &keys, &token(child).unwrap()).map(|found| found.len())
    }

    fn first(&mut self) -> TestReplica {
        let replica = self.open();
        let plan = self.publisher.plan(Source::Staged).unwrap();
        self.complete(&replica, plan, false);
        replica
    }
}

fn pinned(plan: &Plan) -> Pinned {
    Pinned { beat: plan.beat.clone(), head: plan.head.clone(), reference: plan.reference.clone() }
}

/// What was staged is there after a restart, and the target with it; what is rotten of it is not taken for held.
#[test]
fn staged_chunks_outlive_a_restart() {
    let mut bench = Bench::new(1000);
    let replica = bench.open();
    let plan = bench.publisher.plan(Source::Staged).unwrap();
    replica.pin(&pinned(&plan)).unwrap();
    assert_eq!(bench.held(&replica, &plan, false), [0; 0]);
    let mut chunks = bench.publisher.chunks(&plan);
    chunks.truncate(3);
    replica.stage(chunks).unwrap();
    drop(replica);

    let replica = bench.open();
    assert_eq!(replica.pinned(bench.publisher.trust(), &scope()), Some(pinned(&plan)));
    assert!(replica.view().head.is_none(), "no look-up sees any of it");
    assert_eq!(replica.staged().len(), 1);
    assert_eq!(bench.held(&replica, &plan, false), [0, 1, 2]);
    let generation = replica.store().generations().unwrap()[0];
    let other = replica.store().row(generation, 17).unwrap().unwrap();
    replica.store().write_rows(generation, vec![(16, other)]).unwrap();
    assert_eq!(bench.held(&replica, &plan, false), [0, 2], "a row that is not its own is no row");
    drop(replica);

    let replica = bench.open();
    assert_eq!(bench.complete(&replica, plan, false), [1, 3]);
    assert_eq!([bench.find(&replica, 0), bench.find(&replica, 999), bench.find(&replica, 1000)], [Ok(1), Ok(1), Ok(0)]);
    assert_eq!((replica.pinned(bench.publisher.trust(), &scope()), replica.staged().len()), (None, 0));
    assert_eq!((bench.keys.generations().len(), replica.store().generations().unwrap().len()), (1, 1));
    drop(replica);
    let replica = bench.open();
    assert_eq!((replica.pinned(bench.publisher.trust(), &scope()), replica.staged().len()), (None, 0));
}

/// A root that does not name the key of a pinned head lets it go, and what is staged with it counts only if it is equal.
#[test]
fn a_withdrawn_key_lets_the_pinned_head_go() {
    let mut bench = Bench::new(300);
    let replica = bench.open();
    let plan = bench.publisher.plan(Source::Staged).unwrap();
    replica.pin(&pinned(&plan)).unwrap();
    let other = Publisher::signed_by([9; 32]).unwrap();
    assert_eq!(replica.pinned(other.trust(), &scope()), None);
    assert_eq!(replica.pinned(bench.publisher.trust(), &"elsewhere".parse().unwrap()), None);
    assert!(replica.pinned(bench.publisher.trust(), &scope()).is_some());
}

/// A damaged row costs its chunk; with the register moved on meanwhile, its range.
#[test]
fn rot_is_repaired_by_part() {
    for moved in [false, true] {
        let mut bench = Bench::new(1000);
        let replica = bench.first();
        let generation = replica.store().generations().unwrap()[0];
        let foreign = replica.store().row(generation, 0).unwrap().unwrap();
        replica.store().write_rows(generation, vec![(20, foreign)]).unwrap();
        drop(replica);

        let replica = bench.open();
        assert_eq!((replica.view().damaged.len(), replica.view().is_proved()), (1, false));
        if moved {
            bench.publisher.put(1000, 1).unwrap();
            bench.publisher.put(1001, 1).unwrap();
        }
        let plan = bench.publisher.plan(Source::Staged).unwrap();
        let fetched = bench.complete(&replica, plan, moved);
        if moved {
            assert!(fetched.contains(&1) && fetched.len() <= 3, "{fetched:?}");
        } else {
            assert_eq!(fetched, [1]);
        }
        assert!(replica.view().is_proved());
        assert!((0..1000).step_by(37).all(|child| bench.find(&replica, child) == Ok(1)));
        assert_eq!(replica.store().generations().unwrap().len(), 1, "the damaged generation is gone");
    }
}

/// Rows that were staged for a head that is given up serve the next one; their generation goes.
#[test]
fn what_was_staged_for_another_head_is_taken_over() {
    let mut bench = Bench::new(1000);
    let replica = bench.open();
    let plan = bench.publisher.plan(Source::Staged).unwrap();
    replica.stage(bench.publisher.chunks(&plan)).unwrap();
    bench.publisher.remove(500).unwrap();
    let plan = bench.publisher.plan(Source::Staged).unwrap();
    assert_eq!(bench.complete(&replica, plan, true).len(), 1);
    assert_eq!([bench.find(&replica, 499), bench.find(&replica, 500)], [Ok(1), Ok(0)]);
    assert_eq!((bench.keys.generations().len(), replica.store().generations().unwrap().len()), (1, 1));
}

/// The disk is full, or a commit is refused, at every write of every road: the old copy goes on answering, in this
/// process and in the next, and once there is room again the new one comes in.
#[test]
fn a_disk_that_refuses_leaves_the_old_copy() {
    for by_delta in [true, false] {
        let mut refused = 0;
        for writes in 0.. {
            let mut bench = Bench::new(300);
            let replica = bench.first();
            let from = bench.publisher.log.len();
            bench.publisher.remove(7).unwrap();
            bench.publisher.put(300, 1).unwrap();
            let source = || if by_delta { Source::Delta(bench.publisher.log[from..].to_vec()) } else { Source::Staged };
            let source = source();
            let plan = bench.publisher.plan(source).unwrap();
            let road = |replica: &TestReplica| -> Result<(), StoreError> {
                if !by_delta {
                    replica.pin(&pinned(&plan))?;
                    let held = replica.take_over(&[bench.comparison(&plan, true)])?.remove(0).1;
                    let missing = bench.publisher.chunks(&plan);
                    replica.stage(missing.into_iter().filter(|chunk| !held.contains(&chunk.index)).collect())?;
                }
                replica.apply(plan.clone(), Carrier::Live, reading())?.unwrap();
                Ok(())
            };
            bench.left.store(writes, Ordering::SeqCst);
            let result = road(&replica);
            let flipped = result.is_ok();
            let expected = if flipped { [Ok(0), Ok(1)] } else { [Ok(1), Ok(0)] };
            assert_eq!([bench.find(&replica, 7), bench.find(&replica, 300)], expected, "after {writes} writes");
            assert!(replica.view().is_proved());
            drop(replica);
            // The disk is still full when the agent starts again.
            bench.left.store(0, Ordering::SeqCst);
            let replica = bench.open();
            assert_eq!([bench.find(&replica, 7), bench.find(&replica, 300)], expected, "restart after {writes} writes");
            assert!(replica.view().is_proved());
            bench.left.store(i64::MAX, Ordering::SeqCst);
            if !flipped {
                refused += 1;
                road(&replica).unwrap();
            }
            assert_eq!([bench.find(&replica, 7), bench.find(&replica, 300)], [Ok(0), Ok(1)]);
            drop(replica);
            let replica = bench.open();
            assert!(replica.view().is_proved());
            assert_eq!((bench.keys.generations().len(), replica.store().generations().unwrap().len()), (1, 1));
            if flipped && writes > 12 {
                break;
            }
        }
        assert!(refused >= if by_delta { 2 } else { 5 }, "only {refused} writes to refuse");
    }
}

/// A commit that is said to have failed and is on the disk all the same: this process goes on with the old copy, the next
/// has the old or the new one, whole; whatever else is written in between.
#[test]
fn a_commit_that_failed_and_did_not() {
    for aged in [false, true] {
        for writes in 0..8 {
            let mut bench = Bench::new(300);
            let replica = bench.first();
            let from = bench.publisher.log.len();
            bench.publisher.remove(7).unwrap();
            bench.publisher.put(300, 1).unwrap();
            let plan = bench.publisher.plan(Source::Delta(bench.publisher.log[from..].to_vec())).unwrap();
            bench.late.store(true, Ordering::SeqCst);
            bench.left.store(writes, Ordering::SeqCst);
            let failed = replica.apply(plan.clone(), Carrier::Live, reading()).is_err();
            bench.left.store(i64::MAX, Ordering::SeqCst);
            let old = [Ok(1), Ok(0)];
            if failed {
                assert_eq!([bench.find(&replica, 7), bench.find(&replica, 300)], old, "after {writes} writes");
            }
            if aged {
                replica.raise_floor(reading()).unwrap();
            }
            drop(replica);
            let replica = bench.open();
            assert!(replica.view().is_proved(), "after {writes} writes, aged: {aged}");
            let found = [bench.find(&replica, 7), bench.find(&replica, 300)];
            assert!(found == [Ok(0), Ok(1)] || (failed && found == old), "after {writes} writes: {found:?}");
            assert!(!aged || !failed || found == old, "what was written after is of the copy that answered");
            if found == old {
                replica.apply(plan, Carrier::Live, reading()).unwrap().unwrap();
            }
            assert_eq!([bench.find(&replica, 7), bench.find(&replica, 300)], [Ok(0), Ok(1)]);
            assert_eq!((bench.keys.generations().len(), replica.store().generations().unwrap().len()), (1, 1));
        }
    }
}

/// Reading it again finds what changed on the disk under the running agent; then nothing is answered until it is mended,
/// and mending costs the chunk.
#[test]
fn a_scrub_finds_rot() {
    let mut bench = Bench::new(1000);
    let replica = bench.first();
    let feed = bench.publisher.feed();
    let read = |replica: &TestReplica| {
        let mut scrub = replica.begin_scrub(&feed)?;
        let mut pieces = 0;
        loop {
            pieces += 1;
            match replica.scrub(&mut scrub, 16) {
                Scrubbed::More => {}
                result => return Some((result, pieces)),
            }
        }
    };
    assert_eq!(read(&replica), Some((Scrubbed::Sound, 4)));
    assert!(replica.view().is_proved());
    // Another generation takes its place in the middle of a reading: nothing is wrong with that.
    let mut begun = replica.begin_scrub(&feed).unwrap();
    assert_eq!(replica.scrub(&mut begun, 16), Scrubbed::More);
    bench.publisher.put(1000, 1).unwrap();
    let plan = bench.publisher.plan(Source::Staged).unwrap();
    bench.complete(&replica, plan, true);
    assert_eq!(replica.scrub(&mut begun, 16), Scrubbed::Sound);

    let generation = replica.store().generations().unwrap()[0];
    let mut row = replica.store().row(generation, 40).unwrap().unwrap();
    row[100] ^= 1;
    replica.store().write_rows(generation, vec![(40, row)]).unwrap();
    let (result, pieces) = read(&replica).unwrap();
    assert_eq!((result, pieces), (Scrubbed::Damaged, 3));
    assert!(!replica.view().is_proved() && replica.view().damaged.contains(&feed));
    assert_eq!(read(&replica), None, "known already");
    let plan = bench.publisher.plan(Source::Staged).unwrap();
    assert_eq!(bench.complete(&replica, plan, false), [2]);
    assert!(replica.view().is_proved());
    assert_eq!(read(&replica), Some((Scrubbed::Sound, 4)));
    assert_eq!(bench.find(&replica, 1000), Ok(1));
}
