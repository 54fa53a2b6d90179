//! New feed keys with the real programs: one device online, one offline for a while, one enrolled afterwards.
//! It must not look inside: it asks as a crew does, and lists as an operator does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use cpis_tests::process::run;
use cpis_tests::scene::{count, text};
use cpis_tests::site::{AgentSite, Site, SiteRules};
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
