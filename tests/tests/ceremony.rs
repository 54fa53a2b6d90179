//! docs/ceremony.md, followed: every command of its later sections is run as it stands there, over a server and a device
//! that go on running, and a command that stands there and is run by nobody is a failure.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cpis_tests::process::{Running, output, program};
use cpis_tests::scene::{count, text};
use cpis_tests::site::{AgentSite, Site, SiteRules};
use serde_json::Value;
use tempfile::TempDir;

const ROLES: [&str; 5] = ["publisher", "beat", "device-authority", "receipt", "audit-recipient"];

/// A server's directory and the officers' files, beside each other.
struct Ceremony {
    work: TempDir,
    server: PathBuf,
}

impl Ceremony {
    fn output(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = program("cpis-server").unwrap();
        command.arg("--dir").arg(&self.server).args(arguments).current_dir(self.work.path());
        output(&mut command).unwrap()
    }

    fn good(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn bad(&self, arguments: &[&str], word: &str) {
        let output = self.output(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(word) && said.contains("hint"), "{arguments:?}: {said}");
    }

    /// Makes an officer's passphrase and key; gives the public key.
    fn officer(&self, name: &str) -> String {
        std::fs::write(self.work.path().join(name), format!("{name} tractor pebble onion lamp")).unwrap();
        let key = format!("{name}.rootkey");
        let made = self.good(&["--json", "root", "new-key", "--out", &key, "--passphrase-file", name]);
        text(&serde_json::from_str(&made).unwrap(), "/public_key").to_owned()
    }

    fn sign(&self, officer: &str, file: &str, before: &[&str]) {
        let key = format!("{officer}.rootkey");
        let arguments = ["root", "sign", "--yes", "--key", &key, "--passphrase-file", officer];
        self.good(&[&arguments[..], before, &[file]].concat());
    }

    fn draft(&self, out: &str, keys: [&str; 3]) -> String {
        let [a, b, c] = keys;
        let start = ["root", "draft", "--out", out, "--threshold", "2"];
        self.good(&[&start[..], &["--root-key", a, "--root-key", b, "--root-key", c]].concat())
    }
}

/// Sections 1 to 3: two officers of three, with passphrases; and what is refused on the way.
#[test]
fn the_ceremony_as_it_is_written() {
    let work = tempfile::tempdir().unwrap();
    let c = Ceremony { server: work.path().join("server"), work };
    std::fs::write(c.work.path().join("weak"), "123456").unwrap();
    c.bad(&["root", "new-key", "--out", "weak.rootkey", "--passphrase-file", "weak"], "15 characters");
    c.bad(&["init", "--deployment", "North", "--root-key-dir", "r", "--no-passphrase"], "invented people");
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| c.officer(name));
    c.good(&["init", "--deployment", "North"]);
    // A key that lies open signs nothing that real people hang on.
    let bare = c.good(&["--json", "root", "new-key", "--out", "bare.rootkey", "--no-passphrase"]);
    let bare = text(&serde_json::from_str(&bare).unwrap(), "/public_key").to_owned();
    c.draft("bare.root", [&alice, &bob, &bare]);
    let unsigned = std::fs::read(c.work.path().join("bare.root")).unwrap();
    for more in [&[][..], &["--no-passphrase"][..]] {
        let sign = ["root", "sign", "--yes", "--key", "bare.rootkey"];
        c.bad(&[&sign[..], more, &["bare.root"]].concat(), "has no passphrase");
    }
    assert_eq!(std::fs::read(c.work.path().join("bare.root")).unwrap(), unsigned, "nothing was signed");
    c.draft("first.root", [&alice, &bob, &carol]);
    c.bad(&["root", "install", "first.root"], "refused");
    c.sign("alice", "first.root", &[]);
    c.bad(&["root", "install", "first.root"], "fewer distinct signers");
    c.sign("bob", "first.root", &[]);
    c.good(&["root", "install", "first.root"]);
    c.good(&["root", "show", "--out", "present.root"]);
    // Carol leaves; David comes.
    let david = c.officer("david");
    let drafted = c.draft("next.root", [&alice, &bob, &david]);
    assert!(drafted.contains("root key ADDED") && drafted.contains("root key WITHDRAWN"), "{drafted}");
    let start = ["root", "sign", "--key", "alice.rootkey", "--passphrase-file", "alice"];
    c.bad(&[&start[..], &["--yes", "next.root"]].concat(), "--before");
    c.bad(&[&start[..], &["--before", "present.root", "next.root"]].concat(), "without a terminal");
    let _ = c.officer("mallory");
    let start = ["root", "sign", "--yes", "--key", "mallory.rootkey", "--passphrase-file", "mallory"];
    c.bad(&[&start[..], &["--before", "present.root", "next.root"]].concat(), "has no say");
    for officer in ["david", "carol"] {
        c.sign(officer, "next.root", &["--before", "present.root"]);
    }
    c.bad(&["root", "install", "next.root"], "fewer distinct signers");
    c.sign("alice", "next.root", &["--before", "present.root"]);
    c.good(&["root", "install", "next.root"]);
    c.bad(&["root", "install", "next.root"], "refused");
    let shown = c.good(&["root", "show"]);
    assert!(shown.contains("root 2 of North") && shown.contains("fingerprint"), "{shown}");
    c.bad(&["key", "promote", "publisher"], "no next");
    c.bad(&["key", "retire", "audit-recipient"], "sealed for ever");
    assert_eq!(c.output(&["root", "draft", "--out", "x", "--role-days", "audit-recipient=9"]).status.code(), Some(2));
}

