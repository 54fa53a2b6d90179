//! The main job, end to end, over the real programs: enrol, sync locked, unlock, lose the server, ask, get the link
//! back, and find every access in the server's chain exactly once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use cpis_protocol::answer;
use cpis_server::register::{PersonRow, known_authorities};
use cpis_tests::process::{Running, run};
use cpis_tests::scene::{count, number_from, text};
use cpis_tests::site::{AgentSite, PRACTITIONER, Site, SiteRules};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The telephones that the tests give to the authorities: the synthetic register's own are not in its CSV.
const PHONES: [(&str, &str, &str); 3] = [
    ("E08000035", "0113 496 0101", "0113 496 0102"),
    ("E08000032", "0113 496 0201", "0113 496 0202"),
    ("E08000036", "0113 496 0301", "0113 496 0302"),
];

struct Stage {
    crew_running: Running,
    remote_running: Running,
    crew: AgentSite,
    remote: AgentSite,
    site: Site,
    server: Option<Running>,
    _work: TempDir,
}

/// A server with three authorities, an ambulance's agent, and one at a silent site where copies age in seconds.
fn stage() -> Stage {
    let work = tempfile::tempdir().unwrap();
    let site = Site::make(&work.path().join("central"), &["Leeds", "Bradford", "Wakefield"], 300).unwrap();
    let lines: Vec<String> = PHONES.iter().map(|(code, a, b)| format!("{code},{},{a},{b}", name_of(code))).collect();
    site.ingest("phones.csv", "authority_code,name,office_phone,duty_phone", &lines).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_site("remote", &SiteRules { silent: true, bands: Some((1, 2, 3600)) }).unwrap();
    site.add_practitioner(&["crew", "remote"]).unwrap();
    let server = site.serve().unwrap();
    let crew = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let remote = site.enrol(&work.path().join("remote"), "remote").unwrap();
    let (crew_running, remote_running) = (crew.start().unwrap(), remote.start().unwrap());
    Stage { crew_running, remote_running, crew, remote, site, server: Some(server), _work: work }
}

fn name_of(code: &str) -> String {
    known_authorities().iter().find(|known| known.code.as_str() == code).unwrap().name.clone()
}

/// Checks a revealed flag against what the register says of the person.
fn assert_shown(revealed: &Value, person: &PersonRow) {
    let plan = &person.plans[0];
    let code = plan.authority.as_str();
    let (_, office, duty) = PHONES.iter().find(|(known, ..)| *known == code).unwrap();
    let flags = revealed["flags"].as_array().unwrap();
    assert_eq!(flags.len(), 1);
    assert_eq!(text(revealed, "/flags/0/authority"), name_of(code));
    assert_eq!(text(revealed, "/flags/0/office_phone"), *office);
    assert_eq!(text(revealed, "/flags/0/duty_phone"), *duty);
    assert_eq!(text(revealed, "/flags/0/display"), plan.kind.display());
    assert_eq!(
        revealed["flags"][0]["start"].as_str().map(str::to_owned),
        plan.start.map(cpis_protocol::nhs::Date::iso)
    );
    assert!(["office", "duty"].contains(&text(revealed, "/ring_now")));
}

/// The kinds of the events, with what was answered.
fn kinds(events: &[Value]) -> Vec<String> {
    let one = |event: &Value| {
        let parts =
            [text(event, "/act"), text(event, "/outcome"), text(event, "/reason"), text(event, "/notification")];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    };
    events.iter().map(one).collect()
}

fn assert_gap_free(events: &[Value]) {
    let seqs: Vec<u64> = events.iter().map(|event| count(event, "/seq")).collect();
    assert_eq!(seqs, (1..=events.len() as u64).collect::<Vec<_>>());
}

