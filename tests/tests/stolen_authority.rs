//! A thief who holds the device authority key and the network: a suspension with a number that no honest grant reaches,
//! and what one root does about it. The agent and the server are the real ones; only the thief's word is made here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::path::Path;
use std::sync::Arc;

use cpis_agent::agent::Agent;
use cpis_agent::config::Config;
use cpis_agent::driver::pull_once;
use cpis_agent::port::Transport;
use cpis_agent::transport::{HttpTransport, install_provider};
use cpis_protocol::Refusal;
use cpis_protocol::answer::CannotAnswer;
use cpis_protocol::clock::Carrier;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::sign::Kind;
use cpis_protocol::sync::pull::Outcome;
use cpis_protocol::withdrawal::{Withdrawal, WithdrawalAction};
use cpis_server::ceremony::{self, Plan};
use cpis_server::clock::{Clock as _, SystemClock};
use cpis_server::home::Home;
use cpis_server::keys::file::Purpose;
use cpis_server::keys::root_key;
use cpis_tests::scene::text;
use cpis_tests::site::{AgentSite, Site, SiteRules};

/// Passes everything on; in place of the grant comes the thief's word, while there is one.
struct Thief {
    behind: Arc<HttpTransport>,
    word: Option<Vec<u8>>,
}

impl Transport for Thief {
    async fn send(&self, request: Request) -> Result<Vec<u8>, Failure> {
        match (&request, &self.word) {
            (Request::Grant, Some(word)) => Ok(word.clone()),
            // It would bring the honest grant.
            (Request::CatchUp(_), Some(_)) => Err(Failure::NotFound),
            _ => self.behind.send(request).await,
        }
    }
}

fn open(agent: &AgentSite) -> Arc<Agent> {
    Arc::new(Agent::open(agent.directory(), &Config::load(agent.directory()).unwrap()).unwrap())
}

/// One attempt that asks for the grant.
fn sync(agent: &Arc<Agent>, word: Option<Vec<u8>>) -> Outcome {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let thief = Arc::new(Thief { behind: agent.transport().unwrap(), word });
        let mut machine = agent.pull_machine(true).unwrap();
        pull_once(agent, &mut machine, &thief, Carrier::Live, true).await.0
    })
}

/// The server's next root, by a new device authority alone.
fn withdraw_the_authority(site: &Site, work: &Path) {
    let now_ms = SystemClock.now_ms();
    let home = Home::open(site.directory()).unwrap();
    home.trust().unwrap();
    home.keys.make_next(Purpose::Authority, &home.deployment, now_ms).unwrap();
    let plan = Plan { days: 400, withdraw: vec![Purpose::Authority], ..Plan::default() };
    let mut draft = ceremony::draft_as(&home, &plan, now_ms).unwrap();
    for n in 1..=2 {
        let key = work.join(format!("central/root-keys/root-{n}.rootkey"));
        let signer = root_key::open(&key, || unreachable!("made without a passphrase")).unwrap();
        draft = ceremony::endorse(&draft, &signer).unwrap();
    }
    assert_eq!(ceremony::install(&home, &draft, now_ms).unwrap().root().version, 2);
}

#[test]
fn a_suspension_far_ahead_ends_with_the_key_that_signed_it() {
    let work = tempfile::tempdir().unwrap();
    let site = Site::make(&work.path().join("central"), &["Leeds"], 40).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let server = site.serve().unwrap();
    let crew = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let running = crew.start().unwrap();
    crew.sync().unwrap();
    assert!(running.stop().unwrap().success());

    install_provider();
    let agent = open(&crew);
    let stolen = Home::open(site.directory()).unwrap().keys.authority.signer();
    let action = WithdrawalAction::Suspend;
    let word = Withdrawal { device: agent.device(), number: u64::MAX, action, issued_ms: SystemClock.now_ms() };
    let word = stolen.sign(Kind::Withdrawal, &word).unwrap();
    assert_eq!(sync(&agent, Some(word.clone())), Outcome::Failed(Failure::Suspended));
    assert_eq!(agent.barred(), Some(CannotAnswer::Suspended));
    // No honest grant is above it, and a restart does not help.
    assert_eq!(sync(&agent, None), Outcome::Refused(Refusal::Rollback));
    drop(agent);
    let agent = open(&crew);
    assert_eq!(sync(&agent, None), Outcome::Refused(Refusal::Rollback));
    assert_eq!(agent.barred(), Some(CannotAnswer::Suspended));

    server.stop().unwrap();
    withdraw_the_authority(&site, work.path());
    let server = site.serve().unwrap();
    assert_eq!(sync(&agent, None), Outcome::UpToDate, "one root ends it, without enrolling anew");
    assert_eq!(agent.barred(), None);
    // What is stored of it says nothing any more, and the key nothing new.
    drop(agent);
    let agent = open(&crew);
    assert_eq!(sync(&agent, None), Outcome::UpToDate);
    assert_eq!(sync(&agent, Some(word)), Outcome::Refused(Refusal::UnknownKey));
    assert_eq!(agent.barred(), None);
    drop(agent);
    let running = crew.start().unwrap();
    crew.unlock().unwrap();
    let person = site.flagged().unwrap();
    assert_eq!(text(&crew.look_up(person.number, person.birth).unwrap(), "/answer"), "flagged");
    assert!(running.stop().unwrap().success());
    server.stop().unwrap();
}