/// The commands of a range of the page's sections, as they stand there, without the program's name and directory.
fn commands(sections: std::ops::RangeInclusive<u32>) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ceremony.md");
    let page = std::fs::read_to_string(path).unwrap();
    let mut found = BTreeSet::new();
    for section in page.split("\n## ").skip(1) {
        let number: u32 = section.split('.').next().unwrap().parse().unwrap();
        if !sections.contains(&number) {
            continue;
        }
        let lines = section.lines().map(str::trim).filter(|line| line.starts_with("cpis-server "));
        let spans = section.split('`').skip(1).step_by(2);
        for command in lines.chain(spans) {
            let named = command.strip_prefix("cpis-server ");
            let command = named.unwrap_or(command).replace("--dir /var/lib/cpis-server ", "");
            let first = command.split(' ').next().unwrap();
            if named.is_some() || ["root", "key", "device", "status"].contains(&first) {
                found.insert(command.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        }
    }
    found
}

/// A deployment of invented people whose root the officers took over, with a device that is synced; both keep running.
struct Rehearsal {
    ceremony: Ceremony,
    site: Site,
    server: Running,
    agent: AgentSite,
    running: Running,
    page: BTreeSet<String>,
    done: BTreeSet<String>,
}

impl Rehearsal {
    fn new() -> Self {
        let work = tempfile::tempdir().unwrap();
        let site = Site::make(&work.path().join("central"), &["Leeds"], 40).unwrap();
        site.add_site("crew", &SiteRules::default()).unwrap();
        site.add_practitioner(&["crew"]).unwrap();
        let config = site.directory().join("server.toml");
        let settings = std::fs::read_to_string(&config).unwrap();
        let kept: Vec<_> = settings.lines().filter(|line| !line.starts_with("tick_s")).collect();
        std::fs::write(&config, kept.join("\n") + "\ntick_s = 1\n").unwrap();
        let server = site.serve().unwrap();
        let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
        let running = agent.start().unwrap();
        agent.sync().unwrap();
        let ceremony = Ceremony { server: site.directory().to_path_buf(), work };
        let (page, done) = (commands(4..=7), BTreeSet::new());
        let mut this = Self { ceremony, site, server, agent, running, page, done };
        this.officers_take_over();
        this
    }

    /// Section 3, from the keys without passphrases that `init` made.
    fn officers_take_over(&mut self) {
        let c = &self.ceremony;
        let keys = ["alice", "bob", "carol"].map(|name| c.officer(name));
        c.good(&["root", "show", "--out", "present.root"]);
        c.draft("next.root", [&keys[0], &keys[1], &keys[2]]);
        for n in 1..=2 {
            let key = format!("central/root-keys/root-{n}.rootkey");
            c.good(&["root", "sign", "--yes", "--key", &key, "--before", "present.root", "next.root"]);
        }
        self.sign_and_install();
    }

    /// A command as it stands on the page, with what is to be put in its place.
    fn step(&mut self, command: &str, put: &[(&str, &str)]) -> String {
        assert!(self.page.contains(command), "docs/ceremony.md does not say: {command}\n{:#?}", self.page);
        self.done.insert(command.to_owned());
        let words = command.split(' ');
        let words: Vec<&str> =
            words.map(|word| put.iter().find(|(from, _)| *from == word).map_or(word, |to| to.1)).collect();
        self.ceremony.good(&words)
    }

    /// Section 2 from its second step on.
    fn sign_and_install(&self) {
        for officer in ["alice", "bob"] {
            self.ceremony.sign(officer, "next.root", &["--before", "present.root"]);
        }
        self.ceremony.good(&["root", "install", "next.root"]);
        self.ceremony.good(&["root", "show", "--out", "present.root"]);
    }

    /// The device takes it up by itself, answers, and gets its audit through.
    fn device_goes_on(&mut self) {
        let version = count(&self.json(&["status"]), "/root/version");
        let agent = &self.agent;
        let up_to_date = || agent.sync().is_ok() && count(&agent.status().unwrap(), "/root_version") == version;
        self.running.wait_until("a sync under the newest root", up_to_date).unwrap();
        agent.unlock().unwrap();
        let person = self.site.flagged().unwrap();
        assert_eq!(text(&agent.look_up(person.number, person.birth).unwrap(), "/answer"), "flagged");
        agent.drain(&mut self.running).unwrap();
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ceremony.good(&[&["--json"], arguments].concat())).unwrap()
    }

    /// Standing, id, whether the root names it, whether it signs or is sealed to: of every key of a role.
    fn keys(&self, role: &str) -> Vec<(String, String, bool, bool)> {
        let list = self.json(&["key", "list"]);
        let keys = list["keys"].as_array().unwrap().iter().filter(|key| key["role"] == role);
        let key = |key: &Value| {
            let word = |name: &str| key[name].as_str().unwrap().to_owned();
            (word("standing"), word("id"), key["named"] == true, key["in_use"] == true)
        };
        keys.map(key).collect()
    }

    fn of(&self, role: &str, standing: &str) -> Option<(String, bool, bool)> {
        let found = self.keys(role).into_iter().find(|key| key.0 == standing);
        found.map(|(_, id, named, in_use)| (id, named, in_use))
    }
}

