//! Rot under a running agent: nothing is answered from it, and it mends itself at the price of a chunk. Real server.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use cpis_agent::agent::Agent;
use cpis_agent::config::Config;
use cpis_agent::port::Store as _;
use cpis_agent::transport::install_provider;
use cpis_agent::{doctor, driver, scrub};
use cpis_tests::site::{Site, SiteRules};
use tokio::sync::watch;

const RECORDS: u32 = 1500;

#[test]
fn damage_is_found_kept_from_answers_and_repaired_by_itself() {
    install_provider();
    let work = tempfile::tempdir().unwrap();
    let site = Site::make(&work.path().join("central"), &["E09000033"], RECORDS).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let _server = site.serve().unwrap();
    let enrolled = site.enrol(&work.path().join("agent"), "crew").unwrap();
    let agent = Arc::new(Agent::open(enrolled.directory(), &Config::load(enrolled.directory()).unwrap()).unwrap());
    let transport = agent.transport().unwrap();
    let (stop, shutdown) = watch::channel(false);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pulling = runtime.spawn(driver::pull(Arc::clone(&agent), Arc::clone(&transport), shutdown.clone()));
    let reading = runtime.spawn(scrub::run(Arc::clone(&agent), shutdown));
    let wait = |what: &str, mut until: Box<dyn FnMut() -> bool>| {
        let begun = Instant::now();
        while !until() {
            assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let held = Arc::clone(&agent);
    wait("the first copy", Box::new(move || held.replica().view().head.is_some()));
    assert_eq!(runtime.block_on(scrub::pass(&agent, Duration::ZERO)), 0);
    let (first, _) = transport.bytes();

    let store = agent.replica().store();
    let generation = agent.replica().view().feeds.values().next().unwrap().generation();
    let mut row = store.row(generation, 20).unwrap().unwrap();
    row[7] ^= 0x40;
    store.write_rows(generation, vec![(20, row)]).unwrap();
    // What a look-up does that meets it: it asks for a reading, and the reading for a repair.
    let held = Arc::clone(&agent);
    agent.scrub_status().wake();
    wait("the damage to be found", Box::new(move || held.scrub_status().found().1 == 1));
    let held = Arc::clone(&agent);
    wait("the repair", Box::new(move || held.replica().view().is_proved()));
    let (again, _) = transport.bytes();
    // Grant, root, beat, head, manifest, and one chunk of 40,960 bytes; the whole would be 240,000.
    assert!(again - first < 60_000, "{} bytes for one chunk", again - first);
    assert_eq!(runtime.block_on(scrub::pass(&agent, Duration::ZERO)), 0);
    let storage = doctor::examine(&agent).checks.into_iter().find(|check| check.name == "storage").unwrap();
    assert_eq!(storage.result, doctor::Result::Warning, "{}", storage.finding);
    stop.send(true).unwrap();
    runtime.block_on(async { (pulling.await.unwrap(), reading.await.unwrap()) });
}

/// Damage while there is no way to the server: "cannot answer", never an absence.
#[test]
fn damage_without_a_link_answers_nothing() {
    let work = tempfile::tempdir().unwrap();
    let site = Site::make(&work.path().join("central"), &["E09000033"], 300).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let server = site.serve().unwrap();
    let enrolled = site.enrol(&work.path().join("agent"), "crew").unwrap();
    let running = enrolled.start().unwrap();
    enrolled.sync().unwrap();
    enrolled.unlock().unwrap();
    let person = site.flagged().unwrap();
    let unknown = site.unknown().unwrap();
    let answer = |number| enrolled.look_up(number, person.birth).unwrap()["answer"].as_str().unwrap().to_owned();
    assert_eq!([answer(person.number), answer(unknown)], ["flagged", "not-in-this-copy"]);
    running.stop().unwrap();
    drop(server);
    {
        let config = Config::load(enrolled.directory()).unwrap();
        let agent = Agent::open(enrolled.directory(), &config).unwrap();
        let generation = agent.replica().view().feeds.values().next().unwrap().generation();
        let mut row = agent.replica().store().row(generation, 3).unwrap().unwrap();
        row[7] ^= 0x40;
        agent.replica().store().write_rows(generation, vec![(3, row)]).unwrap();
        agent.replica().store().commit(&[]).unwrap();
    }
    let _running = enrolled.start().unwrap();
    enrolled.unlock().unwrap();
    let storage = enrolled.json(&["doctor"]).unwrap();
    assert_eq!(storage["healthy"], false);
    assert_eq!([answer(person.number), answer(unknown)], ["cannot-answer", "cannot-answer"]);
}
