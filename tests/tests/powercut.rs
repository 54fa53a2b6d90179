//! Power cuts under the agent's own stores: unsynced writes are forgotten, and nothing acknowledged may be.
//! It must not pass where it did not run: without FUSE it says so aloud.
//!
//! A writer process appends audit events and applies deltas on a file system that forgets what was not synced, and tells
//! the test of everything that it was promised. The cut comes at a random moment. Afterwards every promised event is in
//! a chain that verifies, and the replica is the old one or the new one, proved against its signed root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test stops where something is not as it must be"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cpis_agent::device_secret::DeviceSecret;
use cpis_agent::journal::{Journal, Options, Priority};
use cpis_agent::keyslot::{Contents, Keyslot};
use cpis_agent::local_keys::LocalKeys;
use cpis_agent::port::Store as _;
use cpis_agent::random::OsRandom;
use cpis_agent::replica::Replica;
use cpis_agent::store::SledStore;
use cpis_protocol::audit::{Act, AuditEvent, Moment, Receipt};
use cpis_protocol::clock::Carrier;
use cpis_protocol::digest::sha256;
use cpis_protocol::head::Head;
use cpis_protocol::id::{ChainId, DeviceId};
use cpis_protocol::replica;
use cpis_protocol::seal::OpeningKey;
use cpis_protocol::sign::{self, Kind, Signer};
use cpis_protocol::sync::pull::{Comparison, Pinned, Source};
use cpis_protocol::text::Text;
use cpis_protocol::tree::Manifest;
use cpis_tests::lossyfs::{self, LossyFs};
use cpis_tests::publisher::{Publisher, reading, scope, token};

/// Set for the writer process: where it writes.
const WRITER: &str = "CPIS_TEST_POWER_CUT_WRITER";
/// Set for the process that only stages: where it writes, and where it says what is staged.
const STAGER: &str = "CPIS_TEST_POWER_CUT_STAGER";
const CUTS: u32 = 120;
/// Children that the register begins with; child `FIRST + n` comes with the n-th delta.
const FIRST: u32 = 40;

fn signer() -> Signer {
    Signer::from_seed([6; 32])
}

fn device() -> DeviceId {
    DeviceId::of(&signer().public_key())
}

/// The publisher after `deltas` deltas. The same log each time, but for random filling.
fn publisher() -> Publisher {
    let mut publisher = Publisher::new().unwrap();
    for child in 0..FIRST {
        publisher.put(child, 1).unwrap();
    }
    publisher
}

struct Stores {
    journal: Journal,
    replica: Replica<SledStore, LocalKeys>,
}

fn open(dir: &Path) -> Stores {
    let secret_path = dir.join("device.secret");
    let secret = if secret_path.exists() {
        DeviceSecret::open_file(&secret_path).unwrap()
    } else {
        DeviceSecret::create_file(&secret_path, &mut OsRandom).unwrap()
    };
    let keyslot_path = dir.join("keyslot");
    let keyslot = if keyslot_path.exists() {
        Keyslot::open(&keyslot_path, &secret).unwrap()
    } else {
        let contents = Contents::new(signer(), OpeningKey::from_seed([3; 32]).sealing_key());
        Keyslot::create(&keyslot_path, &secret, &contents).unwrap()
    };
    let journal_path = dir.join("journal");
    let journal = if journal_path.exists() {
        Journal::open(&journal_path, device(), Options::default()).unwrap().0
    } else {
        Journal::create(&journal_path, device(), ChainId([5; 16]), Options::default()).unwrap()
    };
    let store = SledStore::open(&dir.join("replica")).expect("sled opens after every cut");
    let replica = Replica::open(store, LocalKeys::new(keyslot, &secret), Publisher::new().unwrap().trust(), &scope());
    Stores { journal, replica: replica.unwrap() }
}

