//! The agent's loopback API and command line refuse what they should, in words and with the right exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::os::unix::fs::PermissionsExt as _;

use cpis_tests::loopback::{Api, Reply};
use cpis_tests::process::{program, run};
use cpis_tests::scene::{Said, text};
use cpis_tests::site::{AgentSite, PASSPHRASE, Site, SiteRules};
use serde_json::{Value, json};

/// The API, whose every reply must not be kept and must not be readable by web pages.
struct Checked(Api);

impl Checked {
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let reply = self.0.send(method, path, headers, body).unwrap();
        assert!(reply.headers.contains("cache-control: no-store"), "{method} {path}: {}", reply.headers);
        assert!(!reply.headers.contains("access-control-allow"), "{}", reply.headers);
        reply
    }
}

/// Headers, and the status and code that they are refused with.
type Refused<'a> = (&'a [(&'a str, &'a str)], u16, &'a str);

struct Enrolled {
    agent: AgentSite,
    site: Site,
    work: tempfile::TempDir,
}

fn enrolled() -> Enrolled {
    let work = tempfile::tempdir().unwrap();
    let site = Site::make(&work.path().join("central"), &["Rutland"], 20).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    server.stop().unwrap();
    Enrolled { agent, site, work }
}

#[test]
fn only_the_local_holder_of_the_token_is_answered() {
    let stage = enrolled();
    let running = stage.agent.start().unwrap();
    let file = stage.agent.directory().join("api.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let api = Checked(Api::of(&stage.agent).unwrap());
    assert!(api.0.address.starts_with("127.0.0.1:"));
    assert_eq!(api.send("GET", "/v1/status", &[], "").status, 200);
    let port = api.0.address.split(':').nth(1).unwrap();
    let refused: [Refused<'_>; 9] = [
        (&[("Authorization", "")], 401, "no-token"),
        (&[("Authorization", "Bearer 0000")], 401, "no-token"),
        (&[("Authorization", &format!("Basic {}", api.0.token))], 401, "no-token"),
        (&[("Authorization", &format!("Bearer {}x", api.0.token))], 401, "no-token"),
        (&[("Host", "attacker.example")], 421, "wrong-host"),
        (&[("Host", &format!("attacker.example:{port}"))], 421, "wrong-host"),
        (&[("Host", "127.0.0.1")], 421, "wrong-host"),
        (&[("Origin", "https://attacker.example")], 403, "foreign-origin"),
        (&[("Origin", "null")], 403, "foreign-origin"),
    ];
    for (headers, status, code) in refused {
        for (method, path) in [("GET", "/v1/status"), ("POST", "/v1/lock"), ("GET", "/v1/nothing")] {
            let reply = api.send(method, path, headers, "{}");
            assert_eq!((reply.status, text(&reply.body, "/code")), (status, code), "{method} {path} {headers:?}");
            assert!(!reply.body.to_string().contains(&api.0.token));
        }
    }
    assert_eq!(
        api.0.raw("GET /v1/status HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap().status,
        421,
        "no host at all"
    );
    assert_eq!(api.send("GET", "/v1/status", &[("Host", &format!("localhost:{port}"))], "").status, 200);
    assert!(!running.log().contains(&api.0.token), "the token is not logged");
    assert!(running.stop().unwrap().success(), "SIGTERM ends it with 0");
    assert!(!file.exists(), "api.json goes with the agent");
}

#[test]
fn requests_that_are_not_as_they_should_be_change_nothing() {
    let stage = enrolled();
    let running = stage.agent.start().unwrap();
    let api = Checked(Api::of(&stage.agent).unwrap());
    for path in ["unlock", "practitioner", "lock", "look-up", "reveal", "sync", "import"] {
        assert_eq!(api.send("GET", &format!("/v1/{path}"), &[], "").status, 405, "{path}");
    }
    for path in ["status", "outbox", "doctor"] {
        assert_eq!(api.send("POST", &format!("/v1/{path}"), &[], "{}").status, 405, "{path}");
    }
    assert_eq!(api.send("GET", "/v1/look-up?nhs_number=9990000018", &[], "").status, 405);
    assert_eq!(api.send("GET", "/", &[], "").status, 404);
    let good = json!({ "nhs_number": "9990000018", "date_of_birth": "2015-03-04" });
    assert_eq!(text(&api.send("POST", "/v1/look-up", &[], &good.to_string()).body, "/reason"), "vault-locked");
    let mut unknown = good.clone();
    unknown["silent"] = json!(true);
    let bodies = [
        (unknown.to_string(), 422),
        ("{}".to_owned(), 422),
        ("{".to_owned(), 400),
        (String::new(), 400),
        (json!({ "nhs_number": 9_990_000_018u64, "date_of_birth": "2015-03-04" }).to_string(), 422),
        (json!({ "nhs_number": "9".repeat(20_000), "date_of_birth": "x" }).to_string(), 413),
    ];
    for (body, status) in bodies {
        let reply = api.send("POST", "/v1/look-up", &[], &body);
        assert_eq!(reply.status, status, "{}", body.chars().take(60).collect::<String>());
    }
    let plain = [("Content-Type", "text/plain")];
    assert_eq!(api.send("POST", "/v1/look-up", &plain, &good.to_string()).status, 415, "what a form could send");
    let long = json!({ "practitioner": "P".repeat(100), "passphrase": PASSPHRASE }).to_string();
    assert_eq!(api.send("POST", "/v1/unlock", &[], &long).status, 403);
    let status = stage.agent.status().unwrap();
    assert_eq!((&status["outbox"]["through"], &status["unlocked_by"]), (&json!(0), &Value::Null));
    assert!(!running.log().contains("9990000018") && !running.log().contains(PASSPHRASE));
    assert!(running.stop().unwrap().success());
}

#[test]
fn commands_fail_in_words_with_their_codes() {
    let stage = enrolled();
    let agent = &stage.agent;
    let look_up = ["look-up", "--nhs-number", "9990000018", "--date-of-birth", "2015-03-04"];
    let passphrase = agent.passphrase().to_str().unwrap();
    let unlock = ["unlock", "--practitioner", "P001", "--passphrase-file", passphrase];
    for arguments in [&look_up[..], &unlock, &["reveal", "1"], &["lock"]] {
        let said = agent.says(arguments).unwrap();
        assert_eq!(said.code, 6, "{arguments:?}: {said:?}");
        assert!(said.err.contains("not running") && said.err.contains("cpis-agent run"), "{}", said.err);
        assert!(!said.err.contains("9990000018"));
    }
    assert_eq!(agent.says(&["status"]).unwrap().code, 0, "a stopped agent's own state is read");
    assert_eq!(agent.says(&["outbox"]).unwrap().code, 0);
    assert_eq!(agent.says(&["sync"]).unwrap().code, 69, "the server is not there");
    let running = agent.start().unwrap();
    let second = agent.says(&["run", "--api", "127.0.0.1:0"]).unwrap();
    assert!(second.code == 1 && second.err.contains("another process"), "{second:?}");
    assert_eq!(agent.says(&["status"]).unwrap().code, 0, "the first goes on, and its api.json is whole");
    assert_eq!(agent.says(&["sync"]).unwrap().code, 69);
    running.kill().unwrap();
    assert!(agent.directory().join("api.json").exists(), "what a killed agent leaves");
    assert_eq!(agent.says(&look_up).unwrap().code, 6);
    assert_eq!(agent.says(&["status"]).unwrap().code, 0);
    assert_eq!(agent.says(&["run", "--api", "0.0.0.0:0"]).unwrap().code, 78);
    for (config, wanted) in [
        ("log = \"info\"\ndrop_foldr = \"/x\"\n", ["2", "drop_foldr"]),
        ("journal_mib = 1\n", ["journal_mib", "between 4 and"]),
        ("api = \"192.0.2.1:80\"\n", ["api", "loopback"]),
        ("log = \"info\"\nlog = \"debug\"\n", ["2", "log"]),
    ] {
        std::fs::write(agent.directory().join("agent.toml"), config).unwrap();
        let said = agent.says(&["run"]).unwrap();
        assert_eq!(said.code, 78, "{said:?}");
        assert!(wanted.iter().all(|word| said.err.contains(word)), "{}", said.err);
    }
    std::fs::remove_file(agent.directory().join("agent.toml")).unwrap();
    let nowhere = stage.work.path().join("nowhere");
    for arguments in [["status"], ["run"], ["doctor"], ["sync"]] {
        let said = Said::by(program("cpis-agent").unwrap().arg("--dir").arg(&nowhere).args(arguments)).unwrap();
        assert!(said.code == 1 && said.err.contains("no enrolled agent"), "{arguments:?} {said:?}");
    }
    assert!(!nowhere.exists(), "asking makes nothing");
    let again = agent.says(&["enrol", "--invitation", "x", "--practitioner", "P001", "--passphrase-file", passphrase]);
    let again = again.unwrap();
    assert!(again.code == 1 && again.err.contains("already"), "{again:?}");
    drop(stage.site);
}

#[test]
fn every_command_helps() {
    let agent = ["enrol", "run", "unlock", "lock", "add-practitioner", "look-up", "reveal", "sync", "import", "status"];
    let server = [
        "init",
        "root",
        "synthesise",
        "ingest",
        "scope",
        "site",
        "device",
        "practitioner",
        "audit",
        "bundle",
        "serve",
        "status",
    ];
    for (name, commands) in [("cpis-agent", &agent[..]), ("cpis-server", &server[..])] {
        let all = run(program(name).unwrap().arg("--help")).unwrap();
        assert!(all.contains("0 done"), "{name} --help tells the exit codes");
        for command in commands {
            assert!(all.contains(command), "{name} --help names {command}");
            let help = run(program(name).unwrap().args([command, "--help"])).unwrap();
            assert!(help.contains("Usage:") && (help.contains("Example") || help.contains("Options")), "{help}");
        }
    }
}