/// Section 4 for each role in turn.
fn planned(r: &mut Rehearsal, role: &str) {
    let audit = role == "audit-recipient";
    let put = [("publisher", role)];
    let (old, ..) = r.of(role, "present").unwrap();
    r.step("key next publisher", &put);
    let (new, named, in_use) = r.of(role, "next").unwrap();
    assert!(!named && !in_use, "nothing uses it");
    r.ceremony.bad(&["key", "promote", role], "does not name");
    r.step("root draft --out next.root", &[]);
    r.sign_and_install();
    r.device_goes_on();
    if !audit {
        assert_eq!(r.of(role, "present").unwrap(), (old.clone(), true, true), "{role}: the old one signs");
        r.step("key promote publisher", &put);
    }
    assert_eq!(r.of(role, "present").unwrap(), (new.clone(), true, true), "{role}");
    if !audit {
        r.ceremony.bad(&["key", "retire", role, "--key", &old], "in use");
    }
    r.device_goes_on();
    r.step("device list", &[]);
    r.step("root draft --withdraw publisher --out next.root", &put);
    r.sign_and_install();
    r.device_goes_on();
    assert_eq!(r.of(role, "before").unwrap(), (old.clone(), false, false), "{role}");
    let gone = if audit {
        r.ceremony.bad(&["key", "retire", "audit-recipient"], "sealed for ever");
        r.step("key retire audit-recipient --key ID --yes", &[("ID", &old)])
    } else {
        r.step("key retire publisher", &put)
    };
    assert!(gone.contains("Destroyed") && gone.contains(&old), "{gone}");
    assert!(r.keys(role).iter().all(|key| key.1 == new), "{role}: the old file is gone");
    r.device_goes_on();
    let list = r.step("key list", &[]);
    assert!(list.contains(&new) && !list.contains(&old), "{list}");
}

