//! The durable audit append against the bare `fdatasync` of the same disk, in turns within one run.
//! It must not compare figures of different minutes: a shared disk drifts.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use cpis_agent::journal::{Journal, Options, Priority};
use cpis_agent::random::OsRandom;
use cpis_protocol::audit::{Act, AuditEvent, LINK_BYTES, Moment};
use cpis_protocol::id::{ChainId, DeviceId};
use cpis_protocol::seal::{OpeningKey, SealingKey};
use cpis_protocol::sign::Signer;
use cpis_protocol::text::Text;

use super::report::{Report, time};
use super::{Scale, percentile};

/// What one journal record takes: a link, its hash and the frame.
const RECORD_BYTES: usize = LINK_BYTES + 32 + 13;

struct Chain {
    journal: Journal,
    device: DeviceId,
    signer: Signer,
    recipient: SealingKey,
}

impl Chain {
    fn append(&self) -> anyhow::Result<Duration> {
        let moment = Moment { event_ms: 1, anchor_ms: 1, gseq: 1, head: [0; 32] };
        let event = AuditEvent {
            break_glass: false,
            practitioner: Text::lossy("P001"),
            role: Text::lossy("R1070"),
            incident: Text::EMPTY,
            act: Act::Unlock,
        };
        let started = Instant::now();
        self.journal.append(Priority::Routine, |tip| {
            tip.append(&self.device, &self.signer, &self.recipient, &moment, &event, &mut OsRandom)
        })?;
        Ok(started.elapsed())
    }
}

/// A file whose space is there already, so that a sync writes data only; and one that grows with each write.
struct Bare {
    reserved: File,
    growing: File,
    at: u64,
}

impl Bare {
    fn new(directory: &Path, records: usize) -> anyhow::Result<Self> {
        let reserved = File::create_new(directory.join("reserved"))?;
        reserved.write_all_at(&vec![0; (records + 1) * RECORD_BYTES], 0)?;
        reserved.sync_all()?;
        Ok(Self { reserved, growing: File::create_new(directory.join("growing"))?, at: 0 })
    }

    fn append(&mut self) -> anyhow::Result<[Duration; 2]> {
        let mut took = [Duration::ZERO; 2];
        for (file, took) in [&self.reserved, &self.growing].into_iter().zip(&mut took) {
            let started = Instant::now();
            file.write_all_at(&[0x5a; RECORD_BYTES], self.at)?;
            file.sync_data()?;
            *took = started.elapsed();
        }
        self.at += RECORD_BYTES as u64;
        Ok(took)
    }
}

/// Rounds of bare syncs, appends of one writer, and appends of eight writers.
///
/// # Errors
/// When the disk fails.
pub fn audit(directory: &Path, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let (rounds, each, writers) = (scale.of(20, 2), scale.of(100, 10), 8);
    let signer = Signer::from_seed([1; 32]);
    let device = DeviceId::of(&signer.public_key());
    let journal = Journal::create(&directory.join("journal"), device, ChainId([1; 16]), Options::default())?;
    let chain = Chain { journal, device, signer, recipient: OpeningKey::from_seed([2; 32]).sealing_key() };
    let mut bare = Bare::new(directory, rounds * each)?;
    let (mut reserved, mut growing, mut one, mut eight) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut one_ratios, mut eight_ratios) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (mut bare_time, mut one_time) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..each {
            let [with_space, without] = bare.append()?;
            bare_time += with_space;
            reserved.push(with_space);
            growing.push(without);
            let took = chain.append()?;
            one_time += took;
            one.push(took);
        }
        let started = Instant::now();
        let samples = together(&chain, writers, each)?;
        let eight_time = started.elapsed() / u32::try_from(writers)?;
        eight.extend(samples);
        one_ratios.push(bare_time.as_secs_f64() / one_time.as_secs_f64());
        eight_ratios.push(bare_time.as_secs_f64() / eight_time.as_secs_f64());
    }
    report.section(&format!("Durable audit append against the bare disk, {} of each", rounds * each));
    for (what, samples) in [
        ("bare write + fdatasync, space reserved", &mut reserved),
        ("bare write + fdatasync, growing file", &mut growing),
        ("append, one writer (seals, signs, writes, syncs)", &mut one),
        ("append, each of eight writers", &mut eight),
    ] {
        let [half, most] = [0.5, 0.99].map(|share| percentile(samples, share));
        report.figure(what, format!("p50 {}, p99 {}", time(half), time(most)));
    }
    report.figure("appends a second to bare syncs a second, one writer, median", format!("{:.2}", middle(one_ratios)));
    report.figure("the same, eight writers", format!("{:.2}", middle(eight_ratios)));
    Ok(())
}

fn middle(mut ratios: Vec<f64>) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().unwrap_or_default()
}

fn together(chain: &Chain, writers: usize, each: usize) -> anyhow::Result<Vec<Duration>> {
    std::thread::scope(|threads| {
        let work = || (0..each).map(|_| chain.append()).collect::<anyhow::Result<Vec<_>>>();
        let running: Vec<_> = (0..writers).map(|_| threads.spawn(work)).collect();
        let mut samples = Vec::new();
        for thread in running {
            samples.extend(thread.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??);
        }
        Ok(samples)
    })
}
