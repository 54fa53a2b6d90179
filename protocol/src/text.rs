//! Short fixed-width text for frozen structs: printable ASCII padded with zeros, so that length tells nothing.
//! It must not hold free prose: names of people go in only after normalisation.

use alloc::string::{String, ToString};
use core::fmt;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Refusal;

/// At most `N` bytes of printable ASCII, zero-padded; compares and sorts by its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<const N: usize>([u8; N]);

impl<const N: usize> Text<N> {
    /// The empty text.
    pub const EMPTY: Self = Self([0; N]);

    /// Takes text of at most `N` printable ASCII bytes.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] when it is too long or holds anything else.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        if text.len() > N || !text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            return Err(Refusal::Malformed);
        }
        let mut bytes = [0; N];
        for (to, from) in bytes.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Ok(Self(bytes))
    }

    /// Takes as much of `text` as fits and drops what is not printable ASCII.
    #[must_use]
    pub fn lossy(text: &str) -> Self {
        let mut bytes = [0; N];
        let kept = text.bytes().filter(|b| (0x20..0x7f).contains(b));
        for (to, from) in bytes.iter_mut().zip(kept) {
            *to = from;
        }
        Self(bytes)
    }

    /// Reads the padded form: zeros only at the end, printable ASCII before.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] otherwise.
    pub fn from_bytes(bytes: [u8; N]) -> Result<Self, Refusal> {
        let used = bytes.iter().position(|b| *b == 0).unwrap_or(N);
        let (text, padding) = bytes.split_at(used); // R4
        if text.iter().all(|b| (0x20..0x7f).contains(b)) && padding.iter().all(|b| *b == 0) {
            Ok(Self(bytes))
        } else {
            Err(Refusal::Malformed)
        }
    }

    /// The padded bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }

    /// The text without padding.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let used = self.0.iter().position(|b| *b == 0).unwrap_or(N);
        core::str::from_utf8(self.0.get(..used).unwrap_or_default()).unwrap_or_default()
    }

    /// Whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.first().is_none_or(|b| *b == 0)
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl<const N: usize> core::str::FromStr for Text<N> {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        Self::new(text)
    }
}

impl<const N: usize> From<Text<N>> for String {
    fn from(text: Text<N>) -> Self {
        text.as_str().to_string()
    }
}

impl<const N: usize> Serialize for Text<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.serialize_str(self.as_str());
        }
        let mut tuple = serializer.serialize_tuple(N)?;
        for byte in &self.0 {
            tuple.serialize_element(byte)?;
        }
        tuple.end()
    }
}

struct TextVisitor<const N: usize>;

impl<'de, const N: usize> Visitor<'de> for TextVisitor<N> {
    type Value = Text<N>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {N} bytes of printable ASCII")
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Text::new(text).map_err(E::custom)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = seq.next_element()?.ok_or_else(|| A::Error::custom(Refusal::Truncated))?;
        }
        Text::from_bytes(bytes).map_err(A::Error::custom)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Text<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(TextVisitor::<N>)
        } else {
            deserializer.deserialize_tuple(N, TextVisitor::<N>)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_canonical() {
        assert_eq!(Text::<4>::new("abcd").map(|t| t.as_str().len()), Ok(4));
        assert_eq!(Text::<4>::new("abcde"), Err(Refusal::Malformed));
        assert_eq!(Text::<4>::new("a\u{e9}"), Err(Refusal::Malformed));
        assert_eq!(Text::<4>::from_bytes([b'a', 0, b'b', 0]), Err(Refusal::Malformed));
        assert_eq!(Text::<4>::lossy("a\u{e9}bcdef").as_str(), "abcd");
    }
}
