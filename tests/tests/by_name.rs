//! Look-up by name, end to end, over the real programs: what finds whom, what is shown before and after a choice, and
//! that every candidate is in the audit.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::collections::BTreeSet;

use cpis_agent::agent::Agent;
use cpis_agent::config::Config;
use cpis_agent::lookup::{NameQuestion, Question, Reply, look_up, look_up_by_name};
use cpis_protocol::answer::Answer;
use cpis_protocol::nhs::NhsNumber;
use cpis_protocol::postcode::Postcode;
use cpis_protocol::question::{Asked, questions};
use cpis_server::clock::{Clock as _, SystemClock};
use cpis_server::home::Home;
use cpis_server::port::{Register as _, Store as _, StoreError};
use cpis_server::publish::publish;
use cpis_server::register::PLAN_COLUMNS;
use cpis_tests::process::{Running, run};
use cpis_tests::scene::{count, number_from, text};
use cpis_tests::site::{AgentSite, PASSPHRASE, PRACTITIONER, Site, SiteRules};
use serde_json::Value;
use tempfile::TempDir;

/// Surname, given name, date of birth, postcode, restricted: siblings, twins, two of one name and day, and so on.
const CHILDREN: [(&str, &str, &str, &str, &str); 11] = [
    ("O'Brien", "Zoë", "2015-03-04", "ZC1 1AA", ""),
    ("O'Brien", "Liam", "2017-06-25", "ZC1 1AA", ""),
    ("Ackroyd", "Ella", "2019-05-17", "ZC2 2BB", ""),
    ("Ackroyd", "Noah", "2019-05-17", "ZC2 2BB", ""),
    ("Khan", "Mohammed", "2016-07-30", "ZC3 3DD", ""),
    ("Khan", "Muhammad", "2016-07-30", "ZC4 4EE", ""),
    ("Smith-Jones", "William", "2014-02-09", "", ""),
    ("Suharto", "", "2018-08-18", "ZC5 5FF", ""),
    ("Hidden", "Person", "2015-11-20", "", "yes"),
    ("Thistlethwaite", "Oscar", "2013-09-21", "ZC6 6GG", ""),
    ("Popescu", "Ioana", "2012-10-11", "ZC7 7HH", ""),
];

struct Stage {
    agent: AgentSite,
    running: Running,
    site: Site,
    numbers: Vec<NhsNumber>,
    _server: Running,
    _work: TempDir,
}

fn stage() -> Stage {
    let work = tempfile::tempdir().unwrap();
    let site = Site::make(&work.path().join("central"), &["Leeds", "Bradford"], 20).unwrap();
    let taken = |n: &NhsNumber| site.people().iter().any(|person| person.number == *n);
    let numbers: Vec<NhsNumber> = (999_500_000..)
        .filter_map(|nine| NhsNumber::new(nine * 10 + NhsNumber::check_digit(nine)?).ok())
        .filter(|number| !taken(number))
        .take(CHILDREN.len())
        .collect();
    let lines: Vec<String> = CHILDREN
        .iter()
        .zip(&numbers)
        .map(|((surname, given, birth, postcode, restricted), number)| {
            format!("{},{birth},{surname},{given},{postcode},cpp,2025-01-10,,,E08000035,{restricted},", number.digits())
        })
        .collect();
    site.ingest("children.csv", &PLAN_COLUMNS.join(","), &lines).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let running = agent.start().unwrap();
    agent.sync().unwrap();
    agent.unlock().unwrap();
    Stage { agent, running, site, numbers, _server: server, _work: work }
}

impl Stage {
    fn ask(&self, surname: &str, given: &str, birth: &str, postcode: &str) -> Value {
        let mut arguments = vec!["look-up", "--date-of-birth", birth];
        for (flag, value) in [("--surname", surname), ("--given-name", given), ("--postcode", postcode)] {
            if !value.is_empty() {
                arguments.extend([flag, value]);
            }
        }
        self.agent.json(&arguments).unwrap()
    }

    /// The last three digits and the way of each candidate.
    fn candidates(&self, surname: &str, given: &str, birth: &str, postcode: &str) -> Vec<(String, String)> {
        let reply = self.ask(surname, given, birth, postcode);
        let candidates = reply["candidates"].as_array().cloned().unwrap_or_default();
        assert_eq!(text(&reply, "/answer") == "flagged", !candidates.is_empty(), "{reply}");
        candidates.iter().map(|one| (text(one, "/last_three").into(), text(one, "/found").into())).collect()
    }

