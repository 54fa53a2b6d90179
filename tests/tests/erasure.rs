//! Erasure with the real programs: what both copies of the keyslot file hold before and after, what reaches the server,
//! what a liar on the way cannot do, and kill -9 around it. Nothing here erases: the agent and the server do.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cpis_agent::agent::{Agent, KEYSLOT};
use cpis_agent::config::Config;
use cpis_agent::device_secret::DeviceSecret;
use cpis_agent::driver::pull_once;
use cpis_agent::keyslot::Keyslot;
use cpis_agent::port::Transport;
use cpis_agent::transport::{HttpTransport, install_provider};
use cpis_protocol::clock::Carrier;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::sync::pull::Outcome;
use cpis_server::clock::{Clock as _, SystemClock};
use cpis_tests::needles::{Needle, Search, Searched};
use cpis_tests::process::{Running, run};
use cpis_tests::scene::{count, text};
use cpis_tests::site::{AgentSite, PASSPHRASE, PRACTITIONER, Site, SiteRules};

const SLOT_BYTES: usize = 128 * 1024;
const HEADER: core::ops::Range<usize> = 0..22;
const SEALED: core::ops::Range<usize> = 22..127_038;
const LEASE_S: &str = "50";

fn deployment(work: &Path) -> Site {
    let site = Site::make(&work.join("central"), &["Leeds", "Bradford"], 60).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    run(site.command().unwrap().args(["site", "add", "brief", "--lease-seconds", LEASE_S])).unwrap();
    site.add_practitioner(&["crew", "brief"]).unwrap();
    site
}

fn secret(agent: &AgentSite) -> DeviceSecret {
    DeviceSecret::open(agent.directory(), &Config::default().sources()).unwrap()
}

fn raw(agent: &AgentSite) -> Vec<u8> {
    std::fs::read(agent.directory().join(KEYSLOT)).unwrap()
}

/// Both copies of the keyslot file, opened, and the file as it lies on the disk.
fn copies(agent: &AgentSite) -> Vec<(&'static str, Vec<u8>)> {
    let (raw, kek) = (raw(agent), secret(agent).derive("cpis-edge/1/keyslot"));
    assert_eq!(raw.len(), 2 * SLOT_BYTES);
    let open = |slot: &[u8]| kek.open(&slot[HEADER], &slot[SEALED]).unwrap().to_vec();
    vec![("first", open(&raw[..SLOT_BYTES])), ("second", open(&raw[SLOT_BYTES..])), ("file", raw)]
}

fn number(what: &'static str, bytes: &[u8]) -> Needle {
    Needle { what, bytes: bytes.to_vec() }
}

/// What must be gone afterwards: the grant, its sealed keys, the wrapped vault seed with its salt, the local keys; and
/// of the file the sealed bytes of either copy. Taken from a stopped agent.
fn secrets_of(agent: &AgentSite, work: &Path) -> Vec<Needle> {
    let path = work.join("keyslot-before");
    std::fs::copy(agent.directory().join(KEYSLOT), &path).unwrap();
    let mut keyslot = Keyslot::open(&path, &secret(agent)).unwrap();
    let seed = keyslot.open_vault(PRACTITIONER.parse().unwrap(), PASSPHRASE, || 0).unwrap();
    let contents = keyslot.contents();
    assert!(contents.grant.len() > 300);
    let mut needles = vec![number("vault seed", seed.expose())];
    let parts = contents.grant.chunks_exact(32).map(|part| number("grant", part));
    needles.extend(parts.filter(|part| part.bytes.iter().filter(|byte| **byte != 0).count() > 24));
    for (feed, generation) in contents.local_keys() {
        needles.push(number("local key", contents.local_key(feed, generation).unwrap().expose()));
    }
    // A slot as it lies in the body: practitioner (16), cost (8), salt (16), length (8), wrapped seed (72).
    let (_, body) = copies(agent).swap_remove(0);
    let who = body.windows(16).position(|at| at.starts_with(PRACTITIONER.as_bytes()) && at[4..] == [0; 12]).unwrap();
    let wrapped = &body[who + 48..who + 48 + 72];
    assert_eq!(body[who + 40..who + 48], 72u64.to_le_bytes(), "a wrapped seed");
    needles.push(number("salt", &body[who + 24..who + 40]));
    needles.extend(wrapped.chunks(24).map(|part| number("wrapped seed", part)));
    let file = raw(agent);
    for slot in file.chunks(SLOT_BYTES) {
        needles.extend(slot[SEALED].chunks(64).map(|part| number("sealed copy", part)));
    }
    needles
}

