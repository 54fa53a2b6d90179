//! Several people on one device with the real programs: delays, sessions that replace each other, badges that end, the
//! limit of look-ups across restart and kill -9, break-glass, and what happens when nothing can be recorded.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::path::Path;
use std::time::Duration;

use cpis_agent::agent::Agent;
use cpis_agent::config::Config;
use cpis_agent::device_secret::DeviceSecret;
use cpis_agent::journal::{JournalError, Priority};
use cpis_agent::keyslot::{Contents, Keyslot};
use cpis_protocol::audit::{Act, AuditEvent, Moment};
use cpis_protocol::clock::TrustedClock;
use cpis_protocol::text::Text;
use cpis_server::home::Home;
use cpis_server::port::{Fleet as _, Store as _, StoreError};
use cpis_tests::process::{Running, run};
use cpis_tests::scene::{Said, count, text};
use cpis_tests::site::{AgentSite, PRACTITIONER, Site};
use serde_json::Value;
use tempfile::TempDir;

const OTHER: &str = "P002";
const OTHER_PASSPHRASE: &str = "several quite other words";

struct Stage {
    running: Running,
    agent: AgentSite,
    site: Site,
    server: Option<Running>,
    work: TempDir,
}

/// A server, one site with these rules, and a synced, unlocked agent at it.
fn stage(rules: &[&str]) -> Stage {
    let work = tempfile::tempdir().unwrap();
    let site = Site::make(&work.path().join("central"), &["Leeds"], 60).unwrap();
    run(site.command().unwrap().args(["site", "add", "crew"]).args(rules)).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    run(site.command().unwrap().args(["practitioner", "add", OTHER, "--name", "Kim Example", "--site", "crew"]))
        .unwrap();
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    std::fs::write(agent.directory().join("agent.toml"), "journal_mib = 4\n").unwrap();
    let running = agent.start().unwrap();
    agent.sync().unwrap();
    agent.unlock().unwrap();
    Stage { running, agent, site, server: Some(server), work }
}

impl Stage {
    fn person(&self, verb: &str, who: &str, passphrase: &str) -> Said {
        let file = self.work.path().join("typed");
        std::fs::write(&file, passphrase).unwrap();
        let mut command = self.agent.command().unwrap();
        command.args(["--json", verb, "--practitioner", who, "--passphrase-file"]).arg(file);
        Said::by(&mut command).unwrap()
    }

    /// Asks about somebody who has a plan: exit code and reply.
    fn ask(&self) -> (i32, Value) {
        let person = self.site.flagged().unwrap();
        self.agent.ask(&person.number.digits(), &person.birth.iso(), &[]).unwrap()
    }

    fn restart(self, kill: bool) -> Self {
        if kill {
            self.running.kill().unwrap()
        } else {
            assert!(self.running.stop().unwrap().success())
        }
        let running = self.agent.start().unwrap();
        Self { running, ..self }
    }

    fn events(&mut self) -> Vec<Value> {
        self.agent.sync().unwrap();
        self.agent.drain(&mut self.running).unwrap();
        self.site.events().unwrap()
    }
}

/// Act, reason and practitioner of an event.
fn told(event: &Value) -> String {
    [text(event, "/act"), text(event, "/reason"), text(event, "/practitioner")].join(" ").replace("  ", " ")
}

