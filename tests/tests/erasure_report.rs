//! A record leaves the register, with the real programs: who has proved that it is gone, and when the rest lock anyway.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use cpis_tests::process::run;
use cpis_tests::scene::{COLUMNS, count, text};
use cpis_tests::site::{AgentSite, Site, SiteRules};
use serde_json::Value;

fn device(agent: &AgentSite) -> String {
    text(&agent.status().unwrap(), "/device").to_owned()
}

fn listed<'a>(line: &'a Value, group: &str) -> Vec<&'a str> {
    line[group].as_array().unwrap().iter().map(|device| text(device, "/device")).collect()
}

#[test]
fn a_removed_record_is_proved_gone_or_locks_with_the_lease() {
    let work = tempfile::tempdir().unwrap();
    let site = Site::make(&work.path().join("central"), &["Leeds"], 60).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let server = site.serve().unwrap();
    let online = site.enrol(&work.path().join("online"), "crew").unwrap();
    let offline = site.enrol(&work.path().join("offline"), "crew").unwrap();
    let (mut one, two) = (online.start().unwrap(), offline.start().unwrap());
    for agent in [&online, &offline] {
        agent.sync().unwrap();
        agent.unlock().unwrap();
    }
    let (first, second) = (device(&online), device(&offline));
    assert!(two.stop().unwrap().success());

    let person = site.flagged().unwrap();
    let number = person.number.digits();
    assert_eq!(online.look_up(person.number, person.birth).unwrap()["answer"], "flagged");
    site.ingest("leaves.csv", COLUMNS, &[format!("{number},,,,,,,,,,,delete")]).unwrap();
    let report = || site.json(&["erasure", "--person", &number]).unwrap();
    let before = report();
    assert_eq!(before["removals"].as_array().unwrap().len(), 1, "{before}");
    let mut both = [first.as_str(), second.as_str()];
    both.sort_unstable();
    assert_eq!(listed(&before["removals"][0], "unproved"), both);

    online.sync().unwrap();
    assert_eq!(online.look_up(person.number, person.birth).unwrap()["answer"], "not-in-this-copy");
    one.wait_until("the erasure receipt to arrive", || listed(&report()["removals"][0], "proved") == [first.as_str()])
        .unwrap();
    let after = report();
    let removal = &after["removals"][0];
    assert_eq!(text(removal, "/proved/0/proof"), "update");
    assert_eq!(listed(removal, "unproved"), [second.as_str()]);
    let shown = site.json(&["device", "show", &second]).unwrap();
    let lease = text(removal, "/unproved/0/lease_end");
    assert!(!lease.is_empty() && shown.to_string().contains(lease), "{lease} {shown}");
    assert_eq!(removal.pointer("/unproved/0/lease_over"), Some(&Value::Bool(false)));

    let whole = site.json(&["erasure"]).unwrap();
    assert_eq!(listed(&whole["feeds"][0], "holding"), both);
    assert!(count(&whole, "/removals/0/removal") > 0);
    let said = run(site.command().unwrap().args(["erasure"])).unwrap();
    for needle in ["NOT PROVED", "proved it is gone", &first, &second, lease] {
        assert!(said.contains(needle), "{needle}: {said}");
    }
    assert!(![&whole.to_string(), &said].iter().any(|text| text.contains(&number)), "nobody is named");
    assert!(run(site.command().unwrap().args(["erasure", "--feed", "E09999999"])).is_err());
    // Somebody tries one number with one date of birth after another: the running server notices by itself.
    for day in 1..=6 {
        let (_, reply) = online.ask(&number, &format!("2014-05-0{day}"), &[]).unwrap();
        assert_eq!(text(&reply, "/answer"), "not-in-this-copy");
    }
    let alerts = || site.json(&["alert", "list"]).unwrap();
    one.wait_until("the alert in the server's log", || server.log().contains("enumeration-dates")).unwrap();
    assert!(!server.log().contains(&number));
    let alert = alerts();
    assert_eq!(text(&alert, "/0/kind"), "enumeration-dates");
    assert_eq!((text(&alert, "/0/device"), text(&alert, "/0/practitioner")), (first.as_str(), "P001"));
    assert!(!alert.to_string().contains(&number));
    let id = count(&alert, "/0/alert").to_string();
    let acknowledge = ["alert", "acknowledge", &id, "--by", "tester"];
    run(site.command().unwrap().args(acknowledge)).unwrap();
    assert!(run(site.command().unwrap().args(acknowledge)).is_err(), "once");
    assert_eq!(alerts().as_array().unwrap().len(), 0);
    assert_eq!(text(&site.json(&["alert", "list", "--all"]).unwrap(), "/0/acknowledged_by"), "tester");
    assert!(one.stop().unwrap().success());
    drop(server);
}
