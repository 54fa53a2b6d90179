//! A model of one million devices: what the origin and the caches before it carry in a day and in a storm, from the cost
//! of each exchange as measured in this run, and the same sums for a small fleet beside what that fleet really did.
//! It must not use a cost that was not measured, nor a rule that the protocol does not state.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use cpis_server::register::Extract;

use super::Scale;
use super::caches::{self, Seen};
use super::changes::{endings, ingest};
use super::checks::{Exchange, exchanges};
use super::cores::raise_files;
use super::report::{Report, grouped};
use super::storm::{Load, serve, stand};

/// The fleet.
const DEVICES: f64 = 1_000_000.0;
/// Caches before the origin: one for each large site or region.
const CACHES: f64 = 200.0;
/// Scopes that the fleet is divided into; each cache serves devices of so many.
const SCOPES: f64 = 150.0;
const SCOPES_A_CACHE: f64 = 5.0;
/// A device's day.
const POLLS: f64 = 288.0;
const GRANTS: f64 = 24.0;
const EVENTS: f64 = 40.0;
const LOSSES: f64 = 16.0;
/// Cells that change in a scope in a day, each published by itself.
const CHANGES: f64 = 70.0;
/// Devices spread over so many seconds after an outage by default.
const SPREAD_S: f64 = 60.0;
const DAY_S: f64 = 86_400.0;

/// Processor time of the origin for one exchange, in seconds.
#[derive(Debug, Clone, Copy)]
struct Costs {
    warm: f64,
    resumed: f64,
    /// Full handshake and a grant.
    started: f64,
    /// What a catch-up adds for each changed cell.
    cell: f64,
}

/// The model.
///
/// # Errors
/// When a program fails.
pub fn model(directory: &Path, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    report.section("One million devices: a model, from costs measured in this run");
    raise_files()?;
    let bytes = exchanges(&directory.join("bytes"), scale)?;
    let costs = costs(&directory.join("costs"), scale, report)?;
    inputs(&bytes, &costs, report);
    direct(&bytes, &costs, report);
    behind(&bytes, &costs, report);
    let seen = caches::small(&directory.join("caches"), scale)?;
    compare(&seen, report);
    Ok(())
}

/// Costs from small rounds, and a mixed round beside what they say of it.
fn costs(directory: &Path, scale: Scale, report: &mut Report) -> anyhow::Result<Costs> {
    let count = scale.of(800, 20);
    std::fs::create_dir_all(directory)?;
    let site = stand(directory, scale.of(2_000, 500))?;
    let mut load = Load::enrol(site.directory(), count)?;
    let server = serve(&site)?;
    load.fill()?;
    let (started, held) = load.storm(&server, true)?;
    let (_, held) = load.round(&server, held, false)?;
    let (warm, held) = load.round(&server, held, false)?;
    drop(held);
    let (resumed, held) = load.storm(&server, false)?;
    let changes = |round| -> anyhow::Result<f64> {
        let changes = endings(&site, scale.of(500, 50), round)?;
        Ok(f64::from(u32::try_from(ingest(&site, directory, &Extract { authorities: Vec::new(), changes })?)?))
    };
    let cells = changes(1)?;
    let (caught_up, held) = load.round(&server, held, false)?;
    let each = |time: Duration| time.as_secs_f64();
    let costs = Costs {
        warm: each(warm.each()),
        resumed: each(resumed.each()),
        started: each(started.each()),
        cell: (each(caught_up.each()) - each(warm.each())).max(0.0) / cells,
    };
    // A mixed hour: twelve polls over the connections, one loss of signal, one change of the register, a start.
    let (mut used, mut requests) = (0.0, 0);
    let mut held = held;
    for _ in 0..12 {
        let (round, kept) = load.round(&server, held, false)?;
        (used, requests, held) = (used + each(round.server), requests + round.requests, kept);
    }
    let cells = changes(2)?;
    drop(held);
    let (back, held) = load.storm(&server, false)?;
    drop(held);
    load.forget()?;
    let (again, held) = load.storm(&server, true)?;
    drop(held);
    server.stop()?;
    used += each(back.server) + each(again.server);
    requests += back.requests + again.requests;
    let devices = f64::from(u32::try_from(count).context("too many devices")?);
    let said = devices * (12.0 * costs.warm + costs.resumed + cells * costs.cell + costs.started);
    let figure = format!(
        "{:.0} requests and {said:.2} s of the processor by the model, {requests} and {used:.2} s by the load generator ({:.2})",
        devices * 14.0,
        said / used
    );
    report.figure(&format!("check: a mixed hour of {count} devices"), figure);
    Ok(costs)
}

