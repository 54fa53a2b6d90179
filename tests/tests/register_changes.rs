//! What crews see when the register changes under a running agent: moves, deletions, unborn, restricted, ended plans;
//! and who may unlock: wrong passphrases, closed slots, a second practitioner.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use cpis_agent::config::Config;
use cpis_agent::device_secret::DeviceSecret;
use cpis_agent::keyslot::{Keyslot, VaultError};
use cpis_protocol::answer;
use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_tests::process::run;
use cpis_tests::scene::{COLUMNS, Said, count, number_from, text, today};
use cpis_tests::site::{AgentSite, PRACTITIONER, Site, SiteRules};
use serde_json::{Value, json};

const LEEDS: &str = "E08000035";
const BRADFORD: &str = "E08000032";

fn site(work: &std::path::Path) -> Site {
    let site = Site::make(&work.join("central"), &["Leeds", "Bradford"], 60).unwrap();
    let phones = [
        format!("{LEEDS},Leeds City Council,0113 496 0101,0113 496 0102"),
        format!("{BRADFORD},City of Bradford,0113 496 0201,0113 496 0202"),
    ];
    site.ingest("phones.csv", "authority_code,name,office_phone,duty_phone", &phones).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    site
}

/// One line of the extract.
struct Line {
    number: NhsNumber,
    birth: Date,
    plan: &'static str,
    end: Option<Date>,
    due: Option<Date>,
    authority: &'static str,
    restricted: bool,
}

impl Line {
    fn new(at: u64, birth: Date, plan: &'static str, authority: &'static str) -> Self {
        let number = number_from(999_777_000 + at * 10).unwrap();
        Self { number, birth, plan, end: None, due: None, authority, restricted: false }
    }

    fn csv(&self) -> String {
        let start = today().unwrap().plus_days(-60).iso();
        let date = |date: Option<Date>| date.map(Date::iso).unwrap_or_default();
        format!(
            "{},{},Testperson,Alex,,{},{start},{},{},{},{},put",
            self.number.digits(),
            self.birth.iso(),
            self.plan,
            date(self.end),
            date(self.due),
            self.authority,
            self.restricted
        )
    }
}

/// The answer about somebody, and the details when there are some.
fn ask(agent: &AgentSite, line: &Line) -> (String, Value) {
    let (_, reply) = agent.ask(&line.number.grouped(), &line.birth.iso(), &[]).unwrap();
    let answer = text(&reply, "/answer").to_owned();
    if answer != "flagged" {
        return (answer, reply);
    }
    let (code, shown) = agent.reveal(count(&reply, "/look_up")).unwrap();
    assert_eq!(code, 0, "{shown}");
    (answer, shown)
}

fn authorities(shown: &Value) -> Vec<&str> {
    shown["flags"].as_array().unwrap().iter().map(|flag| text(flag, "/authority")).collect()
}

