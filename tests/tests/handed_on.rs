//! `cpis-agent export`: what one device holds, another of the scope takes in, and believes no more than the server's bundle.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::path::Path;

use cpis_tests::process::{Running, run};
use cpis_tests::scene::{COLUMNS, Said, count, text};
use cpis_tests::site::{AgentSite, Site, SiteRules};
use serde_json::{Value, json};

fn site(work: &Path) -> Site {
    let site = Site::make(&work.join("central"), &["Leeds", "Rutland"], 700).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    site
}

fn say(agent: &AgentSite, command: &str, path: &Path) -> Said {
    agent.says(&["--json", command, path.to_str().unwrap()]).unwrap()
}

fn copy(agent: &AgentSite) -> Value {
    agent.status().unwrap()["copy"].clone()
}

fn answers(site: &Site, agent: &AgentSite) {
    for person in site.people().iter().rev().take(20) {
        let (code, reply) = agent.ask(&person.number.digits(), &person.birth.iso(), &[]).unwrap();
        assert_eq!((code, text(&reply, "/answer")), (0, "flagged"), "{reply}");
    }
    let (code, reply) = agent.ask(&site.unknown().unwrap().digits(), "2015-03-04", &[]).unwrap();
    assert_eq!((code, text(&reply, "/answer")), (0, "not-in-this-copy"), "{reply}");
}

#[test]
fn from_device_to_device_locked_running_or_stopped() {
    let work = tempfile::tempdir().unwrap();
    let site = site(work.path());
    let server = site.serve().unwrap();
    let [giver, taker, late] = ["giver", "taker", "late"].map(|n| site.enrol(&work.path().join(n), "crew").unwrap());
    let first = work.path().join("first.cpisbundle");
    let said = say(&giver, "export", &first);
    assert!(said.code == 1 && said.err.contains("no whole copy yet") && !first.exists(), "{said:?}");
    giver.sync().unwrap();
    server.stop().unwrap();
    // Locked and stopped; then locked and running, over the first: the same bytes.
    let said = say(&giver, "export", &first);
    assert_eq!((said.code, count(&said.json(), "/cells") > 600, said.err.as_str()), (0, true, ""), "{said:?}");
    let bytes = std::fs::read(&first).unwrap();
    assert_eq!(bytes.len() as u64, count(&said.json(), "/bytes"));
    let running = giver.start().unwrap();
    assert_eq!(say(&giver, "export", &first).code, 0);
    assert_eq!(std::fs::read(&first).unwrap(), bytes, "nothing in it is of this device or moment alone");
    refuses_to_replace(&giver, work.path());
    // Taken in as from the server, with the age of the giver's copy; again, it says that nothing changed.
    let process = taker.start().unwrap();
    taker.unlock().unwrap();
    let said = say(&taker, "import", &first);
    assert_eq!(
        (said.code, &said.json()["moved"], &said.json()["confirmed"]),
        (0, &json!(true), &json!(true)),
        "{said:?}"
    );
    answers(&site, &taker);
    assert_eq!(copy(&taker)["as_at_ms"], copy(&giver)["as_at_ms"]);
    let said = say(&taker, "import", &first);
    assert_eq!((said.code, &said.json()["moved"], &said.json()["confirmed"]), (0, &json!(false), &json!(false)));
    // What was taken in is handed on in turn; the register moves on, and the older one is then refused.
    let second = work.path().join("second.cpisbundle");
    assert_eq!(say(&taker, "export", &second).code, 0);
    assert_eq!(std::fs::read(&second).unwrap(), bytes, "handed on as it came");
    running.stop().unwrap();
    process.stop().unwrap();
    let _server = site.serve().unwrap();
    let line = format!("{},,,,,,,,,,,delete", site.people()[0].number.digits());
    site.ingest("gone.csv", COLUMNS, &[line]).unwrap();
    late.sync().unwrap();
    let before = copy(&late);
    let said = say(&late, "import", &second);
    assert!(said.code == 1 && said.err.contains("rollback"), "{said:?}");
    assert_eq!(copy(&late)["gseq"], before["gseq"]);
    withdrawn_hands_nothing_on(&site, &giver, work.path());
}

fn refuses_to_replace(giver: &AgentSite, work: &Path) {
    let precious = work.join("precious.txt");
    std::fs::write(&precious, "not a bundle").unwrap();
    let keyslot = giver.directory().join("keyslot");
    let link = work.join("link.cpisbundle");
    std::os::unix::fs::symlink(&precious, &link).unwrap();
    let kept = std::fs::read(&keyslot).unwrap();
    for path in [&precious, &keyslot, &link, &work.to_path_buf()] {
        let said = say(giver, "export", path);
        assert!(said.code == 1 && said.err.contains("is no bundle"), "{path:?}: {said:?}");
    }
    let nowhere = say(giver, "export", &work.join("missing/x.cpisbundle"));
    assert!(nowhere.code == 1 && nowhere.err.contains("cannot write the bundle"), "{nowhere:?}");
    assert_eq!(std::fs::read(&keyslot).unwrap(), kept);
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "not a bundle");
    let left: Vec<_> = std::fs::read_dir(work).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".new")), "{left:?}");
}

/// A full disk: the file before stays whole.
#[test]
fn a_full_disk_leaves_the_bundle_before() {
    let work = tempfile::tempdir().unwrap();
    let site = site(work.path());
    let server = site.serve().unwrap();
    let giver = site.enrol(&work.path().join("giver"), "crew").unwrap();
    giver.sync().unwrap();
    server.stop().unwrap();
    let path = work.path().join("stick.cpisbundle");
    assert_eq!(say(&giver, "export", &path).code, 0);
    let bytes = std::fs::read(&path).unwrap();
    // A limit on the size of files stands for the full disk: writing stops in the middle of the bundle.
    let agent = giver.command().unwrap();
    let start =
        format!("trap '' XFSZ; exec {:?} --dir {:?} run --api 127.0.0.1:0", agent.get_program(), giver.directory());
    let mut running = Running::start(std::process::Command::new("sh").args(["-c", &start])).unwrap();
    let api = giver.directory().join("api.json");
    running.wait_until("the agent's API", || api.exists()).unwrap();
    let pid = rustix::process::Pid::from_raw(running.id().try_into().unwrap());
    let limit = rustix::process::Rlimit { current: Some(20_000), maximum: Some(20_000) };
    rustix::process::prlimit(pid, rustix::process::Resource::Fsize, limit).unwrap();
    let said = say(&giver, "export", &path);
    assert!(said.code == 1 && said.err.contains("cannot write the bundle"), "{said:?}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert!(!work.path().join("stick.cpisbundle.new").exists());
}

fn withdrawn_hands_nothing_on(site: &Site, giver: &AgentSite, work: &Path) {
    let device = text(&giver.status().unwrap(), "/device").to_owned();
    run(site.command().unwrap().args(["device", "lost", &device, "--by", "Test", "--reason", "gone"])).unwrap();
    assert!(giver.sync().is_err());
    let path = work.join("withdrawn.cpisbundle");
    let said = say(giver, "export", &path);
    assert!(said.code == 1 && said.err.contains("withdrawn from use") && !path.exists(), "{said:?}");
}
