//! `scope`: the named lists of feeds.
//! It must not take a feed out of a scope unasked.

use std::collections::BTreeSet;

use clap::Subcommand;
use cpis_protocol::id::{FeedId, ScopeId};
use cpis_protocol::limits::FEEDS_MAX;
use cpis_server::port::{AuthorityEntry, Feeds as _, Register as _, ScopeRow, Store as _, StoreError};
use cpis_server::register::authority_named;
use serde_json::json;

use super::failure::Failure;
use super::{Context, publish};
use crate::output::table;

#[derive(Debug, Subcommand)]
pub(crate) enum ScopeCommand {
    /// Add a scope
    #[command(after_help = "Examples:
  cpis-server scope add south --authority Sheffield --authority E08000018
  cpis-server scope add nation --all")]
    Add {
        /// Its name, at most 16 characters
        name: ScopeId,
        /// GSS code or name of an authority in the register; once for each
        #[arg(long = "authority", value_name = "CODE_OR_NAME", required_unless_present = "all")]
        authorities: Vec<String>,
        /// All authorities that the register has now
        #[arg(long, conflicts_with = "authorities")]
        all: bool,
    },
    /// List the scopes
    #[command(after_help = "Example:\n  cpis-server scope list --json")]
    List,
}

pub(crate) fn run(context: &Context<'_>, command: ScopeCommand) -> anyhow::Result<()> {
    match command {
        ScopeCommand::Add { name, authorities, all } => add(context, name, &authorities, all),
        ScopeCommand::List => list(context),
    }
}

fn add(context: &Context<'_>, name: ScopeId, authorities: &[String], all: bool) -> anyhow::Result<()> {
    if name.as_str().is_empty() || !name.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(Failure::usage("a scope's name has letters, digits, - _ and . only", "e.g. scope add south").into());
    }
    let home = context.home()?;
    let known = home.store.read::<_, StoreError>(|tx| tx.authorities())?;
    let mut feeds: BTreeSet<FeedId> = BTreeSet::new();
    if all {
        feeds.extend(known.iter().map(|authority| authority.code));
    }
    for wanted in authorities {
        let found = find(&known, wanted).ok_or_else(|| {
            Failure::usage(
                format!("the register has no authority {wanted}"),
                "synthesise or ingest it first; names and GSS codes are understood",
            )
        })?;
        feeds.insert(found);
    }
    if feeds.is_empty() || feeds.len() > FEEDS_MAX {
        return Err(Failure::usage(
            format!("a scope has 1 to {FEEDS_MAX} feeds"),
            "synthesise or ingest something first",
        )
        .into());
    }
    // Feeds are made when an authority is first published.
    publish(context, &home)?;
    let row = ScopeRow { scope: name, feeds: feeds.into_iter().collect() };
    home.store.write(|tx| match tx.scope(name)? {
        Some(_) => Err(StoreError::Constraint(format!("there is a scope {name} already"))),
        None => tx.add_scope(&row),
    })?;
    let published = publish(context, &home)?;
    let text = format!(
        "Scope {name} has {} feeds and its first head, at register sequence {}.",
        row.feeds.len(),
        published.gseq
    );
    context.out.result(&json!({"scope": name.as_str(), "feeds": row.feeds, "gseq": published.gseq}), &text);
    Ok(())
}

fn find(known: &[AuthorityEntry], wanted: &str) -> Option<FeedId> {
    let wanted = wanted.trim();
    let exact = known
        .iter()
        .find(|a| a.code.as_str().eq_ignore_ascii_case(wanted) || a.name.eq_ignore_ascii_case(wanted))
        .map(|a| a.code);
    // The many ways in which people write the names of councils.
    let by_name =
        || authority_named(wanted).and_then(|named| known.iter().find(|a| a.code == named.code)).map(|a| a.code);
    exact.or_else(by_name)
}

fn list(context: &Context<'_>) -> anyhow::Result<()> {
    let home = context.home()?;
    let rows = home.store.read(|tx| -> Result<_, StoreError> {
        let mut rows = Vec::new();
        for scope in tx.scopes()? {
            let head = tx.newest_head(scope.scope)?;
            let mut cells = 0u64;
            for feed in &scope.feeds {
                cells += tx.feed(*feed)?.map_or(0, |feed| u64::from(feed.count));
            }
            rows.push((scope, head.map(|head| head.gseq), cells));
        }
        Ok(rows)
    })?;
    let value: Vec<_> = rows
        .iter()
        .map(|(scope, gseq, cells)| json!({"scope": scope.scope.as_str(), "feeds": scope.feeds, "records": cells, "gseq": gseq}))
        .collect();
    let mut lines = vec![vec!["SCOPE".into(), "FEEDS".into(), "RECORDS".into(), "HEAD AT".into()]];
    lines.extend(rows.iter().map(|(scope, gseq, cells)| {
        let head = gseq.map_or("none".into(), |gseq| gseq.to_string());
        vec![scope.scope.to_string(), scope.feeds.len().to_string(), cells.to_string(), head]
    }));
    context.out.result(&value, &table(&lines));
    Ok(())
}