#[test]
fn every_change_arrives_and_every_kind_has_its_words() {
    let work = tempfile::tempdir().unwrap();
    let site = site(work.path());
    let (today, child) = (today().unwrap(), "2016-05-06".parse().unwrap());
    let mother = Line { due: Some(today.plus_days(40)), ..Line::new(1, "1998-02-03".parse().unwrap(), "ucpp", LEEDS) };
    let hidden = Line { restricted: true, ..Line::new(2, child, "lac", BRADFORD) };
    let ended = Line { end: Some(today.plus_days(-30)), ..Line::new(3, child, "cpp", LEEDS) };
    let long_ago = Line { end: Some(today.plus_days(-30)), ..Line::new(4, child, "cpp", LEEDS) };
    let mut moving = Line::new(5, child, "lac", LEEDS);
    let leaving = Line::new(6, child, "cpp", BRADFORD);
    let lines = [&mother, &hidden, &ended, &long_ago, &moving, &leaving].map(Line::csv);
    // Somebody restricted is named nowhere beyond what the extract needs.
    site.ingest("people.csv", COLUMNS, &lines).unwrap();
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let mut running = agent.start().unwrap();
    agent.sync().unwrap();
    agent.unlock().unwrap();
    kinds(&agent, &mother, &hidden, &ended);
    assert_eq!(authorities(&ask(&agent, &moving).1), ["Leeds City Council"]);
    assert_eq!(ask(&agent, &leaving).0, "flagged");
    let (before, records) = (agent.status().unwrap(), |status: &Value| count(status, "/copy/records"));
    // The register changes while the agent runs.
    moving.authority = BRADFORD;
    let born = Line::new(7, today.plus_days(-1), "cpp", LEEDS);
    let deleted = format!("{},,,,,,,,,,,delete", leaving.number.digits());
    let said = site
        .ingest(
            "changes.csv",
            COLUMNS,
            &[moving.csv(), deleted, born.csv().replace(&today.plus_days(-60).iso(), &today.iso())],
        )
        .unwrap();
    assert_eq!([count(&said, "/added"), count(&said, "/changed"), count(&said, "/removed")], [1, 1, 1]);
    assert_eq!(ask(&agent, &leaving).0, "flagged", "the copy is of the past until the next sync");
    agent.sync().unwrap();
    let (answer, reply) = ask(&agent, &leaving);
    assert_eq!((answer.as_str(), text(&reply, "/words/0")), ("not-in-this-copy", answer::NOT_IN_THIS_COPY));
    // A child who moves is on both until the first authority ends its plan: twice for a while, never not at all.
    let both = ask(&agent, &moving).1;
    assert!(authorities(&both).contains(&"City of Bradford") && authorities(&both).len() == 2, "{both}");
    assert_eq!(ask(&agent, &born).0, "flagged");
    let after = agent.status().unwrap();
    assert_eq!(records(&after), records(&before) + 1, "one is on both, one went, one came");
    assert!(count(&after, "/copy/gseq") > count(&before, "/copy/gseq"));
    let left =
        Line { authority: LEEDS, end: Some(today.plus_days(-400)), birth: child, ..Line::new(5, child, "lac", LEEDS) };
    let long = left.csv().replace(&today.plus_days(-60).iso(), &today.plus_days(-500).iso());
    site.ingest("left.csv", COLUMNS, &[long]).unwrap();
    agent.sync().unwrap();
    assert_eq!(authorities(&ask(&agent, &moving).1), ["City of Bradford"], "the old plan is no longer to be shown");
    // The same file again changes nothing.
    let said = site.ingest("changes.csv", COLUMNS, &[moving.csv()]).unwrap();
    assert_eq!([count(&said, "/unchanged"), count(&said, "/changed")], [1, 0]);
    // A wrong date of birth is another person.
    let (_, reply) = agent.ask(&mother.number.digits(), "1998-02-04", &[]).unwrap();
    assert_eq!(text(&reply, "/answer"), "not-in-this-copy");
    agent.drain(&mut running).unwrap();
    assert_eq!(site.verify().unwrap()["intact"], json!(true));
    assert!(running.stop().unwrap().success());
    drop(server);
}

fn kinds(agent: &AgentSite, mother: &Line, hidden: &Line, ended: &Line) {
    let (answer, shown) = ask(agent, mother);
    assert_eq!((answer.as_str(), text(&shown, "/flags/0/kind")), ("flagged", "ucpp"));
    assert_eq!(text(&shown, "/words/0"), answer::UNBORN);
    let (answer, shown) = ask(agent, hidden);
    assert_eq!(answer, "flagged");
    assert_eq!(shown["flags"].as_array().unwrap().len(), 1);
    assert_eq!(text(&shown, "/flags/0/display"), answer::RESTRICTED);
    assert_eq!((&shown["flags"][0]["start"], &shown["flags"][0]["end"]), (&Value::Null, &Value::Null));
    assert_eq!(text(&shown, "/flags/0/duty_phone"), "0113 496 0202");
    assert!(!shown.to_string().contains("Looked after"), "nothing of the kind of plan: {shown}");
    let (answer, shown) = ask(agent, ended);
    assert_eq!((answer.as_str(), shown["flags"][0]["end"].as_str()), ("flagged", ended.end.map(Date::iso).as_deref()));
    let reply = agent.ask(&ended.number.digits(), &ended.birth.iso(), &[]).unwrap().1;
    let said = agent.says(&["reveal", &count(&reply, "/look_up").to_string()]).unwrap();
    assert!(said.out.contains(&format!("Ended      {}", ended.end.unwrap().clinical())), "{}", said.out);
}

/// Unlocks with some passphrase: the exit code, and what was said.
fn unlock(agent: &AgentSite, practitioner: &str, passphrase: &str) -> Said {
    let file = agent.passphrase().with_file_name("tried");
    std::fs::write(&file, passphrase).unwrap();
    let mut command = agent.command().unwrap();
    Said::by(command.args(["unlock", "--practitioner", practitioner, "--passphrase-file"]).arg(file)).unwrap()
}

fn add_practitioner(agent: &AgentSite, practitioner: &str, passphrase: &str) -> Said {
    let file = agent.passphrase().with_file_name("new");
    std::fs::write(&file, passphrase).unwrap();
    let mut command = agent.command().unwrap();
    Said::by(command.args(["add-practitioner", "--practitioner", practitioner, "--passphrase-file"]).arg(file)).unwrap()
}

