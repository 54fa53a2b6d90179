//! The courier, which syncs while the vault is locked, cannot open a cell or compute a token: everything that it holds
//! or can reach is tried as a key. It must not unlock before that; the vault opens for the control only.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use cpis_agent::agent::{Agent, KEYSLOT};
use cpis_agent::config::Config;
use cpis_agent::device_secret::DeviceSecret;
use cpis_agent::keyslot::Keyslot;
use cpis_agent::random::OsRandom;
use cpis_protocol::Refusal;
use cpis_protocol::cell::{Cell, FeedKey, LookupPrf as _, Place, SHARED_TOKEN_MAX, SLOTS};
use cpis_protocol::grant::Grant;
use cpis_protocol::query::{Query, Token};
use cpis_protocol::seal::{Key, OpeningKey};
use cpis_protocol::trust::Trust;
use cpis_server::home::Home;
use cpis_server::port::Store as _;
use cpis_server::publish::{PublishError, lookup};
use cpis_tests::memory;
use cpis_tests::process::run;
use cpis_tests::scene::{COLUMNS, number_from, text};
use cpis_tests::site::{AgentSite, PASSPHRASE, PRACTITIONER, Site, SiteRules};

const SLOT_BYTES: usize = 128 * 1024;
const SEALED: core::ops::Range<usize> = 22..127_038;
/// What a program of this repository derives from a device secret.
const DOMAINS: [&str; 3] = ["cpis-edge/1/keyslot", "cpis-edge/1/vault-pepper", "cpis-edge/1/names"];
/// A random key of 32 bytes has about 30 different ones; fewer than this happens once in thousands of millions.
const DIFFERENT_MIN: usize = 20;

type Bytes = [u8; 32];

/// The live cells of a device, and the token of somebody whose record is among them.
struct Copy {
    cells: Vec<(Place, Cell)>,
    token: Token,
}

impl Copy {
    /// Whether a key opens any cell for the token: every place, slot and index is tried, whatever the locators say.
    fn opens(&self, candidate: &Bytes) -> bool {
        let key = FeedKey(Key::from_bytes(*candidate));
        let mut secrets: HashMap<String, _> = HashMap::new();
        self.cells.iter().any(|(place, cell)| {
            let secret =
                secrets.entry(format!("{place:?}")).or_insert_with(|| key.evaluate(place, &self.token).unwrap());
            (0..SHARED_TOKEN_MAX).any(|index| (0..SLOTS).any(|slot| cell.open(place, secret, index, slot).is_ok()))
        })
    }

    /// Which of many keys open a cell: only those whose locator is there are tried, for which no key can go without.
    fn opened_by<'a>(&self, candidates: impl Iterator<Item = &'a Bytes>) -> usize {
        let mut places: Vec<Place> = Vec::new();
        let mut located: HashSet<[u8; 6]> = HashSet::new();
        for (place, cell) in &self.cells {
            located.extend(cell.locators());
            if !places.contains(place) {
                places.push(*place);
            }
        }
        let fits = |candidate: &&Bytes| {
            let key = FeedKey(Key::from_bytes(**candidate));
            places.iter().any(|place| {
                let secret = key.evaluate(place, &self.token).unwrap();
                (0..SHARED_TOKEN_MAX).any(|index| located.contains(&secret.locator(index)))
            })
        };
        candidates.filter(fits).filter(|candidate| self.opens(candidate)).count()
    }
}

/// Every window of 32 bytes that may be a key, at each `step`th place.
fn windows(bytes: &[u8], step: usize, into: &mut HashSet<Bytes>) {
    for window in bytes.windows(32).step_by(step) {
        let window: Bytes = window.try_into().unwrap();
        let mut seen = [false; 256];
        window.iter().for_each(|byte| seen[usize::from(*byte)] = true);
        if seen.iter().filter(|seen| **seen).count() >= DIFFERENT_MIN {
            into.insert(window);
        }
    }
}

