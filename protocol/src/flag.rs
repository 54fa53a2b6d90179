//! Flags, and the fixed-size record that holds one person's flags inside a cell.
//! It must not carry a name, an address, an NHS number or a date of birth.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::nhs::Date;

/// The plaintext length of a record: every record has this size, so length tells nothing.
pub const RECORD_BYTES: usize = 43;
/// Flags that fit; [`Record::more`] says that there are others.
pub const RECORD_FLAGS_MAX: usize = 3;

const FLAG_BYTES: usize = 11;
const FLAGS_AT: usize = 5;
const MORE: u8 = 0b0000_0100;
const RESTRICTED: u8 = 0b0000_1000;
const NO_DATE: u16 = 0xffff; // R57
const NO_MINUTE: u32 = u32::MAX;

/// The kind of plan (SNOMED CT value set England-ChildProtectionPlan 1.0.0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlagKind {
    /// Subject to child protection plan.
    Cpp,
    /// Looked after child.
    Lac,
    /// Unborn child subject to child protection plan; held on the mother's identity.
    Ucpp,
}

impl FlagKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Cpp, Self::Lac, Self::Ucpp];

    /// The SNOMED CT concept.
    #[must_use]
    pub const fn snomed(self) -> &'static str {
        match self {
            Self::Cpp => "342191000000101",
            Self::Lac => "764841000000100",
            Self::Ucpp => "818901000000100",
        }
    }

    /// The short code: `cpp`, `lac`, `ucpp`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Cpp => "cpp",
            Self::Lac => "lac",
            Self::Ucpp => "ucpp",
        }
    }

    /// The preferred term of the concept.
    #[must_use]
    pub const fn display(self) -> &'static str {
        match self {
            Self::Cpp => "Subject to child protection plan",
            Self::Lac => "Looked after child",
            Self::Ucpp => "Unborn child subject to child protection plan",
        }
    }

    /// Reads a short code or a SNOMED CT concept.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code().eq_ignore_ascii_case(code) || kind.snomed() == code)
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Cpp => 1,
            Self::Lac => 2,
            Self::Ucpp => 3,
        }
    }
}

/// One plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flag {
    /// The kind of plan.
    pub kind: FlagKind,
    /// The responsible authority's number in the signed reference data.
    pub authority: u16,
    /// First day of the plan, where known.
    pub start: Option<Date>,
    /// Last day of the plan, when it has ended.
    pub end: Option<Date>,
    /// The minute (since 1970, UTC) from which the flag must not be shown any more; `None` while it is active.
    pub visible_until_min: Option<u32>,
}

impl Flag {
    /// Whether the flag may still be shown at `now_ms`. To the minute (design section 4).
    #[must_use]
    pub fn is_visible(&self, now_ms: i64) -> bool {
        self.visible_until_min.is_none_or(|until| now_ms < i64::from(until) * 60_000) // R58
    }
}

/// One person's flags with the least identity needed to confirm a match.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// At most [`RECORD_FLAGS_MAX`], the ones that matter most first.
    pub flags: Vec<Flag>,
    /// There are further flags: ring the authority.
    pub more: bool,
    /// Nothing may be shown but the authority to ring; `flags` has one entry, whose authority it is.
    pub restricted: bool,
    /// First letters of the given name, upper case, zero when unknown: a confirmer for name matches.
    pub initials: [u8; 2],
    /// The last three digits of the NHS number: a confirmer for name matches.
    pub last_three: u16,
}

impl core::fmt::Debug for Record {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Record([redacted])")
    }
}

