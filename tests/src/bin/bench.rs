//! All benchmarks over the real release programs; docs/benchmarks.md has the figures and how to read them.
//! It must not assert a time, and must leave no process, namespace or file behind, also when it is interrupted.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints")]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{bail, ensure};
use cpis_tests::bench::fleet::Fleet;
use cpis_tests::bench::report::Report;
use cpis_tests::bench::{
    Scale, bad, day, disk, enumeration, floor, idle, library, live, model, names, register, storm, wire,
};
use cpis_tests::process::programs;
use tokio::signal::unix::{SignalKind, signal};

const HELP: &str = "\
Measures the real programs on this machine, with invented people, and prints Markdown tables.

usage: cargo bench-all [--quick] [MEASURE...]

  --quick   few iterations on few records: only shows that every measure still runs
  MEASURE   size, memory, start, look-up, apply, audit, wire, floor, bad, day, storm, model, idle, hard, enumeration, names, register
            (default: all)
";
const MEASURES: [&str; 17] = [
    "size",
    "memory",
    "start",
    "look-up",
    "apply",
    "audit",
    "wire",
    "floor",
    "bad",
    "day",
    "storm",
    "model",
    "idle",
    "hard",
    "enumeration",
    "names",
    "register",
];

fn main() -> ExitCode {
    let mut quick = false;
    let mut chosen = Vec::new();
    for argument in std::env::args().skip(1) {
        match (argument.as_str(), MEASURES.iter().find(|name| **name == argument)) {
            ("--quick", _) => quick = true,
            ("-h" | "--help", _) => {
                print!("{HELP}");
                return ExitCode::SUCCESS;
            }
            (_, Some(name)) => chosen.push(*name),
            (other, None) => {
                eprintln!("error: unknown argument {other}\n\n{HELP}");
                return ExitCode::from(2);
            }
        }
    }
    if chosen.is_empty() {
        chosen.extend(MEASURES);
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&interrupted);
    let worker = std::thread::spawn(move || measure(&chosen, Scale { quick }, &stop));
    if let Err(error) = watch(&worker, &interrupted) {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    match worker.join() {
        _ if interrupted.load(Ordering::Relaxed) => ExitCode::from(130),
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Waits for the worker. A signal ends the programs that it runs, so that it fails and tidies up behind itself.
fn watch<T>(worker: &std::thread::JoinHandle<T>, interrupted: &AtomicBool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        while !worker.is_finished() {
            tokio::select! {
                _ = interrupt.recv() => interrupted.store(true, Ordering::Relaxed),
                _ = terminate.recv() => interrupted.store(true, Ordering::Relaxed),
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
            if interrupted.load(Ordering::Relaxed) {
                end_children();
            }
        }
        Ok(())
    })
}

/// Every process that this one started, and only those.
fn end_children() {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return };
    for task in tasks.filter_map(Result::ok) {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let pids = children.split_whitespace().filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?));
        for pid in pids {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

fn measure(chosen: &[&str], scale: Scale, interrupted: &AtomicBool) -> anyhow::Result<()> {
    ensure!(
        scale.quick || programs()?.ends_with("release"),
        "these figures would mean nothing: run it with `cargo bench-all`, which builds with --release"
    );
    let work = tempfile::Builder::new().prefix("cpis-bench-").tempdir()?;
    let done = measure_in(work.path(), chosen, scale, interrupted);
    work.close()?;
    done
}

fn measure_in(work: &std::path::Path, chosen: &[&str], scale: Scale, interrupted: &AtomicBool) -> anyhow::Result<()> {
    let mut report = Report::default();
    report.remark(&format!("Machine: {}", wire::machine(work)?));
    if scale.quick {
        report.remark("A quick run: these figures only show that the measures run.");
    }
    let mut fleet = None;
    for name in chosen {
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        let own = work.join(name);
        std::fs::create_dir_all(&own)?;
        if matches!(*name, "start" | "look-up") && fleet.is_none() {
            fleet = Some(Fleet::make(&work.join("fleet"), scale.of(20_000, 500))?);
        }
        match (*name, &fleet) {
            ("size", _) => register::sizes(&mut report)?,
            ("memory", _) => live::memory(&own, scale, &mut report)?,
            ("start", Some(fleet)) => live::start(fleet, scale, &mut report)?,
            ("look-up", Some(fleet)) => library::look_ups(&own, fleet, scale, &mut report)?,
            ("apply", _) => library::apply(&own, scale, &mut report)?,
            ("audit", _) => disk::audit(&own, scale, &mut report)?,
            ("wire", _) => wire::wire(&own, scale, &mut report)?,
            ("floor", _) => floor::floor(scale, &mut report)?,
            ("bad", _) => bad::bad(&own, scale, &mut report)?,
            ("day", _) => day::day(&own, scale, &mut report)?,
            ("storm", _) => storm::storm(&own, scale, &mut report)?,
            ("model", _) => model::model(&own, scale, &mut report)?,
            ("idle", _) => idle::idle(&own, scale, &mut report)?,
            ("hard", _) => register::hard(scale, &mut report)?,
            ("enumeration", _) => enumeration::prices(scale, &report)?,
            ("names", _) => names::recall(scale, &report)?,
            ("register", _) => register::nation(&own, scale, &mut report)?,
            _ => {}
        }
        std::fs::remove_dir_all(&own)?;
    }
    match report.missed() {
        [] => report.remark("No target was missed."),
        missed => report.remark(&format!("Missed: {}.", missed.join("; "))),
    }
    Ok(())
}
