//! Certificates that renew themselves, with the real programs: short ones, expired ones, those of an authority that was
//! replaced; and what the device refuses.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cpis_agent::agent::{Agent, RenewalError};
use cpis_agent::certificate::{CertificateRefused, check, term};
use cpis_agent::config::Config;
use cpis_agent::device_secret::DeviceSecret;
use cpis_agent::keyslot::Keyslot;
use cpis_protocol::codec;
use cpis_protocol::message::DeviceReply;
use cpis_protocol::sign::Signer;
use cpis_server::certificate::{authority, device};
use cpis_server::clock::{Clock as _, SystemClock};
use cpis_server::home::Home;
use cpis_tests::process::run;
use cpis_tests::scene::{count, text};
use cpis_tests::site::{AgentSite, Site, SiteRules};
use serde_json::Value;

const DAY_MS: i64 = 86_400_000;

fn now_ms() -> i64 {
    SystemClock.now_ms()
}

fn site(work: &Path) -> Site {
    let site = Site::make(&work.join("central"), &["Leeds"], 40).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    site
}

fn set_days(site: &Site, days: u16) {
    let path = site.directory().join("server.toml");
    let settings = std::fs::read_to_string(&path).unwrap();
    let others: Vec<&str> = settings.lines().filter(|line| !line.starts_with("certificate_days")).collect();
    std::fs::write(path, format!("{}\ncertificate_days = {days}\n", others.join("\n"))).unwrap();
}

