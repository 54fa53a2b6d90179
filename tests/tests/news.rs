//! News within about a second, and whoever asks goes ahead of the schedule: the real programs over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]
#![allow(clippy::print_stdout, reason = "what was measured is shown where somebody looks")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use cpis_tests::bench::net::Line;
use cpis_tests::between::{Between, Way};
use cpis_tests::process::Running;
use cpis_tests::scene::{COLUMNS, count, number_from, text};
use cpis_tests::site::{AgentSite, Place, Site, SiteRules};

fn deployment(directory: &Path, place: Place, records: u32) -> Site {
    let site = Site::make_at(directory, place, &["Leeds"], records, &[]).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    site
}

fn ingest(site: &Site, n: u64) {
    let child = number_from(999_999_001 + n).unwrap();
    let line = format!("{},2016-05-06,Newly,Added,ZA1 1AA,cpp,2026-01-05,,,E08000035,,", child.digits());
    site.ingest(&format!("added-{n}.csv"), COLUMNS, &[line]).unwrap();
}

fn gseq(agent: &AgentSite) -> u64 {
    count(&agent.status().unwrap(), "/copy/gseq")
}

/// How long after the publication the device has it.
fn reaches(agent: &AgentSite, running: &mut Running, site: &Site, n: u64) -> Duration {
    let before = gseq(agent);
    ingest(site, n);
    let begun = Instant::now();
    running.wait_until("the change to reach the device", || gseq(agent) > before).unwrap();
    begun.elapsed()
}

#[test]
fn a_change_reaches_a_device_that_is_online_within_about_a_second() {
    let work = tempfile::tempdir().unwrap();
    let site = deployment(&work.path().join("central"), Place::loopback().unwrap(), 60);
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let mut running = agent.start().unwrap();
    agent.sync().unwrap();
    for n in 0..3 {
        let took = reaches(&agent, &mut running, &site, n);
        println!("after {} ms", took.as_millis());
        // A poll would have come after 150 seconds at the earliest.
        assert!(took < Duration::from_secs(6), "{took:?}");
    }
    assert_eq!(text(&agent.status().unwrap(), "/link/last_outcome"), "up to date");
    assert!(running.stop().unwrap().success());
    server.stop().unwrap();
}

#[test]
fn where_each_byte_is_paid_for_it_is_off() {
    let work = tempfile::tempdir().unwrap();
    let between = Between::start().unwrap();
    let site = deployment(&work.path().join("central"), between.place(), 60);
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    std::fs::write(agent.directory().join("agent.toml"), "device_secret = \"file\"\nnews = false\n").unwrap();
    let running = agent.start().unwrap();
    agent.sync().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let (before, carried) = (gseq(&agent), between.carried());
    ingest(&site, 1);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!((gseq(&agent), between.carried()), (before, carried), "not a byte until the next poll");
    agent.sync().unwrap();
    assert!(gseq(&agent) > before);
    assert!(running.stop().unwrap().success());
    server.stop().unwrap();
}

/// What it costs to be told: nothing while the question waits, over polls too; with each hold of the server's, once the
/// question and its answer with what TCP and Ethernet add.
#[test]
fn a_question_costs_a_few_hundred_bytes_and_waiting_nothing() {
    let work = tempfile::tempdir().unwrap();
    let line = Line::lay().unwrap();
    let site = deployment(&work.path().join("central"), line.place().unwrap(), 60);
    let config = site.directory().join("server.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let set = |hold_s: u32, poll_s: u32| {
        let text = text.replace("news_hold_s = 1800", &format!("news_hold_s = {hold_s}"));
        std::fs::write(&config, text.replace("poll_s = 300", &format!("poll_s = {poll_s}"))).unwrap();
        line.at_server(|| site.serve()).unwrap()
    };
    let server = set(10, 300);
    let agent = line
        .at_agent(|| {
            let agent = site.enrol(&work.path().join("crew"), "crew")?;
            let running = agent.start()?;
            agent.sync()?;
            // Between two answers: one answer and one question.
            line.wait_quiet(Duration::from_secs(3))?;
            let before = line.count()?;
            std::thread::sleep(Duration::from_secs(30));
            let count = line.count()?.since(&before);
            println!("{count:?} for three answers and three questions");
            assert!(count.connections == 0 && (300..=1_500).contains(&count.bytes()), "{count:?}");
            running.stop()?;
            Ok(agent)
        })
        .unwrap();
    server.stop().unwrap();
    let server = set(3_600, 5);
    line.at_agent(|| {
        let mut polls = [0, 0];
        for (news, bytes) in [true, false].into_iter().zip(&mut polls) {
            let settings = format!("device_secret = \"file\"\nnews = {news}\n");
            std::fs::write(agent.directory().join("agent.toml"), settings)?;
            let running = agent.start()?;
            agent.sync()?;
            // The place in the interval is found, and the question asked.
            std::thread::sleep(Duration::from_secs(10));
            let (before, attempts) = (line.count()?, count(&agent.status()?, "/link/attempts"));
            std::thread::sleep(Duration::from_secs(20));
            let each = line.count()?.since(&before).bytes() / (count(&agent.status()?, "/link/attempts") - attempts);
            println!("news {news}: {each} bytes for a poll");
            *bytes = each;
            running.stop()?;
        }
        assert!(polls[0] <= polls[1] + 60, "a question that is open over polls costs nothing: {polls:?}");
        Ok(())
    })
    .unwrap();
    server.stop().unwrap();
}

