//! kill -9 of the real programs at any moment: no acknowledged audit event, record or receipt is lost, nothing is there
//! twice, and no child who is flagged before and after is ever answered as not in the copy.
//!
//! CPIS_KILLS says how often each program is killed (default 40 for the agent, half of it for the server); CPIS_SEED
//! where the random moments begin.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test stops where something is not as it must be"
)]

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use cpis_server::register::PersonRow;
use cpis_tests::loopback::Api;
use cpis_tests::process::{Running, program};
use cpis_tests::scene::{COLUMNS, Said, count, text, today};
use cpis_tests::site::{AgentSite, PASSPHRASE, PRACTITIONER, Site, SiteRules};
use serde_json::{Value, json};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// xorshift: the same moments for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn pause(&mut self, limit_ms: u64) {
        std::thread::sleep(Duration::from_millis(self.below(limit_ms)));
    }
}

/// What the agent has acknowledged: by position, what it must be.
type Acknowledged = BTreeMap<(Act, u64), String>;

/// What was acknowledged: a look-up at its position, or the reveal of the look-up at that position. The reveal's own
/// position is not told: a sync may have written an erasure receipt in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    LookUp,
    Reveal,
}

/// Asks about people and reveals until the agent is gone; gives what was acknowledged.
fn ask_until_killed(api: &Api, people: &[PersonRow], stop: &AtomicBool) -> Acknowledged {
    let mut acknowledged = Acknowledged::new();
    for person in people.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            return acknowledged;
        }
        let body = json!({ "nhs_number": person.number.digits(), "date_of_birth": person.birth.iso() });
        let Ok(reply) = api.post("/v1/look-up", &body) else { return acknowledged };
        let answer = text(&reply.body, "/answer");
        if answer.is_empty() {
            // The reply was cut: nothing was promised.
            return acknowledged;
        }
        if text(&reply.body, "/reason") == "vault-locked" {
            continue;
        }
        assert_eq!(answer, "flagged", "flagged before and after, so flagged always: {}", reply.body);
        let seq = count(&reply.body, "/look_up");
        assert!(
            seq > 0 && acknowledged.insert((Act::LookUp, seq), person.number.grouped()).is_none(),
            "{seq} was given out twice"
        );
        if seq.is_multiple_of(3) {
            let Ok(reply) = api.post("/v1/reveal", &json!({ "look_up": seq })) else { return acknowledged };
            if reply.status == 200 && reply.body["flags"].is_array() {
                acknowledged.insert((Act::Reveal, seq), String::new());
            }
        }
    }
    acknowledged
}

struct Asking {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Acknowledged>,
}

impl Asking {
    fn start(agent: &AgentSite, people: &[PersonRow]) -> Self {
        let (api, people) = (Api::of(agent).unwrap(), people.to_vec());
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        Self { stop, thread: std::thread::spawn(move || ask_until_killed(&api, &people, &flag)) }
    }

    fn end(self, all: &mut Acknowledged) {
        self.stop.store(true, Ordering::Relaxed);
        for (at, what) in self.thread.join().expect("the asking thread found nothing wrong") {
            assert!(all.insert(at, what).is_none(), "{at:?} was given out twice, across a kill");
        }
    }
}

/// The acknowledged events are in the server's chain, each once, and the chain has no gap.
fn assert_kept(events: &[Value], acknowledged: &Acknowledged) {
    let seqs: Vec<u64> = events.iter().map(|event| count(event, "/seq")).collect();
    assert_eq!(seqs, (1..=events.len() as u64).collect::<Vec<_>>(), "each position once");
    for ((act, seq), what) in acknowledged {
        match act {
            Act::LookUp => {
                let event = &events[usize::try_from(*seq).unwrap() - 1];
                assert_eq!(text(event, "/nhs_number"), what, "position {seq}");
            }
            Act::Reveal => {
                let of = |event: &&Value| text(event, "/act") == "reveal" && count(event, "/look_up") == *seq;
                assert_eq!(events.iter().filter(of).count(), 1, "the reveal of {seq}, once");
            }
        }
    }
}

fn deployment(work: &std::path::Path) -> Site {
    let site = Site::make(&work.join("central"), &["Leeds", "Bradford"], 300).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    site
}

/// Those who stay as they are, and those whom every round changes.
fn people(site: &Site) -> (Vec<PersonRow>, Vec<PersonRow>) {
    let plain = |p: &&PersonRow| {
        !p.restricted
            && p.plans.len() == 1
            && p.plans[0].end.is_none()
            && p.plans[0].due.is_none()
            && p.plans[0].start.is_some()
    };
    let all: Vec<PersonRow> = site.people().iter().filter(plain).cloned().collect();
    let (steady, changing) = all.split_at(40);
    (steady.to_vec(), changing.to_vec())
}

