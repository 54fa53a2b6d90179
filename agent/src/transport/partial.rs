//! Bodies of immutable objects that a cut left unfinished: the next request goes on at the next byte.
//! It must not outlive what it is good for: an object that came whole, right or wrong, leaves nothing behind.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Unfinished bodies kept at once; the oldest goes. As many as requests under way, twice.
const KEPT_MAX: usize = 16;

/// Unfinished bodies by path.
#[derive(Debug, Default)]
pub(super) struct Partials(Mutex<VecDeque<Partial>>);

/// The first bytes of an object, under the strong entity tag of the whole.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Partial {
    path: String,
    tag: String,
    /// They came in another reply, which told no tag. The path names one object for ever, and only what verifies counts.
    untagged: bool,
    bytes: Vec<u8>,
}

impl Partials {
    /// Takes up a path; with nothing held of it, from the first byte.
    pub(super) fn take_up(&self, path: String) -> Body<'_> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = kept.iter().position(|partial| partial.path == path).and_then(|at| kept.remove(at));
        let partial = held.unwrap_or(Partial { path, ..Partial::default() });
        Body { home: self, partial }
    }

    /// Keeps the beginning of an object that came with another reply.
    pub(super) fn keep(&self, path: String, bytes: Vec<u8>) {
        let untagged = !bytes.is_empty();
        drop(Body { home: self, partial: Partial { path, untagged, bytes, ..Partial::default() } });
    }
}

/// A body on its way in. Dropped at any point, by a cut or because nobody waits any more, what there is of it is kept.
#[derive(Debug)]
pub(super) struct Body<'a> {
    home: &'a Partials,
    partial: Partial,
}

impl Body<'_> {
    /// How many bytes are held, and the tag that they are of, empty where it is not known; `None` from the first byte.
    pub(super) fn held(&self) -> Option<(usize, &str)> {
        let is_begun = !self.partial.bytes.is_empty() && (self.partial.untagged || !self.partial.tag.is_empty());
        is_begun.then_some((self.partial.bytes.len(), self.partial.tag.as_str()))
    }

    /// Begins at the first byte. Without a strong tag nothing of it could be gone on with.
    pub(super) fn begin(&mut self, tag: Option<&str>) {
        self.partial.bytes.clear();
        self.partial.untagged = false;
        self.partial.tag = tag.filter(|tag| tag.starts_with('"')).unwrap_or_default().to_owned();
    }

    /// Whether a partial reply goes on exactly where this ends, to the end of the same object, of at most `limit` bytes.
    pub(super) fn goes_on(&mut self, tag: Option<&str>, content_range: Option<&str>, limit: usize) -> bool {
        let Some((held, own)) = self.held() else { return false };
        let strong = tag.filter(|tag| tag.starts_with('"'));
        let same = if self.partial.untagged { strong.is_some() } else { tag == Some(own) };
        let fits = content_range.and_then(parse).is_some_and(|(first, last, length)| {
            first == held && last.checked_add(1) == Some(length) && length <= limit
        });
        if same && fits {
            self.partial.untagged = false;
            self.partial.tag = strong.unwrap_or_default().to_owned();
        }
        same && fits
    }

    /// Adds what came; `false` when it would be longer than an honest body.
    pub(super) fn push(&mut self, part: &[u8], limit: usize) -> bool {
        let fits = self.partial.bytes.len() + part.len() <= limit;
        if fits {
            self.partial.bytes.extend_from_slice(part);
        }
        fits
    }

    /// The whole body; nothing is kept, so that what does not verify is asked for from the first byte.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.partial.tag.clear();
        self.partial.untagged = false;
        std::mem::take(&mut self.partial.bytes)
    }

    /// Forgets it.
    pub(super) fn discard(&mut self) {
        self.begin(None);
    }
}

impl Drop for Body<'_> {
    fn drop(&mut self) {
        if self.held().is_none() {
            return;
        }
        let mut kept = self.home.0.lock().unwrap_or_else(PoisonError::into_inner);
        while kept.len() >= KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(std::mem::take(&mut self.partial));
    }
}

/// `bytes FIRST-LAST/LENGTH`.
fn parse(text: &str) -> Option<(usize, usize, usize)> {
    let (range, length) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, length.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_is_gone_on_with_and_what_ended_is_not() {
        let partials = Partials::default();
        let mut body = partials.take_up("/a".into());
        assert_eq!(body.held(), None);
        body.begin(Some("\"t\""));
        assert!(body.push(b"0123", 10));
        drop(body);
        let mut body = partials.take_up("/a".into());
        assert_eq!(body.held(), Some((4, "\"t\"")));
        for (tag, range) in [
            (Some("\"u\""), Some("bytes 4-9/10")),
            (None, Some("bytes 4-9/10")),
            (Some("\"t\""), None),
            (Some("\"t\""), Some("bytes 3-9/10")),
            (Some("\"t\""), Some("bytes 5-9/10")),
            (Some("\"t\""), Some("bytes 4-8/10")),
            (Some("\"t\""), Some("bytes 4-10/11")),
            (Some("\"t\""), Some("bytes 4-18446744073709551615/18446744073709551615")),
            (Some("\"t\""), Some("bytes */10")),
        ] {
            assert!(!body.goes_on(tag, range, 10), "{tag:?} {range:?}");
        }
        assert!(body.goes_on(Some("\"t\""), Some("bytes 4-9/10"), 10));
        assert!(!body.push(b"4567890", 10), "longer than an honest body");
        assert!(body.push(b"456789", 10));
        assert_eq!(body.finish(), b"0123456789");
        assert_eq!(partials.take_up("/a".into()).held(), None);
    }

    #[test]
    fn what_began_in_another_reply_is_gone_on_with_under_whatever_tag_comes() {
        let partials = Partials::default();
        partials.keep("/a".into(), b"0123".to_vec());
        partials.keep("/empty".into(), Vec::new());
        assert_eq!(partials.take_up("/empty".into()).held(), None);
        let mut body = partials.take_up("/a".into());
        assert_eq!(body.held(), Some((4, "")));
        for (tag, range) in [(None, "bytes 4-9/10"), (Some("W/\"t\""), "bytes 4-9/10"), (Some("\"t\""), "bytes 5-9/10")]
        {
            assert!(!body.goes_on(tag, Some(range), 10), "{tag:?} {range:?}");
        }
        assert!(body.goes_on(Some("\"t\""), Some("bytes 4-9/10"), 10));
        assert!(body.push(b"45", 10));
        drop(body);
        assert_eq!(partials.take_up("/a".into()).held(), Some((6, "\"t\"")), "cut again");
    }

    #[test]
    fn nothing_is_kept_without_a_strong_tag_and_no_more_than_its_share() {
        let partials = Partials::default();
        for tag in [None, Some("W/\"t\"")] {
            let mut body = partials.take_up("/weak".into());
            body.begin(tag);
            assert!(body.push(b"0123", 10));
            drop(body);
            assert_eq!(partials.take_up("/weak".into()).held(), None);
        }
        for n in 0..40 {
            let mut body = partials.take_up(format!("/{n}"));
            body.begin(Some("\"t\""));
            assert!(body.push(b"0", 10));
        }
        let held = |n: u32| partials.take_up(format!("/{n}")).held().is_some();
        assert_eq!((0..40).filter(|n| held(*n)).collect::<Vec<_>>(), (24..40).collect::<Vec<_>>());
        let mut body = partials.take_up("/39".into());
        body.discard();
        drop(body);
        assert!(!held(39));
    }
}