#[test]
fn whoever_asks_goes_ahead_of_the_wait() {
    let work = tempfile::tempdir().unwrap();
    let between = Between::start().unwrap();
    let site = deployment(&work.path().join("central"), between.place(), 60);
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let running = agent.start().unwrap();
    agent.sync().unwrap();
    server.stop().unwrap();
    for _ in 0..3 {
        assert!(agent.sync().is_err());
    }
    // It backs off now, for seconds at least; the spread is a minute.
    let server = site.serve().unwrap();
    let begun = Instant::now();
    agent.sync().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // The connection that is there hangs, and nobody says so: as after a change of networks.
    between.set(Way::OldOnesHang);
    let (begun, connections) = (Instant::now(), between.connections());
    agent.sync().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(between.connections() > connections, "over a new connection");
    // And where everything hangs, the end comes too; it is not begun anew for ever.
    let attempts = count(&agent.status().unwrap(), "/link/attempts");
    between.set(Way::Hangs);
    assert!(agent.sync().is_err());
    assert!(count(&agent.status().unwrap(), "/link/attempts") <= attempts + 2);
    let status = agent.status().unwrap();
    assert!(["silent", "cut"].contains(&text(&status, "/link/trouble/code")), "{status}");
    assert!(running.stop().unwrap().success());
    server.stop().unwrap();
}

/// A first download over a link of eight kilobytes a second; look-ups of what was there before are not slowed by it.
#[test]
fn look_ups_answer_while_a_slow_sync_runs_and_a_sync_that_gets_on_is_left_alone() {
    let work = tempfile::tempdir().unwrap();
    let between = Between::start().unwrap();
    let site = deployment(&work.path().join("central"), between.place(), 60);
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let mut running = agent.start().unwrap();
    agent.sync().unwrap();
    agent.unlock().unwrap();
    let person = site.flagged().unwrap();
    let ask = || {
        let begun = Instant::now();
        assert_eq!(text(&agent.look_up(person.number, person.birth).unwrap(), "/answer"), "flagged");
        begun.elapsed()
    };
    let alone = (0..5).map(|_| ask()).max().unwrap();
    between.set(Way::Slow(8_000));
    // Some nine digits have no valid tenth: then the next ones are taken, which come again.
    let children: BTreeSet<String> = (0..450).map(|n| number_from(999_300_000 + n).unwrap().digits()).collect();
    let line = |child| format!("{child},2016-05-06,Newly,Added,ZA1 1AA,cpp,2026-01-05,,,E08000035,,");
    let lines: Vec<String> = children.iter().map(line).collect();
    let before = gseq(&agent);
    site.ingest("many.csv", COLUMNS, &lines).unwrap();
    running
        .wait_until("the slow sync to run", || agent.status().unwrap()["link"]["syncing"] == serde_json::json!(true))
        .unwrap();
    let connections = between.connections();
    // Somebody asks for a sync meanwhile: it gets on, so it is not begun anew.
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| agent.sync());
        let (mut during, mut slowest) = (0, Duration::ZERO);
        while agent.status().unwrap()["link"]["syncing"] == serde_json::json!(true) && gseq(&agent) == before {
            slowest = slowest.max(ask());
            during += 1;
        }
        println!("{during} look-ups while it ran, the slowest {slowest:?}; alone {alone:?}");
        assert!(during >= 3, "the sync was over too soon to tell: {during}");
        assert!(slowest < alone * 3 + Duration::from_millis(500), "{slowest:?}, alone {alone:?}");
        asked.join().unwrap()
    });
    asked.unwrap();
    assert!(gseq(&agent) > before);
    assert_eq!(between.connections(), connections, "on the connection that was there");
    assert!(running.stop().unwrap().success());
    server.stop().unwrap();
}
