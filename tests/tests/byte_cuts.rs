//! The link is cut at a byte, over and over: no body byte comes twice, and the copy gets there. Real server, real TLS.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::path::Path;
use std::sync::Arc;

use cpis_agent::agent::Agent;
use cpis_agent::config::Config;
use cpis_agent::transport::install_provider;
use cpis_agent::{bundle, driver};
use cpis_protocol::clock::Carrier;
use cpis_protocol::sync::pull::Outcome;
use cpis_tests::cutting::Cutting;
use cpis_tests::process::run;
use cpis_tests::scene::COLUMNS;
use cpis_tests::site::{Site, SiteRules};

/// One authority: one feed of several chunks.
const AUTHORITY: [&str; 1] = ["E09000033"];
const RECORDS: u32 = 600;
/// More chunks than requests go out at once.
const MORE: u32 = 2600;
/// A handshake from the server and the smallest replies fit; a chunk of 40,960 bytes does not.
const BYTES: [u64; 4] = [11_503, 17_003, 19_997, 45_001];

/// Attempts, however long each says to wait, until the copy is there; restarts in between when asked for.
fn attempts(directory: &Path, relay: &Cutting, bytes: u64, restart_every: usize) -> (usize, u64) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let open = || {
        relay.cut_after(u64::MAX);
        let agent = Arc::new(Agent::open(directory, &Config::load(directory).unwrap()).unwrap());
        let transport = agent.transport().unwrap();
        relay.cut_after(bytes);
        (agent.pull_machine(true).unwrap(), agent, transport)
    };
    let (mut machine, mut agent, mut transport) = open();
    let mut received = 0;
    for attempt in 1..600 {
        let pulled = driver::pull_once(&agent, &mut machine, &transport, Carrier::Live, false);
        if runtime.block_on(pulled).0 == Outcome::UpToDate {
            assert!(agent.replica().view().is_proved());
            agent.close();
            return (attempt, received + transport.bytes().0);
        }
        if attempt % restart_every == 0 {
            received += transport.bytes().0;
            agent.close();
            drop((machine, agent, transport));
            (machine, agent, transport) = open();
        }
    }
    panic!("600 attempts of {bytes} bytes a connection do not bring the copy");
}

#[test]
fn a_cut_at_any_byte_goes_on_at_that_byte() {
    install_provider();
    let work = tempfile::tempdir().unwrap();
    let relay = Cutting::start().unwrap();
    let site = Site::make_at(work.path(), relay.place().unwrap(), &AUTHORITY, RECORDS, &[]).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let _server = site.serve().unwrap();
    let mut whole = 0;
    for (at, bytes) in [u64::MAX].into_iter().chain(BYTES).enumerate() {
        let enrolled = site.enrol(&work.path().join(format!("agent{at}")), "crew").unwrap();
        let before = relay.cuts();
        let (attempts, received) = attempts(enrolled.directory(), &relay, bytes, usize::MAX);
        relay.cut_after(u64::MAX);
        if bytes == u64::MAX {
            assert_eq!(attempts, 1);
            whole = received;
            continue;
        }
        assert!(relay.cuts() > before, "{bytes} bytes a connection: nothing was cut");
        // Each attempt asks once for a beat, at most one grant and one root more.
        let small = u64::try_from(attempts).unwrap() * 1024 + 8192;
        assert!(received <= whole + small, "{bytes}: {received} bytes of bodies in {attempts} attempts for {whole}");
    }
}

/// The agent stops after every third attempt as well: chunks that came whole are not fetched again.
#[test]
fn cuts_and_restarts_converge() {
    install_provider();
    let work = tempfile::tempdir().unwrap();
    let relay = Cutting::start().unwrap();
    let site = Site::make_at(work.path(), relay.place().unwrap(), &AUTHORITY, MORE, &[]).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let _server = site.serve().unwrap();
    let enrolled = site.enrol(&work.path().join("agent"), "crew").unwrap();
    let (attempts, received) = attempts(enrolled.directory(), &relay, 20_011, 3);
    assert!(attempts > 3, "it stopped at least once");
    // What a restart loses, and no more, is the unfinished part of at most eight objects.
    let lost = u64::try_from(attempts / 3).unwrap() * 8 * 20_011;
    let whole = u64::from(MORE) * 200 + 65_536;
    assert!(received <= whole + lost, "{received} bytes of bodies for {whole}, of which {lost} may be lost");
}

/// A stick brings what the link began: the head on its way in is finished from it, or given up for the stick's own.
#[test]
fn a_bundle_takes_over_from_the_link() {
    install_provider();
    let work = tempfile::tempdir().unwrap();
    let relay = Cutting::start().unwrap();
    let site = Site::make_at(work.path(), relay.place().unwrap(), &AUTHORITY, MORE, &[]).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let _server = site.serve().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for moved in [false, true] {
        let enrolled = site.enrol(&work.path().join(format!("agent-{moved}")), "crew").unwrap();
        let config = Config::load(enrolled.directory()).unwrap();
        let agent = Arc::new(Agent::open(enrolled.directory(), &config).unwrap());
        let (transport, mut machine) = (agent.transport().unwrap(), agent.pull_machine(true).unwrap());
        relay.cut_after(20_011);
        while agent.replica().staged().is_empty() {
            let pulled = driver::pull_once(&agent, &mut machine, &transport, Carrier::Live, false);
            assert_ne!(runtime.block_on(pulled).0, Outcome::UpToDate, "the link was too good");
        }
        relay.cut_after(u64::MAX);
        assert!(agent.replica().pinned(&agent.trust(), &agent.grant().scope).is_some());
        if moved {
            let person = site.flagged().unwrap();
            site.ingest("gone.csv", COLUMNS, &[format!("{},,,,,,,,,,,delete", person.number.digits())]).unwrap();
        }
        let path = work.path().join(format!("{moved}.cpisbundle"));
        run(site.command().unwrap().args(["bundle", "--scope", "all", "--out"]).arg(&path)).unwrap();
        runtime.block_on(bundle::import(&agent, &path)).unwrap();
        assert!(agent.replica().view().is_proved() && agent.replica().view().head.is_some());
        assert!(agent.replica().staged().is_empty());
        agent.close();
    }
}
