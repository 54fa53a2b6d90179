//! `site`: where devices are used, and the policy that they get.
//! It must not set a policy that the protocol would refuse.

use clap::{Args, Subcommand, ValueEnum};
use cpis_protocol::clock::ClockRule;
use cpis_protocol::id::SiteId;
use cpis_protocol::policy::{AccessMode, Policy};
use cpis_protocol::seal::MemoryHard;
use cpis_server::port::{Fleet as _, SiteRow, Store as _, StoreError};
use serde_json::json;

use super::failure::Failure;
use super::{Context, unknown};
use crate::output::table;

const DAY_S: u32 = 86_400;

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Mode {
    /// Unscheduled care: showing details tells the child's authority (B0107)
    Unscheduled,
    /// Scheduled care: recorded, nobody is told (B0170)
    Silent,
}

/// What a device believes about the time after a restart without a link.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum AfterRestart {
    /// Nothing: it answers again once it has heard from the server
    Refuse,
    /// Its wall clock: for sites whose devices never have a network; whoever sets that clock can make a copy look younger
    Believe,
}

/// The site's rules; what is not given keeps its value, or takes the default for a new site.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Rules {
    /// Whether showing details notifies [default: unscheduled]
    #[arg(long)]
    access_mode: Option<Mode>,
    /// Days that a device answers without having reached the server [default: 7]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=90))]
    lease_days: Option<u16>,
    /// Seconds instead of days: for tests of what happens when a lease is over
    #[arg(long, hide = true, value_name = "SECONDS", conflicts_with = "lease_days")]
    lease_seconds: Option<u32>,
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
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    idle_s: Option<u32>,
    /// Seconds after a look-up in which its details may be shown [default: 10 minutes]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    reveal_s: Option<u32>,
    /// Seconds between two grants [default: 1 hour]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    grant_refresh_s: Option<u32>,
    /// Look-ups that a practitioner may make at once on a device [default: 30]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    look_ups_at_once: Option<u16>,
    /// Seconds until one more is allowed, with or without a network [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    seconds_per_look_up: Option<u32>,
    /// Look-ups beyond the limit that a break-glass allows; 0: there is no break-glass [default: 0]
    #[arg(long, value_name = "COUNT")]
    break_glass_look_ups: Option<u16>,
    /// Minutes for which a break-glass is good [default: 15]
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u16).range(1..=1440))]
    break_glass_minutes: Option<u16>,
    /// What a device believes about the time after a restart without a link [default: refuse]
    #[arg(long)]
    clock_after_restart: Option<AfterRestart>,
}

impl Rules {
    /// How long a grant is good, where given.
    fn lease_s(&self) -> Option<u32> {
        self.lease_seconds.or(self.lease_days.map(|days| u32::from(days) * DAY_S))
    }

    /// The rules laid over a policy.
    fn over(&self, before: Policy) -> Policy {
        Policy {
            access_mode: self.access_mode.map_or(before.access_mode, |mode| match mode {
                Mode::Unscheduled => AccessMode::Unscheduled,
                Mode::Silent => AccessMode::Silent,
            }),
            fresh_s: self.fresh_s.unwrap_or(before.fresh_s),
            ageing_s: self.ageing_s.unwrap_or(before.ageing_s),
            stale_s: self.stale_s.unwrap_or(before.stale_s),
            idle_lock_s: self.idle_s.unwrap_or(before.idle_lock_s),
            reveal_s: self.reveal_s.unwrap_or(before.reveal_s),
            grant_refresh_s: self.grant_refresh_s.unwrap_or(before.grant_refresh_s),
            passphrase_cost: before.passphrase_cost,
            look_up_burst: self.look_ups_at_once.unwrap_or(before.look_up_burst),
            look_up_refill_s: self.seconds_per_look_up.unwrap_or(before.look_up_refill_s),
            break_glass_look_ups: self.break_glass_look_ups.unwrap_or(before.break_glass_look_ups),
            break_glass_s: self.break_glass_minutes.map_or(before.break_glass_s, |minutes| u32::from(minutes) * 60),
            clock_after_restart: self.clock_after_restart.map_or(before.clock_after_restart, |rule| match rule {
                AfterRestart::Refuse => ClockRule::Refuse,
                AfterRestart::Believe => ClockRule::Believe,
            }),
        }
    }
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum SiteCommand {
    /// Add a site
    #[command(after_help = "Examples:
  cpis-server site add rotherham
  cpis-server site add sarc-leeds --access-mode silent --lease-days 3 --idle-s 300
  cpis-server site add ambulance --break-glass-look-ups 20 --break-glass-minutes 30")]
    Add {
        /// Its name, at most 16 characters
        name: SiteId,
        #[command(flatten)]
        rules: Rules,
    },
    /// Change a site's rules: devices get them with their next grant, and whoever works then must unlock again
    #[command(
        after_help = "Example:\n  cpis-server site change rotherham --look-ups-at-once 60 --seconds-per-look-up 30"
    )]
    Change {
        /// Its name
        name: SiteId,
        #[command(flatten)]
        rules: Rules,
    },
    /// List the sites
    #[command(after_help = "Example:\n  cpis-server site list")]
    List,
}

