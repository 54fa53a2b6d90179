//! Bundles: a copy that comes by hand answers like one from the server, and is believed no more than the server is.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::path::{Path, PathBuf};

use cpis_tests::process::{PATIENCE, Running, run};
use cpis_tests::scene::{COLUMNS, count, text};
use cpis_tests::site::{AgentSite, Site, SiteRules};
use serde_json::{Value, json};

struct Stage {
    site: Site,
    work: tempfile::TempDir,
}

fn stage() -> Stage {
    let work = tempfile::tempdir().unwrap();
    let site = Site::make(&work.path().join("central"), &["Leeds", "Rutland"], 150).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    Stage { site, work }
}

impl Stage {
    fn bundle(&self, name: &str) -> PathBuf {
        let path = self.work.path().join(name);
        run(self.site.command().unwrap().args(["bundle", "--scope", "all", "--out"]).arg(&path)).unwrap();
        path
    }

    /// Agents that are enrolled and have never synced; the server is stopped afterwards.
    fn enrol<const N: usize>(&self, names: [&str; N]) -> [AgentSite; N] {
        let server = self.site.serve().unwrap();
        let agents = names.map(|name| self.site.enrol(&self.work.path().join(name), "crew").unwrap());
        server.stop().unwrap();
        agents
    }

    /// Takes a person out of the register: the next bundle is newer.
    fn take_out(&self, at: usize) {
        let line = format!("{},,,,,,,,,,,delete", self.site.people()[at].number.digits());
        let said = self.site.ingest(&format!("gone-{at}.csv"), COLUMNS, &[line]).unwrap();
        assert_eq!(count(&said, "/removed"), 1);
    }

    /// Asks about people of the register and about nobody: as after a sync.
    fn answers(&self, agent: &AgentSite) {
        for person in self.site.people().iter().rev().take(20) {
            let (code, reply) = agent.ask(&person.number.digits(), &person.birth.iso(), &[]).unwrap();
            assert_eq!((code, text(&reply, "/answer")), (0, "flagged"), "{reply}");
        }
        let (code, reply) = agent.ask(&self.site.unknown().unwrap().digits(), "2015-03-04", &[]).unwrap();
        assert_eq!((code, text(&reply, "/answer")), (0, "not-in-this-copy"), "{reply}");
    }
}

fn import(agent: &AgentSite, path: &Path) -> (i32, String) {
    let said = agent.says(&["import", path.to_str().unwrap()]).unwrap();
    (said.code, said.err)
}

fn copy(agent: &AgentSite) -> Value {
    agent.status().unwrap()["copy"].clone()
}

#[test]
fn taken_in_by_command_running_or_stopped_and_refused_when_wrong() {
    let stage = stage();
    let [stopped, running] = stage.enrol(["stopped", "running"]);
    let first = stage.bundle("first.cpisbundle");
    stage.take_out(0);
    let second = stage.bundle("second.cpisbundle");
    let (code, error) = import(&stopped, &second);
    assert_eq!(code, 0, "into a stopped agent: {error}");
    let process = running.start().unwrap();
    running.unlock().unwrap();
    let (code, reply) = running.ask(&stage.site.people()[5].number.digits(), "2015-03-04", &[]).unwrap();
    assert_eq!((code, text(&reply, "/reason")), (4, "never-synced"));
    let (code, error) = import(&running, &first);
    assert_eq!(code, 0, "into a running agent: {error}");
    stage.answers(&running);
    assert_eq!(import(&running, &second).0, 0);
    stage.answers(&running);
    let newest = copy(&running);
    let other = copy(&stopped);
    assert_eq!([&newest["as_at_ms"], &newest["gseq"]], [&other["as_at_ms"], &other["gseq"]], "both as at the bundle");
    assert_eq!(newest["covers"], json!(["Leeds City Council", "Rutland County Council"]));
    refusals(&stage, &running, &first, &second);
    assert_eq!(import(&running, &second).0, 0, "the same again changes nothing");
    let after = copy(&running);
    assert_eq!([&after["as_at_ms"], &after["gseq"]], [&newest["as_at_ms"], &newest["gseq"]]);
    stage.answers(&running);
    assert!(process.stop().unwrap().success());
    // The stopped one now runs, and answers as well; the audit of both reaches the server later.
    let mut process = stopped.start().unwrap();
    stopped.unlock().unwrap();
    stage.answers(&stopped);
    let _server = stage.site.serve().unwrap();
    stopped.sync().unwrap();
    stopped.drain(&mut process).unwrap();
    assert_eq!(stage.site.verify().unwrap()["intact"], json!(true));
}