#[test]
fn two_people_share_a_device_and_no_session() {
    let mut stage = stage(&[]);
    let locked = stage.person("unlock", OTHER, OTHER_PASSPHRASE);
    assert_eq!(locked.code, 77, "no slot yet: {}", locked.err);
    assert_eq!(stage.person("add-practitioner", OTHER, OTHER_PASSPHRASE).code, 0);
    let (code, found) = stage.ask();
    assert_eq!((code, text(&found, "/answer")), (0, "flagged"));
    // A wrong attempt by one does not end the other's session, and slows only its own slot.
    let wrong = stage.person("unlock", OTHER, "not the passphrase at all");
    assert!(wrong.code == 77 && wrong.err.contains("9 attempts are left"), "{}", wrong.err);
    let early = stage.person("unlock", OTHER, OTHER_PASSPHRASE);
    assert!(early.code == 77 && early.err.contains("wait 1 s"), "{}", early.err);
    assert_eq!(text(&stage.agent.status().unwrap(), "/unlocked_by"), "Sam Example");
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(stage.person("unlock", OTHER, OTHER_PASSPHRASE).code, 0);
    assert_eq!(text(&stage.agent.status().unwrap(), "/unlocked_by"), "Kim Example");
    let (code, _) = stage.agent.reveal(count(&found, "/look_up")).unwrap();
    assert_eq!(code, 1, "what one found, the other cannot reveal");
    // The badge is withdrawn: session and slot go with the next grant.
    run(stage.site.command().unwrap().args(["practitioner", "remove", OTHER])).unwrap();
    let again = Said::by(stage.site.command().unwrap().args(["practitioner", "remove", OTHER])).unwrap();
    assert_eq!(again.code, 2, "{}", again.err);
    stage.agent.sync().unwrap();
    assert_eq!(stage.agent.status().unwrap()["unlocked_by"], Value::Null);
    run(stage.site.command().unwrap().args(["practitioner", "add", OTHER, "--name", "Kim", "--site", "crew"])).unwrap();
    stage.agent.sync().unwrap();
    let gone = stage.person("unlock", OTHER, OTHER_PASSPHRASE);
    assert!(gone.err.contains("no slot"), "a badge that comes back does not bring the slot back: {}", gone.err);
    let all: Vec<String> = stage.events().iter().map(told).filter(|line| !line.starts_with("look-up")).collect();
    let expected = [
        "unlock P001",
        "slot-added P001",
        "unlock-failed P002",
        "unlock P002",
        "lock replaced P001",
        "lock withdrawn P002",
    ];
    assert_eq!(all, expected);
}

#[test]
fn a_badge_ends_by_trusted_time_and_an_unknown_time_opens_nothing() {
    let mut stage = stage(&[]);
    let home = Home::open(stage.site.directory()).unwrap();
    let rows = home.store.read::<_, StoreError>(|tx| tx.practitioners()).unwrap();
    let mut row = rows.into_iter().find(|row| row.badge.practitioner.as_str() == PRACTITIONER).unwrap();
    row.badge.valid_until_ms = cpis_server::clock::Clock::now_ms(&cpis_server::clock::SystemClock) + 2500;
    home.store.write::<_, StoreError>(|tx| tx.put_practitioner(&row)).unwrap();
    stage.agent.sync().unwrap();
    assert_eq!(stage.ask().0, 0, "good until its end");
    std::thread::sleep(Duration::from_millis(2600));
    let (code, reply) = stage.ask();
    assert_eq!((code, text(&reply, "/reason")), (77, "vault-locked"), "an open session ends with its badge");
    let file = stage.agent.passphrase().to_owned();
    let expired = stage.person("unlock", PRACTITIONER, &std::fs::read_to_string(file).unwrap());
    assert!(expired.code == 77 && expired.err.contains("no valid badge"), "{}", expired.err);
    // Another device, switched off and on since it last heard the server: nothing tells it the time.
    row.badge.valid_until_ms += 86_400_000;
    home.store.write::<_, StoreError>(|tx| tx.put_practitioner(&row)).unwrap();
    let fresh = stage.site.enrol(&stage.work.path().join("fresh"), "crew").unwrap();
    stage.server.take().unwrap().stop().unwrap();
    {
        let secret = DeviceSecret::open(fresh.directory(), &Config::default().sources()).unwrap();
        let mut keyslot = Keyslot::open(&fresh.directory().join(cpis_agent::agent::KEYSLOT), &secret).unwrap();
        let restarted = |contents: &mut Contents| {
            contents.clock = TrustedClock::default();
            Ok(())
        };
        keyslot.update(restarted).unwrap();
    }
    let _running = fresh.start().unwrap();
    let mut command = fresh.command().unwrap();
    command.args(["unlock", "--practitioner", PRACTITIONER, "--passphrase-file"]).arg(fresh.passphrase());
    let refused = Said::by(&mut command).unwrap();
    assert!(refused.code == 4 && refused.err.contains("does not know what time it is"), "{}", refused.err);
}

