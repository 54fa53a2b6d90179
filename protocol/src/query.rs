//! The question of a look-up in canonical form, and the memory-hard step that every guess must pay.
//! It must not offer a path by NHS number alone, nor any filter over identifiers: those fall in seconds.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::Refusal;
use crate::nhs::{Date, NhsNumber};
use crate::postcode::Postcode;
use crate::seal::MemoryHard;

/// A way to ask. The numbers are frozen; 3 is kept for a path that only hardware with a quota may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Path {
    /// NHS number and date of birth.
    NhsNumber,
    /// Surname, given name and date of birth.
    Name,
    /// The sound of a surname, date of birth and full postcode.
    PhoneticPostcode,
}

impl Path {
    const fn byte(self) -> u8 {
        match self {
            Self::NhsNumber => 1,
            Self::Name => 2,
            Self::PhoneticPostcode => 4,
        }
    }
}

/// The signed parameters of the memory-hard step, the same for a whole deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupParameters {
    /// Counts changes of the salt.
    pub salt_epoch: u32,
    /// Random, made at the start of the salt epoch.
    pub salt: [u8; 16],
    /// The price of one guess.
    pub cost: MemoryHard,
}

/// A canonical question.
pub struct Query {
    path: Path,
    canonical: Zeroizing<Vec<u8>>,
}

impl core::fmt::Debug for Query {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Query({:?}, [redacted])", self.path)
    }
}

/// `T`: the result of the memory-hard step; as good as the question itself, so it is zeroised.
pub struct Token {
    // R62
    path: Path,
    value: Zeroizing<[u8; 32]>,
}

impl core::fmt::Debug for Token {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Token({:?}, [redacted])", self.path)
    }
}

impl Query {
    /// By NHS number and date of birth: the child's, or the mother's for an unborn child's plan.
    #[must_use]
    pub fn nhs_number(number: NhsNumber, birth: Date) -> Self {
        Self::canonical(Path::NhsNumber, &[&number.digits(), &birth.compact()])
    }

    /// By surname, given name and date of birth. The names are in the form of [`crate::name`]; `given` is empty for
    /// somebody with a single name.
    #[must_use]
    pub(crate) fn name(surname: &str, given: &str, birth: Date) -> Self {
        Self::canonical(Path::Name, &[surname, given, &birth.compact()])
    }

    /// By the sound of a surname, date of birth and full postcode.
    #[must_use]
    pub(crate) fn phonetic(sound: &str, birth: Date, postcode: &Postcode) -> Self {
        Self::canonical(Path::PhoneticPostcode, &[sound, &birth.compact(), postcode.compact()])
    }

    /// Which way it asks.
    #[must_use]
    pub const fn path(&self) -> Path {
        self.path
    }

    /// The canonical form (R60): as secret as the person's details themselves.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.canonical
    }

    /// `"cpis-edge/1/query"`, zero, path, then each field as its length (u16, big endian) and its UTF-8.
    fn canonical(path: Path, fields: &[&str]) -> Self {
        let mut canonical = Zeroizing::new(Vec::with_capacity(1024)); // never grown: no copy stays behind
        canonical.extend_from_slice(b"cpis-edge/1/query\0"); // R60
        canonical.push(path.byte());
        for field in fields {
            canonical.extend_from_slice(&u16::try_from(field.len()).unwrap_or(u16::MAX).to_be_bytes());
            canonical.extend_from_slice(field.as_bytes());
        }
        Self { path, canonical }
    }

    /// `T = Argon2id(canonical, salt, "cpis-edge/1" || path || salt epoch)`.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] when the memory cannot be had.
    pub fn token(&self, parameters: &LookupParameters) -> Result<Token, Refusal> {
        let mut associated = [0; 16];
        let (name, place) = associated.split_at_mut(11);
        name.copy_from_slice(b"cpis-edge/1");
        let (path, epoch) = place.split_at_mut(1);
        path.fill(self.path.byte());
        epoch.copy_from_slice(&parameters.salt_epoch.to_be_bytes());
        let value = parameters.cost.derive(&self.canonical, &parameters.salt, &associated)?; // R61
        Ok(Token { path: self.path, value })
    }
}

impl Token {
    /// A token that the server kept. Never sent anywhere.
    #[must_use]
    pub fn from_cache(path: Path, value: [u8; 32]) -> Self {
        Self { path, value: Zeroizing::new(value) }
    }

    /// The value, for the server's cache.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.value
    }

    /// The path byte and the value, as the PRF takes them.
    #[must_use]
    pub(crate) fn parts(&self) -> ([u8; 1], &[u8; 32]) {
        ([self.path.byte()], &self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen: the C reference implementation gives the same bytes (`argon2-cffi`, see docs/protocol.md).
    #[test]
    fn frozen_token() {
        let number = NhsNumber::new(9_990_000_018).unwrap_or_else(|e| panic!("{e}"));
        let birth = Date::new(2015, 3, 4).unwrap_or_else(|e| panic!("{e}"));
        let parameters = LookupParameters {
            salt_epoch: 7,
            salt: *b"0123456789abcdef",
            cost: MemoryHard { memory_kib: 64, passes: 3 },
        };
        let query = Query::nhs_number(number, birth);
        assert_eq!(
            crate::id::hex(&query.canonical),
            "637069732d656467652f312f71756572790001000a39393930303030303138000832303135303330\
             34"
            .replace(char::is_whitespace, "")
        );
        let token = query.token(&parameters).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(crate::id::hex(token.expose()).len(), 64);
        let other = LookupParameters { salt_epoch: 8, ..parameters };
        assert_ne!(query.token(&other).map(|t| *t.expose()), Ok(*token.expose()));
    }
}