    fn last_three(&self, child: usize) -> String {
        format!("{:03}", self.numbers[child].as_u64() % 1000)
    }
}

#[test]
fn who_is_found_and_who_is_not() {
    let stage = stage();
    let found = |child: usize, way: &str| vec![(stage.last_three(child), way.to_owned())];
    let ask = |surname, given, birth, postcode| stage.candidates(surname, given, birth, postcode);
    // Case, accents, apostrophes; the sibling is not in it.
    assert_eq!(ask("o\u{2019}brien", "ZOE", "2015-03-04", ""), found(0, "as-typed"));
    assert_eq!(ask("Zoe", "OBrien", "2015-03-04", ""), found(0, "names-swapped"));
    assert_eq!(ask("OBrien", "Zoe", "2015-04-03", ""), found(0, "day-and-month-swapped"));
    // Twins: by name one, by the sound at the address both.
    assert_eq!(ask("Ackroyd", "Ella", "2019-05-17", ""), found(2, "as-typed"));
    let twins = ask("Akroyd", "Ella", "2019-05-17", "zc22bb");
    assert_eq!(twins.len(), 2, "{twins:?}");
    assert!(twins.iter().all(|(_, way)| way == "sound-and-postcode"));
    // Two children of one name and day.
    let same = ask("Khan", "Mohamed", "2016-07-30", "");
    assert_eq!(same.iter().map(|(digits, _)| digits.clone()).collect::<BTreeSet<_>>().len(), 2);
    // Double surnames by either part, short forms, single names in either field.
    assert_eq!(ask("Smith", "Bill", "2014-02-09", ""), found(6, "as-typed"));
    assert_eq!(ask("Jones", "Will", "2014-02-09", ""), found(6, "as-typed"));
    assert_eq!(ask("", "Suharto", "2018-08-18", ""), found(7, "as-typed"));
    // A misspelt surname: with the postcode, and without it missed by design.
    assert_eq!(ask("Thistlethwayte", "Oscar", "2013-09-21", "ZC6 6GG"), found(9, "sound-and-postcode"));
    assert_eq!(ask("Thistlethwayte", "Oscar", "2013-09-21", ""), []);
    // Restricted: by number only.
    assert_eq!(ask("Hidden", "Person", "2015-11-20", ""), []);
    let number = stage.agent.look_up(stage.numbers[8], "2015-11-20".parse().unwrap()).unwrap();
    assert_eq!(text(&number, "/answer"), "flagged");
    let missed = stage.ask("Nobody", "Known", "2015-03-04", "");
    assert!(missed["words"].to_string().contains("Not found with these details"), "{missed}");
    let wrong = stage.ask("Smith", "Ada", "2015-03-04", "not a postcode");
    assert_eq!((text(&wrong, "/answer"), text(&wrong, "/reason")), ("cannot-answer", "invalid-name"));
}

#[test]
fn a_candidate_is_chosen_before_anything_is_shown_and_each_is_recorded() {
    let mut stage = stage();
    let reply = stage.ask("Khan", "Mohamed", "2016-07-30", "");
    let look_up = count(&reply, "/look_up").to_string();
    assert!(reply["words"].to_string().contains("not a match by itself"), "{reply}");
    assert!(reply.get("flags").is_none(), "{reply}");
    // Nothing is shown without a choice, nor for one that is not there.
    for wrong in [&["reveal", &look_up][..], &["reveal", &look_up, "--candidate", "3"]] {
        let refused = stage.agent.output(wrong).unwrap();
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains("candidate"));
    }
    let revealed = stage.agent.json(&["reveal", &look_up, "--candidate", "2"]).unwrap();
    assert_eq!(revealed["flags"].as_array().unwrap().len(), 1, "{revealed}");
    // A single candidate is still one to choose.
    let single = stage.ask("Popescu", "Ioana", "2012-10-11", "");
    let single = count(&single, "/look_up").to_string();
    assert!(!stage.agent.output(&["reveal", &single]).unwrap().status.success());
    stage.agent.drain(&mut stage.running).unwrap();
    let device = text(&stage.agent.status().unwrap(), "/device").to_owned();
    let events = stage.site.events_of(&device).unwrap();
    let acts: Vec<&str> = events.iter().map(|event| text(event, "/act")).collect();
    let expected = ["unlock", "look-up-by-name", "candidate", "candidate", "reveal", "look-up-by-name", "candidate"];
    assert_eq!(acts, expected);
    assert_eq!((text(&events[1], "/surname"), text(&events[1], "/given")), ("KHAN", "MOHAMED"));
    assert_eq!((count(&events[1], "/candidates"), count(&events[2], "/look_up")), (2, count(&events[1], "/seq")));
    let unnamed = run(stage.site.command().unwrap().args(["--json", "audit", "list"])).unwrap();
    assert!(unnamed.contains("look-up-by-name") && !unnamed.contains("KHAN") && !unnamed.contains("Jul-2016"));
}

