//! A stolen beat key pushes a device's clock ahead and the next root withdraws it: what was counted by that time neither
//! locks a crew out nor gives anything back, also where the device stops between the root and the next beat.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use cpis_agent::agent::{Agent, GlassError};
use cpis_agent::config::Config;
use cpis_agent::lookup::{Question, Reply, look_up};
use cpis_agent::transport::install_provider;
use cpis_protocol::answer::{Answer, CannotAnswer};
use cpis_protocol::clock::Carrier;
use cpis_protocol::head::Beat;
use cpis_protocol::sign::Kind;
use cpis_protocol::trust::Role;
use cpis_server::ceremony::{self, Plan};
use cpis_server::clock::{Clock as _, SystemClock};
use cpis_server::home::Home;
use cpis_server::keys::file::Purpose;
use cpis_server::keys::root_key;
use cpis_tests::process::{Running, run};
use cpis_tests::scene::{count, text};
use cpis_tests::site::{AgentSite, PASSPHRASE, PRACTITIONER, Site};
use serde_json::Value;
use tempfile::TempDir;

const HOUR_S: u64 = 3600;
const AHEAD_MS: i64 = 3 * 86_400_000;

struct Stage {
    agent: AgentSite,
    server: Option<Running>,
    site: Site,
    work: TempDir,
}

/// A synced and stopped agent at a site with two look-ups an hour and a break-glass of five minutes.
fn stage() -> Stage {
    let work = tempfile::tempdir().unwrap();
    let site = Site::make(&work.path().join("central"), &["Leeds"], 40).unwrap();
    let limits = ["--look-ups-at-once", "2", "--seconds-per-look-up", "3600"];
    let glass = ["--break-glass-look-ups", "1", "--break-glass-minutes", "5"];
    run(site.command().unwrap().args(["site", "add", "crew"]).args(limits).args(glass)).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let running = agent.start().unwrap();
    agent.sync().unwrap();
    assert!(running.stop().unwrap().success());
    install_provider();
    Stage { agent, server: Some(server), site, work }
}

impl Stage {
    fn open(&self) -> Agent {
        let directory = self.agent.directory();
        let agent = Agent::open(directory, &Config::load(directory).unwrap()).unwrap();
        // As its server does: the process has just started, and knows no time until it speaks.
        let reading = agent.clock().reading();
        agent.replica().observe(SystemClock.now_ms(), Carrier::Live, reading);
        agent.unlock(PRACTITIONER, PASSPHRASE).unwrap();
        agent
    }

    fn ask(&self, agent: &Agent) -> Reply {
        let person = self.site.flagged().unwrap();
        let (number, birth) = (person.number.digits(), person.birth.iso());
        look_up(agent, &Question { number, birth, ..Question::default() })
    }

    /// What the thief of the beat key signs, three days ahead and within the lease.
    fn push_ahead(&self, agent: &Agent) {
        let home = Home::open(self.site.directory()).unwrap();
        home.trust().unwrap();
        let newest = agent.replica().view().beat.as_ref().map(|beat| (**beat).clone()).unwrap();
        let beat = Beat { issued_ms: SystemClock.now_ms() + AHEAD_MS, ..newest };
        let bytes = home.keys.beat.sign(Kind::Beat, &beat).unwrap();
        let beat = Beat::verify(&bytes, &beat.scope, &agent.trust(), None, None).unwrap();
        agent.replica().confirm(&beat, Carrier::Live, agent.clock().reading()).unwrap();
    }

    /// The next root, without the stolen key.
    fn withdraw(&self) {
        let home = Home::open(self.site.directory()).unwrap();
        home.trust().unwrap();
        home.keys.make_next(Purpose::Beat, &home.deployment, SystemClock.now_ms()).unwrap();
        let plan = Plan { days: 30, withdraw: vec![Purpose::Beat], ..Plan::default() };
        let mut draft = ceremony::draft_as(&home, &plan, SystemClock.now_ms() - 1000).unwrap();
        for n in 1..=2 {
            let key = self.work.path().join(format!("central/root-keys/root-{n}.rootkey"));
            draft = ceremony::endorse(&draft, &root_key::open(&key, || unreachable!()).unwrap()).unwrap();
        }
        ceremony::install(&home, &draft, SystemClock.now_ms()).unwrap();
    }
}

fn refused(reply: &Reply) -> bool {
    matches!(reply.answer, Answer::CannotAnswer { reason: CannotAnswer::RateLimited })
}

/// What everybody counted by the time that was pushed ahead; by how much a crew would be locked out.
fn use_everything_up(stage: &Stage, agent: &Agent) {
    assert!(!refused(&stage.ask(agent)) && !refused(&stage.ask(agent)) && refused(&stage.ask(agent)));
    agent.break_glass("major incident", true).unwrap();
    let allowance = agent.allowance(cpis_protocol::text::Text::lossy(PRACTITIONER)).unwrap();
    assert!(allowance.look_ups == 0 && allowance.break_glass_until_ms.is_some());
    assert!(matches!(agent.break_glass("major incident", true), Err(GlassError::TooSoon { .. })));
}

/// The device is back with a live time, and its limits are as if all had been used just now: neither less nor more.
fn assert_limits(stage: &Stage) {
    let running = stage.agent.start().unwrap();
    stage.agent.sync().unwrap();
    stage.agent.unlock().unwrap();
    let status = stage.agent.status().unwrap();
    assert_eq!(count(&status, "/root_version"), 2, "{status}");
    let wait_s = count(&status, "/allowance/wait_s");
    assert!(count(&status, "/allowance/look_ups") == 0 && (HOUR_S - 120..=HOUR_S).contains(&wait_s), "{status}");
    assert_eq!(status["allowance"]["break_glass_look_ups"], Value::Null, "a glass broken ahead of the time is over");
    let person = stage.site.flagged().unwrap();
    let (_, reply) = stage.agent.ask(&person.number.digits(), &person.birth.iso(), &[]).unwrap();
    assert_eq!(text(&reply, "/reason"), "rate-limited", "nothing that was used comes back");
    let again = stage.agent.says(&["break-glass", "--reason", "major incident", "--yes"]).unwrap();
    let wait = again.err.split(|c: char| !c.is_ascii_digit()).find_map(|word| word.parse::<u64>().ok());
    assert!(again.code == 77 && wait.is_some_and(|wait| (2280..=2400).contains(&wait)), "{}", again.err);
    assert!(running.stop().unwrap().success());
    // Settled once: what time brings back comes back, also after a restart.
    let agent = stage.open();
    let wait = agent.allowance(cpis_protocol::text::Text::lossy(PRACTITIONER)).unwrap().wait_s;
    assert!(u64::from(wait) <= wait_s, "{wait} {wait_s}");
}

#[test]
fn what_was_counted_by_a_withdrawn_time_gives_way() {
    for crash in [false, true] {
        let mut stage = stage();
        let agent = stage.open();
        stage.push_ahead(&agent);
        use_everything_up(&stage, &agent);
        stage.server.take().unwrap().stop().unwrap();
        stage.withdraw();
        if crash {
            // The root is stored, and the device stops before it hears the time.
            let home = Home::open(stage.site.directory()).unwrap();
            let next = home.trust().unwrap();
            assert!(!next.stands(Role::Beat, Kind::Beat, agent.replica().view().beat.as_ref().unwrap()));
            agent.store_root(next).unwrap();
            assert_eq!(agent.now().time_ms, None, "the present is unknown");
        }
        drop(agent);
        stage.server = Some(stage.site.serve().unwrap());
        assert_limits(&stage);
    }
}
