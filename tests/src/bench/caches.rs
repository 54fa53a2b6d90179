//! A small fleet behind caches, on a clock that this program moves: the real sync machine of each device, caches that keep
//! what the protocol lets them keep, and the real server behind them. It must not keep anything else.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cpis_agent::port::Transport;
use cpis_agent::transport::HttpTransport;
use cpis_protocol::message::{Failure, Request};
use cpis_server::register::Extract;

use super::changes::{endings, ingest};
use super::device::{Device, Enroller, Shelf, runtime};
use super::fleet::{AUTHORITIES, SITE, server};
use super::{Scale, random};
use crate::site::Place;

const POLL_MS: u64 = 300_000;

/// What the server saw of a fleet behind caches.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Devices.
    pub devices: f64,
    /// Caches.
    pub caches: f64,
    /// How long it went on.
    pub length_s: f64,
    /// Polls of devices.
    pub polls: f64,
    /// Changes that were published meanwhile.
    pub changes: f64,
    /// Beats that the server was asked for.
    pub beats: f64,
    /// Other objects that may be kept.
    pub objects: f64,
}

/// A cache before the server.
#[derive(Debug)]
struct Cache {
    origin: HttpTransport,
    kept: Mutex<HashMap<String, (u64, Vec<u8>)>>,
    now_ms: Arc<AtomicU64>,
    beats: AtomicU64,
    objects: AtomicU64,
}

/// A device's way: through a cache, and by its own connection for what is its own.
#[derive(Debug)]
struct Behind {
    cache: Arc<Cache>,
    own: HttpTransport,
}

impl Transport for Behind {
    async fn send(&self, request: Request) -> Result<Vec<u8>, Failure> {
        match request {
            // A question of one device is nothing for a cache: it is told that there is no such thing (R235).
            Request::CatchUp(_) => Err(Failure::NotFound),
            Request::Beat(_) => self.cache.get(request).await,
            request if request.is_immutable() => self.cache.get(request).await,
            request => self.own.send(request).await,
        }
    }
}

impl Cache {
    async fn get(&self, request: Request) -> Result<Vec<u8>, Failure> {
        let now_ms = self.now_ms.load(Ordering::Relaxed);
        // A beat may not be kept (R133): it would be dated too late.
        let until_ms = if matches!(request, Request::Beat(_)) { now_ms } else { u64::MAX };
        let path = request.path();
        let found = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&path).cloned();
        if let Some((until_ms, body)) = found
            && now_ms < until_ms
        {
            return Ok(body);
        }
        let counter = if matches!(request, Request::Beat(_)) { &self.beats } else { &self.objects };
        let root = matches!(request, Request::Root(_));
        let body = self.origin.send(request).await?;
        // A root that is there is kept as well, but is asked for with each grant until it is: not counted.
        counter.fetch_add(u64::from(!root), Ordering::Relaxed);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(path, (until_ms, body.clone()));
        Ok(body)
    }
}

/// Runs it.
///
/// # Errors
/// When a program or a sync fails.
pub fn small(directory: &Path, scale: Scale) -> anyhow::Result<Seen> {
    let (devices, caches, length_ms) = (scale.of(160, 8), scale.of(4, 2), scale.of(7_200_000, 900_000));
    std::fs::create_dir_all(directory)?;
    let site = server(directory, Place::loopback()?, &AUTHORITIES, 500, &[])?;
    let enroller = Enroller::open(site.directory(), "all", SITE)?;
    let serving = site.serve_logging("warn")?;
    let runtime = runtime()?;
    let now_ms = Arc::new(AtomicU64::new(0));
    let enrolled = (0..devices).map(|_| enroller.enrol()).collect::<anyhow::Result<Vec<_>>>()?;
    let mut before = Vec::new();
    for enrolled in enrolled.iter().take(caches) {
        let origin = enrolled.transport(&enrolled.tls(true)?)?;
        let (now_ms, kept) = (Arc::clone(&now_ms), Mutex::default());
        let (beats, objects) = (AtomicU64::new(0), AtomicU64::new(0));
        before.push(Arc::new(Cache { origin, kept, now_ms, beats, objects }));
    }
    let shelf = Shelf::new();
    let mut chance = random(1);
    let mut fleet = Vec::new();
    for (enrolled, cache) in enrolled.iter().zip(before.iter().cycle()) {
        let own = enrolled.transport(&enrolled.tls(true)?)?;
        let (behind, mut device) = (Behind { cache: Arc::clone(cache), own }, Device::new(enrolled, &shelf));
        // Once before it begins: every copy is there, every grant, and what the caches then hold.
        runtime.block_on(device.sync(&behind, true))?;
        fleet.push((chance() % POLL_MS, device, behind));
    }
    fleet.sort_by_key(|(offset, ..)| *offset);
    let counts = |before: &[Arc<Cache>]| {
        let sum =
            |get: fn(&Arc<Cache>) -> &AtomicU64| before.iter().map(|c| get(c).load(Ordering::Relaxed)).sum::<u64>();
        (sum(|cache| &cache.beats), sum(|cache| &cache.objects))
    };
    let begun = counts(&before);
    let mut seen = Seen {
        devices: devices as f64,
        caches: caches as f64,
        length_s: length_ms as f64 / 1000.0,
        polls: 0.0,
        changes: 0.0,
        beats: 0.0,
        objects: 0.0,
    };
    let start_ms = POLL_MS;
    for step in 0..length_ms / POLL_MS {
        // One change in every fourth interval.
        if step % 4 == 1 {
            let round = i32::try_from(step)?;
            let changes = endings(&site, 1, round)?;
            ingest(&site, directory, &Extract { authorities: Vec::new(), changes })?;
            seen.changes += 1.0;
        }
        for (offset, device, behind) in &mut fleet {
            now_ms.store(start_ms + step * POLL_MS + *offset, Ordering::Relaxed);
            runtime.block_on(device.sync(behind, false))?;
            seen.polls += 1.0;
        }
    }
    let (beats, objects) = counts(&before);
    (seen.beats, seen.objects) = ((beats - begun.0) as f64, (objects - begun.1) as f64);
    serving.stop()?;
    Ok(seen)
}