fn inputs(bytes: &Exchange, costs: &Costs, report: &mut Report) {
    let us = |seconds: f64| format!("{:.0} us", seconds * 1e6);
    let line = |what: &str, bytes: u64, cost: f64| format!("{what} {} bytes, {}", grouped(bytes), us(cost));
    let parts = [
        line("poll over a connection", bytes.warm, costs.warm),
        line("check, new connection, resumed", bytes.resumed, costs.resumed),
        line("start with a grant", bytes.started, costs.started),
        format!("a changed cell {} bytes, {:.1} us", bytes.cell, costs.cell * 1e6),
    ];
    report.figure("inputs, measured in this run (bytes on the wire; processor time of the origin)", parts.join("; "));
    let words = format!(
        "{DEVICES:.0} devices in {SCOPES:.0} scopes, {CACHES:.0} caches of {SCOPES_A_CACHE:.0} scopes each; a day is {POLLS:.0} \
         polls, {GRANTS:.0} grants, {EVENTS:.0} audit events, {LOSSES:.0} new connections and {CHANGES:.0} changes of the \
         scope; after an outage all come back within {SPREAD_S:.0} s"
    );
    report.figure("assumptions", words);
}

fn number(value: f64) -> String {
    // Sums of a model: far below 2^63, and never negative.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    grouped(value.round() as u64)
}

/// Every device asks the origin, by the combined exchange.
fn direct(bytes: &Exchange, costs: &Costs, report: &mut Report) {
    let of = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let polls = POLLS - LOSSES - GRANTS;
    let grant = (costs.started - costs.resumed).max(costs.warm);
    let cpu = polls * costs.warm + LOSSES * costs.resumed + GRANTS * grant + CHANGES * costs.cell + EVENTS * costs.warm;
    let grant_bytes = of(bytes.warm) + of(bytes.grant);
    let sent = polls * of(bytes.warm)
        + LOSSES * of(bytes.resumed)
        + GRANTS * grant_bytes
        + CHANGES * of(bytes.cell)
        + EVENTS * of(bytes.event);
    let requests = DEVICES * (POLLS + EVENTS);
    let figure = format!(
        "{} requests ({} a second), {} GB ({:.0} kB a device), {:.1} cores on average",
        number(requests),
        number(requests / DAY_S),
        number(DEVICES * sent / 1e9),
        sent / 1e3,
        DEVICES * cpu / DAY_S
    );
    report.figure("no caches, a day at the origin", figure);
    let storm = DEVICES * costs.resumed;
    let figure = format!(
        "{} connections a second and {:.0} cores to keep up for {SPREAD_S:.0} s; with 8 cores all are served after {:.0} s; \
         {:.1} GB",
        number(DEVICES / SPREAD_S),
        storm / SPREAD_S,
        (storm / 8.0).max(SPREAD_S),
        DEVICES * of(bytes.resumed) / 1e9
    );
    report.figure("no caches, a storm: all back with nothing new", figure);
}

/// Caches that answer what may be kept, and refuse the combined exchange, so that devices ask for each object (R235). No
/// cache may keep a beat (R133), so every poll is the origin's.
fn behind(bytes: &Exchange, costs: &Costs, report: &mut Report) {
    let beats = DEVICES * POLLS;
    // A change brings a head and a delta; devices that were away longer bring others, which are kept as well.
    let objects = CACHES * SCOPES_A_CACHE * CHANGES * 2.0;
    let own = DEVICES * (GRANTS * 2.0 + EVENTS);
    let of = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let grant = (costs.started - costs.resumed).max(costs.warm);
    let cpu = (beats + objects) * costs.warm + DEVICES * (GRANTS * grant + EVENTS * costs.warm);
    let kept = objects * (of(bytes.warm) + of(bytes.cell)) / 1e9;
    let polled = beats * of(bytes.warm) / 1e9;
    let figure = format!(
        "{} beats and {} grants, roots and audit batches that no cache may keep; {} heads and deltas; {:.1} GB for beats, {:.2} \
         GB for what is kept; {:.1} cores on average",
        number(beats),
        number(own),
        number(objects),
        polled,
        kept,
        cpu / DAY_S
    );
    report.figure("behind caches, a day at the origin", figure);
}

fn compare(seen: &Seen, report: &mut Report) {
    let beats = seen.polls;
    // Each cache asks for a head and a delta after each change, if one of its devices polls before the next.
    let objects = seen.caches * seen.changes * 2.0;
    let figure = format!(
        "{beats:.0} beats and {objects:.0} heads and deltas by the model, {:.0} and {:.0} at the real server",
        seen.beats, seen.objects
    );
    let what =
        format!("check: {:.0} devices behind {:.0} caches for {:.0} s", seen.devices, seen.caches, seen.length_s);
    report.figure(&what, figure);
}
