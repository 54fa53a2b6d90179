//! Head, beat and reference data: the signed statement of a scope at one instant, and that it is still the newest.
//! It must not let an older or another scope's statement pass for the present one.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::digest::{Hash, sha256};
use crate::id::{AuthorityCode, Epoch, FeedId, FeedSeq, RegisterSeq, ScopeId, UnixMs};
use crate::query::LookupParameters;
use crate::sign::{Kind, Verified};
use crate::trust::{Role, Trust};
use crate::{Refusal, codec, limits};

/// The state of one feed at the head's register sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedState {
    /// The feed.
    pub feed: FeedId,
    /// The identity of its log.
    pub epoch: Epoch,
    /// The last position of its log.
    pub seq: FeedSeq,
    /// Live cells.
    pub count: u32,
    /// [`crate::tree`] over the live cells, sorted by blind id.
    pub state_root: Hash,
    /// The key that seals new cells.
    pub key_id: u32,
    /// The oldest key under which a live cell may still be sealed: who lacks one from here to `key_id` cannot read all.
    pub oldest_key_id: u32,
}

/// The signed statement of every feed of a scope at one register sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The scope.
    pub scope: ScopeId,
    /// All feeds are at this instant of the register.
    pub gseq: RegisterSeq,
    /// When it was made.
    pub issued_ms: UnixMs,
    /// The memory-hard step.
    pub lookup: LookupParameters,
    /// SHA-256 of the reference data in force.
    pub reference: Hash,
    /// Sorted by feed, each once.
    pub feeds: Vec<FeedState>,
}

/// The small signed statement that a head is still the newest; re-signed every minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The scope.
    pub scope: ScopeId,
    /// The register sequence of the head it names.
    pub gseq: RegisterSeq,
    /// SHA-256 of the signed head.
    pub head: Hash,
    /// When it was made: the age of a copy is counted from here.
    pub issued_ms: UnixMs,
    /// Seconds after which it may not be installed any more (freeze attack).
    pub valid_s: u32,
    /// Seconds until the next poll.
    pub next_poll_s: u16,
    /// Seconds over which devices spread after an outage.
    pub spread_s: u16,
}

/// One local authority: who to ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// Its number in records; never used again for another.
    pub number: u16,
    /// Its GSS code.
    pub code: AuthorityCode,
    /// Its name.
    pub name: String,
    /// Telephone in office hours.
    pub office_phone: String,
    /// Telephone of the emergency duty team. In FHIR its `use` is `mobile`, though it is not one.
    pub duty_phone: String,
}

/// Names and telephone numbers of the authorities: once for all records, named in the head by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reference {
    /// Sorted by number, each once.
    pub authorities: Vec<Authority>,
}

impl Head {
    /// Verifies a head as the one that a beat (or a stored position) names.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn verify(bytes: &[u8], named: &Hash, scope: &ScopeId, trust: &Trust) -> Result<Verified<Self>, Refusal> {
        if bytes.len() > limits::HEAD_BYTES_MAX {
            return Err(Refusal::TooLarge);
        }
        if sha256(bytes) != *named {
            // R35
            return Err(Refusal::WrongHash);
        }
        let head: Verified<Self> = trust.verify(Role::Publisher, Kind::Head, bytes, limits::HEAD_BYTES_MAX)?; // R36
        if head.scope != *scope {
            return Err(Refusal::WrongScope);
        }
        // R37
        if head.feeds.len() > limits::FEEDS_MAX || head.feeds.iter().any(|f| f.count > limits::FEED_CELLS_MAX) {
            return Err(Refusal::TooLarge);
        }
        if !head.feeds.is_sorted_by(|a, b| a.feed < b.feed) {
            return Err(Refusal::OutOfOrder);
        }
        if head.feeds.iter().any(|f| f.oldest_key_id > f.key_id) {
            // R37
            return Err(Refusal::Malformed);
        }
        head.lookup.cost.check(trust.root().synthetic)?; // R38
        Ok(head)
    }

    /// The state of a feed.
    #[must_use]
    pub fn feed(&self, feed: &FeedId) -> Option<&FeedState> {
        self.feeds.iter().find(|state| state.feed == *feed)
    }
}

