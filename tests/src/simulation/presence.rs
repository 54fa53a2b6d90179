//! Whether a copy's index finds whom it must, asked with the server's own keys whenever a device flips to another copy.
//! It must not need an unlocked vault: most flips happen while nobody works.

use anyhow::{Context as _, ensure};
use cpis_agent::replica::View;
use cpis_protocol::cell::{FeedKey, LookupPrf as _, Place, SHARED_TOKEN_MAX};
use cpis_protocol::head::{FeedState, Head};
use cpis_protocol::query::{LookupParameters, Query, Token};
use cpis_server::port::{CellLog, Feeds as _, Store as _, StoreError};
use cpis_server::publish;

use super::World;
use super::register::{self, CHILDREN};
use super::server::Server;

/// Children asked about at each flip; all of them in turn.
const ASKED: usize = 8;

/// What to ask with: the memory-hard step once for every child.
#[derive(Debug)]
pub struct Tokens(Vec<Token>);

impl Tokens {
    /// Of all children.
    ///
    /// # Errors
    /// When a token cannot be computed.
    pub fn compute(server: &Server) -> anyhow::Result<Self> {
        let parameters: LookupParameters = server.service().store().read(|tx| publish::lookup(tx))?;
        let token = |child| -> anyhow::Result<Token> {
            let (number, birth) = register::identity(child)?;
            Ok(Query::nhs_number(number, birth).token(&parameters)?)
        };
        Ok(Self((0..CHILDREN).map(token).collect::<anyhow::Result<_>>()?))
    }
}

fn keys(server: &Server, state: &FeedState) -> anyhow::Result<Vec<FeedKey>> {
    let (service, log) = (server.service(), CellLog { feed: state.feed, epoch: state.epoch });
    let sealed = service.store().read::<_, StoreError>(|tx| tx.feed_keys(log))?;
    let used = sealed.iter().filter(|(key_id, _)| (state.oldest_key_id..=state.key_id).contains(key_id));
    let open = |(key_id, bytes): &(u32, Vec<u8>)| publish::open_feed_key(&service.keys().storage, log, *key_id, bytes);
    Ok(used.map(open).collect::<Result<_, _>>()?)
}

/// Invariant 7: whoever has a plan in one of the feeds of this head is found in the copy, and nobody else.
///
/// # Errors
/// Who is not, or should not be.
pub fn check(world: &World, view: &View, head: &Head, turn: usize) -> anyhow::Result<()> {
    let plans = world.server.truth().at(head.gseq).cloned().unwrap_or_default();
    let mut feeds = Vec::new();
    for state in &head.feeds {
        feeds.push((state, keys(&world.server, state)?, view.feeds.get(&state.feed).context("a feed is missing")?));
    }
    for child in (turn * ASKED..(turn + 1) * ASKED).map(|number| number % CHILDREN) {
        let has = plans.get(&child).map_or(&[][..], Vec::as_slice);
        if has.iter().any(|plan| plan.visible_until_min.is_some()) {
            // When it is taken out depends on when the server published.
            continue;
        }
        let token = world.tokens.0.get(child).context("no token")?;
        let mut found = false;
        for (state, keys, copy) in &feeds {
            let place = Place { feed: state.feed, epoch: state.epoch };
            for key in keys {
                let secret = key.evaluate(&place, token)?;
                found |= (0..SHARED_TOKEN_MAX).any(|index| copy.find(secret.locator(index)).next().is_some());
            }
        }
        let wanted = has.iter().any(|plan| head.feed(&plan.feed).is_some());
        ensure!(found == wanted, "child {child} is found: {found}, and has a plan there: {wanted}, at {}", head.gseq);
    }
    Ok(())
}
