//! Look-ups without the memory-hard step, and the application of snapshots and deltas, through the agent's library.
//! It must not measure anything that a user's look-up or sync does not do.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use cpis_agent::agent::Agent;
use cpis_agent::config::Config;
use cpis_agent::journal::Priority;
use cpis_agent::replica::Replica;
use cpis_agent::store::SledStore;
use cpis_protocol::audit::{Act, AuditEvent, Moment, Outcome};
use cpis_protocol::clock::Carrier;
use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_protocol::query::Token;
use cpis_protocol::sync::pull::Source;
use cpis_protocol::text::Text;

use super::fleet::Fleet;
use super::live::token;
use super::report::{Report, time};
use super::{Scale, median, percentile};
use crate::publisher::{MemoryKeys, Publisher, reading, scope};
use crate::site::{PASSPHRASE, PRACTITIONER, Site};

/// Look-ups on a copy of a populated agent's directory: what they record must not reach that agent's own chain.
///
/// # Errors
/// When the agent does not open or answer.
pub fn look_ups(directory: &Path, fleet: &Fleet, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let times = scale.of(10_000, 50);
    report.section(&format!("Look-up without the memory-hard step, {} records, {times} times each", fleet.records));
    let copy = directory.join("copied-agent");
    copy_directory(fleet.agent.directory(), &copy)?;
    let agent = Agent::open(&copy, &Config::default())?;
    agent.unlock(PRACTITIONER, PASSPHRASE)?;
    let lookup = agent.replica().view().head.as_ref().context("no head")?.lookup;
    let kinds = [("hit", hits(&fleet.site, times)), ("miss", misses(&fleet.site, times))];
    for (kind, people) in kinds {
        let asked: Vec<(NhsNumber, Date, Token)> = people
            .into_iter()
            .map(|(number, birth)| Ok((number, birth, token(number, birth, &lookup)?)))
            .collect::<anyhow::Result<_>>()?;
        let (mut search, mut append, mut both) = (Vec::new(), Vec::new(), Vec::new());
        for (number, birth, token) in &asked {
            let started = Instant::now();
            let found = find(&agent, token)?;
            let searched = Instant::now();
            let outcome = if found == 0 { Outcome::NotInThisCopy } else { Outcome::Flagged };
            record(&agent, *number, *birth, outcome)?;
            let recorded = Instant::now();
            anyhow::ensure!((found > 0) == (kind == "hit"), "a {kind} found {found} records");
            search.push(searched - started);
            append.push(recorded - searched);
            both.push(recorded - started);
        }
        for (what, samples) in [("search of the copy", search), ("durable audit append", append), ("both", both)] {
            report.figure(&format!("{kind}: {what}"), spread(samples));
        }
    }
    Ok(())
}

fn spread(mut samples: Vec<Duration>) -> String {
    let [half, most] = [0.5, 0.99].map(|share| percentile(&mut samples, share));
    format!("p50 {}, p99 {}", time(half), time(most))
}

fn hits(site: &Site, times: usize) -> Vec<(NhsNumber, Date)> {
    let visible = |person: &&cpis_server::register::PersonRow| person.plans.iter().any(|plan| plan.end.is_none());
    let people = site.people().iter().filter(visible).map(|person| (person.number, person.birth));
    people.collect::<Vec<_>>().into_iter().cycle().take(times).collect()
}

fn misses(site: &Site, times: usize) -> Vec<(NhsNumber, Date)> {
    let known: std::collections::BTreeSet<_> = site.people().iter().map(|person| person.number.as_u64()).collect();
    let numbers = (999_000_000u64..).filter_map(|nine| NhsNumber::new(nine * 10 + NhsNumber::check_digit(nine)?).ok());
    let free = numbers.filter(|number| !known.contains(&number.as_u64()));
    free.zip(site.people().iter().cycle()).map(|(number, person)| (number, person.birth)).take(times).collect()
}

fn find(agent: &Agent, token: &Token) -> anyhow::Result<usize> {
    let boot_ms = agent.clock().reading().boot_ms;
    let view = agent.replica().view();
    let found = agent.vault().with(boot_ms, |session| view.find(agent.replica().store(), &session.keys, token));
    let found = found.context("the vault locked itself")?;
    Ok(found.map_err(|reason| anyhow!("{}", reason.code()))?.len())
}