/// Tries again for a while: a process that another test is just starting holds this one's locks until it runs.
fn patiently<T, E: std::fmt::Debug>(open: impl Fn() -> Result<T, E>) -> T {
    for _ in 0..100 {
        if let Ok(opened) = open() {
            return opened;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    open().unwrap()
}

/// The keyslot of a stopped agent.
fn keyslot(agent: &AgentSite) -> Keyslot {
    let sources = Config::load(agent.directory()).unwrap().sources();
    let secret = DeviceSecret::open(agent.directory(), &sources).unwrap();
    patiently(|| Keyslot::open(&agent.directory().join(cpis_agent::agent::KEYSLOT), &secret))
}

fn certificate(agent: &AgentSite) -> Vec<u8> {
    keyslot(agent).contents().certificate.clone()
}

fn warned(agent: &AgentSite) -> bool {
    let examined = agent.json(&["doctor"]).unwrap();
    let checks = examined["checks"].as_array().unwrap();
    text(checks.iter().find(|check| check["name"] == "certificate").unwrap(), "/result") == "warning"
}

fn until(agent: &AgentSite) -> u64 {
    count(&agent.status().unwrap(), "/certificate_until_ms")
}

fn shown(site: &Site, agent: &AgentSite) -> Value {
    let id = text(&agent.status().unwrap(), "/device").to_owned();
    site.json(&["device", "show", &id]).unwrap()
}

/// The same over the agent itself: what it refuses changes nothing on the disk.
fn refuses_what_is_for_another_key(site: &Site, agent: &AgentSite) {
    let home = Home::open(site.directory()).unwrap();
    home.trust().unwrap();
    let kept = certificate(agent);
    let opened = patiently(|| Agent::open(agent.directory(), &Config::load(agent.directory()).unwrap()));
    let other = Signer::from_seed([9; 32]).public_key();
    let wrong = device(&home.keys.authority, &home.deployment, &other, now_ms(), 200).unwrap().der;
    let reply = codec::encode(&DeviceReply { certificate: wrong }).unwrap();
    assert!(matches!(opened.take_reply(&reply), Err(RenewalError::Certificate(CertificateRefused::OtherKey))));
    assert!(opened.take_reply(b"no reply").is_err());
    let none = codec::encode(&DeviceReply { certificate: Vec::new() }).unwrap();
    assert!(!opened.take_reply(&none).unwrap());
    opened.close();
    drop(opened);
    assert_eq!(certificate(agent), kept);
}

#[test]
fn a_certificate_that_is_nearly_over_is_renewed_without_hands() {
    let work = tempfile::tempdir().unwrap();
    let site = site(work.path());
    set_days(&site, 1);
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let old = certificate(&agent);
    server.stop().unwrap();
    set_days(&site, 90);
    let _server = site.serve().unwrap();
    let running = agent.start().unwrap();
    agent.sync().unwrap();
    let first = until(&agent);
    assert!(first > u64::try_from(now_ms() + 89 * DAY_MS).unwrap(), "{first}");
    agent.sync().unwrap();
    assert_eq!(until(&agent), first, "once is enough");
    assert!(!warned(&agent));
    let shown = shown(&site, &agent);
    assert_eq!(text(&shown, "/reported/device_secret"), "file");
    assert_eq!(text(&shown, "/reported/version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(count(&shown, "/reported/root_version"), 1);
    running.stop().unwrap();
    assert_ne!(certificate(&agent), old, "the old one is gone");
    refuses_what_is_for_another_key(&site, &agent);
}

#[test]
fn an_expired_certificate_and_one_by_a_replaced_authority_are_renewed() {
    let work = tempfile::tempdir().unwrap();
    let site = site(work.path());
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    // What a device holds that was away for months: by the same authority, over for a week.
    let over = {
        let home = Home::open(site.directory()).unwrap();
        home.trust().unwrap();
        let mut keyslot = keyslot(&agent);
        let key = keyslot.contents().signer.public_key();
        let over = device(&home.keys.authority, &home.deployment, &key, now_ms() - 10 * DAY_MS, 2).unwrap();
        let put = |contents: &mut cpis_agent::keyslot::Contents| {
            contents.certificate.clone_from(&over.der);
            Ok(())
        };
        keyslot.destroy(put).unwrap();
        over
    };
    let mut running = agent.start().unwrap();
    agent.sync().unwrap();
    let first = until(&agent);
    assert!(first > u64::try_from(now_ms() + 89 * DAY_MS).unwrap());
    // It is used: the server takes a look-up's record and gives heads.
    agent.unlock().unwrap();
    let person = site.flagged().unwrap();
    assert_eq!(text(&agent.look_up(person.number, person.birth).unwrap(), "/answer"), "flagged");
    agent.drain(&mut running).unwrap();

    let keys: Vec<PathBuf> = (1..=2).map(|n| work.path().join(format!("central/root-keys/root-{n}.rootkey"))).collect();
    let (before, next) = (work.path().join("present.root"), work.path().join("next.root"));
    run(site.command().unwrap().args(["root", "show", "--out"]).arg(&before)).unwrap();
    run(site.command().unwrap().args(["key", "next", "device-authority"])).unwrap();
    run(site.command().unwrap().args(["root", "draft", "--withdraw", "device-authority", "--out"]).arg(&next)).unwrap();
    for key in &keys {
        let mut sign = site.command().unwrap();
        run(sign.args(["root", "sign", "--yes", "--key"]).arg(key).arg("--before").arg(&before).arg(&next)).unwrap();
    }
    run(site.command().unwrap().args(["root", "install"]).arg(&next)).unwrap();
    server.stop().unwrap();
    let _server = site.serve().unwrap();
    // The first takes the root, the second reports under it.
    agent.sync().unwrap();
    agent.sync().unwrap();
    let second = until(&agent);
    assert!(second > first, "the same day, another authority: {first} {second}");
    agent.sync().unwrap();
    assert_eq!(until(&agent), second, "once is enough");
    running.stop().unwrap();
    assert_ne!(certificate(&agent), over.der);
    let trust = Home::open(site.directory()).unwrap().trust().unwrap();
    let now = &trust.root().authority_certificates[..1];
    let key = keyslot(&agent).contents().signer.public_key();
    assert!(check(&certificate(&agent), &over.der, &key, now, now_ms()).is_ok(), "by the present authority");
}

#[test]
fn only_a_later_certificate_for_the_same_key_by_a_trusted_authority_is_taken() {
    let now = now_ms();
    let (good, bad) = (Arc::new(Signer::from_seed([1; 32])), Arc::new(Signer::from_seed([2; 32])));
    let (key, other) = (Signer::from_seed([3; 32]).public_key(), Signer::from_seed([4; 32]).public_key());
    let trusted = vec![authority(&good, "test", now).unwrap()];
    let issue = |by, key, at, days| device(by, "test", key, at, days).unwrap().der;
    let present = issue(&good, &key, now, 5);
    let ask = |fresh: &[u8]| check(fresh, &present, &key, &trusted, now);
    let fresh = issue(&good, &key, now, 90);
    assert_eq!(ask(&fresh).ok(), term(&fresh));
    assert_eq!(ask(&issue(&good, &other, now, 90)), Err(CertificateRefused::OtherKey));
    assert_eq!(ask(&issue(&bad, &key, now, 90)), Err(CertificateRefused::NotIssued));
    assert_eq!(ask(&issue(&good, &key, now + 9 * DAY_MS, 90)), Err(CertificateRefused::NotIssued));
    assert_eq!(ask(&issue(&good, &key, now, 5)), Err(CertificateRefused::NotLater));
    assert_eq!(ask(&[fresh.as_slice(), b"x"].concat()), Err(CertificateRefused::Malformed));
    assert_eq!(ask(b"no certificate"), Err(CertificateRefused::Malformed));
    let soon = term(&present).unwrap();
    assert!(!soon.is_nearly_over(now) && soon.is_nearly_over(soon.until_ms - 2 * DAY_MS));
}