/// The writer: appends and applies until it is killed, and says what it was promised.
#[test]
fn writer() {
    let Ok(dir) = std::env::var(WRITER) else { return };
    let stores = open(Path::new(&dir));
    let mut out = std::io::stdout();
    let mut publisher = publisher();
    let mut say = |text: String| {
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    };
    // The log of this run starts over with a snapshot: random filling differs between processes.
    publisher.resume(stores.replica.view().head.as_ref().map_or(0, |head| head.gseq));
    let plan = publisher.plan(Source::Staged).unwrap();
    let mut gseq = plan.head.gseq;
    stores.replica.stage(publisher.chunks(&plan)).unwrap();
    say(format!("trying {gseq}"));
    stores.replica.apply(plan, Carrier::Live, reading()).unwrap().unwrap();
    say(format!("applied {gseq}"));
    let recipient = *Publisher::new().unwrap().trust().audit_recipient().unwrap();
    let moment = Moment { event_ms: 1, anchor_ms: 1, gseq, head: [0; 32] };
    let event = AuditEvent {
        break_glass: false,
        practitioner: Text::lossy("P001"),
        role: Text::lossy("R1070"),
        incident: Text::EMPTY,
        act: Act::Unlock,
    };
    for round in 0u32.. {
        let (seq, _) = stores
            .journal
            .append(Priority::Routine, |tip| {
                tip.append(&device(), &signer(), &recipient, &moment, &event, &mut OsRandom)
            })
            .unwrap();
        say(format!("recorded {seq}"));
        let from = publisher.log.len();
        publisher.put(FIRST + round, 2).unwrap();
        publisher.remove(round % FIRST).unwrap();
        let cells = publisher.log[from..].to_vec();
        let plan = publisher.plan(Source::Delta(cells)).unwrap();
        gseq = plan.head.gseq;
        say(format!("trying {gseq}"));
        stores.replica.apply(plan, Carrier::Live, reading()).unwrap().unwrap();
        say(format!("applied {gseq}"));
    }
}

/// What the writer was promised before the cut.
#[derive(Debug, Default)]
struct Promised {
    recorded: u64,
    applied: u64,
    trying: u64,
}

fn write_until_cut(mounted: &lossyfs::Mounted, after: Duration) -> Promised {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--nocapture", "--quiet"])
        .env(WRITER, mounted.mountpoint())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = child.stdout.take().unwrap();
    let lines = std::thread::spawn(move || {
        let mut promised = Promised::default();
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let Some((what, number)) = line.split_once(' ') else { continue };
            let Ok(number) = number.parse() else { continue };
            match what {
                "recorded" => promised.recorded = number,
                "applied" => promised.applied = number,
                "trying" => promised.trying = number,
                _ => {}
            }
        }
        promised
    });
    std::thread::sleep(after);
    mounted.cut();
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let promised = lines.join().unwrap();
    // Failing before the cut would be a test that tests nothing.
    assert!(promised.trying > 0 || !error.contains("panicked") || after < Duration::from_millis(300), "{error}");
    promised
}

/// Verifies every link that no receipt covers, gives the chain's length, and acknowledges them all, as a server would.
fn verified_events(journal: &Journal) -> u64 {
    while let Some(batch) = journal.unacknowledged(200).unwrap() {
        let mut tip = batch.after;
        for link in &batch.links {
            tip = tip.verify(&device(), &signer().public_key(), link).expect("every link verifies");
        }
        let receipt = Receipt { device: device(), through: tip, issued_ms: 1 };
        let bytes = signer().sign(Kind::Receipt, &receipt).unwrap();
        let receipt = sign::verify(&bytes, Kind::Receipt, &[signer().public_key()], 1, 1024).unwrap();
        assert!(journal.acknowledge(&receipt).unwrap() > 0);
    }
    assert_eq!(journal.acknowledged(), journal.tip());
    journal.tip().seq
}

