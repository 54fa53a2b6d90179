//! docs/protocol.md and the code cite each other: every rule has one number, and its module names it where it obeys.
//! It must not judge whether a rule is obeyed: the vectors do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn crate_file(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Rule number to module, or nothing for a rule of the server, the agent or the vectors.
fn rules() -> BTreeMap<u32, Option<String>> {
    let text = crate_file("../docs/protocol.md");
    let mut rules = BTreeMap::new();
    for line in text.lines() {
        let Some((number, rest)) = line.strip_prefix("**R").and_then(|l| l.split_once("** ")) else { continue };
        let number = number.parse().unwrap_or_else(|e| panic!("{line}: {e}"));
        let module = rest.strip_prefix('`').and_then(|r| r.split_once("`: ")).map(|(module, _)| module.to_string());
        assert!(module.is_some() || rest.starts_with('*'), "R{number} names nobody who obeys it");
        assert_eq!(rules.insert(number, module), None, "R{number} comes twice");
    }
    rules
}

/// The numbers after each `R` that stands alone in a comment.
fn cited(text: &str) -> BTreeSet<u32> {
    let comments = text.lines().filter_map(|line| line.split_once("//")).map(|(_, comment)| comment);
    let words = comments.flat_map(|c| c.split(|c: char| !c.is_ascii_alphanumeric()));
    // Four digits are job roles of the NHS (R1070), not rules.
    words.filter_map(|word| word.strip_prefix('R')?.parse().ok()).filter(|n| *n < 1000).collect()
}

fn sources(directory: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap_or_else(|e| panic!("{e}")) {
        let path = entry.unwrap_or_else(|e| panic!("{e}")).path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn every_rule_is_cited_by_its_module() {
    let rules = rules();
    assert!(rules.len() > 90, "docs/protocol.md has another form: {} rules", rules.len());
    for (number, module) in &rules {
        let Some(module) = module else { continue };
        let cited = cited(&crate_file(&format!("src/{module}.rs")));
        assert!(cited.contains(number), "R{number} is not cited in src/{module}.rs");
    }
}

#[test]
fn every_citation_is_a_rule() {
    let rules = rules();
    let mut files = Vec::new();
    sources(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{e}"));
        for number in cited(&text) {
            assert!(rules.contains_key(&number), "{} cites R{number}, which is no rule", file.display());
        }
    }
}

/// The vector files cite rules too, in the line that says what they are about.
#[test]
fn vectors_cite_rules() {
    let rules = rules();
    let mut cites = 0;
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors");
    for entry in std::fs::read_dir(directory).unwrap_or_else(|e| panic!("{e}")) {
        let path = entry.unwrap_or_else(|e| panic!("{e}")).path();
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{e}"));
        let about = text.lines().nth(1).unwrap_or_default().replacen('#', "//", 1);
        for number in cited(&about) {
            assert!(rules.contains_key(&number), "{} cites R{number}, which is no rule", path.display());
            cites += 1;
        }
    }
    assert!(cites > 15, "only {cites} citations");
}
