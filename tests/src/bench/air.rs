//! The air between agent and server: packets of two TUN devices are carried with a delay, a rate, a bounded queue and
//! seeded loss, for kernels without netem. It must not reorder, nor look into a packet.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tun_rs::{DeviceBuilder, SyncDevice};

use super::random;

/// The largest IP packet: what is left of a mobile operator's frames after their tunnels.
pub const MTU: u16 = 1400;
/// Bytes that wait for the rate limiter before packets are dropped: three seconds at 256 kbit/s.
const QUEUE_BYTES: f64 = 96.0 * 1024.0;

/// What the air is like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weather {
    /// There and back.
    pub round_trip: Duration,
    /// Packets of a thousand that are lost, each way.
    pub lost_per_mille: u64,
    /// Bits a second each way; zero for no limit.
    pub bits_s: u32,
}

impl Weather {
    /// Neither delay nor loss nor limit.
    pub const CLEAR: Self = Self { round_trip: Duration::ZERO, lost_per_mille: 0, bits_s: 0 };
    /// The bad link of the targets.
    pub const BAD: Self = Self { round_trip: Duration::from_millis(300), lost_per_mille: 20, bits_s: 256_000 };
    /// No signal: nothing arrives.
    pub const GONE: Self = Self { round_trip: Duration::ZERO, lost_per_mille: 1000, bits_s: 0 };

    /// How long so many bytes take at this rate, without delay or loss.
    #[must_use]
    pub fn transfer(&self, bytes: u64) -> Duration {
        // Counts here are far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        Duration::from_secs_f64(if self.bits_s == 0 { 0.0 } else { bytes as f64 * 8.0 / f64::from(self.bits_s) })
    }
}

/// The air, shared by whoever carries and whoever makes the weather.
#[derive(Debug)]
pub struct Air {
    weather: Mutex<Weather>,
    first: Mutex<Option<Instant>>,
    lost: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Air {
    /// Clear air.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { weather: Mutex::new(Weather::CLEAR), first: Mutex::default(), lost: AtomicU64::new(0) })
    }

    /// From now on it is like this. What is under way arrives as it would have.
    pub fn set(&self, weather: Weather) {
        *lock(&self.weather) = weather;
        *lock(&self.first) = None;
    }

    /// What it is like.
    pub fn weather(&self) -> Weather {
        *lock(&self.weather)
    }

    /// From now on the next packet is the first.
    pub fn mark(&self) {
        *lock(&self.first) = None;
    }

    /// When the first packet came since the mark or the last change of weather.
    pub fn first(&self) -> Option<Instant> {
        *lock(&self.first)
    }

    /// Packets lost so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// One direction.
pub struct Lane {
    air: Arc<Air>,
    chance: Box<dyn FnMut() -> u64 + Send>,
    /// When the transmitter is free again.
    free: Instant,
}

impl core::fmt::Debug for Lane {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Lane({:?})", self.air)
    }
}

impl Lane {
    /// A direction with its own chain of chances.
    #[must_use]
    pub fn new(air: &Arc<Air>, seed: u64) -> Self {
        Self { air: Arc::clone(air), chance: Box::new(random(seed)), free: Instant::now() }
    }

    /// Bytes that wait for the transmitter.
    fn waiting(&self, now: Instant, bits_s: u32) -> f64 {
        self.free.saturating_duration_since(now).as_secs_f64() * f64::from(bits_s) / 8.0
    }

    /// When a packet arrives; `None` when it is lost or finds the queue full.
    pub fn packet(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let weather = self.air.weather();
        lock(&self.air.first).get_or_insert(now);
        let full = weather.bits_s > 0 && self.waiting(now, weather.bits_s) > QUEUE_BYTES;
        if !full {
            self.free = self.free.max(now) + weather.transfer(bytes as u64);
        }
        // Drawn for each packet, so that the chain depends on their number only. A lost one has taken its time to send.
        if (self.chance)() % 1000 < weather.lost_per_mille || full {
            self.air.lost.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.free + weather.round_trip / 2)
    }

