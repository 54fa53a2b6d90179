//! A day in an ambulance: the real programs over the bad link, with the hours between polls left out, beside what the
//! peers would have sent for the same trace. It must not leave out what the missing hours would have sent.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use cpis_server::register::Extract;

use super::air::Weather;
use super::bad::{UP_TO_DATE, is_at_rest, set_pace, wait};
use super::changes::{endings, ingest};
use super::fleet::{AUTHORITIES, Api, SITE, server};
use super::net::{Count, Line, SEED};
use super::report::{Report, grouped};
use super::{Scale, random};
use crate::process::{Running, run};
use crate::site::Site;

/// A day of polls every five minutes.
pub const POLLS: usize = 288;
const CHANGES: usize = 70;
const EVENTS: usize = 40;
const LOSSES: usize = 10;
/// Hours for which the server lets a connection live, so that the day has six more handshakes.
const LIFE_HOURS: u64 = 4;

/// What happens before a poll.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    changes: usize,
    events: usize,
    lost: bool,
}

/// What was sent in slots of a kind.
#[derive(Debug, Clone, Copy, Default)]
struct Kind {
    slots: u64,
    bytes: u64,
}

impl Kind {
    const fn add(&mut self, count: Count) {
        self.slots += 1;
        self.bytes += count.bytes();
    }

    fn each(&self) -> u64 {
        self.bytes / self.slots.max(1)
    }
}

/// A peer's bytes, measured with the same work on the same machine: medians of three to six runs.
struct Peer {
    name: &'static str,
    /// One check with nothing new, over a new connection.
    check: u64,
    /// 500 changes.
    changes: u64,
    /// 10,000 audit events; zero where it was not measured, which favours the peer.
    audit: u64,
    /// What an idle connection sends a minute; zero where it was not measured.
    idle_minute: u64,
    /// Whether it can hold a connection between two polls.
    holds: bool,
}

const PEERS: [Peer; 7] = [
    Peer {
        name: "NATS JetStream leaf mirror",
        check: 6_500,
        changes: 59_000,
        audit: 1_090_000,
        idle_minute: 7_900,
        holds: true,
    },
    Peer { name: "NATS KV watch over TLS", check: 4_700, changes: 266_000, audit: 0, idle_minute: 0, holds: true },
    Peer {
        name: "PouchDB, CouchDB protocol, tuned",
        check: 17_000,
        changes: 131_000,
        audit: 5_700_000,
        idle_minute: 0,
        holds: false,
    },
    Peer {
        name: "Mosquitto MQTT, persistent session",
        check: 3_900,
        changes: 208_000,
        audit: 3_300_000,
        idle_minute: 0,
        holds: true,
    },
    Peer {
        name: "rsync over ssh of JSON lines",
        check: 11_700,
        changes: 230_000,
        audit: 550_000,
        idle_minute: 0,
        holds: false,
    },
    Peer { name: "zstd patch-from, age, ssh", check: 11_700, changes: 25_400, audit: 0, idle_minute: 0, holds: false },
    Peer {
        name: "atuin record sync",
        check: 19_500,
        changes: 760_000,
        audit: 13_100_000,
        idle_minute: 0,
        holds: false,
    },
];

/// A keep-alive and its answer in a TLS record each, with an acknowledgement: 3 x 52 bytes of IP and TCP, 2 x 24 of TLS.
/// Computed, not measured: no peer can do with less to know every five minutes that its connection lives.
const PING: u64 = 3 * 52 + 2 * 24;

impl Peer {
    /// Every poll as it was measured; and the least that a peer which holds its connection could do.
    fn sums(&self) -> (u64, u64) {
        let work = self.changes * CHANGES as u64 / 500 + self.audit * EVENTS as u64 / 10_000;
        let polls = POLLS as u64 * self.check;
        let measured = if self.idle_minute > 0 { self.idle_minute * 1440 + LOSSES as u64 * self.check } else { polls };
        let held = LOSSES as u64 * self.check + (POLLS - LOSSES) as u64 * PING;
        (measured + work, if self.holds { held } else { polls } + work)
    }
}

fn trace(scale: Scale) -> Vec<Slot> {
    let mut slots = vec![Slot::default(); scale.of(POLLS, 12)];
    let mut chance = random(SEED);
    let mut place = |slots: &mut Vec<Slot>, times: usize, put: fn(&mut Slot)| {
        let mut left = times;
        while left > 0 {
            let at = usize::try_from(chance() % slots.len() as u64).unwrap_or_default();
            let Some(slot) = slots.get_mut(at) else { continue };
            // A signal is lost once at a time, and not before the first poll.
            if slot.lost || at == 0 {
                continue;
            }
            put(slot);
            left -= 1;
        }
    };
    place(&mut slots, scale.of(LOSSES, 1), |slot| slot.lost = true);
    place(&mut slots, scale.of(CHANGES, 3), |slot| slot.changes += 1);
    place(&mut slots, scale.of(EVENTS, 2), |slot| slot.events += 1);
    slots
}