/// Wrong bundles are refused in words, and the copy keeps answering.
fn refusals(stage: &Stage, agent: &AgentSite, older: &Path, good: &Path) {
    let wrong = |name: &str, bytes: &[u8]| {
        let path = stage.work.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let bytes = std::fs::read(good).unwrap();
    let mut flipped = bytes.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = Site::make(&elsewhere.path().join("central"), &["Leeds", "Rutland"], 30).unwrap();
    let foreign_bundle = elsewhere.path().join("foreign.cpisbundle");
    run(foreign.command().unwrap().args(["bundle", "--scope", "all", "--out"]).arg(&foreign_bundle)).unwrap();
    let cases = [
        ("an older one", older.to_path_buf(), "rollback"),
        ("of another deployment", foreign_bundle, "not taken in"),
        ("garbage", wrong("garbage.cpisbundle", &[0x5a; 10_000]), "not a bundle"),
        ("empty", wrong("empty.cpisbundle", &[]), "not a bundle"),
        ("cut short", wrong("cut.cpisbundle", &bytes[..bytes.len() * 2 / 3]), "not"),
        ("missing", stage.work.path().join("missing.cpisbundle"), "cannot read"),
        ("a directory", stage.work.path().to_path_buf(), "cannot read"),
    ];
    let before = copy(agent);
    for (what, path, words) in cases {
        let (code, error) = import(agent, &path);
        assert!(code == 1 && error.contains(words), "{what}: {code} {error}");
        let after = copy(agent);
        assert_eq!(
            [&after["as_at_ms"], &after["gseq"], &after["damaged"]],
            [&before["as_at_ms"], &before["gseq"], &json!(0)],
            "{what}"
        );
    }
    // A flipped bit is in something that is not needed, or refused; it never changes an answer.
    import(agent, &wrong("flipped.cpisbundle", &flipped));
    stage.answers(agent);
}

/// Waits until the copy is at a register sequence.
fn wait_for(running: &mut Running, agent: &AgentSite, gseq: u64) {
    let there = || agent.status().is_ok_and(|status| count(&status, "/copy/gseq") == gseq);
    running.wait_until("the bundle to be taken in", there).unwrap();
}

/// Waits until the agent has logged such a line.
fn wait_for_log(running: &Running, wanted: impl Fn(&str) -> bool) {
    let started = std::time::Instant::now();
    while !running.log().lines().any(&wanted) {
        assert!(started.elapsed() < PATIENCE, "not logged: {}", running.log());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn taken_in_from_the_watched_folder() {
    let stage = stage();
    let [agent, other] = stage.enrol(["watching", "reading"]);
    let drop = stage.work.path().join("drop");
    std::fs::create_dir(&drop).unwrap();
    let first = std::fs::read(stage.bundle("first.cpisbundle")).unwrap();
    stage.take_out(0);
    let second = std::fs::read(stage.bundle("second.cpisbundle")).unwrap();
    stage.take_out(1);
    let third = stage.bundle("third.cpisbundle");
    let gseq = |name: &str| {
        assert_eq!(import(&other, &stage.work.path().join(name)), (0, String::new()));
        count(&copy(&other), "/gseq")
    };
    let seqs = ["first", "second", "third"].map(|name| gseq(&format!("{name}.cpisbundle")));
    let mut running = agent.start().unwrap();
    agent.unlock().unwrap();
    // What lies there before the folder is configured is taken in once it is; garbage beside it does no harm.
    std::fs::write(drop.join("a-garbage.cpisbundle"), [7; 5_000]).unwrap();
    std::fs::write(drop.join("unrelated.txt"), "hello").unwrap();
    std::fs::write(drop.join("first.cpisbundle"), &first).unwrap();
    std::os::unix::fs::symlink("/dev/zero", drop.join("endless.cpisbundle")).unwrap();
    let config = agent.directory().join("agent.toml");
    std::fs::write(&config, format!("drop_folder = {:?}\n", drop.to_str().unwrap())).unwrap();
    wait_for(&mut running, &agent, seqs[0]);
    stage.answers(&agent);
    // Half-written for a while, then finished.
    let slow = drop.join("second.cpisbundle");
    std::fs::write(&slow, &second[..second.len() / 2]).unwrap();
    wait_for_log(&running, |line| line.contains("second.cpisbundle") && line.contains("not taken in"));
    assert_eq!(count(&copy(&agent), "/gseq"), seqs[0], "half a bundle is none");
    std::fs::write(&slow, &second).unwrap();
    wait_for(&mut running, &agent, seqs[1]);
    // A mistake in the configuration is told, and the folder is still watched.
    std::fs::write(&config, "drop_folder = 5\n").unwrap();
    wait_for_log(&running, |line| line.contains("the old one stays in force"));
    // Written elsewhere and renamed into place.
    std::fs::copy(&third, drop.join("third.part")).unwrap();
    std::fs::rename(drop.join("third.part"), drop.join("third.cpisbundle")).unwrap();
    wait_for(&mut running, &agent, seqs[2]);
    // The oldest once more under another name: refused, nothing goes back.
    std::fs::write(drop.join("z-old.cpisbundle"), &first).unwrap();
    wait_for_log(&running, |line| line.contains("z-old") && line.contains("rollback"));
    assert_eq!(count(&copy(&agent), "/gseq"), seqs[2]);
    stage.answers(&agent);
    assert!(running.stop().unwrap().success());
}
