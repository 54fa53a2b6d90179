//! Nothing readable at rest: every file of a populated agent, and both programs' logs, searched for known people.
//!
//! Not searched for, because chance makes them: dates as two-byte day numbers, names of fewer than six letters. A number
//! in packed decimal has five bytes: in some megabytes of sealed data one such hit is chance, two are not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::path::Path;

use cpis_protocol::nhs::NhsNumber;
use cpis_server::register::{PersonRow, known_authorities};
use cpis_tests::needles::{self, Needle, Search, Searched};
use cpis_tests::process::{Running, run};
use cpis_tests::scene::{COLUMNS, count, text, today};
use cpis_tests::site::{AgentSite, PASSPHRASE, Site, SiteRules};

const RECORDS: u32 = 2_400;
const AUTHORITIES: [&str; 3] = ["Leeds", "Bradford", "Wakefield"];
const CODES: [&str; 3] = ["E08000035", "E08000032", "E08000036"];

fn phones(at: usize) -> [String; 2] {
    [format!("0113 496 07{at}1"), format!("0113 496 07{at}2")]
}

/// Everybody's number; names and dates of those who are asked about; telephones; the passphrase.
fn search(people: &[PersonRow], asked: &[&PersonRow], unknown: NhsNumber) -> Search {
    // The log's own time stamps hold today's date.
    let today = today().unwrap();
    let mut needles: Vec<Needle> = people.iter().flat_map(|person| needles::of_number(person.number)).collect();
    needles.extend(needles::of_number(unknown));
    for person in asked {
        needles.extend(needles::of_name(&person.surname));
        needles.extend(needles::of_name(&person.given));
        needles.extend(needles::of_date(person.birth).into_iter().filter(|_| person.birth != today));
        if !person.postcode.is_empty() {
            needles.push(needles::of_text("postcode", &person.postcode));
        }
    }
    for at in 0..CODES.len() {
        needles.extend(phones(at).iter().flat_map(|phone| needles::of_phone(phone)));
    }
    needles.push(needles::of_text("passphrase", PASSPHRASE));
    Search::new(needles).unwrap()
}

struct Bench<'a> {
    search: Search,
    agent: &'a AgentSite,
}

impl Bench<'_> {
    /// Searches the agent's directory and the logs so far.
    fn nothing(&self, when: &str, logs: &[(&str, String)]) {
        let mut searched = Searched::default();
        self.search.directory(self.agent.directory(), &mut searched).unwrap();
        assert!(searched.files >= 5 && searched.bytes > 200_000, "{when}: there is something to search: {searched:?}");
        for (name, log) in logs {
            assert!(!log.is_empty(), "{name} logged nothing");
            self.search.bytes(Path::new(name), log.as_bytes(), &mut searched);
        }
        assert!(searched.found.is_empty(), "{when}: {:?}", searched.found);
        assert!(searched.short.len() < 2, "{when}: {:?}", searched.short);
    }
}

fn deployment(work: &Path) -> Site {
    let site = Site::make(&work.join("central"), &AUTHORITIES, RECORDS).unwrap();
    let name = |code: &str| known_authorities().iter().find(|known| known.code.as_str() == code).unwrap().name.clone();
    let line = |(at, code): (usize, &&str)| format!("{code},{},{}", name(code), phones(at).join(","));
    let lines: Vec<String> = CODES.iter().enumerate().map(line).collect();
    site.ingest("phones.csv", "authority_code,name,office_phone,duty_phone", &lines).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    site
}

/// Asks about people and shows the details of each.
fn ask(agent: &AgentSite, people: &[&PersonRow]) {
    for person in people {
        let (code, reply) = agent.ask(&person.number.grouped(), &person.birth.iso(), &["--incident", "X1"]).unwrap();
        assert_eq!((code, text(&reply, "/answer")), (0, "flagged"), "{reply}");
        let (code, shown) = agent.reveal(count(&reply, "/look_up")).unwrap();
        assert!(
            code == 0 && text(&shown, "/flags/0/office_phone").starts_with("0113"),
            "the search knows the telephones"
        );
    }
}

/// Takes people out, and changes others.
fn change(site: &Site, gone: &[&PersonRow], changed: &[&PersonRow]) {
    let mut lines: Vec<String> = gone.iter().map(|p| format!("{},,,,,,,,,,,delete", p.number.digits())).collect();
    lines.extend(changed.iter().map(|p| {
        let (plan, start) = (&p.plans[0], p.plans[0].start.unwrap().iso());
        let who = [p.number.digits(), p.birth.iso(), p.surname.clone(), p.given.clone(), p.postcode.clone()].join(",");
        format!("{who},{},{start},{},,{},false,put", plan.kind.code(), today().unwrap().iso(), plan.authority.as_str())
    }));
    let said = site.ingest("changes.csv", COLUMNS, &lines).unwrap();
    assert_eq!((count(&said, "/removed"), count(&said, "/changed")), (gone.len() as u64, changed.len() as u64));
}

