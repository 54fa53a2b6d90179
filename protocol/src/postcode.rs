//! Postcodes in one form. It must not say that a postcode exists: only that it has the shape of one.

use alloc::string::String;
use zeroize::Zeroizing;

/// A full postcode: capitals and digits. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Postcode {
    /// Without the space.
    compact: Zeroizing<String>,
}

/// Text that is not a full postcode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a full postcode is written like AB1 2CD: an area, a district, a digit and two letters")]
pub struct PostcodeError;

impl core::fmt::Debug for Postcode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Postcode([redacted])")
    }
}

impl Postcode {
    /// Without the space, as it stands in a question.
    #[must_use]
    pub fn compact(&self) -> &str {
        &self.compact
    }

    /// With one space.
    #[must_use]
    pub fn spaced(&self) -> String {
        let (outward, inward) = self.compact.split_at_checked(self.compact.len() - 3).unwrap_or((&self.compact, ""));
        alloc::format!("{outward} {inward}")
    }

    /// Whether it names a place: those that begin with ZZ99 stand for none (no fixed abode, abroad, not known), and
    /// thousands share one.
    #[must_use]
    pub fn is_place(&self) -> bool {
        !self.compact.starts_with("ZZ99")
    }
}

impl core::str::FromStr for Postcode {
    type Err = PostcodeError;

    /// Case and spaces do not matter.
    fn from_str(text: &str) -> Result<Self, PostcodeError> {
        let mut compact = Zeroizing::new(String::with_capacity(8));
        for c in text.chars().filter(|c| *c != ' ') {
            if compact.len() == 7 {
                return Err(PostcodeError);
            }
            compact.push(c.to_ascii_uppercase());
        }
        let (outward, inward) = compact.as_bytes().split_last_chunk::<3>().ok_or(PostcodeError)?;
        let is_letter = |b: &u8| b.is_ascii_uppercase();
        let outward_fits = match outward {
            [a, d] => is_letter(a) && d.is_ascii_digit(),
            [a, b, c] => {
                is_letter(a)
                    && ((b.is_ascii_digit() && c.is_ascii_alphanumeric()) || (is_letter(b) && c.is_ascii_digit()))
            }
            [a, b, c, d] => is_letter(a) && is_letter(b) && c.is_ascii_digit() && d.is_ascii_alphanumeric(),
            _ => false,
        };
        match inward {
            [d, a, b] if outward_fits && d.is_ascii_digit() && is_letter(a) && is_letter(b) => Ok(Self { compact }),
            _ => Err(PostcodeError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        for good in ["za1 1aa", "ZA11AA", "SW1A 1AA", "M1 1AE", "B33 8TH", "ZZ99 3VZ", "W1A 0AX"] {
            assert!(good.parse::<Postcode>().is_ok(), "{good}");
        }
        for wrong in
            ["A", "1AA", "ZA1 1A", "ZAA1 1AA", "Z 1AA", "ZA1 AA1", "é1 1AA", "1A1 1AA", "A1-1AA", "", "SW1AA 1AA"]
        {
            assert_eq!(wrong.parse::<Postcode>().map(|p| p.spaced()), Err(PostcodeError), "{wrong}");
        }
        let one: Postcode = "m1 1ae".parse().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((one.compact(), one.spaced().as_str(), one.is_place()), ("M11AE", "M1 1AE", true));
        assert_eq!("zz993vz".parse::<Postcode>().map(|p| p.is_place()), Ok(false));
    }
}