/// Hit or miss, by whichever way: as many memory-hard steps as there are questions for what was typed.
#[test]
fn a_hit_and_a_miss_take_the_same_number_of_memory_hard_steps() {
    let stage = stage();
    assert!(stage.running.stop().unwrap().success());
    cpis_agent::transport::install_provider();
    let directory = stage.agent.directory();
    let agent = Agent::open(directory, &Config::load(directory).unwrap()).unwrap();
    agent.unlock(PRACTITIONER, PASSPHRASE).unwrap();
    let steps = |ask: &dyn Fn() -> Reply| {
        let before = agent.steps();
        let reply = ask();
        (matches!(reply.answer, Answer::Flagged { .. }), agent.steps() - before)
    };
    let by_name = |[surname, given, birth, postcode]: [&str; 4]| {
        let code = (!postcode.is_empty()).then(|| postcode.parse::<Postcode>().unwrap());
        let asked = Asked { surname, given, birth: birth.parse().unwrap(), postcode: code.as_ref() };
        let expected = questions(&asked).unwrap().len() as u64;
        let question = NameQuestion {
            surname: surname.into(),
            given: given.into(),
            birth: birth.into(),
            postcode: Some(postcode.into()),
            ..NameQuestion::default()
        };
        let (hit, steps) = steps(&|| look_up_by_name(&agent, &question));
        assert_eq!(steps, expected, "{surname} {given} {birth} {postcode}");
        (hit, steps)
    };
    // For each hit, by a first, a middle and the last question, a miss that is typed in the same form.
    let pairs = [
        (["O'Brien", "Zoe", "2015-03-04", ""], ["O'Neill", "Zoe", "2015-03-04", ""]),
        (["OBrien", "Zoe", "2015-04-03", "ZC9 9ZZ"], ["ONeill", "Zoe", "2015-04-03", "ZC9 9ZZ"]),
        (["Thistlethwayte", "Oscar", "2013-09-21", "ZC6 6GG"], ["Thistlethwayte", "Oscar", "2013-09-21", "ZC6 6HH"]),
        (["Smith-Jones", "William", "2014-02-09", ""], ["Smith-Evans", "Winifred", "2014-02-09", ""]),
        (["Suharto", "Adi", "2018-08-18", ""], ["Sukarno", "Adi", "2018-08-18", ""]),
    ];
    for (hit, miss) in pairs {
        let (hit, miss) = (by_name(hit), by_name(miss));
        assert_eq!((hit.0, miss.0, hit.1), (true, false, miss.1));
        assert!(hit.1 >= 3, "{hit:?}");
    }
    // By number one, whether it is found or not.
    let by_number = |number: NhsNumber, birth: &str| {
        let question = Question { number: number.digits(), birth: birth.into(), ..Question::default() };
        steps(&|| look_up(&agent, &question))
    };
    let number = stage.numbers[0];
    assert_eq!([by_number(number, "2015-03-04"), by_number(number, "2015-03-05")], [(true, 1), (false, 1)]);
}

/// Nine of one name and birth date, one of whom came last.
fn nine(stage: &Stage, numbers: &[NhsNumber]) -> Vec<String> {
    let line = |number: &NhsNumber| {
        let digits = number.digits();
        format!("{digits},2016-01-05,Ncube,Ada,ZC8 8JJ,cpp,2025-01-10,,,E08000035,,")
    };
    let lines: Vec<String> = numbers.iter().map(line).collect();
    let crowded = |out: &Value| count(out, "/crowded");
    let header = PLAN_COLUMNS.join(",");
    assert_eq!(crowded(&stage.site.ingest("eight.csv", &header, &lines[..8]).unwrap()), 0);
    assert_eq!(crowded(&stage.site.ingest("ninth.csv", &header, &lines[8..]).unwrap()), 1);
    lines
}

