//! Runs a case of look-up by name: the details give exactly the questions in the bytes, or are refused.
//! It must not know any expectation.

use cpis_protocol::Refusal;
use cpis_protocol::nhs::Date;
use cpis_protocol::postcode::Postcode;
use cpis_protocol::query::Query;
use cpis_protocol::question::{self, Asked, Person};

use crate::run::Context;

/// Each question as its length (u16, big endian) and its bytes.
pub(crate) fn listed<'a>(queries: impl IntoIterator<Item = &'a Query>) -> Vec<u8> {
    let mut out = Vec::new();
    for query in queries {
        out.extend_from_slice(&(query.expose().len() as u16).to_be_bytes());
        out.extend_from_slice(query.expose());
    }
    out
}

pub(crate) fn run(c: &Context<'_>, object: &str, bytes: &[u8]) -> Result<(), Refusal> {
    let (surname, given) = (c.get("surname").unwrap_or_default(), c.get("given").unwrap_or_default());
    let birth: Date = c.number("birth");
    let postcode = c.get("postcode").unwrap_or_default();
    let made = if object == "name-filed" {
        let number = c.number("number");
        let restricted = c.get("restricted") == Some("true");
        listed(&question::slots(&Person { number, birth, surname, given, postcode, restricted }))
    } else {
        let postcode: Option<Postcode> = postcode.parse().ok();
        let asked = Asked { surname, given, birth, postcode: postcode.as_ref() };
        listed(question::questions(&asked)?.iter().map(|(_, query)| query))
    };
    if made == bytes { Ok(()) } else { Err(Refusal::WrongHash) }
}
