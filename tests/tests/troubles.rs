//! What stands between a device and its server is named in `status`, `doctor` and `sync`, each kind by itself, with what
//! to do: the real agent, real sockets. The last good copy answers all the while.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cpis_agent::clock::SystemClock;
use cpis_agent::port::{Clock, Transport as _};
use cpis_agent::transport::HttpTransport;
use cpis_agent::trouble::Trouble;
use cpis_protocol::clock::Reading;
use cpis_protocol::message::{Failure, Request};
use cpis_server::clock::Clock as _;
use cpis_tests::between::{Between, Way};
use cpis_tests::process::{output, run};
use cpis_tests::scene::text;
use cpis_tests::site::{AgentSite, Place, Site, SiteRules};
use serde_json::Value;

fn deployment(directory: &Path, place: Place) -> Site {
    let site = Site::make_at(directory, place, &["Leeds"], 60, &[]).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    site
}

fn port(site: &Site) -> u16 {
    site.url().rsplit(':').next().unwrap().parse().unwrap()
}

/// What `status` and `doctor` say of the link after a sync that failed.
fn trouble(agent: &AgentSite) -> (String, String, String) {
    assert!(agent.sync().is_err());
    let status = agent.status().unwrap();
    let of = |name: &str| text(&status, &format!("/link/trouble/{name}")).to_owned();
    let (code, finding, remedy) = (of("code"), of("finding"), of("remedy"));
    assert_eq!(text(&status, "/link/last_outcome"), finding, "{status}");
    let doctor = agent.json(&["doctor"]).unwrap();
    let checks = doctor["checks"].as_array().unwrap();
    let link = checks.iter().find(|check| check["name"] == "link").unwrap();
    assert_eq!((text(link, "/finding"), text(link, "/remedy")), (finding.as_str(), remedy.as_str()));
    let shown = agent.output(&["status"]).unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&finding) && shown.contains(&remedy), "{shown}");
    (code, finding, remedy)
}

#[test]
fn page_foreign_certificate_and_silence_of_the_port_are_told_apart() {
    let work = tempfile::tempdir().unwrap();
    let between = Between::start().unwrap();
    let site = deployment(&work.path().join("central"), between.place());
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let running = agent.start().unwrap();
    agent.sync().unwrap();
    agent.unlock().unwrap();
    assert_eq!(agent.status().unwrap()["link"]["trouble"], Value::Null);

    // New connections only, as when a device comes into another network: the old one is cut with the server.
    server.stop().unwrap();
    between.set(Way::Page);
    let (code, finding, remedy) = trouble(&agent);
    assert_eq!(code, "sign-in-page");
    assert!(finding.contains("sign-in page") && remedy.contains("browser"), "{finding}: {remedy}");

    // Another deployment's server stands for whoever opens TLS: its certificate is good, by another authority.
    let other = deployment(&work.path().join("other"), Place::loopback().unwrap());
    let liar = other.serve().unwrap();
    between.lead_to(SocketAddr::from(([127, 0, 0, 1], port(&other))));
    between.set(Way::Open);
    let (code, finding, remedy) = trouble(&agent);
    assert_eq!(code, "tls-opened");
    assert!(finding.contains("certificate by \"CPIS Edge") && remedy.contains("inspection"), "{finding}: {remedy}");
    liar.stop().unwrap();

    let person = site.flagged().unwrap();
    let answer = agent.look_up(person.number, person.birth).unwrap();
    assert_eq!(text(&answer, "/answer"), "flagged", "the last good copy goes on answering");

    assert!(running.stop().unwrap().success());
}

