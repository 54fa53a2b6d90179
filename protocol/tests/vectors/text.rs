//! The text form of the vector files: cases of `key: value` lines (docs/protocol.md R120 to R124).
//! It must not know what an object is.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use cpis_protocol::id::hex;

use crate::common::bytes;

/// Fields that say where the bytes come from; they are not inherited.
const SOURCES: [&str; 3] = ["hex", "text", "mutate"];
const LINE: usize = 96;

/// One case, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) fields: Vec<(String, String)>,
}

/// One file.
#[derive(Debug, Clone, Default)]
pub(crate) struct File {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) cases: Vec<Case>,
}

impl File {
    pub(crate) const fn new(name: &'static str, about: &'static str) -> Self {
        Self { name, about, cases: Vec::new() }
    }

    /// A new case under this file's name.
    pub(crate) fn case(&mut self, name: &str, note: &str) -> &mut Case {
        let case = Case { name: format!("{}/{name}", self.name), fields: Vec::new() };
        self.cases.push(case);
        let last = self.cases.len() - 1;
        self.cases[last].with("note", note)
    }

    /// A case that is another with its bytes changed.
    pub(crate) fn mutated(&mut self, name: &str, base: &str, mutation: &str, expect: &str, note: &str) -> &mut Case {
        self.case(name, note).with("base", base).with("mutate", mutation).expect(expect)
    }

    /// A case that is another with other bytes.
    pub(crate) fn replaced(&mut self, name: &str, base: &str, bytes: &[u8], expect: &str, note: &str) -> &mut Case {
        self.case(name, note).with("base", base).hex(bytes).expect(expect)
    }

    /// A case that is another in another context.
    pub(crate) fn moved(&mut self, name: &str, base: &str, expect: &str, note: &str) -> &mut Case {
        self.case(name, note).with("base", base).expect(expect)
    }

    pub(crate) fn print(&self) -> String {
        let mut out = format!("# CP-IS Edge vectors, format 1: {}\n# {}\n", self.name, self.about);
        out.push_str("# Read docs/protocol.md, R120. Written by: CPIS_WRITE_VECTORS=1 cargo test -p cpis-protocol\n");
        for case in &self.cases {
            let _ = write!(out, "\n[{}]\n", case.name);
            for (key, value) in &case.fields {
                if SOURCES[..2].contains(&key.as_str()) && value.len() > LINE {
                    let _ = writeln!(out, "{key}:");
                    for line in value.as_bytes().chunks(LINE) {
                        let _ = writeln!(out, "  {}", String::from_utf8_lossy(line));
                    }
                } else if value.is_empty() {
                    let _ = writeln!(out, "{key}:");
                } else {
                    let _ = writeln!(out, "{key}: {value}");
                }
            }
        }
        out
    }
}

impl Case {
    pub(crate) fn with(&mut self, key: &str, value: &str) -> &mut Self {
        let expected = self.fields.last().is_some_and(|(key, _)| key == "expect");
        let at = self.fields.len() - usize::from(expected);
        self.fields.insert(at, (key.into(), value.into()));
        self
    }

    pub(crate) fn hex(&mut self, value: &[u8]) -> &mut Self {
        self.with("hex", &hex(value))
    }

    /// What must come out; stays the last line, whatever is added later.
    pub(crate) fn expect(&mut self, code: &str) -> &mut Self {
        self.with("expect", code)
    }

    fn own(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

/// Every case of every file, by name.
#[derive(Debug, Default)]
pub(crate) struct Library(pub(crate) BTreeMap<String, Case>);

impl Library {
    /// Reads the text of one file; gives the names of its cases.
    pub(crate) fn read(&mut self, text: &str) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        let mut current: Option<Case> = None;
        for line in text.lines().chain(["[]"]) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                if let Some(case) = current.replace(Case { name: name.into(), fields: Vec::new() }) {
                    names.push(case.name.clone());
                    if let Some(old) = self.0.insert(case.name.clone(), case) {
                        return Err(format!("{} comes twice", old.name));
                    }
                }
                continue;
            }
            let case = current.as_mut().ok_or_else(|| format!("outside a case: {line}"))?;
            if let Some(more) = line.strip_prefix("  ") {
                let (_, value) = case.fields.last_mut().ok_or_else(|| format!("continues nothing: {line}"))?;
                value.push_str(more);
                continue;
            }
            let (key, value) = line.split_once(':').ok_or_else(|| format!("no key: {line}"))?;
            case.fields.push((key.into(), value.strip_prefix(' ').unwrap_or(value).into()));
        }
        Ok(names)
    }

    fn case(&self, name: &str) -> &Case {
        self.0.get(name).unwrap_or_else(|| panic!("no case {name}"))
    }

    /// A field, or the base case's.
    pub(crate) fn field(&self, name: &str, key: &str) -> Option<&str> {
        let case = self.case(name);
        match case.own(key) {
            Some("-") => None,
            Some(value) => Some(value),
            None if SOURCES.contains(&key) => None,
            None => self.field(case.own("base")?, key),
        }
    }

    /// The bytes of a case.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        let case = self.case(name);
        let start = match (case.own("hex"), case.own("text"), case.own("base")) {
            (Some(value), ..) => bytes(value),
            (None, Some(value), _) => value.as_bytes().to_vec(),
            (None, None, Some(base)) => self.bytes(base),
            (None, None, None) => panic!("{name} has no bytes"),
        };
        case.own("mutate").unwrap_or_default().split(';').fold(start, |bytes, step| mutate(bytes, step.trim()))
    }
}

/// One change: `flip AT [MASK]`, `set AT HEX`, `truncate LENGTH`, `append HEX`, `grow LENGTH`, `cut FROM TO`.
fn mutate(mut value: Vec<u8>, step: &str) -> Vec<u8> {
    let mut words = step.split_whitespace();
    let Some(verb) = words.next() else { return value };
    let first = words.next().unwrap_or_default();
    let second = words.next().unwrap_or_default();
    let number = |word: &str| word.parse::<usize>().unwrap_or_else(|_| panic!("not a number in: {step}"));
    match verb {
        "flip" => value[number(first)] ^= if second.is_empty() { 1 } else { bytes(second)[0] },
        "set" => {
            let new = bytes(second);
            value[number(first)..][..new.len()].copy_from_slice(&new);
        }
        "truncate" => {
            assert!(number(first) < value.len(), "nothing to truncate in: {step}");
            value.truncate(number(first));
        }
        "append" => value.extend(bytes(first)),
        "cut" => drop(value.drain(number(first)..number(second))),
        "grow" => {
            // From zeroed pages, so that a gibibyte of them is never touched.
            let mut grown = vec![0; number(first)];
            grown[..value.len()].copy_from_slice(&value);
            value = grown;
        }
        _ => panic!("unknown mutation: {step}"),
    }
    value
}