/// Eight more wrong attempts on the files of a stopped agent, with a clock that waits out the delays.
fn eight_more(agent: &AgentSite) {
    let secret = DeviceSecret::open(agent.directory(), &Config::default().sources()).unwrap();
    let mut keyslot = Keyslot::open(&agent.directory().join(cpis_agent::agent::KEYSLOT), &secret).unwrap();
    for attempt in 2..=9u64 {
        let tried =
            keyslot.open_vault(PRACTITIONER.parse().unwrap(), "wrong passphrase entirely", || attempt * 100_000);
        assert!(matches!(tried, Err(VaultError::WrongPassphrase { attempts }) if u64::from(attempts) == attempt));
    }
}

#[test]
fn slots_close_and_colleagues_open_them_again() {
    let work = tempfile::tempdir().unwrap();
    let site = site(work.path());
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let mut running = agent.start().unwrap();
    agent.sync().unwrap();
    assert_eq!(unlock(&agent, "P002", "another long passphrase").code, 77, "nobody knows P002 here");
    let second = ["practitioner", "add", "P002", "--name", "Kim Second", "--role", "R8000", "--site", "crew"];
    run(site.command().unwrap().args(second)).unwrap();
    agent.sync().unwrap();
    assert_eq!(add_practitioner(&agent, "P002", "another long passphrase").code, 77, "the vault is locked");
    agent.unlock().unwrap();
    assert_eq!(add_practitioner(&agent, "P003", "another long passphrase").code, 77, "no badge");
    let weak = add_practitioner(&agent, "P002", "1234");
    assert!(weak.code != 0 && weak.err.contains("16 digits"), "{weak:?}");
    assert_eq!(add_practitioner(&agent, "P002", "another long passphrase").code, 0);
    run(agent.command().unwrap().arg("lock")).unwrap();
    // Ten wrong attempts close the first slot, also across a restart; the second is not touched.
    let said = unlock(&agent, PRACTITIONER, "wrong passphrase entirely");
    assert!(said.code == 77 && said.err.contains("9 attempts are left"), "{}", said.err);
    let said = unlock(&agent, PRACTITIONER, "wrong passphrase entirely");
    assert!(said.code == 77 && said.err.contains("wait"), "{}", said.err);
    assert!(running.stop().unwrap().success());
    eight_more(&agent);
    running = agent.start().unwrap();
    // The whole delay of nine wrong attempts begins anew with the start.
    let said = unlock(&agent, PRACTITIONER, "wrong passphrase entirely");
    assert!(said.code == 77 && said.err.contains("wait"), "{}", said.err);
    std::thread::sleep(std::time::Duration::from_secs(61));
    assert_eq!(unlock(&agent, PRACTITIONER, "wrong passphrase entirely").code, 77);
    let right = Said::by(
        agent
            .command()
            .unwrap()
            .args(["unlock", "--practitioner", PRACTITIONER, "--passphrase-file"])
            .arg(agent.passphrase()),
    );
    let right = right.unwrap();
    assert!(right.code == 77 && right.err.contains("closed"), "the right passphrase comes too late: {right:?}");
    let said = unlock(&agent, "P002", "another long passphrase");
    assert!(said.code == 0 && said.out.contains("Kim Second"), "{said:?}");
    let person = site.flagged().unwrap();
    assert_eq!(agent.ask(&person.number.digits(), &person.birth.iso(), &[]).unwrap().0, 0);
    assert_eq!(add_practitioner(&agent, PRACTITIONER, "a brand new passphrase").code, 0);
    run(agent.command().unwrap().arg("lock")).unwrap();
    assert_eq!(unlock(&agent, PRACTITIONER, "a brand new passphrase").code, 0);
    agent.drain(&mut running).unwrap();
    let events = site.events().unwrap();
    let by = |who: &str, act: &str| {
        events.iter().filter(|e| text(e, "/practitioner") == who && text(e, "/act") == act).count()
    };
    assert_eq!([by(PRACTITIONER, "unlock"), by(PRACTITIONER, "unlock-failed"), by("P002", "unlock")], [2, 1, 1]);
    assert_eq!(by(PRACTITIONER, "slot-closed"), 1, "the tenth");
    assert_eq!([by("P002", "look-up"), by(PRACTITIONER, "look-up")], [1, 0], "named by the session");
    assert_eq!(site.verify().unwrap()["intact"], json!(true));
    assert!(running.stop().unwrap().success());
    drop(server);
}
