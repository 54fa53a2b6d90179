//! Byte ranges and validators of immutable objects (RFC 9110 sections 8.8, 13 and 14): one range, strong entity tags.
//! It must not give part of an object for the whole, nor join parts of two: a tag names the bytes.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use cpis_protocol::digest::sha256;
use cpis_protocol::id::hex;

/// Bytes of the SHA-256 that a tag shows: as good as the whole against chance, and nobody trusts it for more.
const TAG_BYTES: usize = 16;

/// What a request says of what it has already.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    range: Option<Wanted>,
    if_range: Option<HeaderValue>,
    if_none_match: Vec<HeaderValue>,
}

/// One range, as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// From the first to the last byte, both counted; without a last, to the end.
    From(usize, Option<usize>),
    /// So many bytes at the end.
    Last(usize),
}

impl Conditions {
    /// Those of a request. What cannot be read is as if it were not there: the whole object is always a right answer.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        let mut ranges = headers.get_all(header::RANGE).iter();
        let range = match (ranges.next().and_then(text), ranges.next()) {
            (Some(one), None) => wanted(&one),
            _ => None,
        };
        Self {
            range,
            if_range: headers.get(header::IF_RANGE).cloned(),
            if_none_match: headers.get_all(header::IF_NONE_MATCH).iter().cloned().collect(),
        }
    }

    fn has(&self, tag: &str) -> bool {
        let listed = |value: &HeaderValue| {
            let text = value.to_str().unwrap_or_default();
            text.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
        };
        self.if_none_match.iter().any(listed)
    }
}

/// Reads `bytes=N-`, `bytes=N-M` or `bytes=-N`; several ranges are answered with the whole.
fn wanted(text: &str) -> Option<Wanted> {
    let (unit, one) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || one.contains(',') {
        return None;
    }
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // A number that no size has is beyond every end.
        digits.then(|| text.parse().unwrap_or(usize::MAX))
    };
    match one.trim().split_once('-')? {
        ("", last) => Some(Wanted::Last(number(last)?)),
        (first, "") => Some(Wanted::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Wanted::From(first, Some(last)))
        }
    }
}

/// The first byte and the one after the last; `None` when no byte of the object is in it.
fn satisfy(wanted: Wanted, length: usize) -> Option<(usize, usize)> {
    let (first, end) = match wanted {
        Wanted::From(first, last) => (first, last.map_or(length, |last| last.saturating_add(1).min(length))),
        Wanted::Last(count) => (length.saturating_sub(count), length),
    };
    (first < end).then_some((first, end))
}

/// The reply with an immutable object: 200, or 206, 304 or 416 as the conditions say.
pub(super) fn respond(conditions: &Conditions, mut body: Vec<u8>) -> Response<Body> {
    let hash = sha256(&body);
    let tag = format!("\"{}\"", hex(hash.get(..TAG_BYTES).unwrap_or_default()));
    let tag_value = HeaderValue::from_str(&tag).ok();
    let length = body.len();
    let mut content_range = None;
    let status = if conditions.has(&tag) {
        body.clear();
        StatusCode::NOT_MODIFIED
    } else if let Some(wanted) =
        conditions.range.filter(|_| conditions.if_range.is_none() || conditions.if_range == tag_value)
    {
        match satisfy(wanted, length) {
            Some((first, end)) => {
                body.truncate(end);
                body.drain(..first);
                content_range = Some(format!("bytes {first}-{}/{length}", end - 1));
                StatusCode::PARTIAL_CONTENT
            }
            None => {
                body.clear();
                content_range = Some(format!("bytes */{length}"));
                StatusCode::RANGE_NOT_SATISFIABLE
            }
        }
    } else {
        StatusCode::OK
    };
    let mut response = Response::new(super::slices::body(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(tag) = tag_value {
        headers.insert(header::ETAG, tag);
    }
    if let Some(Ok(value)) = content_range.map(|text| HeaderValue::from_str(&text)) {
        headers.insert(header::CONTENT_RANGE, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"0123456789";

    fn ask(headers: &[(header::HeaderName, &str)]) -> (u16, Option<String>, Vec<u8>) {
        let map: HeaderMap = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        let response = respond(&Conditions::of(&map), BODY.to_vec());
        let (parts, body) = response.into_parts();
        assert_eq!(parts.headers[header::ACCEPT_RANGES], "bytes");
        let range = parts.headers.get(header::CONTENT_RANGE).map(|value| value.to_str().unwrap().to_owned());
        let bytes = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bytes = bytes.block_on(axum::body::to_bytes(body, 64)).unwrap();
        (parts.status.as_u16(), range, bytes.to_vec())
    }

    fn tag() -> String {
        let response = respond(&Conditions::default(), BODY.to_vec());
        response.headers()[header::ETAG].to_str().unwrap().to_owned()
    }

    #[test]
    fn one_range_or_the_whole() {
        let part = |text: &str| ask(&[(header::RANGE, text)]);
        for (text, range, bytes) in [
            ("bytes=0-", "bytes 0-9/10", "0123456789"),
            ("bytes=4-", "bytes 4-9/10", "456789"),
            ("bytes=9-", "bytes 9-9/10", "9"),
            ("bytes=2-3", "bytes 2-3/10", "23"),
            ("Bytes=8-99999999999999999999999", "bytes 8-9/10", "89"),
            ("bytes=-3", "bytes 7-9/10", "789"),
            ("bytes=-30", "bytes 0-9/10", "0123456789"),
        ] {
            assert_eq!(part(text), (206, Some(range.into()), bytes.into()), "{text}");
        }
        for text in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(part(text), (416, Some("bytes */10".into()), Vec::new()), "{text}");
        }
        for text in ["bytes=0-1,4-5", "bytes=5-2", "bytes=", "bytes=-", "bytes=a-", "lines=0-1", "bytes", "bytes=+1-"] {
            assert_eq!(part(text), (200, None, BODY.to_vec()), "{text}");
        }
        let twice = ask(&[(header::RANGE, "bytes=0-1"), (header::RANGE, "bytes=4-5")]);
        assert_eq!(twice.0, 200);
    }

    #[test]
    fn a_tag_names_the_bytes() {
        let tag = tag();
        assert_eq!(ask(&[(header::IF_RANGE, &tag), (header::RANGE, "bytes=4-")]).0, 206);
        for other in ["\"another\"", &format!("W/{tag}"), "Wed, 25 Nov 2026 14:00:00 GMT"] {
            assert_eq!(ask(&[(header::IF_RANGE, other), (header::RANGE, "bytes=4-")]), (200, None, BODY.to_vec()));
        }
        for same in [tag.clone(), format!("W/{tag}"), format!("\"a\", {tag}"), "*".into()] {
            assert_eq!(ask(&[(header::IF_NONE_MATCH, &same)]), (304, None, Vec::new()), "{same}");
            assert_eq!(ask(&[(header::IF_NONE_MATCH, &same), (header::RANGE, "bytes=4-")]).0, 304);
        }
        assert_eq!(ask(&[(header::IF_NONE_MATCH, "\"another\"")]).0, 200);
        let changed = respond(&Conditions::default(), b"0123456788".to_vec());
        assert_ne!(changed.headers()[header::ETAG].to_str().unwrap(), tag);
    }
}
