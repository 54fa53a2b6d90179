//! The newest head of every scope, signed again when the publisher's key was replaced: the same content, a later time.
//! It must not change what a head says.

use cpis_protocol::head::Head;
use cpis_protocol::id::UnixMs;
use cpis_protocol::sign::{self, Kind};
use cpis_protocol::{digest, limits};

use crate::keys::ServerKeys;
use crate::port::{Feeds as _, HeadRow, Store};
use crate::publish::PublishError;

/// Signs every newest head again that the present key did not sign; says how many.
///
/// # Errors
/// [`PublishError`]; then none was.
pub fn heads<S: Store>(store: &S, keys: &ServerKeys, now_ms: UnixMs) -> Result<usize, PublishError> {
    let key = keys.publisher.public_key();
    let by_another =
        |row: &HeadRow| sign::verify::<Head>(&row.bytes, Kind::Head, &[key], 1, limits::HEAD_BYTES_MAX).is_err();
    let newest = store.read(|tx| {
        let mut rows = Vec::new();
        for scope in tx.scopes()? {
            rows.extend(tx.newest_head(scope.scope)?);
        }
        Ok::<_, PublishError>(rows)
    })?;
    if !newest.iter().any(by_another) {
        return Ok(0);
    }
    store.write(|tx| {
        let mut count = 0;
        for scope in tx.scopes()? {
            let Some(old) = tx.newest_head(scope.scope)?.filter(by_another) else { continue };
            let mut head: Head = sign::peek_unverified(&old.bytes, Kind::Head, limits::HEAD_BYTES_MAX)?;
            head.issued_ms = now_ms.max(old.issued_ms + 1);
            let bytes = keys.publisher.sign(Kind::Head, &head)?;
            let hash = digest::sha256(&bytes);
            tx.put_head(&HeadRow { hash, scope: head.scope, gseq: head.gseq, issued_ms: head.issued_ms, bytes })?;
            count += 1;
        }
        Ok(count)
    })
}