fn record(agent: &Agent, number: NhsNumber, birth: Date, outcome: Outcome) -> anyhow::Result<()> {
    let act = Act::LookUp { number, birth, outcome, reason: Text::EMPTY };
    let event = AuditEvent {
        practitioner: Text::lossy(PRACTITIONER),
        role: Text::lossy("R1070"),
        incident: Text::EMPTY,
        break_glass: false,
        act,
    };
    let moment = {
        let view = agent.replica().view();
        let (beat, head) = (view.beat.as_ref().context("no beat")?, view.head.as_ref().context("no head")?);
        let now_ms = view.clock.now(agent.clock().reading()).context("no time")?;
        Moment { event_ms: now_ms, anchor_ms: beat.issued_ms, gseq: head.gseq, head: head.hash() }
    };
    agent.append(Priority::Routine, &moment, &event)?;
    Ok(())
}

fn copy_directory(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if entry.is_dir() {
            copy_directory(&entry, &to.join(name))?;
        } else {
            std::fs::copy(&entry, to.join(name))?;
        }
    }
    // The device secret is only taken from a directory that nobody else can read.
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
    Ok(())
}

/// Snapshots and deltas into real sled: staged, proved, flipped, synced, and the old generation destroyed.
///
/// # Errors
/// When something is not applied.
pub fn apply(directory: &Path, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let (cells, changes) = scale.of((20_000, 500), (1_000, 50));
    let (mut stages, mut flips, mut deltas, mut opens) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..scale.of(7, 1) {
        let mut publisher = Publisher::new()?;
        for child in 0..cells {
            publisher.put(child, 1)?;
        }
        let (path, keys) = (directory.join(format!("replica-{round}")), MemoryKeys::default());
        let replica = Replica::open(SledStore::open(&path)?, keys.clone(), publisher.trust(), &scope())?;
        let plan = publisher.plan(Source::Staged)?;
        let mut chunks = publisher.chunks(&plan).into_iter().peekable();
        let started = Instant::now();
        while chunks.peek().is_some() {
            // As many as the sync machine asks for at once.
            replica.stage(chunks.by_ref().take(8).collect())?;
        }
        let staged = Instant::now();
        replica.apply(plan, Carrier::Live, reading())?.map_err(|feeds| anyhow!("not applied: {feeds:?}"))?;
        stages.push(staged - started);
        flips.push(staged.elapsed());
        let from = publisher.log.len();
        change(&mut publisher, cells, changes)?;
        let delta = publisher.log.iter().skip(from).cloned().collect();
        let plan = publisher.plan(Source::Delta(delta))?;
        let started = Instant::now();
        replica.apply(plan, Carrier::Live, reading())?.map_err(|feeds| anyhow!("not applied: {feeds:?}"))?;
        deltas.push(started.elapsed());
        drop(replica);
        // sled lets go of its lock in the background: that wait is the benchmark's own.
        let (store, took) = reopen(&path)?;
        let started = Instant::now();
        let replica = Replica::open(store, keys, publisher.trust(), &scope())?;
        opens.push(took + started.elapsed());
        anyhow::ensure!(replica.view().is_proved(), "the copy is not proved after it was opened again");
        drop(replica);
        std::fs::remove_dir_all(&path)?;
    }
    report.section("Apply, one feed, through the library, median");
    let [stages, flips, deltas, opens] = [stages, flips, deltas, opens].map(|mut samples| median(&mut samples));
    report.figure(&format!("{cells} cells of a snapshot: staged"), time(stages));
    report.figure(&format!("{cells} cells of a snapshot: proved, flipped, synced"), time(flips));
    report.figure(&format!("{cells} cells of a snapshot: all"), time(stages + flips));
    report.figure(&format!("{changes} changes on {cells} cells: all, old generation destroyed"), time(deltas));
    report.figure(&format!("open and prove {cells} cells"), time(opens));
    Ok(())
}

/// Opens a store that this process has just closed, and says how long the attempt took that went well.
fn reopen(path: &Path) -> anyhow::Result<(SledStore, Duration)> {
    let mut tries = 0;
    loop {
        let started = Instant::now();
        match SledStore::open(path) {
            Ok(store) => return Ok((store, started.elapsed())),
            Err(error) if tries == 100 => return Err(error.into()),
            Err(_) => tries += 1,
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Three fifths updates, three tenths inserts, one tenth removals.
fn change(publisher: &mut Publisher, cells: u32, changes: u32) -> anyhow::Result<()> {
    let (updates, inserts) = (changes * 3 / 5, changes * 3 / 10);
    for at in 0..updates {
        publisher.put(at * 13 % (cells / 2), 2)?;
    }
    for at in 0..inserts {
        publisher.put(cells + at, 1)?;
    }
    for at in 0..changes - updates - inserts {
        publisher.remove(cells / 2 + at * 7)?;
    }
    Ok(())
}
