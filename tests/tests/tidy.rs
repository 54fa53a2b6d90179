//! The house rules as a test: headers, sizes, names, one home for each foreign crate, purity of the core.
//! It must not fix anything; it says which file breaks which rule.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::path::{Path, PathBuf};

/// A real seam is worth more than a number, but nothing grows past this unnoticed.
const LINES_MAX: usize = 450;
const NAMES_REFUSED: [&str; 5] = ["utils", "helpers", "common", "manager", "misc"];

/// Foreign crates and the only files of the products that may name them.
const HOMES: [(&str, &[&str]); 11] = [
    ("bincode::", &["protocol/src/codec.rs"]),
    ("ed25519_dalek::", &["protocol/src/sign.rs"]),
    ("hpke::", &["protocol/src/seal.rs"]),
    ("argon2::", &["protocol/src/seal.rs"]),
    ("chacha20poly1305::", &["protocol/src/seal.rs"]),
    ("sled::", &["agent/src/store.rs"]),
    ("reqwest::", &["agent/src/transport.rs", "agent/src/client.rs"]),
    ("notify_debouncer_full::", &["agent/src/watch.rs"]),
    ("rusqlite::", &["server/src/store/"]),
    ("rcgen::", &["server/src/certificate.rs"]),
    ("getrandom::", &["agent/src/random.rs", "server/src/entropy.rs"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source file, by its path from the root, with its text.
fn files(parts: &[&str]) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    for part in parts {
        sources(&root.join(part), &mut found);
    }
    assert!(!found.is_empty());
    let name = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    found.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn every_file_opens_with_its_purpose() {
    let missing: Vec<_> = files(&["protocol", "agent", "server", "tests"])
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(name, _)| name)
        .collect();
    assert!(missing.is_empty(), "no header: {missing:?}");
}

#[test]
fn product_files_say_what_they_must_not_do() {
    let missing: Vec<_> = files(&["protocol/src", "agent/src", "server/src", "tests/src"])
        .into_iter()
        .filter(|(_, text)| {
            let header: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
            !header.contains("must not") && !header.contains("Pure") && !header.contains("never")
        })
        .filter(|(name, _)| !name.contains("test"))
        .map(|(name, _)| name)
        .collect();
    assert!(missing.is_empty(), "the header does not say what the file must not do: {missing:?}");
}

#[test]
fn rooms_stay_small() {
    let long: Vec<_> = files(&["protocol/src", "agent/src", "server/src", "tests"])
        .into_iter()
        .map(|(name, text)| (text.lines().count(), name))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "divide along a seam: {long:?}");
}

#[test]
fn names_mean_something() {
    for (name, _) in files(&["protocol/src", "agent/src", "server/src", "tests/src"]) {
        let stem = Path::new(&name).file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(!NAMES_REFUSED.contains(&stem.as_str()), "{name}");
    }
}

#[test]
fn foreign_crates_have_one_home() {
    for (name, text) in files(&["protocol/src", "agent/src", "server/src"]) {
        for (crate_name, homes) in HOMES {
            let used = text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(crate_name));
            let at_home = homes.iter().any(|home| name.starts_with(home));
            assert!(!used || at_home, "{name} uses {crate_name} away from its home {homes:?}");
        }
    }
}

#[test]
fn the_core_touches_nothing() {
    for (name, text) in files(&["protocol/src"]) {
        for banned in
            ["std::fs", "std::net", "std::env", "std::time", "std::thread", "println!", "SystemTime", "::now()"]
        {
            assert!(!text.contains(banned), "{name} has {banned}");
        }
    }
}

#[test]
fn the_two_sides_do_not_see_each_other() {
    let root = root();
    let agent = std::fs::read_to_string(root.join("agent/Cargo.toml")).unwrap();
    let server = std::fs::read_to_string(root.join("server/Cargo.toml")).unwrap();
    assert!(!agent.contains("cpis-server") && !server.contains("cpis-agent"));
}

#[test]
fn nothing_is_left_open_or_skipped() {
    for (name, text) in files(&["protocol", "agent", "server", "tests"]) {
        if name.ends_with("tidy.rs") {
            continue;
        }
        for mark in ["todo!(", "unimplemented!(", "FIXME", "XXX", "#[ignore"] {
            assert!(!text.contains(mark), "{name} has {mark}");
        }
    }
}

/// Invariant 9, first half: what moves and keeps sealed cells has no path to a key that opens one. Comments may speak of it.
#[test]
fn the_courier_names_no_key() {
    let courier =
        ["driver.rs", "transport.rs", "bundle.rs", "store.rs", "local_keys.rs", "replica/", "agent/grants.rs"];
    let banned = ["FeedKey", "open_keys", "OpeningKey", "LookupPrf", ".evaluate(", "crate::vault"];
    let mut seen = 0;
    for (name, text) in files(&["agent/src"]) {
        // The view is where the reader, who brings the keys of an unlocked vault, meets the copy.
        let path = name.trim_start_matches("agent/src/");
        if !courier.iter().any(|part| path.starts_with(part)) || path == "replica/view.rs" {
            continue;
        }
        seen += 1;
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let found = banned.iter().find(|word| line.contains(**word));
            assert!(found.is_none(), "{name} names {found:?}: {line}");
        }
    }
    assert!(seen >= 7, "the courier's files moved: {seen}");
    let pull = std::fs::read_to_string(root().join("protocol/src/sync/pull.rs")).unwrap();
    assert!(!pull.contains("FeedKey") && !pull.contains("open_keys"));
}

/// The threat table names tests: each must be there, and every threat must name one.
#[test]
fn every_threat_names_a_test_that_is_there() {
    let table = std::fs::read_to_string(root().join("docs/threats.md")).unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| **")).collect();
    assert!(rows.len() >= 15, "{} threats", rows.len());
    for row in rows {
        let named: Vec<(&str, &str)> = row.split('`').filter_map(|part| part.split_once(".rs::")).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for (file, function) in named {
            let text = std::fs::read_to_string(root().join(format!("{file}.rs"))).unwrap_or_default();
            assert!(text.contains(&format!("fn {function}(")), "{file}.rs has no {function}");
        }
    }
}
