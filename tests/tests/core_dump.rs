//! A core dump of the locked agent holds no feed key, no record, no question and no passphrase: the memory of the real
//! program is searched while it is unlocked (something must be found), and after it has locked (nothing may be).
//!
//! Not searched for: authorities' telephones (public reference data), and dates as two-byte day numbers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use cpis_agent::agent::KEYSLOT;
use cpis_agent::device_secret::DeviceSecret;
use cpis_agent::keyslot::Keyslot;
use cpis_protocol::digest;
use cpis_protocol::query::Query;
use cpis_server::home::Home;
use cpis_server::port::{CellLog, Feeds as _, Register as _, Store as _};
use cpis_server::publish::{PublishError, lookup, open_feed_key};
use cpis_server::record::records;
use cpis_server::register::PersonRow;
use cpis_tests::loopback::Api;
use cpis_tests::memory;
use cpis_tests::needles::{self, Needle, Search, Searched};
use cpis_tests::process::{Running, run};
use cpis_tests::scene::{count, text};
use cpis_tests::site::{AgentSite, PASSPHRASE, PRACTITIONER, Site};

const SECOND: &str = "P002";
const SECOND_PASSPHRASE: &str = "another long passphrase";
const FEED_KEY: &str = "feed key";
const SEED: &str = "vault seed";

struct Stage {
    running: Running,
    agent: AgentSite,
    asked: Vec<PersonRow>,
    needles: Vec<Needle>,
    _server: Running,
    _site: Site,
    _work: tempfile::TempDir,
}

/// An agent with a copy, locked, and everything that its memory may not hold.
fn stage(idle_s: &str) -> Stage {
    let work = tempfile::tempdir().unwrap();
    let site = Site::make(&work.path().join("central"), &["Leeds", "Bradford"], 200).unwrap();
    run(site.command().unwrap().args(["site", "add", "crew", "--idle-s", idle_s])).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let second = ["practitioner", "add", SECOND, "--name", "Kim Second", "--role", "R8000", "--site", "crew"];
    run(site.command().unwrap().args(second)).unwrap();
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let plain = |p: &&PersonRow| !p.restricted && p.plans.len() == 1 && p.plans[0].end.is_none();
    let asked: Vec<PersonRow> = site.people().iter().filter(plain).take(6).cloned().collect();
    let mut needles = of_server(&site, &asked);
    needles.push(seed_of(&agent, work.path()));
    for person in &asked {
        needles.extend(needles::of_number(person.number));
        needles.extend(needles::of_date(person.birth));
    }
    needles.extend(needles::of_number(site.unknown().unwrap()));
    needles.push(needles::of_text("passphrase", PASSPHRASE));
    needles.push(needles::of_text("second passphrase", SECOND_PASSPHRASE));
    let running = agent.start().unwrap();
    agent.sync().unwrap();
    Stage { running, agent, asked, needles, _server: server, _site: site, _work: work }
}

/// What only the server can tell: feed keys; T, V and the packed record of everybody who is asked about.
fn of_server(site: &Site, asked: &[PersonRow]) -> Vec<Needle> {
    let home = Home::open(site.directory()).unwrap();
    let read = home.store.read(|tx| -> Result<_, PublishError> {
        let mut needles = Vec::new();
        let parameters = lookup(tx)?;
        let mut tokens = Vec::new();
        for person in asked {
            let token = Query::nhs_number(person.number, person.birth).token(&parameters).unwrap();
            needles.push(Needle { what: "token", bytes: token.expose().to_vec() });
            tokens.push(*token.expose());
            let stored = tx.person(tx.person_id(person.number)?.unwrap())?.unwrap();
            for record in records(&stored, 1_790_000_000_000).values() {
                needles.push(Needle { what: "record", bytes: record.pack().unwrap().to_vec() });
            }
        }
        for row in tx.feeds()? {
            let log = CellLog { feed: row.feed, epoch: row.epoch };
            for (key_id, sealed) in tx.feed_keys(log)? {
                let key = open_feed_key(&home.keys.storage, log, key_id, &sealed)?;
                needles.push(Needle { what: FEED_KEY, bytes: key.0.expose().to_vec() });
                for token in &tokens {
                    let place = [&row.epoch.to_be_bytes()[..], row.feed.as_bytes()].concat();
                    let input = [&b"cpis-edge/1/prf\0\x01"[..], &place, token].concat();
                    needles.push(Needle { what: "slot secret", bytes: digest::prf(key.0.expose(), &input).to_vec() });
                }
            }
        }
        Ok(needles)
    });
    read.unwrap()
}

/// The vault's seed, from a copy of the agent's files and the passphrase.
fn seed_of(agent: &AgentSite, work: &Path) -> Needle {
    let copy = |name: &str| {
        std::fs::copy(agent.directory().join(name), work.join(name)).unwrap();
        work.join(name)
    };
    let secret = DeviceSecret::open_file(&copy("device.secret")).unwrap();
    let mut keyslot = Keyslot::open(&copy(KEYSLOT), &secret).unwrap();
    let opening = keyslot.open_vault(PRACTITIONER.parse().unwrap(), PASSPHRASE, || 0).unwrap();
    Needle { what: SEED, bytes: opening.expose().to_vec() }
}