#[test]
fn a_ninth_person_of_one_name_and_birth_date_is_never_a_plain_miss() {
    let stage = stage();
    let numbers: Vec<NhsNumber> = (0..9).map(|n| number_from(999_700_000 + 7 * n).unwrap()).collect();
    let three = |number: &NhsNumber| format!("{:03}", number.as_u64() % 1000);
    nine(&stage, &numbers);
    stage.agent.sync().unwrap();
    let ask = || stage.ask("Ncube", "Ada", "2016-01-05", "");
    let shown = |reply: &Value| -> BTreeSet<String> {
        reply["candidates"].as_array().into_iter().flatten().map(|one| text(one, "/last_three").to_owned()).collect()
    };
    let more = |reply: &Value| reply["words"].to_string().contains("More people share these details");
    // Eight are shown, and that there may be more.
    let reply = ask();
    assert!(text(&reply, "/answer") == "flagged" && more(&reply), "{reply}");
    assert_eq!(shown(&reply), numbers[..8].iter().map(three).collect());
    let by_number = || stage.agent.look_up(numbers[8], "2016-01-05".parse().unwrap()).unwrap();
    assert_eq!(text(&by_number(), "/answer"), "flagged");
    // The operator is told.
    let alerts = stage.site.json(&["alert", "list"]).unwrap();
    let alert = alerts.as_array().unwrap().iter().find(|alert| text(alert, "/kind") == "crowded").unwrap();
    assert_eq!((count(alert, "/count"), &alert["device"]), (1, &Value::Null));
    let listed = run(stage.site.command().unwrap().args(["alert", "list"])).unwrap();
    assert!(listed.contains("crowded") && !listed.contains("Ncube") && !listed.contains(&numbers[8].digits()));
    // Most of the eight, then all, may not be shown any more, and the server has not taken them out yet.
    outlive(&stage, &numbers[..6]);
    stage.agent.sync().unwrap();
    let reply = ask();
    assert!(text(&reply, "/answer") == "flagged" && more(&reply), "{reply}");
    assert_eq!(shown(&reply), numbers[6..8].iter().map(three).collect());
    outlive(&stage, &numbers[6..8]);
    stage.agent.sync().unwrap();
    let reply = ask();
    assert_eq!((text(&reply, "/answer"), text(&reply, "/reason")), ("cannot-answer", "crowded"), "{reply}");
    assert!(reply["words"].to_string().contains("Look up by NHS number"), "{reply}");
    assert_eq!(text(&by_number(), "/answer"), "flagged");
    let events = {
        let Stage { agent, mut running, site, .. } = stage;
        agent.drain(&mut running).unwrap();
        // One of them is taken out: the ninth has a place by name at once.
        let delete = format!("{},,,,,,,,,,,delete", numbers[2].digits());
        site.ingest("delete.csv", &PLAN_COLUMNS.join(","), &[delete]).unwrap();
        agent.sync().unwrap();
        let reply = agent.json(&["look-up", "--date-of-birth", "2016-01-05", "--surname", "Ncube"]).unwrap();
        assert_eq!(text(&reply, "/answer"), "cannot-answer", "without a given name: {reply}");
        let reply = agent
            .json(&["look-up", "--date-of-birth", "2016-01-05", "--surname", "Ncube", "--given-name", "Ada"])
            .unwrap();
        assert_eq!(shown(&reply), BTreeSet::from([three(&numbers[8])]), "{reply}");
        site.events().unwrap()
    };
    let crowded = events.iter().filter(|event| text(event, "/reason") == "crowded").count();
    assert_eq!(crowded, 1, "and the audit says why there was no answer");
}

/// Publishes plans whose time to be shown is over by now, as if that had been an hour before the end, and keeps the server
/// from taking them out: what a device holds that has been away since.
fn outlive(stage: &Stage, numbers: &[NhsNumber]) {
    let home = Home::open(stage.site.directory()).unwrap();
    home.trust().unwrap();
    let now_ms = SystemClock.now_ms();
    let minute = u32::try_from(now_ms / 60_000).unwrap();
    home.store
        .write::<_, StoreError>(|tx| {
            for number in numbers {
                let id = tx.person_id(*number)?.unwrap();
                let mut person = tx.person(id)?.unwrap();
                person.plans.iter_mut().for_each(|plan| plan.visible_until_min = Some(minute - 1));
                tx.put_person(&person)?;
                tx.log_change(Some(id), now_ms)?;
            }
            tx.settle_outlived(minute)
        })
        .unwrap();
    let published = publish(&home.store, &home.keys, now_ms - 3_600_000, &mut |_| ()).unwrap();
    assert_eq!((published.puts, published.removes), (numbers.len() as u64, 0));
}