impl Record {
    /// The fixed-size plaintext of a cell.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] with no flag, too many flags, or a confirmer out of range.
    pub fn pack(&self) -> Result<[u8; RECORD_BYTES], Refusal> {
        let initials_ok = self.initials.iter().all(|b| *b == 0 || b.is_ascii_uppercase());
        if self.flags.is_empty() || self.flags.len() > RECORD_FLAGS_MAX || self.last_three > 999 || !initials_ok {
            return Err(Refusal::Malformed);
        }
        let mut out = Vec::with_capacity(RECORD_BYTES);
        let count = u8::try_from(self.flags.len()).map_err(|_| Refusal::Malformed)?;
        let more = if self.more { MORE } else { 0 };
        let restricted = if self.restricted { RESTRICTED } else { 0 };
        out.push(count | more | restricted);
        out.extend_from_slice(&self.initials);
        out.extend_from_slice(&self.last_three.to_be_bytes());
        for flag in &self.flags {
            out.push(flag.kind.byte());
            out.extend_from_slice(&flag.authority.to_be_bytes());
            out.extend_from_slice(&flag.start.map_or(NO_DATE, Date::days).to_be_bytes());
            out.extend_from_slice(&flag.end.map_or(NO_DATE, Date::days).to_be_bytes());
            out.extend_from_slice(&flag.visible_until_min.unwrap_or(NO_MINUTE).to_be_bytes());
        }
        out.resize(RECORD_BYTES, 0);
        out.try_into().map_err(|_| Refusal::Malformed)
    }

    /// Reads the fixed-size plaintext; accepts only what [`Self::pack`] writes.
    ///
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn unpack(bytes: &[u8; RECORD_BYTES]) -> Result<Self, Refusal> {
        let (head, rest) = bytes.split_at(FLAGS_AT);
        let [first, a, b, c, d] = head.try_into().map_err(|_| Refusal::Malformed)?;
        let count = usize::from(first & 0b11);
        let (flags, padding) = rest.split_at(count * FLAG_BYTES);
        let record = Self {
            flags: flags.chunks_exact(FLAG_BYTES).map(unpack_flag).collect::<Result<_, _>>()?,
            more: first & MORE != 0,
            restricted: first & RESTRICTED != 0,
            initials: [a, b],
            last_three: u16::from_be_bytes([c, d]),
        };
        if padding.iter().any(|b| *b != 0) || record.pack()? != *bytes {
            // R56
            return Err(Refusal::Malformed);
        }
        Ok(record)
    }
}

fn unpack_flag(bytes: &[u8]) -> Result<Flag, Refusal> {
    let [kind, a, b, s, t, e, f, v, w, x, y] = bytes.try_into().map_err(|_| Refusal::Malformed)?;
    let date = |days: u16| if days == NO_DATE { Ok(None) } else { Date::try_from(days).map(Some) };
    let minute = u32::from_be_bytes([v, w, x, y]);
    Ok(Flag {
        kind: FlagKind::ALL.into_iter().find(|k| k.byte() == kind).ok_or(Refusal::Malformed)?,
        authority: u16::from_be_bytes([a, b]),
        start: date(u16::from_be_bytes([s, t])).map_err(|_| Refusal::Malformed)?,
        end: date(u16::from_be_bytes([e, f])).map_err(|_| Refusal::Malformed)?,
        visible_until_min: (minute != NO_MINUTE).then_some(minute),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            flags: alloc::vec![Flag {
                kind: FlagKind::Ucpp,
                authority: 7,
                start: Date::new(2026, 3, 1).ok(),
                end: None,
                visible_until_min: Some(29_700_000),
            }],
            more: false,
            restricted: false,
            initials: *b"AM",
            last_three: 18,
        }
    }

    #[test]
    fn packs_to_one_size_and_back() {
        let bytes = record().pack().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(Record::unpack(&bytes), Ok(record()));
        let mut wrong = bytes;
        wrong[RECORD_BYTES - 1] = 1;
        assert_eq!(Record::unpack(&wrong), Err(Refusal::Malformed), "padding is canonical");
        wrong = bytes;
        wrong[0] |= 0x80;
        assert_eq!(Record::unpack(&wrong), Err(Refusal::Malformed), "unknown bits are refused");
        assert_eq!(Record { flags: Vec::new(), ..record() }.pack(), Err(Refusal::Malformed));
    }

    #[test]
    fn visible_to_the_minute() {
        let flag = &record().flags[0];
        let end = 29_700_000 * 60_000;
        assert!(flag.is_visible(end - 1));
        assert!(!flag.is_visible(end));
    }
}
