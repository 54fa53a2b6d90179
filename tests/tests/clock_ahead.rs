//! A device that believes its wall clock after a restart (signed policy says so), and whose clock is ten days ahead of its
//! server: it must not refuse the very word that corrects it. The agent and the server are the real ones; the server's
//! slow clock is a grant that it signed ten days ago.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::sync::Arc;

use cpis_agent::agent::{Agent, KEYSLOT};
use cpis_agent::config::Config;
use cpis_agent::device_secret::DeviceSecret;
use cpis_agent::driver::pull_once;
use cpis_agent::keyslot::Keyslot;
use cpis_agent::port::Transport;
use cpis_agent::transport::{HttpTransport, install_provider};
use cpis_protocol::Refusal;
use cpis_protocol::clock::{Carrier, ClockRule, Reading, TrustedClock};
use cpis_protocol::grant::Grant;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::sign::Kind;
use cpis_protocol::sync::pull::Outcome;
use cpis_server::clock::{Clock as _, SystemClock};
use cpis_server::home::Home;
use cpis_tests::process::run;
use cpis_tests::site::{AgentSite, Site};

const DAY_MS: i64 = 86_400_000;

/// Puts one grant in the place of the server's.
struct SlowServer {
    behind: Arc<HttpTransport>,
    grant: Vec<u8>,
}

impl Transport for SlowServer {
    async fn send(&self, request: Request) -> Result<Vec<u8>, Failure> {
        match request {
            Request::Grant => Ok(self.grant.clone()),
            // It would bring the grant of today.
            Request::CatchUp(_) => Err(Failure::NotFound),
            other => self.behind.send(other).await,
        }
    }
}

/// The state of a device that has been restarted since its server spoke, twenty days ago: nothing anchors its time.
fn restarted(crew: &AgentSite) {
    let secret = DeviceSecret::open(crew.directory(), &Config::default().sources()).unwrap();
    let mut keyslot = Keyslot::open(&crew.directory().join(KEYSLOT), &secret).unwrap();
    let signed_ms = SystemClock.now_ms() - 20 * DAY_MS;
    let mut clock = TrustedClock::default();
    clock.set_rule(ClockRule::Believe);
    clock.observe(signed_ms, Carrier::Live, Reading { wall_ms: signed_ms, boot_ms: 1, boot_id: [0; 16] });
    keyslot
        .update(|contents| {
            contents.clock = clock;
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_believed_clock_that_is_ahead_does_not_refuse_what_corrects_it() {
    let work = tempfile::tempdir().unwrap();
    let site = Site::make(&work.path().join("central"), &["Leeds"], 40).unwrap();
    run(site.command().unwrap().args(["site", "add", "crew", "--clock-after-restart", "believe"])).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let server = site.serve().unwrap();
    let crew = site.enrol(&work.path().join("crew"), "crew").unwrap();
    restarted(&crew);
    install_provider();
    let agent = Arc::new(Agent::open(crew.directory(), &Config::load(crew.directory()).unwrap()).unwrap());
    assert!(agent.now().time_ms.is_some(), "it believes its wall clock");
    assert_eq!(agent.now_for(Carrier::Live).time_ms, None, "which proves nothing against its server");
    let authority = Home::open(site.directory()).unwrap().keys.authority.signer();
    let sync = |number: u64| {
        let now_ms = SystemClock.now_ms();
        let (issued_ms, lease_until_ms) = (now_ms - 10 * DAY_MS, now_ms - 3 * DAY_MS);
        let grant = Grant { number, issued_ms, lease_until_ms, ..(*agent.grant()).clone() };
        let grant = authority.sign(Kind::Grant, &grant).unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let transport = Arc::new(SlowServer { behind: agent.transport().unwrap(), grant });
            let mut machine = agent.pull_machine(true).unwrap();
            pull_once(&agent, &mut machine, &transport, Carrier::Live, true).await.0
        })
    };
    assert_eq!(sync(100), Outcome::UpToDate);
    assert_eq!(agent.grant().number, 100);
    // Now the server has spoken, and its time is known: the same is a grant whose lease is over.
    assert!(agent.now_for(Carrier::Live).time_ms.is_some());
    assert_eq!(sync(101), Outcome::Refused(Refusal::Expired));
    assert_eq!(agent.grant().number, 100);
    server.stop().unwrap();
}