#[test]
fn nothing_of_a_known_person_is_readable_in_any_file_or_log() {
    let work = tempfile::tempdir().unwrap();
    let site = deployment(work.path());
    let server = site.serve_logging("debug").unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    std::fs::write(agent.directory().join("agent.toml"), "log = \"trace\"\n").unwrap();
    let plain = |p: &&PersonRow| {
        !p.restricted
            && p.plans.len() == 1
            && p.plans[0].end.is_none()
            && p.plans[0].start.is_some()
            && p.plans[0].due.is_none()
    };
    let people: Vec<&PersonRow> = site.people().iter().filter(plain).take(220).collect();
    let (asked, rest) = people.split_at(20);
    let unknown = site.unknown().unwrap();
    let search = search(site.people(), asked, unknown);
    let bench = Bench { search, agent: &agent };
    let mut running = agent.start().unwrap();
    agent.sync().unwrap();
    let logs = |running: &Running| [("agent's log", running.log()), ("server's log", server.log())];
    bench.nothing("after the first copy", &logs(&running));
    agent.unlock().unwrap();
    ask(&agent, asked);
    for digits in [unknown.digits(), "9990000019".to_owned()] {
        agent.ask(&digits, &asked[0].birth.iso(), &[]).unwrap();
    }
    bench.nothing("after look-ups, unlocked", &logs(&running));
    // Two of those asked about go, others change.
    change(&site, &[&rest[..100], &asked[..2]].concat(), &[&rest[100..], &asked[2..4]].concat());
    agent.sync().unwrap();
    let (code, reply) = agent.ask(&asked[0].number.digits(), &asked[0].birth.iso(), &[]).unwrap();
    assert_eq!((code, text(&reply, "/answer")), (0, "not-in-this-copy"), "the removal has arrived");
    bench.nothing("after updates and removals", &logs(&running));
    run(agent.command().unwrap().arg("lock")).unwrap();
    agent.drain(&mut running).unwrap();
    bench.nothing("after locking and uploading", &logs(&running));
    let log = running.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "everything is logged: {log}");
    assert!(running.stop().unwrap().success());
    bench.nothing("stopped", &[("agent's log", log)]);
    let again = agent.start().unwrap();
    bench.nothing("started again", &[("agent's log", again.log())]);
}

#[test]
fn the_search_finds_what_it_looks_for() {
    let number: NhsNumber = "999 000 0018".parse().unwrap();
    let date: cpis_protocol::nhs::Date = "2015-03-04".parse().unwrap();
    let mut needles = needles::of_number(number);
    needles.extend(needles::of_date(date));
    needles.extend(needles::of_name("Sorensen"));
    needles.extend(needles::of_phone("0113 496 0711"));
    needles.push(needles::of_text("passphrase", PASSPHRASE));
    let planted: [&[u8]; 16] = [
        b"9990000018",
        b"999 000 0018",
        b"999-000-0018",
        &[0x92, 0x4d, 0x73, 0x53, 0x02, 0, 0, 0],
        &[0, 0, 0, 0x02, 0x53, 0x73, 0x4d, 0x92],
        &[0x99, 0x90, 0x00, 0x00, 0x18],
        b"2015-03-04",
        b"20150304",
        b"04-Mar-2015",
        b"04/03/2015",
        b"Sorensen",
        b"SORENSEN",
        b"S\0o\0r\0e\0n\0s\0e\0n\0",
        b"0113 496 0711",
        b"01134960711",
        PASSPHRASE.as_bytes(),
    ];
    let search = Search::new(needles).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("below")).unwrap();
    for bytes in planted {
        let file = dir.path().join("below/file");
        std::fs::write(&file, [&[0xa5; 70_000], bytes, &[0x5a; 500]].concat()).unwrap();
        let mut searched = Searched::default();
        search.directory(dir.path(), &mut searched).unwrap();
        assert_eq!(searched.found.len() + searched.short.len(), 1, "{}", String::from_utf8_lossy(bytes));
    }
    let mut searched = Searched::default();
    std::fs::write(dir.path().join("below/file"), [0xa5; 70_000]).unwrap();
    search.directory(dir.path(), &mut searched).unwrap();
    assert!(searched.found.is_empty() && searched.short.is_empty());
}
