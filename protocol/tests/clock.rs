//! Trusted time against everything that can be done to a device's clocks, with the truth beside it.
//! Nothing here may make a copy look fresher than it is, nor a lease last longer (design section 3, invariant 10).

use cpis_protocol::answer::{self, CannotAnswer, CopyState};
use cpis_protocol::clock::{Carrier, ClockRule, Reading, TrustedClock};
use cpis_protocol::policy::{Freshness, Policy};
use proptest::prelude::*;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const T0: i64 = 20_000 * DAY;
/// A beat is signed at most this long before the server hands it out: by so much a copy may look younger.
const BEAT_LIFE: i64 = MINUTE;

/// What happens to the device.
#[derive(Debug, Clone)]
enum Step {
    /// It runs, or sleeps: both count in boot time.
    Elapse(i64),
    /// Somebody sets the wall clock to this.
    SetWall(i64),
    /// Somebody moves the wall clock by this.
    MoveWall(i64),
    /// Switched off for so long, then on; the wall clock goes on meanwhile.
    PowerOff(i64),
    /// Switched off for so long with an empty battery: the wall clock starts from nothing.
    DeadBattery(i64),
    /// A beat is asked for; signed so long before; the reply is held back for so long.
    Live { signed_before: i64, held_back: i64 },
    /// Two questions at once: the first one's reply comes so much later than the second one's.
    Crossed { apart: i64, held_back: i64 },
    /// A bundle with a beat that was made so long ago.
    Stored(i64),
    /// The agent's minute: the floor rises.
    RaiseFloor,
    /// The agent's state of now is kept aside by somebody.
    Backup,
    /// ... and put back.
    Restore,
    /// The machine's memory is put back to an earlier state, clocks included: boot time runs from there again.
    MemoryBack(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2 * DAY).prop_map(Step::Elapse),
        2 => (0..2 * T0).prop_map(Step::SetWall),
        2 => (-400 * DAY..400 * DAY).prop_map(Step::MoveWall),
        2 => (0..30 * DAY).prop_map(Step::PowerOff),
        1 => (0..30 * DAY).prop_map(Step::DeadBattery),
        4 => (0..BEAT_LIFE, 0..5 * DAY).prop_map(|(signed_before, held_back)| Step::Live { signed_before, held_back }),
        2 => (0..DAY, 0..DAY).prop_map(|(apart, held_back)| Step::Crossed { apart, held_back }),
        2 => (0..60 * DAY).prop_map(Step::Stored),
        3 => Just(Step::RaiseFloor),
        1 => Just(Step::Backup),
        1 => Just(Step::Restore),
        1 => (0..1_000_000u64).prop_map(Step::MemoryBack),
    ]
}

/// The device, and the truth that it cannot see.
struct World {
    truth: i64,
    wall: i64,
    boot_ms: u64,
    boot: u8,
    clock: TrustedClock,
    kept: Option<(TrustedClock, Option<i64>)>,
    /// The signed time of the newest beat that the copy equals.
    as_at: Option<i64>,
}

impl World {
    fn new(rule: ClockRule) -> Self {
        let mut clock = TrustedClock::default();
        clock.set_rule(rule);
        Self { truth: T0, wall: T0, boot_ms: 5_000, boot: 1, clock, kept: None, as_at: None }
    }

    fn reading(&self) -> Reading {
        Reading { wall_ms: self.wall, boot_ms: self.boot_ms, boot_id: [self.boot; 16] }
    }

    fn elapse(&mut self, ms: i64) {
        self.truth += ms;
        self.wall = self.wall.saturating_add(ms);
        self.boot_ms += ms.unsigned_abs();
    }

    fn accept(&mut self, signed: i64, carrier: Carrier, asked: Reading) {
        self.clock.observe(signed, carrier, asked);
        // A beat older than the newest accepted one is refused before it comes here (R31).
        self.as_at = self.as_at.max(Some(signed));
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Elapse(ms) => self.elapse(ms),
            Step::SetWall(to) => self.wall = to,
            Step::MoveWall(by) => self.wall = self.wall.saturating_add(by).max(0),
            Step::PowerOff(ms) => {
                self.elapse(ms);
                (self.boot, self.boot_ms) = (self.boot.wrapping_add(1), 0);
            }
            Step::DeadBattery(ms) => {
                self.elapse(ms);
                (self.wall, self.boot, self.boot_ms) = (0, self.boot.wrapping_add(1), 0);
            }
            Step::Live { signed_before, held_back } => {
                let (asked, signed) = (self.reading(), self.truth - signed_before);
                self.elapse(held_back);
                self.accept(signed, Carrier::Live, asked);
            }
            Step::Crossed { apart, held_back } => {
                let (first, first_signed) = (self.reading(), self.truth);
                self.elapse(apart);
                let (second, second_signed) = (self.reading(), self.truth);
                self.elapse(held_back);
                self.accept(second_signed, Carrier::Live, second);
                self.accept(first_signed, Carrier::Live, first);
            }
            Step::Stored(ago) => {
                let (signed, reading) = (self.truth - ago, self.reading());
                self.accept(signed, Carrier::Stored, reading);
            }
            Step::RaiseFloor => self.clock.raise_floor(self.reading()),
            Step::Backup => self.kept = Some((self.clock, self.as_at)),
            Step::Restore => {
                if let Some((clock, as_at)) = self.kept {
                    (self.clock, self.as_at) = (clock, as_at);
                }
            }
            Step::MemoryBack(by) => self.boot_ms = self.boot_ms.saturating_sub(by),
        }
    }
}

