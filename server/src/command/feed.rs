//! `feed`: the keys of the feeds, when they were made, and new ones.
//! It must not show a key.

use std::collections::BTreeSet;

use clap::Subcommand;
use cpis_protocol::id::FeedId;
use cpis_server::clock::iso;
use cpis_server::port::{CellLog, FeedRow, Feeds as _, Store as _, StoreError};
use cpis_server::publish::Step;
use cpis_server::rekey::{self, Rekey};
use serde_json::json;

use super::{Context, now_ms, unknown};
use crate::output::table;
use crate::progress::Progress;

#[derive(Debug, Subcommand)]
pub(crate) enum FeedCommand {
    /// List the feeds: epoch, current key and its age, the oldest key in use, devices that were granted earlier keys
    #[command(after_help = "Example:\n  cpis-server feed list --json")]
    List,
    /// Give feeds a new key for new records now; the server does so by itself every `feed_key_days`
    #[command(after_help = "Examples:
  cpis-server feed rotate E08000019
  cpis-server feed rotate --all --reseal

Without --reseal the records sealed before stay under their key until the re-seal that follows after `reseal_hours`.
A feed that has two keys in use already is sealed anew at once.")]
    Rotate {
        /// The feeds, as `feed list` shows them
        #[arg(required_unless_present = "all", value_name = "FEED")]
        feeds: Vec<FeedId>,
        /// Every feed
        #[arg(long, conflicts_with = "feeds")]
        all: bool,
        /// Seal every record anew in a new epoch: devices fetch these feeds whole
        #[arg(long)]
        reseal: bool,
    },
}

pub(crate) fn run(context: &Context<'_>, command: FeedCommand) -> anyhow::Result<()> {
    match command {
        FeedCommand::List => list(context),
        FeedCommand::Rotate { feeds, all, reseal } => rotate(context, feeds, all, reseal),
    }
}

fn rotate(context: &Context<'_>, feeds: Vec<FeedId>, all: bool, reseal: bool) -> anyhow::Result<()> {
    let home = context.home()?;
    let known: BTreeSet<FeedId> =
        home.store.read::<_, StoreError>(|tx| tx.feeds())?.into_iter().map(|row| row.feed).collect();
    if let Some(feed) = feeds.iter().find(|feed| !known.contains(*feed)) {
        return Err(unknown("feed", feed.as_str(), "feed list"));
    }
    let wanted: BTreeSet<FeedId> = if all { known } else { feeds.into_iter().collect() };
    let count = wanted.len();
    let plan = if reseal {
        Rekey { reseal: wanted, ..Rekey::default() }
    } else {
        Rekey { rotate: wanted, ..Rekey::default() }
    };
    let mut tokens = Progress::start(*context.out, "computing look-up tokens", 0);
    let mut cells = Progress::start(*context.out, "sealing records", 0);
    rekey::run(&home.store, &home.keys, &plan, now_ms(), &mut |step| match step {
        Step::Tokens { done, total } => tokens.at(done, total),
        Step::Persons { done, total } => cells.at(done, total),
    })?;
    tokens.finish();
    cells.finish();
    let what = if reseal { "sealed anew under a new key" } else { "given a new key for new records" };
    context.out.result(&json!({"feeds": count, "reseal": reseal}), &format!("{count} feeds were {what}."));
    Ok(())
}

fn list(context: &Context<'_>) -> anyhow::Result<()> {
    let home = context.home()?;
    let rows = home.store.read(|tx| -> Result<_, StoreError> {
        let mut rows: Vec<(FeedRow, Option<i64>, u64)> = Vec::new();
        for row in tx.feeds()? {
            let log = CellLog { feed: row.feed, epoch: row.epoch };
            let (made, older) = (tx.feed_key_made(log, row.key_id)?, tx.holders_of_older(log, row.key_id)?);
            rows.push((row, made, older));
        }
        Ok(rows)
    })?;
    let since = |made: &Option<i64>| made.filter(|made| *made > 0).map(iso);
    let values: Vec<_> = rows
        .iter()
        .map(|(row, made, older)| {
            json!({
                "feed": row.feed, "epoch": format!("{:016x}", row.epoch), "key": row.key_id, "since": since(made),
                "oldest_key": row.oldest_key_id, "records": row.count, "devices_with_older_keys": older,
            })
        })
        .collect();
    let head = ["FEED", "EPOCH", "KEY", "SINCE", "OLDEST", "RECORDS", "DEVICES WITH OLDER KEYS"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|(row, made, older)| {
        vec![
            row.feed.to_string(),
            format!("{:016x}", row.epoch),
            row.key_id.to_string(),
            since(made).unwrap_or_else(|| "not known".into()),
            row.oldest_key_id.to_string(),
            row.count.to_string(),
            older.to_string(),
        ]
    }));
    context.out.result(&values, &table(&lines));
    Ok(())
}