#[test]
fn the_limit_survives_restart_and_kill_and_break_glass_needs_signed_policy() {
    let mut stage = stage(&["--look-ups-at-once", "3", "--seconds-per-look-up", "3600", "--grant-refresh-s", "1"]);
    assert_eq!(count(&stage.agent.status().unwrap(), "/allowance/look_ups"), 3);
    assert_eq!(stage.ask().0, 0);
    stage = stage.restart(false);
    stage.agent.unlock().unwrap();
    assert_eq!(stage.ask().0, 0);
    stage = stage.restart(true);
    stage.agent.unlock().unwrap();
    assert_eq!(stage.ask().0, 0);
    stage = stage.restart(true);
    stage.agent.unlock().unwrap();
    for _ in 0..3 {
        let (code, reply) = stage.ask();
        assert_eq!((code, text(&reply, "/reason")), (4, "rate-limited"));
        assert!(text(&reply, "/words/1").starts_with("The next look-up is allowed in"), "{reply}");
    }
    let refused = stage.agent.says(&["break-glass", "--reason", "major incident", "--yes"]).unwrap();
    assert!(refused.code == 77 && refused.err.contains("does not allow it"), "{}", refused.err);
    // Signed policy allows it from now on; who works must unlock anew.
    let change = ["site", "change", "crew", "--break-glass-look-ups", "2"];
    run(stage.site.command().unwrap().args(change)).unwrap();
    stage.agent.sync().unwrap();
    assert_eq!(stage.agent.status().unwrap()["unlocked_by"], Value::Null);
    stage.agent.unlock().unwrap();
    let refused = stage.agent.says(&["break-glass", "--reason", "short", "--yes"]).unwrap();
    assert!(refused.code == 1 && refused.err.contains("too short"), "{}", refused.err);
    let refused = stage.agent.says(&["break-glass", "--reason", "major incident"]).unwrap();
    assert!(refused.code == 77 && refused.err.contains("confirm"), "{}", refused.err);
    let broken = stage.agent.says(&["break-glass", "--reason", "major incident", "--yes"]).unwrap();
    assert_eq!(broken.code, 0, "{}", broken.err);
    let again = stage.agent.says(&["break-glass", "--reason", "major incident", "--yes"]).unwrap();
    assert!(again.code == 77 && again.err.contains("not long ago"), "{}", again.err);
    let (code, reply) = stage.ask();
    assert!(code == 0 && reply["words"].to_string().contains("glass is broken"), "{reply}");
    // What is left of it survives as well.
    stage = stage.restart(true);
    stage.agent.unlock().unwrap();
    let status = stage.agent.status().unwrap();
    assert_eq!((count(&status, "/allowance/break_glass_look_ups"), count(&status, "/break_glass_count")), (1, 1));
    assert_eq!((stage.ask().0, stage.ask().0), (0, 4));
    let events = stage.events();
    let of = |act: &str| events.iter().filter(|event| text(event, "/act") == act).cloned().collect::<Vec<_>>();
    assert_eq!((text(&of("break-glass")[0], "/reason"), count(&of("break-glass")[0], "/count")), ("major incident", 2));
    let marked: Vec<bool> = of("look-up").iter().map(|event| event["break_glass"] == true).collect();
    assert_eq!(marked, [false, false, false, false, true, true], "one refusal was recorded, not three nor four");
}

