//! Runs simulations: many seeds, or one with its trace.
//! It must not end well when a seed did not.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it reports")]

use std::process::ExitCode;

#[cfg(not(debug_assertions))]
fn main() -> ExitCode {
    eprintln!("error: a release build holds no simulation, since nothing in it can be seeded: cargo sim");
    ExitCode::from(2)
}

#[cfg(debug_assertions)]
fn main() -> ExitCode {
    seeded::main()
}

#[cfg(debug_assertions)]
mod seeded {
    use std::process::ExitCode;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Instant;

    use cpis_tests::simulation::{self, Run};

    const HELP: &str = "\
Simulates the agent's driver and the server's service over a network, disks, clocks and power that fail, and checks the
invariants after every step. A seed that fails is printed with the command that replays it.

usage: cargo sim [--seeds N] [--from SEED] [--threads N] [--first]
       cargo sim --seed SEED [--trace] [--logs]

  --seeds N    how many seeds (default 1000)
  --from SEED  the first of them (default 0)
  --threads N  how many at once (default: as many as there are processors)
  --first      stops after the first seed that fails
  --seed SEED  one seed
  --trace      with everything that happens in it
  --logs       with what agent and server log, on standard error
";

    struct Wish {
        from: u64,
        seeds: u64,
        threads: usize,
        single: bool,
        trace: bool,
        logs: bool,
        first: bool,
    }

    fn read() -> Result<Option<Wish>, String> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut wish = Wish { from: 0, seeds: 1000, threads, single: false, trace: false, logs: false, first: false };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || {
                let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
                value.ok_or_else(|| format!("{argument} wants a number"))
            };
            match argument.as_str() {
                "--seeds" => wish.seeds = number()?,
                "--from" => wish.from = number()?,
                "--threads" => wish.threads = usize::try_from(number()?).unwrap_or(1).max(1),
                "--seed" => (wish.from, wish.seeds, wish.single) = (number()?, 1, true),
                "--trace" => wish.trace = true,
                "--logs" => wish.logs = true,
                "--first" => wish.first = true,
                "-h" | "--help" => return Ok(None),
                other => return Err(format!("unknown argument {other}")),
            }
        }
        Ok(Some(wish))
    }

    pub(crate) fn main() -> ExitCode {
        match read() {
            Ok(None) => {
                print!("{HELP}");
                ExitCode::SUCCESS
            }
            Ok(Some(wish)) if wish.single => single(&wish),
            Ok(Some(wish)) => many(&wish),
            Err(problem) => {
                eprintln!("error: {problem}\n\n{HELP}");
                ExitCode::from(2)
            }
        }
    }

    fn single(wish: &Wish) -> ExitCode {
        if wish.logs {
            tracing_subscriber::fmt().with_writer(std::io::stderr).without_time().with_target(false).init();
        }
        let run = match simulation::run(wish.from, wish.trace) {
            Ok(run) => run,
            Err(error) => return failed(wish.from, &format!("{error:#}")),
        };
        if wish.trace || run.broken.is_some() {
            run.trace.iter().for_each(|line| println!("{line}"));
        }
        println!("{}", simulation::Summary::of(std::slice::from_ref(&run)));
        println!("trace {} ({} lines)", cpis_protocol::id::hex(&run.hash), run.lines);
        run.broken.as_ref().map_or(ExitCode::SUCCESS, |broken| failed(run.seed, broken))
    }

    fn failed(seed: u64, broken: &str) -> ExitCode {
        eprintln!("seed {seed} FAILED: {broken}\n  replay: {}", simulation::replay(seed));
        ExitCode::FAILURE
    }

    fn many(wish: &Wish) -> ExitCode {
        let (next, begun) = (AtomicU64::new(wish.from), Instant::now());
        let end = wish.from.saturating_add(wish.seeds);
        let work = || {
            let mut runs: Vec<Run> = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    return runs;
                }
                match simulation::run(seed, false) {
                    Ok(run) => {
                        if let Some(broken) = &run.broken {
                            failed(seed, broken);
                            if wish.first {
                                next.store(end, Ordering::Relaxed);
                            }
                        }
                        runs.push(Run { trace: Vec::new(), ..run });
                    }
                    Err(error) => drop(failed(seed, &format!("{error:#}"))),
                }
                let done = seed - wish.from + 1;
                if done.is_multiple_of(1000) {
                    eprintln!("{done} of {} seeds, {} s", wish.seeds, begun.elapsed().as_secs());
                }
            }
        };
        let runs: Vec<Run> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..wish.threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
        });
        println!("seeds {}..{end}: {}", wish.from, simulation::Summary::of(&runs));
        println!("{} s", begun.elapsed().as_secs());
        let well = runs.len() as u64 == wish.seeds && runs.iter().all(|run| run.broken.is_none());
        if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
