//! `site`: where devices are used, and the policy that they get.
//! It must not set a policy that the protocol would refuse.

use clap::{Subcommand, ValueEnum};
use cpis_protocol::id::SiteId;
use cpis_protocol::policy::{AccessMode, Policy};
use cpis_protocol::seal::MemoryHard;
use cpis_server::port::{Fleet as _, SiteRow, Store as _, StoreError};
use serde_json::json;

use super::Context;
use super::failure::Failure;
use crate::output::table;

const DAY_S: u32 = 86_400;

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Mode {
    /// Unscheduled care: showing details tells the child's authority (B0107)
    Unscheduled,
    /// Scheduled care: recorded, nobody is told (B0170)
    Silent,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum SiteCommand {
    /// Add a site
    #[command(after_help = "Examples:
  cpis-server site add rotherham
  cpis-server site add sarc-leeds --access-mode silent --lease-days 3 --idle-s 300")]
    Add {
        /// Its name, at most 16 characters
        name: SiteId,
        /// Whether showing details notifies
        #[arg(long, default_value = "unscheduled")]
        access_mode: Mode,
        /// Days that a device answers without having reached the server
        #[arg(long, default_value_t = 7, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=90))]
        lease_days: u16,
        /// Seconds for which a copy is fresh [default: 4 hours]
        #[arg(long, value_name = "SECONDS")]
        fresh_s: Option<u32>,
        /// Seconds for which a copy is ageing: answers carry a warning [default: 24 hours]
        #[arg(long, value_name = "SECONDS")]
        ageing_s: Option<u32>,
        /// Seconds for which a stale copy still shows flags; beyond it is locked [default: 72 hours]
        #[arg(long, value_name = "SECONDS")]
        stale_s: Option<u32>,
        /// Seconds without use until a device locks itself [default: 15 minutes]
        #[arg(long, value_name = "SECONDS")]
        idle_s: Option<u32>,
        /// Seconds after a look-up in which its details may be shown [default: 10 minutes]
        #[arg(long, value_name = "SECONDS")]
        reveal_s: Option<u32>,
        /// Seconds between two grants [default: 1 hour]
        #[arg(long, value_name = "SECONDS")]
        grant_refresh_s: Option<u32>,
    },
    /// List the sites
    #[command(after_help = "Example:\n  cpis-server site list")]
    List,
}

pub(crate) fn run(context: &Context<'_>, command: SiteCommand) -> anyhow::Result<()> {
    let home = context.home()?;
    let SiteCommand::Add {
        name,
        access_mode,
        lease_days,
        fresh_s,
        ageing_s,
        stale_s,
        idle_s,
        reveal_s,
        grant_refresh_s,
    } = command
    else {
        return list(context, &home.store.read::<_, StoreError>(|tx| tx.sites())?);
    };
    let default = Policy::default();
    let policy = Policy {
        access_mode: match access_mode {
            Mode::Unscheduled => AccessMode::Unscheduled,
            Mode::Silent => AccessMode::Silent,
        },
        fresh_s: fresh_s.unwrap_or(default.fresh_s),
        ageing_s: ageing_s.unwrap_or(default.ageing_s),
        stale_s: stale_s.unwrap_or(default.stale_s),
        idle_lock_s: idle_s.unwrap_or(default.idle_lock_s),
        reveal_s: reveal_s.unwrap_or(default.reveal_s),
        grant_refresh_s: grant_refresh_s.unwrap_or(default.grant_refresh_s).max(1),
        // In a synthetic deployment nothing is worth guessing for, and tests want to be quick.
        passphrase_cost: if home.synthetic { MemoryHard::SYNTHETIC } else { default.passphrase_cost },
        ..default
    };
    if policy.check(home.synthetic).is_err() || name.is_empty() {
        return Err(Failure::usage(
            "the policy contradicts itself",
            "fresh <= ageing <= stale, and idle and reveal at least one second",
        )
        .into());
    }
    let row = SiteRow { site: name, policy, lease_s: u32::from(lease_days) * DAY_S };
    home.store.write(|tx| match tx.site(name)? {
        Some(_) => Err(StoreError::Constraint(format!("there is a site {name} already"))),
        None => tx.add_site(&row),
    })?;
    let told = match policy.access_mode {
        AccessMode::Unscheduled => "showing details there tells the child's authority",
        AccessMode::Silent => "showing details there is recorded, and nobody is told",
    };
    context.out.result(&value(&row), &format!("Site {name} was added; {told}."));
    Ok(())
}

fn value(row: &SiteRow) -> serde_json::Value {
    json!({"site": row.site.as_str(), "lease_s": row.lease_s, "policy": row.policy})
}

fn list(context: &Context<'_>, rows: &[SiteRow]) -> anyhow::Result<()> {
    let values: Vec<_> = rows.iter().map(value).collect();
    let head = ["SITE", "ACCESS", "LEASE DAYS", "FRESH S", "AGEING S", "STALE S", "IDLE S"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| {
        let policy = &row.policy;
        let mode = match policy.access_mode {
            AccessMode::Unscheduled => "unscheduled",
            AccessMode::Silent => "silent",
        };
        vec![
            row.site.to_string(),
            mode.to_owned(),
            (row.lease_s / DAY_S).to_string(),
            policy.fresh_s.to_string(),
            policy.ageing_s.to_string(),
            policy.stale_s.to_string(),
            policy.idle_lock_s.to_string(),
        ]
    }));
    context.out.result(&values, &table(&lines));
    Ok(())
}
