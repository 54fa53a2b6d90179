//! The sizes that the product is made for: 250,000 records in the register, about 20,000 in a device's scope.
//!
//! CPIS_SCALE_RECORDS sets another size of the register; the scope then shrinks with it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test stops where something is not as it must be"
)]

use std::collections::{BTreeMap, BTreeSet};

use cpis_protocol::nhs::Date;
use cpis_server::register::PersonRow;
use cpis_tests::loopback::Api;
use cpis_tests::process::run;
use cpis_tests::scene::{count, number_from, text};
use cpis_tests::site::{AgentSite, Site, SiteRules};
use serde_json::json;

/// Authorities, the largest first, until they have about a share of the register between them.
fn enough(people: &[PersonRow], wanted: usize) -> Vec<String> {
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for plan in people.iter().flat_map(|person| &person.plans) {
        *sizes.entry(plan.authority.as_str()).or_default() += 1;
    }
    let mut sizes: Vec<_> = sizes.into_iter().map(|(code, size)| (size, code.to_owned())).collect();
    sizes.sort();
    let mut sum = 0;
    let take = sizes.into_iter().rev().take_while(|(size, _)| {
        let more = sum < wanted;
        sum += size;
        more
    });
    take.map(|(_, code)| code).collect()
}

fn answer(api: &Api, number: &str, birth: &str) -> (String, u64) {
    let reply = api.post("/v1/look-up", &json!({ "nhs_number": number, "date_of_birth": birth })).unwrap();
    (text(&reply.body, "/answer").to_owned(), count(&reply.body, "/look_up"))
}

fn look_ups(site: &Site, agent: &AgentSite, scope: &[String]) {
    let api = Api::of(agent).unwrap();
    let in_scope =
        |person: &&PersonRow| person.plans.iter().any(|plan| scope.iter().any(|code| code == plan.authority.as_str()));
    let active = |person: &&PersonRow| {
        !person.restricted && person.plans.iter().all(|plan| plan.end.is_none() && plan.due.is_none())
    };
    let flagged: Vec<_> = site.people().iter().filter(in_scope).filter(active).collect();
    for person in flagged.iter().step_by((flagged.len() / 50).max(1)).take(50) {
        let (answer, look_up) = answer(&api, &person.number.digits(), &person.birth.iso());
        assert_eq!(answer, "flagged");
        let shown = api.post("/v1/reveal", &json!({ "look_up": look_up })).unwrap().body;
        let starts: BTreeSet<_> = shown["flags"].as_array().unwrap().iter().map(|flag| text(flag, "/start")).collect();
        let known: Vec<_> = person.plans.iter().filter_map(|plan| plan.start).map(Date::iso).collect();
        assert_eq!(starts, known.iter().map(String::as_str).collect());
    }
    // Known elsewhere, and not in this copy.
    let elsewhere: Vec<_> = site.people().iter().filter(|person| !in_scope(person)).collect();
    for person in elsewhere.iter().step_by((elsewhere.len() / 25).max(1)).take(25) {
        assert_eq!(answer(&api, &person.number.digits(), &person.birth.iso()).0, "not-in-this-copy");
    }
    // Nobody's, and somebody's with another date of birth.
    let known: BTreeSet<_> = site.people().iter().map(|person| person.number).collect();
    let free = (0u64..).map(|at| number_from(999_000_000 + at * 7_919 % 900_000).unwrap());
    for number in free.filter(|number| !known.contains(number)).take(25) {
        assert_eq!(answer(&api, &number.digits(), "2015-03-04").0, "not-in-this-copy");
    }
    assert_eq!(answer(&api, &flagged[0].number.digits(), "1901-01-01").0, "not-in-this-copy");
}

#[test]
fn a_nation_in_the_register_and_a_region_in_the_device() {
    let records: u32 = std::env::var("CPIS_SCALE_RECORDS").ok().and_then(|n| n.parse().ok()).unwrap_or(250_000);
    let work = tempfile::tempdir().unwrap();
    let site = Site::make(&work.path().join("central"), &[], records).unwrap();
    assert!(site.people().len() as u64 >= u64::from(records) * 99 / 100, "{}", site.people().len());
    let wanted = site.people().len() * 2 / 25;
    let scope = enough(site.people(), wanted);
    let mut add = site.command().unwrap();
    add.args(["scope", "add", "region"]);
    for code in &scope {
        add.args(["--authority", code]);
    }
    run(&mut add).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let _server = site.serve().unwrap();
    let agent = site.enrol_in("region", &work.path().join("crew"), "crew").unwrap();
    let mut running = agent.start().unwrap();
    agent.sync().unwrap();
    let status = agent.status().unwrap();
    let held = count(&status, "/copy/records");
    assert!(held as usize >= wanted && held < u64::from(records) / 5, "{held} of {wanted}: {status}");
    assert_eq!((count(&status, "/copy/damaged"), count(&status, "/copy/feeds")), (0, scope.len() as u64));
    agent.unlock().unwrap();
    look_ups(&site, &agent, &scope);
    agent.drain(&mut running).unwrap();
    assert_eq!(site.verify().unwrap()["intact"], json!(true));
    eprintln!("{} people in the register, {held} records in {} feeds of the device", site.people().len(), scope.len());
    assert!(running.stop().unwrap().success());
}
