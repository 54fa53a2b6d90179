//! Hundreds of seeded simulations of the real driver and the real service, each with every invariant after every step.
//! It must not pass a seed that it did not run to its end; what a failing one needs to be seen again is printed.
//!
//! Tens of thousands of seeds: `cargo sim --seeds 20000`. One with its trace: `cargo sim --seed N --trace`.

// A release build has none of the seams that make a run repeat.
#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use cpis_tests::simulation::{self, Run, Summary};

/// Where the seeds begin: always the same ones here, so that a finding is the change's.
const FROM: u64 = 1_000_000;
const SEEDS: u64 = 200;

/// Past the capture of tests that pass: how much was simulated is part of what a run of them says.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn all(from: u64, seeds: u64) -> Vec<Run> {
    let next = AtomicU64::new(from);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let work = || {
        let mut runs = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                return runs;
            }
            runs.push(simulation::run(seed, false).expect("a simulation can be set up"));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn every_invariant_after_every_step() {
    let runs = all(FROM, SEEDS);
    say(&format!("simulation: seeds {FROM}..{}: {}", FROM + SEEDS, Summary::of(&runs)));
    assert_eq!(runs.len() as u64, SEEDS);
    let mut failed = Vec::new();
    for run in &runs {
        if let Some(broken) = &run.broken {
            run.trace.iter().for_each(|line| say(line));
            failed.push(format!("seed {}: {broken}\n  replay: {}", run.seed, simulation::replay(run.seed)));
        }
        assert!(run.checks > 20, "seed {} was hardly checked", run.seed);
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
    // Not idle: events were recorded, uploaded and found.
    assert!(runs.iter().map(|run| run.events).sum::<u64>() > SEEDS * 10);
}

#[test]
fn a_seed_is_one_run() {
    for seed in [7, 8, 9] {
        let first = simulation::run(seed, true).unwrap();
        // On another thread, beside another run: nothing of the machine may show.
        let (again, beside) = std::thread::scope(|scope| {
            let again = scope.spawn(|| simulation::run(seed, true).unwrap());
            let beside = scope.spawn(|| simulation::run(seed + 1000, false).unwrap());
            (again.join().unwrap(), beside.join().unwrap())
        });
        let differs = first.trace.iter().zip(&again.trace).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!((first.hash, first.lines), (again.hash, again.lines), "seed {seed}");
        assert_ne!(first.hash, beside.hash);
    }
}
