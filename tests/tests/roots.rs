//! Roots and keys over the real programs: a device that was away while everything was replaced, by the network and by a
//! bundle, and programs that run while it is.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::path::{Path, PathBuf};

use cpis_server::ceremony::{self, Plan};
use cpis_server::clock::{Clock as _, SystemClock};
use cpis_server::home::Home;
use cpis_server::keys::file::Purpose;
use cpis_server::keys::root_key;
use cpis_tests::process::run;
use cpis_tests::scene::{count, text};
use cpis_tests::site::{AgentSite, Site, SiteRules};
use serde_json::json;
use tempfile::TempDir;

const DAY_MS: i64 = 86_400_000;

fn now_ms() -> i64 {
    SystemClock.now_ms()
}

fn site(work: &TempDir) -> Site {
    let site = Site::make(&work.path().join("central"), &["Leeds"], 40).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    site
}

/// Installs the next root as of `issued_ms`, signed by these key files.
fn install(site: &Site, plan: &Plan, issued_ms: i64, keys: &[PathBuf]) -> u32 {
    let home = Home::open(site.directory()).unwrap();
    home.trust().unwrap();
    let mut draft = ceremony::draft_as(&home, plan, issued_ms).unwrap();
    for key in keys {
        let signer = root_key::open(key, || unreachable!("made without a passphrase")).unwrap();
        draft = ceremony::endorse(&draft, &signer).unwrap();
    }
    ceremony::install(&home, &draft, now_ms()).unwrap().root().version
}

/// Five roots, all but the last past their end: every online key replaced, other root keys, other thresholds.
fn five_roots(site: &Site, work: &Path) {
    let old: Vec<PathBuf> = (1..=3).map(|n| work.join(format!("central/root-keys/root-{n}.rootkey"))).collect();
    let made = ceremony::make_root_keys(&work.join("new-roots"), 4, None).unwrap();
    let new: Vec<PathBuf> = made.iter().map(|(path, _)| path.clone()).collect();
    let public = |range: std::ops::Range<usize>| made[range].iter().map(|(_, key)| *key).collect::<Vec<_>>();
    let all = [Purpose::Publisher, Purpose::Beat, Purpose::Authority, Purpose::Receipt, Purpose::Audit];
    let past = |n: i64| now_ms() - (200 - n) * DAY_MS;
    for (n, purposes) in (0..).zip([&all[..2], &all[2..3], &all[3..]]) {
        for purpose in purposes {
            let home = Home::open(site.directory()).unwrap();
            home.trust().unwrap();
            home.keys.make_next(*purpose, &home.deployment, now_ms()).unwrap();
        }
        let plan = Plan { days: 30, withdraw: purposes.to_vec(), ..Plan::default() };
        install(site, &plan, past(n), &old[..2]);
    }
    let plan = Plan { root_keys: Some((public(0..3), 3)), days: 30, ..Plan::default() };
    install(site, &plan, past(4), &[&old[1..], &new[..3]].concat());
    let home = Home::open(site.directory()).unwrap();
    home.trust().unwrap();
    home.keys.make_next(Purpose::Authority, &home.deployment, now_ms()).unwrap();
    drop(home);
    let plan =
        Plan { root_keys: Some((public(2..4), 1)), days: 400, withdraw: vec![Purpose::Authority], ..Plan::default() };
    assert_eq!(install(site, &plan, now_ms() - DAY_MS, &new[..3]), 6);
}

fn assert_answers(site: &Site, agent: &AgentSite) {
    agent.unlock().unwrap();
    let person = site.flagged().unwrap();
    assert_eq!(text(&agent.look_up(person.number, person.birth).unwrap(), "/answer"), "flagged");
}