/// A proxy that every connection must go through, as in many trusts: what it says is told apart; and without it the name.
#[test]
fn what_a_proxy_says_is_named_and_so_is_an_unknown_name() {
    let work = tempfile::tempdir().unwrap();
    let between = Between::start().unwrap();
    between.set(Way::Proxy);
    let place = Place { url: "https://cpis.invalid:8443".into(), listen: between.place().listen };
    let site = deployment(&work.path().join("central"), place);
    let server = site.serve().unwrap();
    let agent = site.invite("all", &work.path().join("crew"), "crew").unwrap();
    let proxy = format!("http://127.0.0.1:{}", between.port);
    run(agent.enrolment().unwrap().env("HTTPS_PROXY", &proxy)).unwrap();
    let sync = |proxied: bool| {
        let mut command = agent.command().unwrap();
        if proxied {
            command.env("HTTPS_PROXY", &proxy);
        }
        let output = output(command.args(["--json", "sync"])).unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let of = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        (output.status.code(), of("error"), of("hint"))
    };
    assert_eq!(sync(true).0, Some(0), "through the proxy");
    for (way, word) in [(Way::ProxySignIn, "wants a name and a password"), (Way::ProxyRefuses, "does not let")] {
        between.set(way);
        let (code, error, hint) = sync(true);
        assert_eq!(code, Some(69), "{error}");
        assert!(error.contains(word) && hint.contains("HTTPS_PROXY"), "{error}: {hint}");
    }
    between.set(Way::Proxy);
    assert_eq!(sync(true).0, Some(0), "and nothing is lost");
    let (code, error, hint) = sync(false);
    assert_eq!(code, Some(69));
    assert!(error.contains("does not know the server's name") && hint.contains("DNS"), "{error}: {hint}");
    server.stop().unwrap();
}

#[test]
fn no_network_and_a_stopped_server_are_told_apart() {
    let work = tempfile::tempdir().unwrap();
    let site = deployment(&work.path().join("central"), Place::loopback().unwrap());
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let running = agent.start().unwrap();
    agent.sync().unwrap();
    server.stop().unwrap();
    let (code, finding, _) = trouble(&agent);
    assert_eq!(code, "refused");
    assert!(finding.contains("nothing listens"), "{finding}");
    let server = site.serve().unwrap();
    agent.sync().unwrap();
    assert_eq!(agent.status().unwrap()["link"]["trouble"], Value::Null, "it is over");
    assert!(running.stop().unwrap().success());
    // A network namespace of its own, in which not even loopback is up.
    let command = agent.command().unwrap();
    let mut alone = Command::new("unshare");
    alone.args(["--user", "--map-root-user", "--net"]).arg(command.get_program()).args(command.get_args());
    let output = output(alone.args(["--json", "sync"])).unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert!(text(&said, "/error").contains("no network"), "{said} {}", String::from_utf8_lossy(&output.stderr));
    assert!(text(&said, "/hint").contains("Wi-Fi"), "{said}");
    server.stop().unwrap();
}

/// A wall clock that is somewhere else.
struct Off(SystemClock, i64);

impl Clock for Off {
    fn reading(&self) -> Reading {
        let reading = self.0.reading();
        Reading { wall_ms: reading.wall_ms + self.1, ..reading }
    }
}

/// The server's own certificate, and a device whose clock is years away: not taken for an inspecting proxy.
#[test]
fn a_clock_so_wrong_that_tls_fails_is_named() {
    let work = tempfile::tempdir().unwrap();
    let site = deployment(&work.path().join("central"), Place::loopback().unwrap());
    let server = site.serve().unwrap();
    let home = cpis_server::home::Home::open(site.directory()).unwrap();
    let authorities = home.trust().unwrap().root().authority_certificates.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let year_ms = 365 * 86_400_000i64;
    for (off_ms, ours, expected) in
        [(0, true, "none"), (30 * year_ms, true, "clock"), (-30 * year_ms, true, "clock"), (0, false, "opened")]
    {
        let clock: Arc<dyn Clock> = Arc::new(Off(SystemClock::new([1; 16]), off_ms));
        let known = if ours { authorities.clone() } else { foreign() };
        let transport = HttpTransport::new(&site.url(), &known, None, clock, 0).unwrap();
        let reply = runtime.block_on(transport.send(Request::Root(1)));
        let found = transport.trouble();
        match expected {
            "none" => assert_eq!((reply, found), (Err(Failure::Unauthorised), None)),
            "clock" => {
                assert_eq!(reply, Err(Failure::NotTheServer));
                assert!(matches!(found, Some(Trouble::WrongClock { .. })), "{off_ms}: {found:?}");
            }
            _ => {
                assert_eq!(reply, Err(Failure::NotTheServer));
                assert!(
                    matches!(&found, Some(Trouble::Opened { issuer }) if issuer.contains("Demonstration")),
                    "{found:?}"
                );
            }
        }
    }
    server.stop().unwrap();
}

fn foreign() -> Vec<Vec<u8>> {
    let signer = Arc::new(cpis_protocol::sign::Signer::from_seed([9; 32]));
    vec![cpis_server::certificate::authority(&signer, "Elsewhere", cpis_server::clock::SystemClock.now_ms()).unwrap()]
}