impl Stage {
    /// The search, and the process's memory through it; `None` where this user may not read it, which is right too.
    fn search(&self) -> Option<Searched> {
        let search = Search::new(self.needles.clone()).unwrap();
        match memory::search(self.running.id(), &search) {
            Ok(searched) => Some(searched),
            Err(error) => {
                let denied = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
                assert_eq!(denied, Some(std::io::ErrorKind::PermissionDenied), "{error:#}");
                assert!(!rustix::process::geteuid().is_root(), "root may read it: {error:#}");
                None
            }
        }
    }

    fn nothing(&self, when: &str) {
        let Some(searched) = self.search() else { return };
        assert!(searched.bytes > 1_000_000, "{when}: there is memory to search: {}", searched.bytes);
        assert!(searched.found.is_empty(), "{when}: {} found: {:#?}", searched.found.len(), searched.found);
        assert!(searched.short.len() < 2, "{when}: {:?}", searched.short);
    }

    /// Everything that a shift does: hits, misses, a refused number, reveals, a colleague's slot.
    fn work(&self) {
        self.agent.unlock().unwrap();
        for person in &self.asked {
            let (code, reply) = self.agent.ask(&person.number.grouped(), &person.birth.iso(), &[]).unwrap();
            assert_eq!((code, text(&reply, "/answer")), (0, "flagged"), "{reply}");
            assert_eq!(self.agent.reveal(count(&reply, "/look_up")).unwrap().0, 0);
        }
        let unknown = self._site.unknown().unwrap();
        let (_, reply) = self.agent.ask(&unknown.digits(), &self.asked[0].birth.iso(), &[]).unwrap();
        assert_eq!(text(&reply, "/answer"), "not-in-this-copy", "{reply}");
        let file = self.agent.passphrase().with_file_name("second");
        std::fs::write(&file, SECOND_PASSPHRASE).unwrap();
        let mut add = self.agent.command().unwrap();
        run(add.args(["add-practitioner", "--practitioner", SECOND, "--passphrase-file"]).arg(file)).unwrap();
    }

    /// The test can fail: with the vault open the keys are there.
    fn unlocked_shows_keys(&self) {
        let Some(searched) = self.search() else { return };
        let found: BTreeSet<&str> = searched.found.iter().map(|(what, ..)| *what).collect();
        assert!(found.contains(FEED_KEY) && found.contains(SEED), "the search is blind: {found:?}");
    }
}

/// A record system that asks over a connection which it would rather keep: it stays open on this side.
fn ask_and_hold(agent: &AgentSite, person: &PersonRow) -> TcpStream {
    let api = Api::of(agent).unwrap();
    let body = format!(r#"{{"nhs_number":"{}","date_of_birth":"{}"}}"#, person.number.grouped(), person.birth.iso());
    let head = format!("POST /v1/look-up HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n", api.address, api.token);
    let kind = format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut stream = TcpStream::connect(&api.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    stream.write_all([head, kind, body].concat().as_bytes()).unwrap();
    let mut reply = Vec::new();
    // Ends with the agent's closing, or, were it to keep the connection, with the time out.
    let _ = stream.read_to_end(&mut reply);
    assert!(String::from_utf8_lossy(&reply).contains("flagged"), "{}", String::from_utf8_lossy(&reply));
    stream
}

#[test]
fn locked_after_a_shift_the_memory_holds_no_secret() {
    let stage = stage("900");
    stage.work();
    stage.unlocked_shows_keys();
    let _held = ask_and_hold(&stage.agent, &stage.asked[0]);
    // A grant that arrives while somebody works renews the keys: their old copies must go as well.
    stage.agent.sync().unwrap();
    run(stage.agent.command().unwrap().arg("lock")).unwrap();
    stage.nothing("locked");
}

#[test]
fn locked_by_itself_the_memory_holds_no_secret() {
    let mut stage = stage("20");
    stage.work();
    stage.unlocked_shows_keys();
    let agent = &stage.agent;
    stage
        .running
        .wait_until("the agent to lock itself", || {
            agent.status().is_ok_and(|status| status.pointer("/unlocked_by").is_some_and(serde_json::Value::is_null))
        })
        .unwrap();
    stage.nothing("locked when idle");
}

#[test]
fn the_courier_alone_never_holds_a_secret() {
    let stage = stage("900");
    stage.nothing("never unlocked");
}

#[test]
fn the_running_programs_leave_no_core_dump() {
    let stage = stage("900");
    for pid in [stage.running.id(), stage._server.id()] {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let values: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
        assert_eq!(values, ["0", "0"], "{core}");
    }
    let doctor = stage.agent.json(&["doctor"]).unwrap();
    let checks = doctor["checks"].as_array().unwrap();
    let dumps = checks.iter().find(|check| check["name"] == "core-dumps").expect("doctor looks at core dumps");
    assert_eq!(dumps["result"], "good", "{dumps}");
}
