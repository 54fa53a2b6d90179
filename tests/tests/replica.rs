//! The replica over real sled: staging, flips, refusals, restarts, and what is left on disk.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use cpis_agent::port::{GenerationKeys as _, Store as _};
use cpis_agent::replica::Replica;
use cpis_agent::store::SledStore;
use cpis_protocol::answer::CannotAnswer;
use cpis_protocol::clock::Carrier;
use cpis_protocol::id::FeedId;
use cpis_protocol::sync::pull::Source;
use cpis_tests::publisher::{MemoryKeys, Publisher, blind, reading, scope, token};

struct Bench {
    dir: tempfile::TempDir,
    keys: MemoryKeys,
    publisher: Publisher,
}

type TestReplica = Replica<SledStore, MemoryKeys>;

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), keys: MemoryKeys::default(), publisher: Publisher::new().unwrap() }
    }

    fn open(&self) -> TestReplica {
        let store = SledStore::open(&self.dir.path().join("replica")).unwrap();
        Replica::open(store, self.keys.clone(), self.publisher.trust(), &scope()).unwrap()
    }

    fn snapshot(&mut self, replica: &TestReplica) -> Result<(), Vec<FeedId>> {
        let plan = self.publisher.plan(Source::Staged).unwrap();
        // The order of arrival does not matter.
        let mut chunks = self.publisher.chunks(&plan);
        chunks.reverse();
        replica.stage(chunks).unwrap();
        replica.apply(plan, Carrier::Live, reading()).unwrap()
    }

    fn delta(&mut self, replica: &TestReplica, from: usize) -> Result<(), Vec<FeedId>> {
        let cells = self.publisher.log[from..].to_vec();
        let plan = self.publisher.plan(Source::Delta(cells)).unwrap();
        replica.apply(plan, Carrier::Live, reading()).unwrap()
    }

    fn find(&self, replica: &TestReplica, child: u32) -> Result<usize, CannotAnswer> {
        let view = replica.view();
        let keys = self.publisher.keys().unwrap();
        view.find(replica.store(), &keys, &token(child).unwrap()).map(|found| found.len())
    }
}

#[test]
fn snapshot_then_delta_then_restart() {
    let mut bench = Bench::new();
    let replica = bench.open();
    for child in 0..600 {
        bench.publisher.put(child, 1).unwrap();
    }
    assert_eq!(bench.snapshot(&replica), Ok(()));
    assert_eq!([bench.find(&replica, 0), bench.find(&replica, 599), bench.find(&replica, 600)], [Ok(1), Ok(1), Ok(0)]);
    let from = bench.publisher.log.len();
    bench.publisher.remove(5).unwrap();
    bench.publisher.put(6, 2).unwrap();
    bench.publisher.put(600, 1).unwrap();
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
    bench.publisher.put(1, 1).unwrap();
    bench.publisher.put(2, 1).unwrap();
    assert_eq!(bench.snapshot(&replica), Ok(()));
    bench.publisher.remove(1).unwrap();
    bench.publisher.put(3, 1).unwrap();
    // A mirror leaves a cell out.
    let feed = bench.publisher.feed();
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
        bench.publisher.put(child, 1).unwrap();
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
        bench.publisher.put(child, 1).unwrap();
    }
    assert_eq!(bench.snapshot(&replica), Ok(()));
    let old = bench.publisher.live().iter().find(|c| c.blind() == blind(7)).cloned().unwrap();
    let keys_before = bench.keys.all();
    let from = bench.publisher.log.len();
    bench.publisher.remove(7).unwrap();
    assert_eq!(bench.delta(&replica, from), Ok(()));
    let keys_after = bench.keys.all();
    assert!(keys_before.iter().all(|key| !keys_after.contains(key)), "the key that sealed it is gone");
    drop(replica);
    for entry in std::fs::read_dir(bench.dir.path().join("replica")).unwrap() {
        let Ok(bytes) = std::fs::read(entry.unwrap().path()) else { continue };
        let needle = &old.as_bytes()[100..];
        assert!(!bytes.windows(needle.len()).any(|window| window == needle), "no cell lies on disk unsealed");
    }
}

#[test]
fn a_copy_that_the_root_does_not_vouch_for_cannot_answer() {
    let mut bench = Bench::new();
    let replica = bench.open();
    bench.publisher.put(1, 1).unwrap();
    assert_eq!(bench.snapshot(&replica), Ok(()));
    drop(replica);
    bench.publisher = Publisher::signed_by([8; 32]).unwrap();
    let replica = bench.open();
    assert!(!replica.view().is_proved());
    assert!(replica.view().head.is_none());
}

/// A root that names other keys: the copy by the old ones cannot answer, the time that they pushed ahead is let go of,
/// also over a restart, and the next copy by the new keys is taken in.
#[test]
fn what_withdrawn_keys_signed_is_let_go_of() {
    let mut bench = Bench::new();
    let replica = bench.open();
    bench.publisher.put(1, 1).unwrap();
    assert_eq!(bench.snapshot(&replica), Ok(()));
    let pushed = replica.clock().floor_ms();
    let other = Publisher::signed_by([0x99; 32]).unwrap();
    let proved = other.trust().root().issued_ms;
    assert!(pushed > proved);
    replica.follow(bench.publisher.trust(), pushed, true);
    assert!(replica.view().is_proved() && replica.clock().floor_ms() == pushed, "the same keys change nothing");
    replica.follow(other.trust(), proved, true);
    assert!(!replica.view().is_proved() && replica.view().beat.is_none() && replica.view().head.is_none());
    assert_eq!((replica.clock().floor_ms(), replica.clock().now(reading())), (proved, None));
    drop(replica);
    bench.publisher = other;
    let replica = bench.open();
    assert!(!replica.view().is_proved());
    assert_eq!(replica.clock().floor_ms(), proved, "stopped in between");
    bench.publisher.put(2, 1).unwrap();
    assert_eq!(bench.snapshot(&replica), Ok(()));
    assert!(replica.view().is_proved());
    assert_eq!([bench.find(&replica, 1), bench.find(&replica, 2)], [Ok(0), Ok(1)]);
}
