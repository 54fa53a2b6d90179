//! Frozen vectors (design section 3, invariant 12): re-created byte for byte from fixed seeds, and run from their files.
//! `CPIS_WRITE_VECTORS=1` rewrites the files; a change of the wire format is then a change that a reviewer sees.

#[path = "../common/mod.rs"]
mod common;
mod make_audit;
mod make_catch_up;
mod make_cells;
mod make_enrol;
mod make_names;
mod make_trust;
mod make_withdrawal;
mod run;
mod run_more;
mod run_names;
mod signed;
mod text;

use std::collections::BTreeSet;
use std::path::PathBuf;

use text::{File, Library};

/// Codes that no object from outside can meet, each with the reason.
const UNREACHABLE: [(&str, &str); 2] = [
    ("replayed", "no entry point gives it: a repeated object is either harmless (ok) or `rollback`, `gap`, `fork`"),
    ("wrong-feed", "no object names a feed twice: cells of another feed end in a state root or a tag that fails"),
];

fn files() -> Vec<File> {
    vec![
        make_trust::signed(),
        make_trust::root(),
        make_trust::beat(),
        make_trust::head(),
        make_trust::grant(),
        make_withdrawal::withdrawal(),
        make_enrol::enrol(),
        make_enrol::reference(),
        make_enrol::record(),
        make_enrol::token(),
        make_names::names(),
        make_cells::cell(),
        make_cells::snapshot(),
        make_cells::bounds(),
        make_cells::delta(),
        make_audit::audit(),
        make_audit::receipt(),
        make_audit::bundle(),
        make_catch_up::question(),
        make_catch_up::reply(),
    ]
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

/// Reads every file in the directory, whoever wrote it.
fn read_all() -> (Library, Vec<(String, Vec<String>)>) {
    let mut library = Library::default();
    let mut names = Vec::new();
    let entries = std::fs::read_dir(directory()).unwrap_or_else(|e| panic!("{e}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap_or_else(|e| panic!("{e}")).path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "txt"));
    paths.sort();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let cases = library.read(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        names.push((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), cases));
    }
    (library, names)
}

/// Every frozen file equals what the seeds make now: any change of bytes, order or limits turns this red.
#[test]
fn frozen() {
    let write = std::env::var_os("CPIS_WRITE_VECTORS").is_some_and(|v| v == "1");
    let files = files();
    let mut expected: BTreeSet<String> = BTreeSet::new();
    for file in &files {
        let path = directory().join(format!("{}.txt", file.name));
        if write {
            std::fs::write(&path, file.print()).unwrap_or_else(|e| panic!("{e}"));
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let made = file.print();
        let differs = stored.lines().zip(made.lines()).position(|(a, b)| a != b);
        assert!(
            stored == made,
            "{}: the wire format changed, first at line {:?}",
            path.display(),
            differs.map(|n| n + 1)
        );
        expected.insert(file.name.into());
    }
    let stored: BTreeSet<String> = read_all().1.into_iter().map(|(name, _)| name).collect();
    assert_eq!(stored, expected, "a file that nothing makes, or none at all");
}

/// Runs every case of every file, and asks that every object and every refusal code is covered.
#[test]
fn every_case() {
    if std::env::var_os("CPIS_WRITE_VECTORS").is_some() {
        return;
    }
    let (library, files) = read_all();
    let mut objects = BTreeSet::new();
    let mut codes = BTreeSet::new();
    let mut wrong = Vec::new();
    for (file, cases) in &files {
        assert!(!cases.is_empty(), "{file} has no cases");
        for name in cases {
            let object = library.field(name, "object").unwrap_or_else(|| panic!("{name} names no object"));
            let expect = library.field(name, "expect").unwrap_or_else(|| panic!("{name} expects nothing"));
            let got = run::run(&library, name, object, &library.bytes(name));
            let got = got.map_or_else(|refusal| refusal.code(), |()| "ok");
            if got != expect {
                wrong.push(format!("{name}: expected {expect}, got {got}"));
            }
            objects.insert(object.to_string());
            codes.insert(expect.to_string());
        }
    }
    assert!(wrong.is_empty(), "{}\n{} cases differ", wrong.join("\n"), wrong.len());
    let known: BTreeSet<String> = run::OBJECTS.iter().map(|o| (*o).into()).collect();
    assert_eq!(objects, known, "every object has cases");
    let unreachable = UNREACHABLE.iter().map(|(code, _)| (*code).to_string());
    codes.extend(
        unreachable.inspect(|code| assert!(!codes.contains(code), "{code} is reachable after all")).collect::<Vec<_>>(),
    );
    codes.remove("ok");
    assert_eq!(codes, refusal_codes(), "a refusal code without a vector, or a vector with an unknown code");
}

/// The codes in the source of `Refusal`, so that a new one without a vector is noticed.
fn refusal_codes() -> BTreeSet<String> {
    let source = include_str!("../../src/refusal.rs");
    let codes = source.lines().filter_map(|line| line.trim().strip_prefix("Self::")?.split_once(" => \""));
    let codes: BTreeSet<String> = codes.map(|(_, code)| code.trim_end_matches("\",").into()).collect();
    assert!(codes.len() > 20, "the source of Refusal has another form");
    codes
}

/// The valid bytes of every signed object are refused by the entry point of every other: kinds never mix.
#[test]
fn no_object_passes_for_another() {
    if std::env::var_os("CPIS_WRITE_VECTORS").is_some() {
        return;
    }
    let (library, _) = read_all();
    let valid =
        ["root/valid", "beat/valid", "head/valid", "grant/valid", "receipt/valid", "enrol/request", "withdrawal/erase"];
    for presented in valid {
        for place in valid.into_iter().chain(["root/rotation"]) {
            let object = library.field(place, "object").unwrap_or_default();
            if library.field(presented, "object") == Some(object)
                || (presented, place) == ("root/valid", "root/rotation")
            {
                continue;
            }
            let got = run::run(&library, place, object, &library.bytes(presented));
            assert_eq!(got.err().map(|r| r.code()), Some("wrong-kind"), "{presented} in the place of {place}");
        }
    }
}

/// Every valid case is refused once its first byte is changed, so no expectation `ok` is met by not looking.
#[test]
fn the_runner_looks() {
    if std::env::var_os("CPIS_WRITE_VECTORS").is_some() {
        return;
    }
    let (library, files) = read_all();
    for name in files.iter().flat_map(|(_, cases)| cases) {
        let mut bytes = library.bytes(name);
        let skip = ["audit/event", "token/"].iter().any(|s| name.starts_with(s));
        if library.field(name, "expect") != Some("ok") || bytes.is_empty() || skip {
            continue;
        }
        let object = library.field(name, "object").unwrap_or_default();
        bytes[0] ^= 0x40;
        if !["enrol-reply", "reference", "device-report", "device-reply"].contains(&object) {
            assert!(run::run(&library, name, object, &bytes).is_err(), "{name} with another first byte");
        }
    }
}