#[test]
fn asked_offline_and_told_exactly_once() {
    let mut stage = stage();
    let person = stage.site.flagged().unwrap().clone();
    let unknown = stage.site.unknown().unwrap();
    locked_vault(&stage, &person);
    stage.crew.unlock().unwrap();
    stage.remote.unlock().unwrap();
    stage.server.take().unwrap().stop().unwrap();
    ambulance_asks(&stage, &person, &unknown.grouped());
    stale_copy_asks(&mut stage, &person, &unknown.grouped());
    let outbox = stage.crew.status().unwrap()["outbox"].clone();
    // The unlocking may have gone up before the server went.
    assert!(count(&outbox, "/through") == 9 && count(&outbox, "/waiting") >= 8, "everything waits: {outbox}");
    let _server = stage.site.serve().unwrap();
    stage.crew.sync().unwrap();
    stage.remote.sync().unwrap();
    assert_eq!(stage.crew.drain(&mut stage.crew_running).unwrap(), 9);
    assert_eq!(stage.remote.drain(&mut stage.remote_running).unwrap(), 4);
    let crew = text(&stage.crew.status().unwrap(), "/device").to_owned();
    let events = stage.site.events_of(&crew).unwrap();
    assert_gap_free(&events);
    let expected = [
        "unlock",
        "look-up flagged",
        "reveal unscheduled",
        "look-up not-in-this-copy",
        "look-up cannot-answer number-outside-range",
        "look-up cannot-answer number-outside-range",
        "look-up out-of-coverage",
        "lock touch",
        "unlock",
    ];
    assert_eq!(kinds(&events), expected);
    assert_eq!(text(&events[1], "/nhs_number"), person.number.grouped());
    assert_eq!(text(&events[1], "/birth"), person.birth.clinical());
    assert_eq!(text(&events[1], "/incident"), "CAD-4711");
    assert_eq!(text(&events[2], "/feed"), person.plans[0].authority.as_str());
    assert_eq!(count(&events[2], "/look_up"), 2);
    assert!(events.iter().all(|event| text(event, "/practitioner") == PRACTITIONER && text(event, "/role") == "R1070"));
    let remote = text(&stage.remote.status().unwrap(), "/device").to_owned();
    let expected = ["unlock", "look-up flagged", "reveal silent", "look-up cannot-answer stale"];
    assert_eq!(kinds(&stage.site.events_of(&remote).unwrap()), expected);
    let verified = stage.site.verify().unwrap();
    assert_eq!((&verified["intact"], verified["chains"].as_array().unwrap().len()), (&json!(true), 2));
    let (all, before) = (stage.site.events().unwrap(), stage.crew.status().unwrap());
    for agent in [&stage.crew, &stage.remote, &stage.crew] {
        agent.sync().unwrap();
    }
    assert_eq!(stage.site.events().unwrap(), all, "syncing again changes nothing");
    let after = stage.crew.status().unwrap();
    assert_eq!((&after["outbox"], &after["copy"]["gseq"]), (&before["outbox"], &before["copy"]["gseq"]));
    for running in [stage.crew_running, stage.remote_running] {
        assert!(running.stop().unwrap().success());
    }
}

/// Sync needs no vault; an answer does, and a question to a locked device leaves no trace of whom it was about.
fn locked_vault(stage: &Stage, person: &PersonRow) {
    stage.crew.sync().unwrap();
    stage.remote.sync().unwrap();
    let status = stage.crew.status().unwrap();
    assert_eq!(status["unlocked_by"], Value::Null);
    assert!(count(&status, "/copy/records") >= 300, "{status}");
    let (code, reply) = stage.crew.ask(&person.number.grouped(), &person.birth.iso(), &[]).unwrap();
    assert_eq!((code, text(&reply, "/reason"), &reply["look_up"]), (77, "vault-locked", &Value::Null));
    let (code, _) = stage.crew.reveal(1).unwrap();
    assert_eq!(code, 77);
}