pub(crate) fn run(context: &Context<'_>, command: SiteCommand) -> anyhow::Result<()> {
    let home = context.home()?;
    match command {
        SiteCommand::Add { name, rules } => {
            // In a synthetic deployment nothing is worth guessing for, and tests want to be quick.
            let cost = if home.synthetic { MemoryHard::SYNTHETIC } else { MemoryHard::DEFAULT };
            let policy = rules.over(Policy { passphrase_cost: cost, ..Policy::default() });
            let row = SiteRow { site: name, policy, lease_s: rules.lease_s().unwrap_or(7 * DAY_S) };
            check(&row, home.synthetic)?;
            home.store.write(|tx| match tx.site(name)? {
                Some(_) => Err(StoreError::Constraint(format!("there is a site {name} already"))),
                None => tx.add_site(&row),
            })?;
            tell(context, &row, "was added");
        }
        SiteCommand::Change { name, rules } => {
            let before = home.store.read::<_, StoreError>(|tx| tx.site(name))?;
            let before = before.ok_or_else(|| unknown("site", name.as_str(), "site list"))?;
            let lease_s = rules.lease_s().unwrap_or(before.lease_s);
            let row = SiteRow { site: name, policy: rules.over(before.policy), lease_s };
            check(&row, home.synthetic)?;
            home.store.write::<_, StoreError>(|tx| tx.change_site(&row))?;
            tell(context, &row, "was changed");
        }
        SiteCommand::List => list(context, &home.store.read::<_, StoreError>(|tx| tx.sites())?),
    }
    Ok(())
}

fn check(row: &SiteRow, synthetic: bool) -> anyhow::Result<()> {
    if row.policy.check(synthetic).is_err() || row.site.is_empty() {
        let hint = "fresh <= ageing <= stale, and idle and reveal at least one second";
        return Err(Failure::usage("the policy contradicts itself", hint).into());
    }
    Ok(())
}

fn tell(context: &Context<'_>, row: &SiteRow, done: &str) {
    let policy = &row.policy;
    let told = match policy.access_mode {
        AccessMode::Unscheduled => "showing details there tells the child's authority",
        AccessMode::Silent => "showing details there is recorded, and nobody is told",
    };
    let glass = match policy.break_glass_look_ups {
        0 => "no break-glass".to_owned(),
        look_ups => format!("a break-glass of {look_ups} for {} minutes", policy.break_glass_s / 60),
    };
    let text = format!(
        "Site {} {done}; {told}; {} look-ups at once, one more every {} s; {glass}.",
        row.site, policy.look_up_burst, policy.look_up_refill_s
    );
    context.out.result(&value(row), &text);
}

fn value(row: &SiteRow) -> serde_json::Value {
    json!({"site": row.site.as_str(), "lease_s": row.lease_s, "policy": row.policy})
}

fn list(context: &Context<'_>, rows: &[SiteRow]) {
    let values: Vec<_> = rows.iter().map(value).collect();
    let head =
        ["SITE", "ACCESS", "LEASE DAYS", "FRESH S", "AGEING S", "STALE S", "IDLE S", "AT ONCE", "REFILL S", "GLASS"];
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
            policy.look_up_burst.to_string(),
            policy.look_up_refill_s.to_string(),
            policy.break_glass_look_ups.to_string(),
        ]
    }));
    context.out.result(&values, &table(&lines));
}