#[test]
fn away_while_every_key_was_replaced() {
    let work = tempfile::tempdir().unwrap();
    let site = site(&work);
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let [late, third] = ["late", "third"].map(|name| site.enrol(&work.path().join(name), "crew").unwrap());
    let mut running = agent.start().unwrap();
    agent.sync().unwrap();
    assert_answers(&site, &agent);
    assert!(agent.drain(&mut running).unwrap() > 0);
    running.stop().unwrap();
    five_roots(&site, work.path());
    // The server is stopped and started, so that it has no time to have taken anything up before.
    server.stop().unwrap();
    let server = site.serve().unwrap();
    let mut running = agent.start().unwrap();
    agent.sync().unwrap();
    let status = agent.status().unwrap();
    assert_eq!(count(&status, "/root_version"), 6, "{status}");
    assert_answers(&site, &agent);
    assert!(agent.drain(&mut running).unwrap() > 0, "the receipt is by the new key");
    assert_eq!(site.verify().unwrap()["intact"], json!(true));
    let events = site.events_of(text(&status, "/device")).unwrap();
    assert!(events.iter().all(|event| text(event, "/act") != "sealed"), "the old audit key is kept");
    running.stop().unwrap();
    // And by a bundle, for a device that reaches no server: roots travel in it.
    let bundle = work.path().join("all.cpisbundle");
    run(site.command().unwrap().args(["bundle", "--scope", "all", "--out"]).arg(&bundle)).unwrap();
    server.stop().unwrap();
    let running = late.start().unwrap();
    run(late.command().unwrap().arg("import").arg(&bundle)).unwrap();
    let status = late.status().unwrap();
    assert_eq!((count(&status, "/root_version"), count(&status, "/copy/records") >= 40), (6, true), "{status}");
    running.stop().unwrap();
    // The grant is by an authority that the root withdraws; the device starts again all the same.
    let running = late.start().unwrap();
    assert_eq!(count(&late.status().unwrap(), "/root_version"), 6);
    running.stop().unwrap();
    // From hand to hand as well: whoever followed the roots hands on each of them.
    let handed = work.path().join("handed.cpisbundle");
    run(agent.command().unwrap().arg("export").arg(&handed)).unwrap();
    run(third.command().unwrap().arg("import").arg(&handed)).unwrap();
    let status = third.status().unwrap();
    assert_eq!((count(&status, "/root_version"), count(&status, "/copy/records") >= 40), (6, true), "{status}");
}

/// The server and the agent both run while keys are replaced: neither is restarted.
#[test]
fn replaced_under_running_programs() {
    let work = tempfile::tempdir().unwrap();
    let site = site(&work);
    let config = site.directory().join("server.toml");
    let settings = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        settings.lines().filter(|l| !l.starts_with("tick_s")).collect::<Vec<_>>().join("\n") + "\ntick_s = 1\n",
    )
    .unwrap();
    let _server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let mut running = agent.start().unwrap();
    agent.sync().unwrap();
    let keys: Vec<PathBuf> = (1..=2).map(|n| work.path().join(format!("central/root-keys/root-{n}.rootkey"))).collect();
    let root = work.path().join("next.root");
    let before = work.path().join("present.root");
    for role in ["publisher", "beat", "device-authority", "receipt", "audit-recipient"] {
        run(site.command().unwrap().args(["root", "show", "--out"]).arg(&before)).unwrap();
        run(site.command().unwrap().args(["key", "next", role])).unwrap();
        run(site.command().unwrap().args(["root", "draft", "--withdraw", role, "--out"]).arg(&root)).unwrap();
        for key in &keys {
            let mut sign = site.command().unwrap();
            run(sign.args(["root", "sign", "--yes", "--key"]).arg(key).arg("--before").arg(&before).arg(&root))
                .unwrap();
        }
        run(site.command().unwrap().args(["root", "install"]).arg(&root)).unwrap();
        run(site.command().unwrap().args(["key", "list"])).unwrap();
    }
    running
        .wait_until("the newest root", || {
            let _ = agent.output(&["sync"]);
            agent.status().is_ok_and(|status| count(&status, "/root_version") == 6)
        })
        .unwrap();
    running.wait_until("a sync by the new keys", || agent.sync().is_ok()).unwrap();
    assert_answers(&site, &agent);
    assert!(agent.drain(&mut running).unwrap() > 0);
    running.stop().unwrap();
}
