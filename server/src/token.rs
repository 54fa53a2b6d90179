//! Look-up tokens: the memory-hard step once for each question of each person, on all cores, kept sealed in the database.
//! A token must never leave the server, nor be stored unsealed.

use std::num::NonZero;

use cpis_protocol::Refusal;
use cpis_protocol::digest::{self, Hash};
use cpis_protocol::query::{LookupParameters, Query, Token};
use cpis_protocol::seal::Key;

use crate::port::{PersonId, Register as _, Store, StoreError, Tx};
use crate::slots;

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

/// Binds a sealed token to the question that it answers, so that one of an older name or birth date does not open.
fn binding(query: &Query, parameters: &Hash) -> Hash {
    digest::hash("cpis-edge/1/stored-token", &[query.expose(), parameters])
}

/// Computes a token and seals it for the database.
///
/// # Errors
/// [`Refusal`].
pub fn make(query: &Query, parameters: &LookupParameters, storage: &Key) -> Result<(Token, Vec<u8>), Refusal> {
    let token = query.token(parameters)?;
    let aad = binding(query, &fingerprint(parameters)?);
    let sealed = storage.seal(&aad, token.expose(), &mut crate::entropy::system())?;
    Ok((token, sealed))
}

/// Opens a stored token; `None` when it belongs to another question.
#[must_use]
pub fn open(query: &Query, parameters: &Hash, sealed: &[u8], storage: &Key) -> Option<Token> {
    let value = storage.open(&binding(query, parameters), sealed).ok()?;
    Some(Token::from_cache(query.path(), value.as_slice().try_into().ok()?))
}

/// The tokens of a person's questions, from the database or made now.
///
/// # Errors
/// [`TokenError`].
pub fn of_person<T: Tx>(
    tx: &T,
    id: PersonId,
    queries: &[Query],
    parameters: &LookupParameters,
    storage: &Key,
) -> Result<Vec<Token>, TokenError> {
    let named = fingerprint(parameters)?;
    let stored = tx.tokens(id, &named)?;
    if stored.len() == queries.len() {
        let opened = queries.iter().zip(&stored).map(|(query, sealed)| open(query, &named, sealed, storage));
        if let Some(tokens) = opened.collect() {
            return Ok(tokens);
        }
    }
    // Added or corrected since the tokens were filled in.
    let made = queries.iter().map(|query| make(query, parameters, storage)).collect::<Result<Vec<_>, _>>()?;
    let (tokens, sealed): (Vec<_>, Vec<_>) = made.into_iter().unzip();
    tx.put_tokens(id, &named, &sealed)?;
    Ok(tokens)
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
        let missing = store.read::<_, StoreError>(|tx| {
            let ids = tx.without_token(&named, above, chunk)?;
            let persons = ids.into_iter().map(|id| Ok(tx.person(id)?.map(|person| (id, slots::questions(&person)))));
            persons.filter_map(Result::transpose).collect::<Result<Vec<_>, StoreError>>()
        })?;
        let Some((last, _)) = missing.last() else { return Ok(done) };
        above = *last;
        let made = make_parallel(&missing, parameters, storage, cores)?;
        store
            .write::<_, StoreError>(|tx| made.iter().try_for_each(|(id, sealed)| tx.put_tokens(*id, &named, sealed)))?;
        done += made.len() as u64;
        tick(done, total.max(done));
    }
}

/// A person's tokens, each sealed, by slot.
type Sealed = (PersonId, Vec<Vec<u8>>);

fn make_parallel(
    missing: &[(PersonId, Vec<Query>)],
    parameters: &LookupParameters,
    storage: &Key,
    cores: usize,
) -> Result<Vec<Sealed>, Refusal> {
    let share = missing.len().div_ceil(cores).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = missing
            .chunks(share)
            .map(|part| {
                scope.spawn(move || -> Result<Vec<_>, Refusal> {
                    part.iter()
                        .map(|(id, queries)| {
                            let sealed = queries.iter().map(|query| Ok(make(query, parameters, storage)?.1));
                            Ok((*id, sealed.collect::<Result<_, Refusal>>()?))
                        })
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
    use cpis_protocol::nhs::{Date, NhsNumber};
    use cpis_protocol::seal::MemoryHard;

    #[test]
    fn a_stored_token_opens_for_its_own_question_only() {
        let parameters = LookupParameters { salt_epoch: 1, salt: [1; 16], cost: MemoryHard::SYNTHETIC };
        let storage = Key::from_bytes([5; 32]);
        let number = NhsNumber::new(9_990_000_018).unwrap();
        let (birth, other) = (Date::new(2015, 3, 4).unwrap(), Date::new(2015, 4, 3).unwrap());
        let (query, later) = (Query::nhs_number(number, birth), Query::nhs_number(number, other));
        let (token, sealed) = make(&query, &parameters, &storage).unwrap();
        let named = fingerprint(&parameters).unwrap();
        assert_eq!(open(&query, &named, &sealed, &storage).map(|t| *t.expose()), Some(*token.expose()));
        assert!(open(&later, &named, &sealed, &storage).is_none());
        let moved = fingerprint(&LookupParameters { salt_epoch: 2, ..parameters }).unwrap();
        assert!(open(&query, &moved, &sealed, &storage).is_none());
    }
}