#[test]
fn whose_activity_notifies_notifies_at_a_silent_site_too() {
    let mut stage = stage(&["--access-mode", "silent"]);
    let reveal = |stage: &Stage| {
        let (code, found) = stage.ask();
        assert_eq!((code, text(&found, "/answer")), (0, "flagged"));
        let (code, revealed) = stage.agent.reveal(count(&found, "/look_up")).unwrap();
        assert_eq!(code, 0, "{revealed}");
        revealed["notifies"].clone()
    };
    // The first works there by B0170, the other by B0107, which is what a badge says when nothing was chosen.
    assert_eq!(reveal(&stage), Value::Bool(false));
    assert_eq!(stage.person("add-practitioner", OTHER, OTHER_PASSPHRASE).code, 0);
    assert_eq!(stage.person("unlock", OTHER, OTHER_PASSPHRASE).code, 0);
    assert_eq!(reveal(&stage), Value::Bool(true));
    let events = stage.events();
    let reveals = events.iter().filter(|event| text(event, "/act") == "reveal");
    let told: Vec<_> = reveals.map(|event| (text(event, "/practitioner"), text(event, "/notification"))).collect();
    assert_eq!(told, [(PRACTITIONER, "silent"), (OTHER, "unscheduled")]);
}

/// Appends events until the journal takes no more routine ones.
fn fill_outbox(directory: &Path) {
    let agent = Agent::open(directory, &Config::load(directory).unwrap()).unwrap();
    let event = AuditEvent {
        practitioner: Text::lossy(PRACTITIONER),
        role: Text::EMPTY,
        incident: Text::EMPTY,
        break_glass: false,
        act: Act::UnlockFailed,
    };
    let moment = Moment { event_ms: 1, anchor_ms: 1, gseq: 0, head: [0; 32] };
    std::thread::scope(|scope| {
        for _ in 0..48 {
            scope.spawn(|| {
                loop {
                    match agent.append(Priority::Routine, &moment, &event) {
                        Ok(_) => {}
                        Err(JournalError::Full) => return,
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
}

#[test]
fn a_full_outbox_answers_only_under_break_glass_and_every_such_answer_is_told_once() {
    let mut stage = stage(&["--break-glass-look-ups", "5"]);
    stage.agent.drain(&mut stage.running).unwrap();
    stage.server.take().unwrap().stop().unwrap();
    let Stage { running, agent, site, work, .. } = stage;
    assert!(running.stop().unwrap().success());
    fill_outbox(agent.directory());
    let running = agent.start().unwrap();
    let stage = Stage { running, agent, site, server: None, work };
    stage.agent.unlock().unwrap();
    assert_eq!(text(&stage.agent.status().unwrap(), "/outbox/space"), "full");
    let (code, reply) = stage.ask();
    assert_eq!((code, text(&reply, "/reason"), &reply["copy"]), (4, "audit-cannot-be-written", &Value::Null));
    let broken = stage.agent.says(&["break-glass", "--reason", "no network for days", "--yes"]).unwrap();
    assert_eq!(broken.code, 0, "{}", broken.err);
    let (code, found) = stage.ask();
    assert_eq!((code, text(&found, "/answer")), (0, "flagged"));
    let (code, revealed) = stage.agent.reveal(count(&found, "/look_up")).unwrap();
    assert!(code == 0 && revealed["words"].to_string().contains("glass is broken"), "{revealed}");
    // Killed at once, and again, before and after it was told.
    let mut stage = stage.restart(true);
    assert_eq!(count(&stage.agent.status().unwrap(), "/unrecorded_count"), 2);
    stage = stage.restart(true);
    stage.server = Some(stage.site.serve().unwrap());
    let events = stage.events();
    let unrecorded: Vec<_> = events.iter().filter(|event| text(event, "/act") == "unrecorded").collect();
    assert_eq!(unrecorded.iter().map(|event| count(event, "/count")).sum::<u64>(), 2, "{unrecorded:?}");
    assert!(unrecorded.iter().all(|event| text(event, "/reason") == "no network for days"));
    assert_eq!(stage.site.verify().unwrap()["intact"], true);
    // With space again everything is as before.
    stage.agent.unlock().unwrap();
    let (code, reply) = stage.ask();
    assert!(code == 0 && count(&reply, "/look_up") < 1 << 52);
}
