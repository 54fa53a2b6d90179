//! New feed keys with the real programs: one device online, one offline for a while, one enrolled afterwards.
//! It must not look inside: it asks as a crew does, and lists as an operator does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::sync::Arc;

use cpis_agent::agent::Agent;
use cpis_agent::config::Config;
use cpis_agent::lookup::{Question, look_up};
use cpis_agent::port::Transport as _;
use cpis_agent::transport::install_provider;
use cpis_protocol::answer::{Answer, CannotAnswer};
use cpis_protocol::grant::Grant;
use cpis_protocol::message::Request;
use cpis_tests::process::run;
use cpis_tests::scene::{count, text};
use cpis_tests::site::{AgentSite, PASSPHRASE, PRACTITIONER, Site, SiteRules};
use serde_json::Value;

fn feeds(site: &Site) -> Vec<Value> {
    let out = run(site.command().unwrap().args(["--json", "feed", "list"])).unwrap();
    serde_json::from_str::<Value>(&out).unwrap().as_array().unwrap().clone()
}

fn rotate(site: &Site, further: &[&str]) {
    run(site.command().unwrap().args(["feed", "rotate", "--all"]).args(further)).unwrap();
}

fn answer(agent: &AgentSite, site: &Site) -> String {
    let person = site.flagged().unwrap();
    let (_, reply) = agent.ask(&person.number.digits(), &person.birth.iso(), &[]).unwrap();
    text(&reply, "/answer").to_owned()
}

fn miss(agent: &AgentSite, site: &Site) -> String {
    let person = site.flagged().unwrap();
    let (_, reply) = agent.ask(&person.number.digits(), "1931-01-01", &[]).unwrap();
    text(&reply, "/answer").to_owned()
}

#[test]
fn whoever_held_a_feed_reads_on_and_a_newcomer_gets_the_current_key() {
    let work = tempfile::tempdir().unwrap();
    let site = Site::make(&work.path().join("central"), &["Leeds", "Bradford"], 60).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let server = site.serve().unwrap();
    let online = site.enrol(&work.path().join("online"), "crew").unwrap();
    let offline = site.enrol(&work.path().join("offline"), "crew").unwrap();
    let one = online.start().unwrap();
    let two = offline.start().unwrap();
    for agent in [&online, &offline] {
        agent.sync().unwrap();
        agent.unlock().unwrap();
        assert_eq!([answer(agent, &site), miss(agent, &site)], ["flagged", "not-in-this-copy"]);
    }
    // The second is away while keys are rotated and then everything is sealed anew.
    assert!(two.stop().unwrap().success());
    let before = feeds(&site);
    rotate(&site, &[]);
    let rotated = feeds(&site);
    assert!(rotated.iter().all(|feed| (count(feed, "/key"), count(feed, "/oldest_key")) == (2, 1)), "{rotated:?}");
    assert_eq!(before[0]["epoch"], rotated[0]["epoch"]);
    online.sync().unwrap();
    assert_eq!(
        [answer(&online, &site), miss(&online, &site)],
        ["flagged", "not-in-this-copy"],
        "unlocked all the while"
    );
    rotate(&site, &["--reseal"]);
    let resealed = feeds(&site);
    assert!(resealed.iter().all(|feed| (count(feed, "/key"), count(feed, "/oldest_key")) == (3, 3)), "{resealed:?}");
    assert_ne!(before[0]["epoch"], resealed[0]["epoch"]);
    assert_eq!(count(&resealed[0], "/devices_with_older_keys"), 2);
    online.sync().unwrap();
    assert_eq!([answer(&online, &site), miss(&online, &site)], ["flagged", "not-in-this-copy"], "in the same session");
    // The other comes back, still locked: courier first, then somebody unlocks.
    let two = offline.start().unwrap();
    offline.sync().unwrap();
    offline.unlock().unwrap();
    assert_eq!([answer(&offline, &site), miss(&offline, &site)], ["flagged", "not-in-this-copy"]);
    // A third, after one more rotation: it gets the current key only, for which the feeds are sealed anew.
    rotate(&site, &[]);
    let third = site.enrol(&work.path().join("third"), "crew").unwrap();
    let last = feeds(&site);
    assert!(last.iter().all(|feed| (count(feed, "/key"), count(feed, "/oldest_key")) == (5, 5)), "{last:?}");
    assert_eq!(count(&last[0], "/devices_with_older_keys"), 2, "the third is not one of them");
    let three = third.start().unwrap();
    third.sync().unwrap();
    third.unlock().unwrap();
    for agent in [&online, &offline, &third] {
        agent.sync().unwrap();
        assert_eq!([answer(agent, &site), miss(agent, &site)], ["flagged", "not-in-this-copy"]);
    }
    for running in [one, two, three] {
        assert!(running.stop().unwrap().success());
    }
    drop(server);
}