/// Windows of the process's memory; `None` where this user may not read it.
fn memory_of(pid: u32) -> Option<HashSet<Bytes>> {
    let mut found = HashSet::new();
    match memory::mappings(pid, |_, bytes| windows(bytes, 8, &mut found)) {
        Ok(_) => Some(found),
        Err(error) => {
            let denied = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            assert_eq!(denied, Some(std::io::ErrorKind::PermissionDenied), "{error:#}");
            assert!(!rustix::process::geteuid().is_root(), "root may read it: {error:#}");
            None
        }
    }
}

fn copy_directory(from: &Path, to: PathBuf) -> PathBuf {
    std::fs::create_dir_all(&to).unwrap();
    std::fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            copy_directory(&path, to.join(name));
        } else {
            std::fs::copy(&path, to.join(name)).unwrap();
        }
    }
    to
}

/// Enrols and syncs, never unlocked: changes, a new feed key, everything sealed anew, a removal.
fn courier(site: &Site, agent: &AgentSite) {
    let lines: Vec<_> = (0..3)
        .map(|at| {
            let number = number_from(999_888_000 + at * 10).unwrap();
            format!("{},2016-05-06,Testperson,Alex,,cpp,2026-01-05,,,E08000035,false,put", number.digits())
        })
        .collect();
    let gone = format!("{},,,,,,,,,,,delete", number_from(999_888_010).unwrap().digits());
    let rotate = |more: &[&str]| {
        run(site.command().unwrap().args(["feed", "rotate", "--all"]).args(more)).unwrap();
        agent.sync().unwrap();
    };
    agent.sync().unwrap();
    site.ingest("more.csv", COLUMNS, &lines).unwrap();
    agent.sync().unwrap();
    rotate(&[]);
    rotate(&["--reseal"]);
    site.ingest("fewer.csv", COLUMNS, &[gone]).unwrap();
    rotate(&[]);
    assert!(agent.status().unwrap().pointer("/unlocked_by").is_some_and(serde_json::Value::is_null));
}

fn token(site: &Site) -> Token {
    let home = Home::open(site.directory()).unwrap();
    let parameters = home.store.read(|tx| -> Result<_, PublishError> { lookup(tx) }).unwrap();
    let person = site.flagged().unwrap();
    Query::nhs_number(person.number, person.birth).token(&parameters).unwrap()
}

fn cells(agent: &Agent) -> Vec<(Place, Cell)> {
    let view = agent.replica().view();
    assert!(view.is_proved() && view.head.is_some());
    let of = |copy: &cpis_agent::replica::FeedCopy| {
        let place = Place { feed: copy.state().feed, epoch: copy.state().epoch };
        copy.cells(agent.replica().store()).map(|cell| (place, cell.unwrap())).collect::<Vec<_>>()
    };
    view.feeds.values().flat_map(of).collect()
}

