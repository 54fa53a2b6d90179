//! The disk of the copy fills up, or does not sync, under the running agent: the old copy goes on answering, and the new
//! one comes in once there is room. The real programs, over a file system with faults.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]
#![allow(clippy::print_stderr, reason = "a test that cannot run here says so")]

use cpis_agent::agent::REPLICA;
use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_tests::lossyfs::{self, Fault, LossyFs};
use cpis_tests::scene::{COLUMNS, number_from, text, today};
use cpis_tests::site::{AgentSite, Site, SiteRules};

/// A line of the extract; no two files are equal, or the second would change nothing.
fn line(number: NhsNumber, birth: Date, round: i32) -> String {
    let start = today().unwrap().plus_days(-60 - round).iso();
    format!("{},{},Testperson,Alex,,cpp,{start},,,E08000035,false,put", number.digits(), birth.iso())
}

fn answer(agent: &AgentSite, number: NhsNumber, birth: Date) -> String {
    text(&agent.ask(&number.grouped(), &birth.iso(), &[]).unwrap().1, "/answer").to_owned()
}

#[test]
fn the_old_copy_answers_while_the_disk_refuses() {
    if let Err(why) = lossyfs::available() {
        eprintln!("NOT RUN: full disk: {why}");
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let site = Site::make(&work.path().join("central"), &["Leeds"], 300).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let birth: Date = "2016-05-06".parse().unwrap();
    let [leaving, coming] = [1, 2].map(|at: u64| number_from(999_777_000 + at * 10).unwrap());
    site.ingest("first.csv", COLUMNS, &[line(leaving, birth, 0)]).unwrap();
    let _server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    // The copy has a disk of its own: the journal's is another test's.
    let (backing, replica) = (work.path().join("backing"), agent.directory().join(REPLICA));
    std::fs::create_dir_all(&backing).unwrap();
    std::fs::create_dir_all(&replica).unwrap();
    let mounted = LossyFs::mount(&backing, &replica).unwrap();
    let faults = [
        Fault::NoSpace { bytes: 0 },
        Fault::NoSpace { bytes: 40_000 },
        Fault::FailFsync { skip: 1, times: u32::MAX, drop_dirty: true },
        Fault::ReadOnly,
    ];
    for (fault, round) in faults.into_iter().zip(1..) {
        let running = agent.start().unwrap();
        agent.sync().unwrap();
        agent.unlock().unwrap();
        assert_eq!([leaving, coming].map(|n| answer(&agent, n, birth)), ["flagged", "not-in-this-copy"], "{fault:?}");
        mounted.set_fault(Some(fault));
        let deleted = format!("{},,,,,,,,,,,delete", leaving.digits());
        site.ingest("change.csv", COLUMNS, &[deleted, line(coming, birth, round)]).unwrap();
        assert!(agent.sync().is_err(), "{fault:?}: it cannot have been stored");
        let answers = [leaving, coming].map(|n| answer(&agent, n, birth));
        assert_eq!(answers, ["flagged", "not-in-this-copy"], "{fault:?}\n{}", running.log());
        mounted.set_fault(None);
        // With room again the same process goes on: sled by itself would refuse every write until it is opened anew.
        agent.sync().unwrap();
        assert_eq!([leaving, coming].map(|n| answer(&agent, n, birth)), ["not-in-this-copy", "flagged"], "{fault:?}");
        running.kill().unwrap();
        let deleted = format!("{},,,,,,,,,,,delete", coming.digits());
        site.ingest("back.csv", COLUMNS, &[deleted, line(leaving, birth, round)]).unwrap();
    }
    assert!(mounted.stats().faults >= 4);
}