#[test]
fn nothing_promised_is_lost_and_no_copy_is_a_mixture() {
    if let Err(why) = lossyfs::available() {
        eprintln!("NOT RUN: power cuts: {why}");
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let (backing, mountpoint) = (work.path().join("backing"), work.path().join("mounted"));
    std::fs::create_dir_all(&backing).unwrap();
    std::fs::create_dir_all(&mountpoint).unwrap();
    let mounted = LossyFs::mount(&backing, &mountpoint).unwrap();
    let keys = Publisher::new().unwrap().keys().unwrap();
    let (mut before, mut total, mut flips) = (Promised::default(), 0, 0u64);
    for cut in 0..CUTS {
        // A spread of moments, from the opening of the stores to well into the work; the same in every run.
        let after = Duration::from_millis(40 + u64::from(cut * 37 % 101) * 3);
        let promised = write_until_cut(&mounted, after);
        let stores = open(mounted.mountpoint());
        let events = verified_events(&stores.journal);
        let least = promised.recorded.max(before.recorded);
        assert!(events >= least, "cut {cut}: {least} events were acknowledged and {events} are there");
        let applied = promised.applied.max(before.applied);
        let view = stores.replica.view();
        let gseq = view.head.as_ref().map_or(0, |head| head.gseq);
        if applied > 0 {
            assert!(view.is_proved(), "cut {cut}: the copy does not match its signed root");
            assert!(gseq >= applied && gseq <= promised.trying.max(applied), "cut {cut}: {gseq}, applied {applied}");
            let found = view.find(stores.replica.store(), &keys, &token(FIRST - 1).unwrap());
            assert!(found.is_ok(), "cut {cut}: {found:?}");
        }
        flips += u64::from(promised.applied > before.applied);
        drop(view);
        total = events;
        before = Promised { recorded: events, applied: gseq, trying: 0 };
        assert!(stores.replica.store().bytes() > 0);
    }
    let stats = mounted.stats();
    eprintln!("{} cuts, {total} events kept, {flips} runs with a flip, {} syncs", stats.cuts, stats.syncs);
    assert!(total > u64::from(CUTS) / 2 && flips > u64::from(CUTS) / 3, "the cuts came too early to test anything");
}

/// The stager: pins a head and stages its chunks one by one until it is killed, and says what it was promised.
#[test]
fn stager() {
    let Ok(places) = std::env::var(STAGER) else { return };
    let (dir, told) = places.split_once(':').unwrap();
    let stores = open(Path::new(dir));
    let mut publisher = Publisher::new().unwrap();
    (0..1500).for_each(|child| publisher.put(child, 1).unwrap());
    let plan = publisher.plan(Source::Staged).unwrap();
    std::fs::write(Path::new(told).join("head"), plan.head.bytes()).unwrap();
    let manifest = Manifest::of(&replica::leaves(&publisher.live()));
    std::fs::write(Path::new(told).join("manifest"), manifest.to_bytes()).unwrap();
    let (beat, head, reference) = (plan.beat.clone(), plan.head.clone(), plan.reference.clone());
    stores.replica.pin(&Pinned { beat, head, reference }).unwrap();
    for (chunk, number) in publisher.chunks(&plan).into_iter().zip(1..) {
        stores.replica.stage(vec![chunk]).unwrap();
        println!("staged {number}");
    }
    std::thread::sleep(Duration::from_secs(60));
}

/// After each promise the power goes: the head on its way in and every chunk that was staged are there.
#[test]
fn what_was_staged_outlives_the_cut() {
    if let Err(why) = lossyfs::available() {
        eprintln!("NOT RUN: power cuts: {why}");
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let (backing, mountpoint, told) =
        (work.path().join("backing"), work.path().join("mounted"), work.path().join("told"));
    [&backing, &mountpoint, &told].into_iter().for_each(|path| std::fs::create_dir_all(path).unwrap());
    let mounted = LossyFs::mount(&backing, &mountpoint).unwrap();
    let trust = Publisher::new().unwrap().trust().clone();
    for promised in 1..=6u32 {
        let dir = mounted.mountpoint().join(promised.to_string());
        std::fs::create_dir(&dir).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "stager", "--nocapture", "--quiet"])
            .env(STAGER, format!("{}:{}", dir.display(), told.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let last = format!("staged {promised}");
        assert!(lines.into_iter().any(|line| line == last), "it never got to {last}");
        mounted.cut();
        child.kill().unwrap();
        child.wait().unwrap();

        let stores = open(&dir);
        let bytes = std::fs::read(told.join("head")).unwrap();
        let head = Head::verify(&bytes, &sha256(&bytes), &scope(), &trust).unwrap();
        let state = head.feeds[0].clone();
        let manifest = std::fs::read(told.join("manifest")).unwrap();
        let manifest = Manifest::verify(&manifest, state.count, &state.state_root).unwrap();
        let pinned = stores.replica.pinned(&trust, &scope()).unwrap();
        assert_eq!(pinned.head, head);
        let held = stores.replica.take_over(&[Comparison { state, manifest, bounds: None }]).unwrap().remove(0).1;
        let least: Vec<u32> = (0..promised).collect();
        assert!(held.starts_with(&least), "promised {promised} chunks, and {held:?} are there");
    }
}