fn found(needles: &[Needle], places: &[(&'static str, Vec<u8>)]) -> Vec<(&'static str, PathBuf, usize)> {
    let search = Search::new(needles.to_vec()).unwrap();
    let mut searched = Searched::default();
    places.iter().for_each(|(name, bytes)| search.bytes(Path::new(name), bytes, &mut searched));
    searched.found
}

/// The search finds each of them before.
fn all_there(needles: &[Needle], agent: &AgentSite) {
    let found = found(needles, &copies(agent));
    for what in ["grant", "local key", "wrapped seed", "salt", "sealed copy"] {
        assert!(found.iter().any(|(kind, ..)| *kind == what), "the search is blind for a {what}");
    }
    assert!(!found.iter().any(|(kind, ..)| *kind == "vault seed"), "never in the clear");
}

/// None of them is in either copy, nor in the file; the device's own key and its audit are.
fn all_gone(needles: &[Needle], agent: &AgentSite) {
    let copies = copies(agent);
    let found = found(needles, &copies);
    assert!(found.is_empty(), "{} found: {found:?}", found.len());
    let keyslot = Keyslot::open(&agent.directory().join(KEYSLOT), &secret(agent)).unwrap();
    let contents = keyslot.contents();
    assert!(contents.grant.is_empty() && contents.previous_grant.is_empty());
    assert!(contents.erasure.as_ref().is_some_and(|erasure| erasure.receipted));
    assert_eq!((contents.local_keys().count(), keyslot.vault_slots().len()), (0, 0));
    let seed = contents.signer.seed();
    assert!(copies[..2].iter().all(|(_, body)| body.windows(32).any(|at| at == seed.as_slice())));
}

fn device(agent: &AgentSite) -> String {
    text(&agent.status().unwrap(), "/device").to_owned()
}

fn look_up(agent: &AgentSite, site: &Site) -> String {
    let person = site.flagged().unwrap();
    text(&agent.look_up(person.number, person.birth).unwrap(), "/answer").to_owned()
}

fn change(site: &Site, verb: &str, device: &str) {
    site.json(&["device", verb, device, "--reason", "a test", "--by", "tester"]).unwrap();
}

fn acts(site: &Site, device: &str) -> Vec<String> {
    site.events_of(device).unwrap().iter().map(|event| text(event, "/act").to_owned()).collect()
}

fn receipts(site: &Site, device: &str) -> usize {
    acts(site, device).iter().filter(|act| *act == "erased").count()
}

fn erased(running: &mut Running, agent: &AgentSite, reason: &str) {
    running
        .wait_until("the erasure", || {
            agent.status().is_ok_and(|status| {
                text(&status, "/copy/cannot_answer") == reason && count(&status, "/copy/records") == 0
            })
        })
        .unwrap();
}

/// Syncs, works a little, and stops.
fn shift(site: &Site, agent: &AgentSite) -> String {
    let running = agent.start().unwrap();
    agent.sync().unwrap();
    agent.unlock().unwrap();
    let id = device(agent);
    assert_eq!(look_up(agent, site), "flagged");
    assert!(running.stop().unwrap().success());
    id
}

#[test]
fn after_a_withdrawal_neither_copy_of_the_keyslot_holds_anything_to_open() {
    let work = tempfile::tempdir().unwrap();
    let site = deployment(work.path());
    for (verb, name) in [("revoke", "one"), ("lost", "two")] {
        let server = site.serve().unwrap();
        let agent = site.enrol(&work.path().join(name), "crew").unwrap();
        let running = agent.start().unwrap();
        agent.sync().unwrap();
        server.stop().unwrap();
        // Offline: what is recorded now has to wait.
        agent.unlock().unwrap();
        assert_eq!(look_up(&agent, &site), "flagged");
        let id = device(&agent);
        assert!(count(&agent.status().unwrap(), "/outbox/waiting") >= 2);
        assert!(running.stop().unwrap().success());
        let needles = secrets_of(&agent, work.path());
        all_there(&needles, &agent);
        let server = site.serve().unwrap();
        change(&site, verb, &id);
        let before = acts(&site, &id);
        assert!(!before.iter().any(|act| act == "look-up"), "{before:?}");
        let mut running = agent.start().unwrap();
        erased(&mut running, &agent, "revoked");
        agent.drain(&mut running).unwrap();
        assert!(agent.unlock().is_err());
        assert!(running.stop().unwrap().success());
        all_gone(&needles, &agent);
        let after = acts(&site, &id);
        assert!(["unlock", "look-up", "erased"].iter().all(|act| after.iter().any(|done| done == act)), "{after:?}");
        assert_eq!(receipts(&site, &id), 1);
        assert_eq!(site.verify().unwrap()["intact"], true);
        server.stop().unwrap();
    }
}

#[test]
fn after_the_lease_neither_copy_of_the_keyslot_holds_anything_to_open_whenever_it_is_killed() {
    let work = tempfile::tempdir().unwrap();
    let site = deployment(work.path());
    let server = site.serve().unwrap();
    let agents: Vec<_> = (0..6).map(|n| site.enrol(&work.path().join(format!("brief{n}")), "brief").unwrap()).collect();
    let before: Vec<_> = agents
        .iter()
        .map(|agent| {
            let id = shift(&site, agent);
            let needles = secrets_of(agent, work.path());
            all_there(&needles, agent);
            (id, needles)
        })
        .collect();
    server.stop().unwrap();
    let now_ms = || SystemClock.now_ms().cast_unsigned();
    std::thread::scope(|scope| {
        for (n, agent) in agents.iter().enumerate() {
            let needles = &before[n].1;
            scope.spawn(move || {
                let running = agent.start().unwrap();
                let status = agent.status().unwrap();
                let until_ms = count(&status, "/copy/lease_until_ms").max(count(&status, "/lease_until_ms"));
                assert!(until_ms > 0, "{status}");
                while now_ms() < until_ms {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // Some are killed at a moment of the first 300 ms, some as soon as the file changes, or a write later.
                let path = agent.directory().join(KEYSLOT);
                let writes = [0, 0, 0, 1, 2, 3][n];
                let mut last = std::fs::read(&path).unwrap();
                let started = Instant::now();
                let mut seen = 0;
                std::thread::sleep(Duration::from_millis([0, 120, 290, 0, 0, 0][n]));
                while seen < writes && started.elapsed() < Duration::from_secs(10) {
                    let present = std::fs::read(&path).unwrap();
                    seen += u32::from(present != last);
                    last = present;
                }
                running.kill().unwrap();
                // It comes back, still offline, and ends as erased.
                let mut running = agent.start().unwrap();
                erased(&mut running, agent, "lease-expired");
                assert!(running.stop().unwrap().success());
                all_gone(needles, agent);
            });
        }
    });
    let server = site.serve().unwrap();
    for (agent, (id, _)) in agents.iter().zip(&before) {
        let mut running = agent.start().unwrap();
        agent.drain(&mut running).unwrap();
        assert!(running.stop().unwrap().success());
        // Killed between the receipt and its mark, it says the same twice.
        assert!((1..=2).contains(&receipts(&site, id)), "{:?}", acts(&site, id));
        assert!(acts(&site, id).iter().any(|act| act == "look-up"));
    }
    assert_eq!(site.verify().unwrap()["intact"], true);
    server.stop().unwrap();
}

/// A proxy that passes replies on, and says "revoked" in place of those it is told to.
struct Proxy {
    behind: Arc<HttpTransport>,
    grant_too: bool,
    lies: AtomicU32,
}

impl Transport for Proxy {
    async fn send(&self, request: Request) -> Result<Vec<u8>, Failure> {
        if self.grant_too || !matches!(request, Request::Grant) {
            self.lies.fetch_add(1, Ordering::Relaxed);
            return Err(Failure::Revoked);
        }
        self.behind.send(request).await
    }
}

#[test]
fn an_invented_403_erases_nothing() {
    let work = tempfile::tempdir().unwrap();
    let site = deployment(work.path());
    let server = site.serve().unwrap();
    let crew = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let id = shift(&site, &crew);
    install_provider();
    let agent = Arc::new(Agent::open(crew.directory(), &Config::load(crew.directory()).unwrap()).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let held = crew_grant(&agent);
    let attempt = |grant_too: bool, with_grant: bool| {
        runtime.block_on(async {
            let behind = agent.transport().unwrap();
            let proxy = Arc::new(Proxy { behind, grant_too, lies: AtomicU32::new(0) });
            let mut machine = agent.pull_machine(with_grant).unwrap();
            let (outcome, _) = pull_once(&agent, &mut machine, &proxy, Carrier::Live, with_grant).await;
            (outcome, proxy.lies.load(Ordering::Relaxed))
        })
    };
    for (grant_too, with_grant) in [(true, true), (true, false), (false, true), (false, false)] {
        let (outcome, lies) = attempt(grant_too, with_grant);
        assert!(
            (1..=3).contains(&lies),
            "{lies} lies: it asks for all at once, once more for the grant, and then waits"
        );
        assert_ne!(outcome, Outcome::UpToDate);
        assert!(agent.erasure().is_none(), "{outcome:?}");
        assert!(agent.grant().number >= held.0 && agent.replica().view().feeds.len() == held.1);
        assert!(agent.pull_machine(true).is_some());
    }
    // The real word, signed, through the same proxy: it erases.
    change(&site, "revoke", &id);
    let (outcome, _) = attempt(false, true);
    assert!(matches!(outcome, Outcome::Failed(Failure::Revoked)), "{outcome:?}");
    assert!(agent.erasure().is_some_and(|erasure| erasure.receipted));
    drop(agent);
    a_receipt_is_written_once(&crew);
    server.stop().unwrap();
}

/// What a crash leaves between the receipt's link and the note that it is there; and between the announcement and the
/// link, when another link has taken that place.
fn a_receipt_is_written_once(crew: &AgentSite) {
    let after_crash = |change: &dyn Fn(&mut cpis_agent::keyslot::Erasure)| {
        let mut keyslot = Keyslot::open(&crew.directory().join(KEYSLOT), &secret(crew)).unwrap();
        keyslot
            .update(|contents| {
                change(contents.erasure.as_mut().unwrap());
                Ok(())
            })
            .unwrap();
        drop(keyslot);
        let agent = Agent::open(crew.directory(), &Config::load(crew.directory()).unwrap()).unwrap();
        assert!(agent.erasure().is_some_and(|erasure| erasure.receipted));
        agent.outbox().waiting
    };
    let waiting = after_crash(&|_| ());
    assert!(waiting > 0, "the receipt waits for the link");
    assert_eq!(after_crash(&|erasure| erasure.receipted = false), waiting, "its link is there");
    let other = after_crash(&|erasure| {
        erasure.receipted = false;
        erasure.announced = erasure.announced.map(|(seq, _)| (seq, [7; 32]));
    });
    assert_eq!(other, waiting + 1, "its link is not");
    assert_eq!(after_crash(&|erasure| (erasure.receipted, erasure.announced) = (false, None)), waiting + 2);
}

fn crew_grant(agent: &Agent) -> (u64, usize) {
    (agent.grant().number, agent.replica().view().feeds.len())
}