/// Whether a step puts the machine's memory back while it runs: no program inside can notice once its own clock has
/// caught up, so these runs are judged up to there only.
fn is_memory_back(step: &Step) -> bool {
    matches!(step, Step::MemoryBack(by) if *by > 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The estimate is never behind the truth by more than a beat's life, so no age is understated and no lease outlived.
    #[test]
    fn no_sequence_makes_a_copy_fresher_or_a_lease_longer(
        steps in proptest::collection::vec(step(), 1..60),
        lease in 0i64..40 * DAY,
    ) {
        let mut world = World::new(ClockRule::Refuse);
        let policy = Policy::default();
        for step in steps.iter().filter(|step| !is_memory_back(step)) {
            world.run(step);
            if let Some(now) = world.clock.now(world.reading()) {
                prop_assert!(now >= world.truth - BEAT_LIFE, "{} ms behind after {step:?}", world.truth - now);
                prop_assert!(now <= world.truth, "{} ms ahead after {step:?}", now - world.truth);
            }
            let lease_until_ms = T0 + lease;
            let copy = CopyState { as_at_ms: world.as_at, verified: true, barred: None, lease_until_ms, policy: &policy };
            if let Ok((age_s, freshness)) = answer::admit(&copy, &world.clock, world.reading()) {
                let true_age = world.as_at.map_or(0, |as_at| world.truth - as_at);
                prop_assert!(age_s * 1000 >= true_age - BEAT_LIFE - 1000, "looks {age_s} s old and is {true_age} ms");
                prop_assert!(world.truth < lease_until_ms + BEAT_LIFE, "answered after its lease");
                if true_age >= i64::from(policy.ageing_s) * 1000 + BEAT_LIFE + 1000 {
                    prop_assert!(freshness >= Freshness::Stale);
                    prop_assert_eq!(answer::admit_miss(freshness), Err(CannotAnswer::Stale));
                }
            }
        }
    }

    /// Whatever happens, also a memory that is put back while the machine runs: time that was believed within a boot is
    /// never taken back while boot time goes on, and never falls below what was proved.
    #[test]
    fn never_below_what_was_proved(steps in proptest::collection::vec(step(), 1..60), believe in any::<bool>()) {
        let mut world = World::new(if believe { ClockRule::Believe } else { ClockRule::Refuse });
        for step in &steps {
            world.run(step);
            if let Some(now) = world.clock.now(world.reading()) {
                prop_assert!(now >= world.clock.floor_ms(), "after {step:?}");
            }
        }
    }

    /// A site that believes the wall clock after a restart takes exactly that risk and no other: while the boot of the
    /// last live beat lasts, setting the clock does nothing there either.
    #[test]
    fn believing_concerns_restarts_only(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new(ClockRule::Believe);
        let mut anchored = false;
        for step in steps.iter().filter(|step| !is_memory_back(step)) {
            world.run(step);
            match step {
                Step::Live { .. } | Step::Crossed { .. } => anchored = true,
                Step::PowerOff(_) | Step::DeadBattery(_) | Step::Restore => anchored = false,
                _ => {}
            }
            if let Some(now) = world.clock.now(world.reading()).filter(|_| anchored) {
                prop_assert!(now >= world.truth - BEAT_LIFE, "{} ms behind after {step:?}", world.truth - now);
            }
        }
    }
}

/// The same sequence by hand, for the reader: what each clock rule says after a night in a drawer.
#[test]
fn a_night_in_a_drawer() {
    for (rule, expected) in [(ClockRule::Refuse, None), (ClockRule::Believe, Some(T0 + MINUTE))] {
        let mut world = World::new(rule);
        world.run(&Step::Live { signed_before: 0, held_back: 0 });
        world.run(&Step::PowerOff(12 * HOUR));
        // The thief sets the clock to just after the last beat.
        world.run(&Step::SetWall(T0 + MINUTE));
        assert_eq!(world.clock.now(world.reading()), expected, "{rule:?}");
    }
}