/// Every secret that the device has without a passphrase, by name, and the whole plain keyslot in both its copies.
fn held(directory: &Path) -> (Vec<(&'static str, Bytes)>, HashSet<Bytes>) {
    let secret = DeviceSecret::open(directory, &Config::default().sources()).unwrap();
    let file: Bytes = std::fs::read(directory.join("device.secret")).unwrap().try_into().unwrap();
    let mut named = vec![("device secret", file)];
    named.extend(DOMAINS.map(|domain| (domain, *secret.derive(domain).expose())));
    let raw = std::fs::read(directory.join(KEYSLOT)).unwrap();
    let mut all = HashSet::new();
    for slot in raw.chunks(SLOT_BYTES) {
        let body = secret.derive(DOMAINS[0]).open(&slot[..22], &slot[SEALED]).unwrap();
        let used = body.iter().rposition(|byte| *byte != 0).unwrap() + 32;
        windows(&body[..used.min(body.len())], 1, &mut all);
    }
    let keyslot = Keyslot::open(&directory.join(KEYSLOT), &secret).unwrap();
    let contents = keyslot.contents();
    assert!(!contents.grant.is_empty());
    named.push(("device seed", *contents.signer.seed()));
    named.push(("vault's public half", *contents.vault()));
    let keys: Vec<_> = contents.local_keys().collect();
    assert!(keys.len() >= 2, "one for each feed");
    named.extend(
        keys.into_iter().map(|(feed, number)| ("local key", *contents.local_key(feed, number).unwrap().expose())),
    );
    for (what, bytes) in &named[4..] {
        assert!(all.contains(bytes), "the windows miss a {what}");
    }
    (named, all)
}

/// The grant held, and the vault's private half, which takes the passphrase.
fn with_passphrase(directory: &Path) -> (Grant, OpeningKey) {
    let secret = DeviceSecret::open(directory, &Config::default().sources()).unwrap();
    let mut keyslot = Keyslot::open(&directory.join(KEYSLOT), &secret).unwrap();
    let opening = keyslot.open_vault(PRACTITIONER.parse().unwrap(), PASSPHRASE, || 0).unwrap();
    let contents = keyslot.contents();
    let trust = Trust::pin(&contents.root).unwrap();
    let device = cpis_protocol::id::DeviceId::of(&contents.signer.public_key());
    ((*Grant::verify(&contents.grant, &device, &trust, None).unwrap()).clone(), opening)
}

#[test]
fn the_courier_opens_no_cell_with_anything_that_it_holds() {
    let work = tempfile::tempdir().unwrap();
    let site = Site::make(&work.path().join("central"), &["Leeds", "Bradford"], 60).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let _server = site.serve().unwrap();
    let agent = site.enrol(&work.path().join("crew"), "crew").unwrap();
    let running = agent.start().unwrap();
    courier(&site, &agent);
    let locked = memory_of(running.id());
    assert!(running.stop().unwrap().success());

    let directory = copy_directory(agent.directory(), work.path().join("looked-at"));
    let opened = Agent::open(&directory, &Config::load(&directory).unwrap()).unwrap();
    assert!(opened.vault().holder().is_none());
    let copy = Copy { cells: cells(&opened), token: token(&site) };
    let live = copy.cells.len();
    drop(opened);
    let (named, mut reach) = held(&directory);
    // The courier reads the copy's rows, and so the cells.
    copy.cells.iter().for_each(|(_, cell)| windows(cell.as_bytes(), 1, &mut reach));
    for (what, bytes) in &named {
        assert!(!copy.opens(bytes), "a {what} opens a cell");
    }
    assert!(live > 60 && reach.len() > 5000);
    assert_eq!(copy.opened_by(reach.iter()), 0, "a window of the keyslot or of a cell opens a cell");
    if let Some(locked) = &locked {
        assert!(locked.len() > 1000, "there is memory to try");
        assert_eq!(copy.opened_by(locked.iter()), 0, "something in the locked courier's memory opens a cell");
    }

    // Nor does any of it open the grant, in which the feed keys are.
    let (grant, opening) = with_passphrase(&directory);
    let refused = |bytes: Bytes| grant.open_keys(&OpeningKey::from_seed(bytes)).err() == Some(Refusal::DoesNotOpen);
    assert!(refused(OsRandom::bytes().unwrap()));
    for (what, bytes) in &named {
        assert!(refused(*bytes), "a {what} opens the grant");
    }

    // The control: the passphrase opens the grant, and then the same procedure opens the cell.
    assert!(!refused(*opening.expose()));
    let keys = grant.open_keys(&opening).unwrap();
    let mut places: Vec<Place> = copy.cells.iter().map(|(place, _)| *place).collect();
    places.dedup();
    let keys: HashSet<Bytes> = places
        .iter()
        .flat_map(|place| keys.of(place.feed, place.epoch).map(|key| *key.0.expose()).collect::<Vec<_>>())
        .collect();
    assert_eq!(keys.iter().filter(|key| copy.opens(key)).count(), 1, "{} keys", keys.len());
    assert_eq!(copy.opened_by(keys.iter()), 1);
    let mut as_windows = HashSet::new();
    keys.iter().for_each(|key| windows(key, 1, &mut as_windows));
    assert_eq!(as_windows, keys, "the windows would have held them");
    // And so does the memory of the agent that somebody unlocked.
    let running = agent.start().unwrap();
    agent.unlock().unwrap();
    let person = site.flagged().unwrap();
    let (_, reply) = agent.ask(&person.number.digits(), &person.birth.iso(), &[]).unwrap();
    assert_eq!(text(&reply, "/answer"), "flagged");
    if let Some(unlocked) = memory_of(running.id()) {
        assert!(copy.opened_by(unlocked.iter()) >= 1, "the search of the memory is blind");
    }
}
