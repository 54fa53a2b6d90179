//! Removed records: written down when they are published, by a mark that outlives the person's row.
//! It must not store an NHS number, nor a mark that could be computed without the storage key.

use cpis_protocol::digest;
use cpis_protocol::id::{FeedId, RegisterSeq, UnixMs};
use cpis_protocol::nhs::NhsNumber;
use cpis_protocol::seal::Key;

use crate::entropy;
use crate::port::{Mark, PersonId, StoreError, Tx};

/// What names a person among removed records: nobody without the storage key can compute or confirm it.
#[must_use]
pub fn mark(storage: &Key, number: NhsNumber) -> Mark {
    let mut input = b"cpis-edge/1/removal-mark\0".to_vec();
    input.extend_from_slice(&number.as_u64().to_be_bytes());
    digest::prf(storage.expose(), &input)
}

/// A record of this person is published; in `new` there was none before.
pub(crate) fn placed<T: Tx>(
    tx: &T,
    storage: &Key,
    person: PersonId,
    number: NhsNumber,
    new: Option<FeedId>,
) -> Result<(), StoreError> {
    let mark = mark(storage, number);
    tx.put_mark(person, &mark)?;
    new.map_or(Ok(()), |feed| tx.returned(&mark, feed))
}

/// No head that is made from here on holds this record.
pub(crate) fn removed<T: Tx>(
    tx: &T,
    person: PersonId,
    feed: FeedId,
    at_ms: UnixMs,
    gseq: RegisterSeq,
) -> Result<(), StoreError> {
    // A record that an earlier release published has no mark: it is counted, and not found by its number.
    let mark = tx.mark(person)?.unwrap_or_else(entropy::bytes);
    tx.add_removal(&mark, feed, at_ms, gseq)
}