    /// When a part of a stream arrives: as a packet, but nothing is lost; whoever sends too much is held up.
    pub fn part(&mut self, bytes: usize) -> Instant {
        let (now, weather) = (Instant::now(), self.air.weather());
        lock(&self.air.first).get_or_insert(now);
        if weather.bits_s > 0 {
            let over = (self.waiting(now, weather.bits_s) - QUEUE_BYTES).max(0.0);
            std::thread::sleep(Duration::from_secs_f64(over * 8.0 / f64::from(weather.bits_s)));
        }
        self.free = self.free.max(now) + weather.transfer(bytes as u64);
        self.free + weather.round_trip / 2
    }
}

/// Makes a TUN device in the namespace of the calling thread. It is there as long as somebody holds it.
///
/// # Errors
/// When the kernel or its rules do not allow it.
pub fn device(name: &str) -> std::io::Result<Arc<SyncDevice>> {
    Ok(Arc::new(DeviceBuilder::new().name(name).mtu(MTU).build_sync()?))
}

/// Carries packets both ways between the server's device and the agent's, until the process ends.
pub fn carry(server: &Arc<SyncDevice>, agent: &Arc<SyncDevice>, air: &Arc<Air>, seed: u64) {
    for (from, to, seed) in [(agent, server, seed * 2), (server, agent, seed * 2 + 1)] {
        let (from, to, lane) = (Arc::clone(from), Arc::clone(to), Lane::new(air, seed));
        let (sender, receiver) = channel();
        std::thread::spawn(move || take_in(&from, lane, &sender));
        std::thread::spawn(move || give_out(&to, &receiver));
    }
}

fn take_in(from: &SyncDevice, mut lane: Lane, sender: &Sender<(Instant, Vec<u8>)>) {
    let mut buffer = [0; 65_536];
    while let Ok(length) = from.recv(&mut buffer) {
        let Some(packet) = buffer.get(..length) else { continue };
        if let Some(due) = lane.packet(Instant::now(), length)
            && sender.send((due, packet.to_vec())).is_err()
        {
            return;
        }
    }
}

fn give_out(to: &SyncDevice, receiver: &Receiver<(Instant, Vec<u8>)>) {
    for (due, packet) in receiver {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // A device that is full drops, as any would.
        let _ = to.send(&packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_loses_the_same_packets() {
        let air = Air::new();
        air.set(Weather { lost_per_mille: 20, ..Weather::CLEAR });
        let chain = |seed| {
            let mut lane = Lane::new(&air, seed);
            (0..10_000).map(|_| lane.packet(Instant::now(), 100).is_some()).collect::<Vec<_>>()
        };
        let (one, again, other) = (chain(1), chain(1), chain(2));
        assert_eq!(one, again);
        assert_ne!(one, other);
        let lost = one.iter().filter(|arrived| !**arrived).count();
        assert!((120..280).contains(&lost), "{lost} of 10,000 at 2 %");
        assert!(air.first().is_some());
    }

    #[test]
    fn the_rate_is_kept_and_the_queue_is_bounded() {
        let air = Air::new();
        air.set(Weather { lost_per_mille: 0, ..Weather::BAD });
        let start = Instant::now();
        let mut lane = Lane { free: start, ..Lane::new(&air, 1) };
        let arrivals: Vec<_> = (0..200).filter_map(|_| lane.packet(start, 1400)).collect();
        // 96 KiB are 70 packets; those after them find the queue full.
        assert!((70..=72).contains(&arrivals.len()), "{}", arrivals.len());
        let last = arrivals.last().copied().unwrap_or(start).duration_since(start).as_secs_f64();
        assert!((3.1..3.4).contains(&last), "{last}");
        assert_eq!(Weather::BAD.transfer(32_000), Duration::from_secs(1));
    }
}
