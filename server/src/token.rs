//! Look-up tokens: the memory-hard step once for each person, on all cores, kept sealed in the database.
//! A token must never leave the server, nor be stored unsealed.

use std::num::NonZero;

use cpis_protocol::Refusal;
use cpis_protocol::digest::{self, Hash};
use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_protocol::query::{LookupParameters, Path, Query, Token};
use cpis_protocol::seal::Key;

use crate::port::{PersonId, Register as _, Store, StoreError};

/// Why tokens could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The memory-hard step failed: most likely the memory could not be had.
    #[error("the memory-hard step failed: {0}")]
    Derivation(#[from] Refusal),
}

/// Names a set of parameters.
///
/// # Errors
/// [`Refusal`] never for our own type.
pub fn fingerprint(parameters: &LookupParameters) -> Result<Hash, Refusal> {
    Ok(digest::hash("cpis-edge/1/lookup-parameters", &[&cpis_protocol::codec::encode(parameters)?]))
}

/// Binds a sealed token to the question that it answers, so that one of an older date of birth does not open.
fn binding(number: NhsNumber, birth: Date, parameters: &Hash) -> Vec<u8> {
    let mut aad = b"cpis-edge/1/stored-token\0".to_vec();
    aad.extend_from_slice(&number.as_u64().to_be_bytes());
    aad.extend_from_slice(&birth.days().to_be_bytes());
    aad.extend_from_slice(parameters);
    aad
}

/// Computes a token and seals it for the database.
///
/// # Errors
/// [`Refusal`].
pub fn make(
    number: NhsNumber,
    birth: Date,
    parameters: &LookupParameters,
    storage: &Key,
) -> Result<(Token, Vec<u8>), Refusal> {
    let token = Query::nhs_number(number, birth).token(parameters)?;
    let aad = binding(number, birth, &fingerprint(parameters)?);
    let sealed = storage.seal(&aad, token.expose(), &mut crate::entropy::system())?;
    Ok((token, sealed))
}

/// Opens a stored token; `None` when it belongs to another question.
#[must_use]
pub fn open(number: NhsNumber, birth: Date, parameters: &Hash, sealed: &[u8], storage: &Key) -> Option<Token> {
    let value = storage.open(&binding(number, birth, parameters), sealed).ok()?;
    Some(Token::from_cache(Path::NhsNumber, value.as_slice().try_into().ok()?))
}

/// Computes what is missing, chunk by chunk, each chunk in its own transaction: an interrupted run goes on where it
/// stopped, and other writers get their turn. `tick` is called with done and total.
///
/// # Errors
/// [`TokenError`].
pub fn fill<S: Store>(
    store: &S,
    storage: &Key,
    parameters: &LookupParameters,
    tick: &mut dyn FnMut(u64, u64),
) -> Result<u64, TokenError> {
    let named = fingerprint(parameters)?;
    let total = store.read::<_, StoreError>(|tx| tx.count_without_token(&named))?;
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    // Expensive tokens are saved often, cheap ones in large chunks.
    let chunk = if parameters.cost.memory_kib < 1024 { 4096 } else { cores * 16 };
    let (mut done, mut above) = (0, PersonId::MIN);
    loop {
        let missing = store.read::<_, StoreError>(|tx| tx.without_token(&named, above, chunk))?;
        let Some((last, ..)) = missing.last() else { return Ok(done) };
        above = *last;
        let made = make_parallel(&missing, parameters, storage, cores)?;
        store
            .write::<_, StoreError>(|tx| made.iter().try_for_each(|(id, sealed)| tx.put_token(*id, &named, sealed)))?;
        done += made.len() as u64;
        tick(done, total.max(done));
    }
}

fn make_parallel(
    missing: &[(PersonId, NhsNumber, Date)],
    parameters: &LookupParameters,
    storage: &Key,
    cores: usize,
) -> Result<Vec<(PersonId, Vec<u8>)>, Refusal> {
    let share = missing.len().div_ceil(cores).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = missing
            .chunks(share)
            .map(|part| {
                scope.spawn(move || -> Result<Vec<_>, Refusal> {
                    part.iter()
                        .map(|(id, number, birth)| Ok((*id, make(*number, *birth, parameters, storage)?.1)))
                        .collect()
                })
            })
            .collect();
        let mut out = Vec::with_capacity(missing.len());
        for worker in workers {
            // A worker only panics when memory is exhausted; then nothing of the chunk is kept.
            out.extend(worker.join().map_err(|_| Refusal::TooLarge)??);
        }
        Ok(out)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpis_protocol::seal::MemoryHard;

    #[test]
    fn a_stored_token_opens_for_its_own_question_only() {
        let parameters = LookupParameters { salt_epoch: 1, salt: [1; 16], cost: MemoryHard::SYNTHETIC };
        let storage = Key::from_bytes([5; 32]);
        let number = NhsNumber::new(9_990_000_018).unwrap();
        let (birth, other) = (Date::new(2015, 3, 4).unwrap(), Date::new(2015, 4, 3).unwrap());
        let (token, sealed) = make(number, birth, &parameters, &storage).unwrap();
        let named = fingerprint(&parameters).unwrap();
        assert_eq!(open(number, birth, &named, &sealed, &storage).map(|t| *t.expose()), Some(*token.expose()));
        assert!(open(number, other, &named, &sealed, &storage).is_none());
        let moved = fingerprint(&LookupParameters { salt_epoch: 2, ..parameters }).unwrap();
        assert!(open(number, birth, &moved, &sealed, &storage).is_none());
    }
}