fn ambulance_asks(stage: &Stage, person: &PersonRow, unknown: &str) {
    let crew = &stage.crew;
    let (number, birth) = (person.number.grouped(), person.birth.iso());
    let (code, reply) = crew.ask(&number, &birth, &["--incident", "CAD-4711"]).unwrap();
    assert_eq!((code, text(&reply, "/answer"), count(&reply, "/look_up")), (0, "flagged", 2));
    let covered = ["Leeds City Council", "Bradford", "Wakefield"];
    let covers = reply["copy"]["covers"].to_string();
    assert!(covered.iter().all(|name| covers.contains(name.split(' ').next().unwrap())), "{covers}");
    let shown = reply.to_string();
    assert!(!shown.contains(person.plans[0].kind.display()) && !shown.contains("496"), "stage one shows no detail");
    let (code, revealed) = crew.reveal(2).unwrap();
    assert_eq!((code, &revealed["notifies"]), (0, &json!(true)));
    assert_shown(&revealed, person);
    // Not in the copy: fixed words, as at, covering.
    let (code, reply) = crew.ask(unknown, "2015-03-04", &[]).unwrap();
    assert_eq!((code, text(&reply, "/answer")), (0, "not-in-this-copy"));
    assert_eq!(
        [text(&reply, "/words/0"), text(&reply, "/words/1")],
        [answer::NOT_IN_THIS_COPY, answer::NOT_NO_CONCERNS]
    );
    assert!(count(&reply, "/copy/as_at_ms") > 0);
    let (code, _) = crew.reveal(count(&reply, "/look_up")).unwrap();
    assert_eq!(code, 1, "there is nothing to reveal");
    // A mistyped number is told and nothing is recorded; nor is a date that is none.
    for (number, birth) in [("999 000 0019", "2015-03-04"), (number.as_str(), "2015-02-30"), ("abc", "2015-03-04")] {
        let (code, reply) = crew.ask(number, birth, &[]).unwrap();
        assert_eq!((code, text(&reply, "/reason"), &reply["look_up"]), (4, "invalid-number", &Value::Null));
    }
    // Numbers that this register cannot hold: a real one, and a Scottish one.
    for nine in [401_023_213, 10_190_001] {
        let number = number_from(nine).unwrap();
        let (code, reply) = crew.ask(&number.grouped(), "2015-03-04", &[]).unwrap();
        assert_eq!((code, text(&reply, "/reason")), (4, "number-outside-range"), "{}", number.grouped());
    }
    let (code, reply) = crew.ask(unknown, "2015-03-04", &["--area", "Cornwall"]).unwrap();
    assert_eq!((code, text(&reply, "/answer"), text(&reply, "/area")), (5, "out-of-coverage", "Cornwall"));
    run(crew.command().unwrap().arg("lock")).unwrap();
    let (code, _) = crew.ask(&number, &birth, &[]).unwrap();
    assert_eq!(code, 77);
    crew.unlock().unwrap();
    let (code, _) = crew.reveal(2).unwrap();
    assert_eq!(code, 1, "what was found before the lock is not shown after it");
}

/// A stale copy still shows a flag, with its age; it never says that somebody is not in it.
fn stale_copy_asks(stage: &mut Stage, person: &PersonRow, unknown: &str) {
    let remote = &stage.remote;
    let stale = || remote.status().is_ok_and(|status| text(&status, "/copy/freshness") == "stale");
    stage.remote_running.wait_until("a stale copy", stale).unwrap();
    let (code, reply) = remote.ask(&person.number.digits(), &person.birth.clinical(), &[]).unwrap();
    assert_eq!((code, text(&reply, "/answer"), text(&reply, "/copy/freshness")), (3, "flagged", "stale"));
    assert!(reply["words"].to_string().contains("stale"), "{reply}");
    let (code, revealed) = remote.reveal(count(&reply, "/look_up")).unwrap();
    assert_eq!((code, &revealed["notifies"]), (3, &json!(false)));
    assert_shown(&revealed, person);
    let (code, reply) = remote.ask(unknown, "2015-03-04", &[]).unwrap();
    assert_eq!((code, text(&reply, "/answer"), text(&reply, "/reason")), (4, "cannot-answer", "stale"));
}