/// The day.
///
/// # Errors
/// When a program fails.
pub fn day(directory: &Path, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let line = Line::lay_in_air()?;
    report.section("A day in an ambulance, over the bad link");
    report.figure("counted at", line.describe());
    let words = format!(
        "{POLLS} polls, {CHANGES} changes and {EVENTS} audit events at chance polls, {LOSSES} losses of signal; seed {SEED}"
    );
    report.figure("the trace", words);
    let site = server(directory, line.place()?, &AUTHORITIES, scale.of(20_000, 500), &[])?;
    // Five minutes are two seconds here, an hour between grants 24.
    set_pace(&site, 2)?;
    run(site.command()?.args(["site", "change", SITE, "--grant-refresh-s", "24", "--idle-s", "86400"]))?;
    let serving = line.at_server(|| site.serve())?;
    let sums = line.at_agent(|| {
        let agent = site.enrol(&directory.join("tablet"), SITE)?;
        let mut running = agent.start()?;
        let api = Api::wait(agent.directory())?;
        wait(&api, &mut running, "the first sync", is_at_rest)?;
        api.unlock()?;
        let day = Day { line: &line, site: &site, directory, api: &api };
        let sums = day.pass(&trace(scale), &mut running)?;
        running.stop()?;
        Ok(sums)
    })?;
    serving.stop()?;
    show(&sums, report);
    Ok(())
}

struct Day<'a> {
    line: &'a Line,
    site: &'a Site,
    directory: &'a Path,
    api: &'a Api,
}

/// What the day sent, by what came before each poll.
#[derive(Debug, Default)]
struct Sums {
    quiet: Kind,
    worked: Kind,
    lost: Kind,
    all: Count,
    lost_packets: u64,
}

impl Day<'_> {
    fn pass(&self, slots: &[Slot], running: &mut Running) -> anyhow::Result<Sums> {
        let air = self.line.air().context("a cable has no weather")?;
        let mut people = self.site.people().iter().cycle();
        let mut sums = Sums::default();
        air.set(Weather::BAD);
        let begun = self.line.count()?;
        let mut before = begun;
        let mut round = 0;
        for slot in slots {
            if slot.lost {
                air.set(Weather::GONE);
            }
            for _ in 0..slot.changes {
                round += 1;
                let changes = endings(self.site, round, 1)?.split_off(round - 1);
                let cells = ingest(self.site, self.directory, &Extract { authorities: Vec::new(), changes })?;
                ensure!(cells > 0, "a change changed nothing");
            }
            for person in people.by_ref().take(slot.events) {
                self.api.look_up(person.number, person.birth)?;
            }
            if slot.lost {
                wait(self.api, running, "the lost signal", |s| {
                    !s.link.syncing && s.link.last_outcome.as_deref() != Some(UP_TO_DATE)
                })?;
                air.set(Weather::BAD);
            }
            let attempts = self.api.status()?.link.attempts;
            wait(self.api, running, "a poll", |s| s.link.attempts > attempts && is_at_rest(s))?;
            // What the poll sets off is on its way; it is counted with the poll where it comes within half a second.
            std::thread::sleep(Duration::from_millis(500));
            let now = self.line.count()?;
            let kind = match slot {
                Slot { lost: true, .. } => &mut sums.lost,
                Slot { changes: 0, events: 0, .. } => &mut sums.quiet,
                Slot { .. } => &mut sums.worked,
            };
            kind.add(now.since(&before));
            before = now;
        }
        wait(self.api, running, "the end of the uploads", |s| s.outbox.waiting == 0)?;
        sums.all = self.line.wait_quiet(Duration::from_millis(1200))?.since(&begun);
        sums.lost_packets = air.lost();
        Ok(sums)
    }
}

fn show(sums: &Sums, report: &mut Report) {
    let words =
        |kind: &Kind| format!("{} slots, {} bytes, {} each", kind.slots, grouped(kind.bytes), grouped(kind.each()));
    report.figure("polls with nothing new (an hourly grant in one of twelve)", words(&sums.quiet));
    report.figure("polls with changes or events before them", words(&sums.worked));
    report.figure("losses of signal: what was tried meanwhile, and the way back", words(&sums.lost));
    report.figure("the whole trace", sums.all.describe());
    report.figure("packets lost in the air, those without signal included", sums.lost_packets);
    // The server ends a connection after four hours: six new ones, resumed, as after a loss.
    let renewed = 24 / LIFE_HOURS * sums.lost.each().saturating_sub(sums.quiet.each());
    report.figure("six connections made anew after four hours, at the price of a loss", grouped(renewed));
    let ours = sums.all.bytes() + renewed;
    report.figure("ours in all", format!("{} bytes", grouped(ours)));
    for peer in &PEERS {
        let (measured, least) = peer.sums();
        let figure = format!("{} bytes as measured, at the very least {}", grouped(measured), grouped(least));
        report.target(peer.name, figure, "ours is fewer", ours < measured);
        if ours >= least {
            report.figure(&format!("{}: its least, computed, is below ours", peer.name), grouped(least));
        }
    }
}
