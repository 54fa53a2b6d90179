//! The life of a device with the real programs: suspended, resumed, moved, revoked, and a lease that runs out offline.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::path::Path;

use cpis_tests::process::run;
use cpis_tests::scene::{count, text};
use cpis_tests::site::{AgentSite, Site, SiteRules};
use serde_json::Value;

fn deployment(work: &Path) -> Site {
    let site = Site::make(&work.join("central"), &["Leeds", "Bradford"], 200).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    run(site.command().unwrap().args(["site", "add", "brief", "--lease-seconds", "25"])).unwrap();
    run(site.command().unwrap().args(["scope", "add", "leeds", "--authority", "Leeds"])).unwrap();
    site.add_practitioner(&["crew", "brief"]).unwrap();
    site
}

fn device(agent: &AgentSite) -> String {
    text(&agent.status().unwrap(), "/device").to_owned()
}

fn change(site: &Site, verb: &str, device: &str, more: &[&str]) -> Value {
    let arguments = [&["device", verb, device, "--reason", "a test", "--by", "tester"], more].concat();
    site.json(&arguments).unwrap()
}

fn asked(agent: &AgentSite, site: &Site) -> Value {
    let person = site.flagged().unwrap();
    agent.look_up(person.number, person.birth).unwrap()
}

fn erasures(site: &Site, device: &str) -> usize {
    site.events_of(device).unwrap().iter().filter(|event| text(event, "/act") == "erased").count()
}

#[test]
fn suspended_resumed_moved_and_revoked() {
    let work = tempfile::tempdir().unwrap();
    let site = deployment(work.path());
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let mut running = agent.start().unwrap();
    agent.sync().unwrap();
    agent.unlock().unwrap();
    assert_eq!(text(&asked(&agent, &site), "/answer"), "flagged");
    let id = device(&agent);

    change(&site, "suspend", &id, &[]);
    assert!(agent.sync().is_err());
    assert_eq!(text(&agent.status().unwrap(), "/copy/cannot_answer"), "suspended");
    assert!(agent.unlock().is_err(), "a suspended device stays locked");
    assert!(count(&agent.status().unwrap(), "/copy/records") > 0, "it keeps what it holds");
    change(&site, "resume", &id, &[]);
    agent.sync().unwrap();
    agent.unlock().unwrap();
    assert_eq!(text(&asked(&agent, &site), "/answer"), "flagged");

    change(&site, "move", &id, &["--scope", "leeds"]);
    agent.sync().unwrap();
    let status = agent.status().unwrap();
    assert_eq!((text(&status, "/scope"), count(&status, "/copy/feeds")), ("leeds", 1));
    agent.drain(&mut running).unwrap();
    assert_eq!(erasures(&site, &id), 1, "the feed that went is receipted");

    change(&site, "revoke", &id, &[]);
    assert!(agent.sync().is_err());
    agent.drain(&mut running).unwrap();
    let status = agent.status().unwrap();
    assert_eq!((text(&status, "/copy/cannot_answer"), count(&status, "/copy/records")), ("revoked", 0));
    assert_eq!(erasures(&site, &id), 2);
    assert_eq!(site.verify().unwrap()["intact"], true);
    assert!(!change_succeeds(&site, "resume", &id), "there is no way back");
    let shown = site.json(&["device", "show", &id]).unwrap();
    assert_eq!((text(&shown, "/state"), shown["events"].as_array().unwrap().len()), ("revoked", 4));
    assert_eq!(text(&shown, "/events/0/by"), "tester");

    // After a restart it is still erased, and says so.
    running.stop().unwrap();
    let running = agent.start().unwrap();
    assert_eq!(text(&agent.status().unwrap(), "/copy/cannot_answer"), "revoked");
    assert!(agent.unlock().is_err());
    running.stop().unwrap();
    server.stop().unwrap();
}

fn change_succeeds(site: &Site, verb: &str, device: &str) -> bool {
    run(site.command().unwrap().args(["device", verb, device])).is_ok()
}

#[test]
fn a_lease_that_runs_out_offline_destroys_the_keys_and_keeps_the_audit() {
    let work = tempfile::tempdir().unwrap();
    let site = deployment(work.path());
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("brief"), "brief").unwrap();
    let mut running = agent.start().unwrap();
    agent.sync().unwrap();
    agent.unlock().unwrap();
    let id = device(&agent);
    server.kill().unwrap();
    let reply = asked(&agent, &site);
    assert_eq!(text(&reply, "/answer"), "flagged");
    let before = count(&agent.status().unwrap(), "/outbox/waiting");
    assert!(before > 0);
    running
        .wait_until("the lease to run out", || {
            agent.status().is_ok_and(|status| {
                text(&status, "/copy/cannot_answer") == "lease-expired" && count(&status, "/copy/records") == 0
            })
        })
        .unwrap();
    assert_eq!(text(&asked(&agent, &site), "/answer"), "cannot-answer");
    assert!(agent.unlock().is_err(), "there is no slot any more");
    running.kill().unwrap();

    // The network comes back: what was recorded offline arrives, and the receipt behind it.
    let server = site.serve().unwrap();
    let mut running = agent.start().unwrap();
    agent.drain(&mut running).unwrap();
    let events = site.events_of(&id).unwrap();
    assert_eq!(erasures(&site, &id), 1);
    assert!(events.iter().any(|event| text(event, "/act") == "look-up"));
    assert_eq!(site.verify().unwrap()["intact"], true);
    running.stop().unwrap();
    server.stop().unwrap();
}
