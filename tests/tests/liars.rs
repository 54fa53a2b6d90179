//! Who stands between a device and its server, and what was put back from an older day, with the real programs: another
//! server with a certificate of its own, a captive portal, a restored backup of the server, a restored backup of a device.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cpis_tests::process::{Running, run};
use cpis_tests::scene::{COLUMNS, count, number_from, text};
use cpis_tests::site::{AgentSite, Site, SiteRules};
use serde_json::{Value, json};

fn deployment(directory: &Path) -> Site {
    let site = Site::make(directory, &["Leeds"], 60).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    site
}

fn address(site: &Site) -> SocketAddr {
    let port = site.url().rsplit(':').next().unwrap().parse().unwrap();
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn answer(agent: &AgentSite, site: &Site) -> String {
    let person = site.flagged().unwrap();
    text(&agent.look_up(person.number, person.birth).unwrap(), "/answer").to_owned()
}

fn copy_tree(from: &Path, to: &Path) {
    run(std::process::Command::new("cp").arg("-a").arg(from).arg(to)).unwrap();
}

/// Takes what is there away and puts the backup in its place.
fn put_back(backup: &Path, place: &Path) {
    std::fs::remove_dir_all(place).unwrap();
    copy_tree(backup, place);
}

/// A device that is synced and unlocked; the server runs.
fn enrolled(work: &Path) -> (Site, Running, AgentSite, Running) {
    let site = deployment(&work.join("central"));
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.join("crew"), "crew").unwrap();
    let running = agent.start().unwrap();
    agent.sync().unwrap();
    agent.unlock().unwrap();
    (site, server, agent, running)
}

/// Whoever answers at the server's address with a certificate that the deployment's own authority did not issue, however
/// valid it is elsewhere, is not the server: nothing of the platform's trust store counts.
#[test]
fn a_man_in_the_middle_with_another_certificate_gets_nothing() {
    let work = tempfile::tempdir().unwrap();
    let (site, server, agent, running) = enrolled(work.path());
    assert_eq!(answer(&agent, &site), "flagged");
    server.stop().unwrap();
    let before = agent.status().unwrap();
    let other = deployment(&work.path().join("other"));
    let ready = work.path().join("ready");
    let mut command = other.command().unwrap();
    command.args(["serve", "--listen", &address(&site).to_string(), "--ready-file"]).arg(&ready);
    let mut liar = Running::start(&mut command).unwrap();
    liar.wait_until("the other server", || ready.exists()).unwrap();
    assert_eq!(answer(&agent, &site), "flagged", "an event waits");
    assert!(agent.sync().is_err());
    let after = agent.status().unwrap();
    assert!(text(&after, "/link/last_outcome").contains("in its place"), "{after}");
    assert_eq!(after.pointer("/copy/as_at_ms"), before.pointer("/copy/as_at_ms"), "the copy is as it was");
    assert!(count(&after, "/outbox/waiting") > 0, "what waits is kept for the server itself");
    assert_eq!(other.events().unwrap(), Vec::<Value>::new());
    assert!(running.stop().unwrap().success());
}

#[test]
fn a_captive_portal_is_named_and_changes_nothing() {
    let work = tempfile::tempdir().unwrap();
    let (site, server, agent, running) = enrolled(work.path());
    server.stop().unwrap();
    let portal = TcpListener::bind(address(&site)).unwrap();
    portal.set_nonblocking(true).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let serving = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            while !stop.load(Ordering::Acquire) {
                if let Ok((mut stream, _)) = portal.accept() {
                    let _ = stream.set_nonblocking(false);
                    let _ = stream.read(&mut [0; 1024]);
                    let _ = stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/login\r\n\r\n");
                } else {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            }
        }
    });
    assert!(agent.sync().is_err());
    let status = agent.status().unwrap();
    assert!(text(&status, "/link/last_outcome").contains("in its place"), "{status}");
    assert_eq!(answer(&agent, &site), "flagged", "the last good copy goes on answering");
    stop.store(true, Ordering::Release);
    serving.join().unwrap();
    let again = site.serve().unwrap();
    agent.sync().unwrap();
    assert!(running.stop().unwrap().success());
    drop(again);
}

#[test]
fn a_restored_backup_of_the_server_takes_nobody_back() {
    let work = tempfile::tempdir().unwrap();
    let (site, server, agent, running) = enrolled(work.path());
    server.stop().unwrap();
    let backup = work.path().join("backup");
    copy_tree(site.directory(), &backup);
    let child = number_from(999_999_001).unwrap();
    let line = format!("{},2016-05-06,Newly,Added,ZA1 1AA,cpp,2026-01-05,,,E08000035,,", child.digits());
    site.ingest("added.csv", COLUMNS, &[line]).unwrap();
    let server = site.serve().unwrap();
    agent.sync().unwrap();
    let birth = "2016-05-06".parse().unwrap();
    assert_eq!(text(&agent.look_up(child, birth).unwrap(), "/answer"), "flagged");
    let newer = count(&agent.status().unwrap(), "/copy/gseq");
    server.stop().unwrap();
    put_back(&backup, site.directory());
    let restored = site.serve().unwrap();
    assert!(agent.sync().is_err(), "an older register is refused");
    let status = agent.status().unwrap();
    assert!(text(&status, "/link/last_outcome").contains("older"), "{status}");
    assert_eq!(count(&status, "/copy/gseq"), newer);
    assert_eq!(text(&agent.look_up(child, birth).unwrap(), "/answer"), "flagged", "the child is not forgotten");
    assert!(running.stop().unwrap().success());
    drop(restored);
}

/// A backup of a device that is put back, or a clone of its disk: the copy shows its true age, and what was recorded
/// since then cannot be recorded otherwise without a trace.
#[test]
fn a_restored_backup_of_a_device_is_seen_as_a_fork() {
    let work = tempfile::tempdir().unwrap();
    let (site, server, agent, mut running) = enrolled(work.path());
    agent.drain(&mut running).unwrap();
    assert!(running.stop().unwrap().success());
    let backup = work.path().join("backup");
    copy_tree(agent.directory(), &backup);
    let mut running = agent.start().unwrap();
    agent.unlock().unwrap();
    assert_eq!(answer(&agent, &site), "flagged");
    agent.drain(&mut running).unwrap();
    assert_eq!(site.verify().unwrap()["intact"], json!(true));
    assert!(running.stop().unwrap().success());
    put_back(&backup, agent.directory());
    let mut running = agent.start().unwrap();
    let as_at = count(&agent.status().unwrap(), "/copy/as_at_ms");
    assert!(as_at > 0);
    agent.unlock().unwrap();
    running.wait_until("the fork to be seen", || site.verify().unwrap()["intact"] == json!(false)).unwrap();
    let verified = site.verify().unwrap();
    assert_eq!(text(&verified, "/aside/0/why"), "fork", "{verified}");
    assert_eq!(verified["chains"][0]["intact"], json!(true), "what was stored first stands");
    assert!(count(&agent.status().unwrap(), "/outbox/waiting") > 0, "the second history is not acknowledged");
    assert!(running.stop().unwrap().success());
    drop(server);
}