/// Writes one round's extract: some end, some begin again, some go and come back.
fn round(site: &Site, changing: &[PersonRow], round: u64) -> std::path::PathBuf {
    let end = today().unwrap().plus_days(-i32::try_from(round % 200).unwrap()).iso();
    let lines: Vec<String> = changing
        .iter()
        .take(30)
        .zip(round..)
        .map(|(p, at)| {
            let (plan, number) = (&p.plans[0], p.number.digits());
            match at % 3 {
                0 => format!("{number},,,,,,,,,,,delete"),
                odd => {
                    let end = if odd == 1 && plan.start.unwrap() < today().unwrap().plus_days(-200) {
                        end.as_str()
                    } else {
                        ""
                    };
                    let who = [number, p.birth.iso(), p.surname.clone(), p.given.clone()].join(",");
                    format!(
                        "{who},,{},{},{end},,{},false,put",
                        plan.kind.code(),
                        plan.start.unwrap().iso(),
                        plan.authority.as_str()
                    )
                }
            }
        })
        .collect();
    site.extract(&format!("round-{round}.csv"), COLUMNS, &lines).unwrap()
}

fn ingest(site: &Site, file: &std::path::Path) -> Command {
    let mut command = site.command().unwrap();
    command.args(["--json", "ingest"]).arg(file).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn unlock(agent: &AgentSite) {
    let body = json!({ "practitioner": PRACTITIONER, "passphrase": PASSPHRASE });
    assert_eq!(Api::of(agent).unwrap().post("/v1/unlock", &body).unwrap().status, 200);
}

#[test]
fn the_agent_killed_at_any_moment() {
    let kills = setting("CPIS_KILLS", 40);
    let mut random = Random(setting("CPIS_SEED", 20_261_122));
    let work = tempfile::tempdir().unwrap();
    let site = deployment(work.path());
    let (steady, changing) = people(&site);
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let running = agent.start().unwrap();
    agent.sync().unwrap();
    running.kill().unwrap();
    let (mut acknowledged, mut gseq) = (Acknowledged::new(), 0);
    for kill in 0..kills {
        let running = agent.start().unwrap();
        let status = agent.status().unwrap();
        assert_eq!(
            (&status["copy"]["damaged"], &status["copy"]["cannot_answer"]),
            (&json!(0), &Value::Null),
            "kill {kill}"
        );
        assert!(count(&status, "/copy/gseq") >= gseq, "kill {kill}: the copy went back");
        gseq = count(&status, "/copy/gseq");
        unlock(&agent);
        let asking = Asking::start(&agent, &steady);
        let mut change = ingest(&site, &round(&site, &changing, kill)).spawn().unwrap();
        let api = Api::of(&agent).unwrap();
        for _ in 0..=random.below(3) {
            api.post("/v1/sync", &Value::Null).unwrap();
            random.pause(250);
        }
        running.kill().unwrap();
        asking.end(&mut acknowledged);
        assert!(change.wait().unwrap().success());
    }
    let mut running = agent.start().unwrap();
    agent.sync().unwrap();
    agent.drain(&mut running).unwrap();
    let events = site.events().unwrap();
    assert!(acknowledged.len() as u64 >= kills, "{} look-ups test nothing", acknowledged.len());
    eprintln!("{kills} kills, {} acknowledged of {} events", acknowledged.len(), events.len());
    assert_kept(&events, &acknowledged);
    assert_eq!(site.verify().unwrap()["intact"], json!(true));
    assert_eq!(agent.status().unwrap()["copy"]["damaged"], json!(0));
    drop(server);
}

/// An enrolment while the server dies: it is whole, or there is nothing in the directory and another invitation works.
struct Enrolment {
    process: std::process::Child,
    directory: std::path::PathBuf,
}

impl Enrolment {
    fn start(site: &Site, directory: std::path::PathBuf) -> Self {
        std::fs::create_dir_all(&directory).unwrap();
        let (invitation, passphrase) = (directory.join("invitation.txt"), directory.join("passphrase"));
        std::fs::write(&passphrase, PASSPHRASE).unwrap();
        let mut invite = site.command().unwrap();
        invite.args(["device", "invite", "--scope", "all", "--site", "crew", "--out"]).arg(&invitation);
        assert_eq!(Said::by(&mut invite).unwrap().code, 0);
        let mut enrol = program("cpis-agent").unwrap();
        enrol.arg("--dir").arg(directory.join("agent")).args(["enrol", "--practitioner", PRACTITIONER, "--invitation"]);
        enrol.arg(invitation).arg("--passphrase-file").arg(passphrase).stdout(Stdio::null()).stderr(Stdio::null());
        Self { process: enrol.spawn().unwrap(), directory }
    }

    /// After the server is back: the state is known to both sides, or to none.
    fn settle(mut self, site: &Site) {
        let done = self.process.wait().unwrap().success();
        let mut status = program("cpis-agent").unwrap();
        let said = Said::by(status.arg("--json").arg("--dir").arg(self.directory.join("agent")).arg("status")).unwrap();
        assert_eq!(said.code == 0, done, "enrolled is what the command said: {said:?}");
        if done {
            let devices = site.json(&["device", "list"]).unwrap().to_string();
            assert!(devices.contains(text(&said.json(), "/device")), "the server knows every device that was enrolled");
        } else {
            std::fs::remove_file(self.directory.join("invitation.txt")).unwrap();
            let agent = site.enrol(&self.directory, "crew");
            assert!(agent.is_ok(), "after a failure another invitation works: {agent:?}");
        }
    }
}

#[test]
fn the_server_killed_at_any_moment() {
    let kills = setting("CPIS_KILLS", 40).div_ceil(2);
    let mut random = Random(setting("CPIS_SEED", 4_711));
    let work = tempfile::tempdir().unwrap();
    let site = deployment(work.path());
    let (steady, changing) = people(&site);
    let mut server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let mut running = agent.start().unwrap();
    agent.sync().unwrap();
    unlock(&agent);
    let device = text(&agent.status().unwrap(), "/device").to_owned();
    let asking = Asking::start(&agent, &steady);
    for kill in 0..kills {
        let enrolment = (kill % 4 == 0).then(|| Enrolment::start(&site, work.path().join(format!("new-{kill}"))));
        let file = round(&site, &changing, kill);
        let mut change = ingest(&site, &file).spawn().unwrap();
        let _ = Api::of(&agent).unwrap().post("/v1/sync", &Value::Null);
        random.pause(400);
        if kill % 2 == 0 {
            // The process that writes the register dies as well: all of the file is in it, or nothing.
            let _ = change.kill();
        }
        server.kill().unwrap();
        let taken = change.wait().unwrap().success();
        let status = agent.status().unwrap();
        let received = site.events_of(&device).unwrap().len() as u64;
        assert!(count(&status, "/outbox/acknowledged") <= received, "kill {kill}: a receipt was revoked");
        server = site.serve().unwrap();
        again(&site, &file, taken);
        if let Some(enrolment) = enrolment {
            enrolment.settle(&site);
        }
        converge(&site, &agent, &mut running);
    }
    let mut acknowledged = Acknowledged::new();
    asking.end(&mut acknowledged);
    agent.sync().unwrap();
    agent.drain(&mut running).unwrap();
    let events = site.events_of(&device).unwrap();
    assert!(acknowledged.len() as u64 >= kills, "{} look-ups test nothing", acknowledged.len());
    eprintln!("{kills} kills, {} acknowledged of {} events", acknowledged.len(), events.len());
    assert_kept(&events, &acknowledged);
    assert_eq!(site.verify().unwrap()["intact"], json!(true));
    drop(server);
}

/// A file that was taken in is known; one whose taking in died was taken wholly or not at all.
fn again(site: &Site, file: &std::path::Path, taken: bool) {
    let mut command = site.command().unwrap();
    let said = Said::by(command.args(["--json", "ingest"]).arg(file)).unwrap();
    assert_eq!(said.code, 0, "{said:?}");
    let value = said.json();
    let changes = count(&value, "/added") + count(&value, "/changed") + count(&value, "/removed");
    if taken || value["before"].is_string() {
        assert!(value["before"].is_string() && changes == 0, "no accepted record is lost: {value}");
    }
    // Once more with the content compared and not the file: it must all be there.
    let mut command = site.command().unwrap();
    let said = Said::by(command.args(["--json", "ingest", "--again"]).arg(file)).unwrap().json();
    assert_eq!(count(&said, "/unchanged"), count(&said, "/records"), "{said}");
}

/// Syncs until the agent is where the server's newest head is.
fn converge(site: &Site, agent: &AgentSite, running: &mut Running) {
    let newest =
        || site.json(&["scope", "list"]).ok().map(|scopes| (count(&scopes, "/0/gseq"), count(&scopes, "/0/records")));
    let there = || {
        let Ok(status) = agent.status() else { return false };
        let at = (count(&status, "/copy/gseq"), count(&status, "/copy/records"));
        newest() == Some(at) || {
            let _ = agent.sync();
            false
        }
    };
    running.wait_until("the copy to be the server's newest", there).unwrap();
    assert_eq!(agent.status().unwrap()["copy"]["damaged"], json!(0));
}