impl Beat {
    /// Verifies a beat: right scope, not older than the last one accepted, not expired.
    ///
    /// # Errors
    /// [`Refusal`]: `Rollback` when it is older or names an older register, `Fork` when it names another head at the
    /// same register sequence and time, `Expired` by trusted time where that is known, or when it says that it was
    /// made after the end of the root or of the role's keys.
    pub fn verify(
        bytes: &[u8],
        scope: &ScopeId,
        trust: &Trust,
        last: Option<&Self>,
        now_ms: Option<UnixMs>,
    ) -> Result<Verified<Self>, Refusal> {
        let beat: Verified<Self> = trust.verify(Role::Beat, Kind::Beat, bytes, limits::BEAT_BYTES_MAX)?; // R30
        if beat.scope != *scope {
            return Err(Refusal::WrongScope);
        }
        if let Some(last) = last {
            if beat.issued_ms < last.issued_ms || beat.gseq < last.gseq {
                // R31
                return Err(Refusal::Rollback);
            }
            if beat.gseq == last.gseq && beat.head != last.head && beat.issued_ms == last.issued_ms {
                // R32
                return Err(Refusal::Fork);
            }
        }
        let expires_ms = beat.issued_ms.saturating_add(i64::from(beat.valid_s) * 1000); // R33
        // A stolen key can push time forward by no more than what is left of the root.
        if beat.issued_ms >= trust.root().role_until_ms(Role::Beat) {
            return Err(Refusal::Expired);
        }
        trust.check_role(Role::Beat, now_ms)?;
        if now_ms.is_some_and(|now| now >= expires_ms) {
            return Err(Refusal::Expired);
        }
        Ok(beat)
    }
}

impl Reference {
    /// Encodes for publishing.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] when it would not be accepted.
    pub fn encode(&self) -> Result<Vec<u8>, Refusal> {
        self.check()?;
        codec::encode(self)
    }

    /// Reads the reference data that a verified head names.
    ///
    /// # Errors
    /// [`Refusal::WrongHash`] before anything is decoded; otherwise as the codec.
    pub fn verify(bytes: &[u8], named: &Hash) -> Result<Self, Refusal> {
        if bytes.len() > limits::REFERENCE_BYTES_MAX {
            return Err(Refusal::TooLarge);
        }
        if sha256(bytes) != *named {
            // R40
            return Err(Refusal::WrongHash);
        }
        let reference: Self = codec::decode(bytes, limits::REFERENCE_BYTES_MAX)?;
        reference.check()?;
        Ok(reference)
    }

    fn check(&self) -> Result<(), Refusal> {
        if !self.authorities.is_sorted_by(|a, b| a.number < b.number) {
            // R41
            return Err(Refusal::OutOfOrder);
        }
        let text = |s: &String, max: usize| s.len() <= max && !s.chars().any(char::is_control);
        let sane = |a: &Authority| text(&a.name, 80) && text(&a.office_phone, 24) && text(&a.duty_phone, 24);
        if self.authorities.iter().all(sane) { Ok(()) } else { Err(Refusal::Malformed) }
    }

    /// The authority with this number.
    #[must_use]
    pub fn authority(&self, number: u16) -> Option<&Authority> {
        self.authorities.iter().find(|authority| authority.number == number)
    }

    /// The authority with this code, or this name, whatever the case.
    #[must_use]
    pub fn find(&self, code_or_name: &str) -> Option<&Authority> {
        let wanted = code_or_name.trim();
        self.authorities
            .iter()
            .find(|a| a.code.as_str().eq_ignore_ascii_case(wanted) || a.name.eq_ignore_ascii_case(wanted))
    }
}