/// The answers of the agent library to somebody flagged and to somebody whom nobody knows.
fn answers(agent: &Agent, site: &Site) -> [Answer; 2] {
    let person = site.flagged().unwrap();
    ["", "1931-01-01"].map(|birth| {
        let birth = if birth.is_empty() { person.birth.iso() } else { birth.to_owned() };
        look_up(agent, &Question { number: person.number.digits(), birth, ..Question::default() }).answer
    })
}

#[track_caller]
fn reads(answers: &[Answer; 2]) {
    let [hit, miss] = answers;
    assert!(matches!(hit, Answer::Flagged { .. }), "{hit:?}");
    assert!(matches!(miss, Answer::NotInThisCopy { .. }), "{miss:?}");
}

/// A grant for a copy that is not here yet: the keys of the present copy are in the grant before it.
#[test]
fn a_newer_grant_leaves_the_present_copy_readable_and_without_its_keys_there_is_no_miss() {
    let work = tempfile::tempdir().unwrap();
    let site = Site::make(&work.path().join("central"), &["Leeds", "Bradford"], 60).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let _server = site.serve().unwrap();
    let enrolled = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let running = enrolled.start().unwrap();
    enrolled.sync().unwrap();
    assert!(running.stop().unwrap().success());
    rotate(&site, &["--reseal"]);

    install_provider();
    let open = || Agent::open(enrolled.directory(), &Config::load(enrolled.directory()).unwrap()).unwrap();
    let agent = open();
    agent.unlock(PRACTITIONER, PASSPHRASE).unwrap();
    reads(&answers(&agent, &site));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let asked = agent.clock().reading();
    let transport = runtime.block_on(async { agent.transport().unwrap() });
    let bytes = runtime.block_on(transport.send(Request::Grant)).unwrap();
    drop(transport);
    let before = agent.grant();
    let newest = Grant::verify(&bytes, &agent.device(), &agent.trust(), Some(&before)).unwrap();
    assert!(newest.number > before.number);
    let covers = |grant: &Grant| agent.replica().view().head.as_ref().is_some_and(|head| grant.covers(head));
    assert!(covers(&before) && !covers(&newest), "the newer grant is for the copy that is still to come");
    agent.store_grant(newest, asked).unwrap();
    assert_eq!(agent.grant().number, before.number + 1);
    reads(&answers(&agent, &site));
    // Also for whoever unlocks now, and after a restart between the grant and the copy.
    agent.lock();
    agent.unlock(PRACTITIONER, PASSPHRASE).unwrap();
    reads(&answers(&agent, &site));
    drop(agent);
    let agent = Arc::new(open());
    agent.unlock(PRACTITIONER, PASSPHRASE).unwrap();
    reads(&answers(&agent, &site));

    // A session with the newest keys alone: neither somebody flagged nor anybody else is "not in this copy".
    assert!(agent.vault().renew(&agent.grant(), None, agent.now().time_ms).is_none());
    for answer in answers(&agent, &site) {
        assert!(matches!(answer, Answer::CannotAnswer { reason: CannotAnswer::KeyMissing }), "{answer:?}");
    }
    assert_eq!(CannotAnswer::KeyMissing.code(), "key-missing");
    drop(agent);

    // The copy arrives: the newest grant alone reads it, and the one before is let go of.
    let running = enrolled.start().unwrap();
    enrolled.sync().unwrap();
    enrolled.unlock().unwrap();
    assert_eq!([answer(&enrolled, &site), miss(&enrolled, &site)], ["flagged", "not-in-this-copy"]);
    assert!(running.stop().unwrap().success());
    let secret = cpis_agent::device_secret::DeviceSecret::open(enrolled.directory(), &Config::default().sources());
    let keyslot = cpis_agent::keyslot::Keyslot::open(&enrolled.directory().join("keyslot"), &secret.unwrap()).unwrap();
    assert!(keyslot.contents().previous_grant.is_empty());
}
