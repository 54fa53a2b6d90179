//! Bundles: the same signed objects in a file, for a USB stick, a station cache or a mirror.
//! It must not verify anything but its own frame: every object inside is verified as if it came from the server.
//!
//! File: `"CPIS-BUNDLE"`, format (1), then entries until the end: path length (u16, big endian), path,
//! body length (u32, big endian), body.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use crate::message::Request;
use crate::{FORMAT, Refusal, limits};

const MAGIC: &[u8] = b"CPIS-BUNDLE";
/// The extension of bundle files.
pub const EXTENSION: &str = "cpisbundle";

/// Starts the bytes of a bundle.
#[must_use]
pub fn begin() -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.push(FORMAT);
    out
}

/// Adds an object under the request that it answers.
///
/// # Errors
/// [`Refusal::TooLarge`].
pub fn push(out: &mut Vec<u8>, request: &Request, body: &[u8]) -> Result<(), Refusal> {
    let path = request.path();
    let path_length = u16::try_from(path.len()).map_err(|_| Refusal::TooLarge)?;
    let length = u32::try_from(body.len()).map_err(|_| Refusal::TooLarge)?;
    if body.len() > request.reply_bytes_max() {
        return Err(Refusal::TooLarge);
    }
    out.extend_from_slice(&path_length.to_be_bytes());
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
    Ok(())
}

/// Where each object lies in the bytes of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index(BTreeMap<String, Range<usize>>);

impl Index {
    /// Reads the frame of a bundle.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`], [`Refusal::WrongKind`], [`Refusal::UnsupportedFormat`], [`Refusal::Truncated`],
    /// [`Refusal::Malformed`] for a path that is no request, [`Refusal::OutOfOrder`] for one that comes twice.
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > limits::BUNDLE_BYTES_MAX {
            return Err(Refusal::TooLarge);
        }
        let rest = bytes.strip_prefix(MAGIC).ok_or(Refusal::WrongKind)?; // R110
        let (format, _) = rest.split_first().ok_or(Refusal::Truncated)?;
        if *format != FORMAT {
            return Err(Refusal::UnsupportedFormat);
        }
        let mut objects = BTreeMap::new();
        let mut at = MAGIC.len() + 1;
        let mut take = |length: usize| -> Result<Option<Range<usize>>, Refusal> {
            if at == bytes.len() {
                return Ok(None);
            }
            let end = at.checked_add(length).filter(|end| *end <= bytes.len()).ok_or(Refusal::Truncated)?;
            let range = at..end;
            at = end;
            Ok(Some(range))
        };
        while let Some(length) = take(2)? {
            let length = bytes.get(length).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes);
            let path = take(usize::from(length))?.and_then(|range| bytes.get(range)).ok_or(Refusal::Truncated)?;
            let path = core::str::from_utf8(path).map_err(|_| Refusal::Malformed)?;
            let request = Request::from_path(path).ok_or(Refusal::Malformed)?; // R111
            let length = take(4)?.and_then(|range| bytes.get(range)).and_then(|b| b.try_into().ok());
            let length = usize::try_from(u32::from_be_bytes(length.ok_or(Refusal::Truncated)?));
            let length = length.map_err(|_| Refusal::TooLarge)?;
            if length > request.reply_bytes_max() {
                // R112
                return Err(Refusal::TooLarge);
            }
            let body = if length == 0 { Some(0..0) } else { take(length)? };
            if objects.insert(path.to_string(), body.ok_or(Refusal::Truncated)?).is_some() {
                return Err(Refusal::OutOfOrder);
            }
        }
        Ok(Self(objects))
    }

    /// Where the answer to a request lies.
    #[must_use]
    pub fn find(&self, request: &Request) -> Option<Range<usize>> {
        // R113
        self.0.get(&request.path()).cloned()
    }

    /// The scope that the bundle is for: that of its beat.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.0.keys().filter_map(|path| Request::from_path(path)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_and_refusals() {
        let mut bytes = begin();
        let requests = [Request::Root(1), Request::Grant];
        push(&mut bytes, &requests[0], b"root").unwrap_or_else(|e| panic!("{e}"));
        push(&mut bytes, &requests[1], b"").unwrap_or_else(|e| panic!("{e}"));
        let index = Index::read(&bytes).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(index.find(&requests[0]).and_then(|r| bytes.get(r)), Some(&b"root"[..]));
        assert_eq!(index.find(&requests[1]).map(|r| r.len()), Some(0));
        assert_eq!(index.find(&Request::Root(2)), None);
        assert_eq!(Index::read(&bytes[..20]), Err(Refusal::Truncated));
        assert_eq!(Index::read(b"CPIS-BUNDLE\x02"), Err(Refusal::UnsupportedFormat));
        assert_eq!(Index::read(b"PK"), Err(Refusal::WrongKind));
        let mut twice = bytes.clone();
        push(&mut twice, &requests[1], b"").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(Index::read(&twice), Err(Refusal::OutOfOrder));
        let mut endless = begin();
        endless.extend_from_slice(&[0, 9]);
        endless.extend_from_slice(b"/v1/grant\xff\xff\xff\xff");
        assert_eq!(Index::read(&endless), Err(Refusal::TooLarge));
    }
}