#[test]
fn online_keys_are_replaced_as_it_is_written() {
    let mut r = Rehearsal::new();
    for role in ROLES {
        planned(&mut r, role);
    }
    // Section 5, for two keys and then for all that a stolen server held.
    let before = ROLES.map(|role| r.of(role, "present").unwrap().0);
    r.step("key next publisher", &[]);
    r.step("key next beat", &[]);
    r.step("root draft --out next.root --withdraw publisher --withdraw beat", &[]);
    r.sign_and_install();
    for role in ["publisher", "beat"] {
        let (id, named, in_use) = r.of(role, "present").unwrap();
        assert!(!before.contains(&id) && named && in_use, "{role}: the new key signs at once");
        assert!(!r.of(role, "before").unwrap().1, "{role}: the stolen one is named no more");
    }
    r.device_goes_on();
    for role in ROLES {
        r.ceremony.good(&["key", "next", role]);
    }
    let withdraw: Vec<&str> = ROLES.iter().flat_map(|role| ["--withdraw", role]).collect();
    r.ceremony.good(&[&["root", "draft", "--out", "next.root"], &withdraw[..]].concat());
    r.sign_and_install();
    for (role, stolen) in ROLES.iter().zip(&before) {
        assert!(r.keys(role).iter().all(|key| key.1 != *stolen || !(key.2 || key.3)), "{role}");
    }
    r.device_goes_on();
    assert_eq!(r.site.verify().unwrap()["intact"], true);
    ends(&mut r);
    let forgotten: Vec<_> = r.page.difference(&r.done).collect();
    assert!(forgotten.is_empty(), "docs/ceremony.md says what nobody followed: {forgotten:#?}");
    assert!(r.running.stop().unwrap().success());
    r.server.stop().unwrap();
}

/// Section 6: shorter ends, and who warns of them, how often.
fn ends(r: &mut Rehearsal) {
    r.step("root draft --out next.root --days 365", &[]);
    r.step("root draft --out next.root --role-days publisher=90 --role-days beat=90", &[]);
    r.sign_and_install();
    r.device_goes_on();
    let status = r.json(&["status"]);
    let days = |status: &Value, what: &str| {
        let ends = status["ends"].as_array().unwrap().iter().find(|end| end["what"] == what).unwrap().clone();
        ends["days"].as_i64().unwrap()
    };
    assert_eq!(["root", "publisher", "beat", "receipt"].map(|what| days(&status, what)), [399, 89, 89, 399]);
    assert_eq!(status["ends_soon"], serde_json::json!([]));
    assert!(!r.server.log().contains("root or role ends"), "{}", r.server.log());
    r.ceremony.good(&["root", "draft", "--out", "next.root", "--role-days", "publisher=20"]);
    r.sign_and_install();
    r.device_goes_on();
    r.step("status", &[]);
    assert_eq!(r.json(&["status"]).pointer("/ends_soon/0/what").unwrap(), "publisher");
    // A tick a second: it is said once and not at every tick.
    let said = |r: &Rehearsal| r.server.log().matches("root or role ends").count();
    let mut waited = 0;
    while said(r) == 0 && waited < 100 {
        std::thread::sleep(std::time::Duration::from_millis(100));
        waited += 1;
    }
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert_eq!(said(r), 1, "{}", r.server.log());
    let doctor = r.agent.output(&["doctor"]).unwrap();
    let shown = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(shown.lines().any(|line| line.contains("trust root") && line.contains("ends in 19 d")), "{shown}");
}
