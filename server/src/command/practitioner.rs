//! `practitioner`: who may unlock devices, and where.
//! It must not give a badge without a site.

use clap::{Subcommand, ValueEnum};
use cpis_protocol::grant::Badge;
use cpis_protocol::id::{PractitionerId, SiteId};
use cpis_protocol::policy::AccessMode;
use cpis_protocol::text::Text;
use cpis_server::clock::iso;
use cpis_server::port::{Fleet as _, PractitionerRow, Store as _, StoreError};
use serde_json::json;

use super::failure::Failure;
use super::{Context, now_ms, unknown};
use crate::output::table;

/// The national activity codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Activity {
    /// Unscheduled care: notifies
    #[value(name = "B0107")]
    B0107,
    /// Scheduled care: notifies nobody
    #[value(name = "B0170")]
    B0170,
}

impl From<Activity> for AccessMode {
    fn from(activity: Activity) -> Self {
        match activity {
            Activity::B0107 => Self::Unscheduled,
            Activity::B0170 => Self::Silent,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum PractitionerCommand {
    /// Add a practitioner, or change the badge and add sites
    #[command(after_help = "Example:
  cpis-server practitioner add PARA001 --name 'A. Crew' --role R1070 --site rotherham --site sheffield

Devices get the badge with their next grant.")]
    Add {
        /// Identity, e.g. an SDS user id, at most 16 characters
        id: PractitionerId,
        /// The name shown on screen, at most 40 characters
        #[arg(long)]
        name: Text<40>,
        /// The job role code
        #[arg(long, default_value = "R1070")]
        role: Text<8>,
        /// The activity code: B0107 tells the child's authority of a reveal, B0170 does not; silent only where the site is too
        #[arg(long, value_enum, default_value_t = Activity::B0107)]
        activity: Activity,
        /// A site where the badge is good; once for each
        #[arg(long = "site", required = true)]
        sites: Vec<SiteId>,
        /// Days for which the badge is good
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3650))]
        valid_days: u16,
    },
    /// Take a practitioner's badge away: devices end the session and destroy the slot with their next grant
    #[command(after_help = "Examples:
  cpis-server practitioner remove PARA001
  cpis-server practitioner remove PARA001 --site sheffield

A device whose last slot is destroyed must be enrolled again.")]
    Remove {
        /// Identity
        id: PractitionerId,
        /// Only at this site
        #[arg(long)]
        site: Option<SiteId>,
    },
    /// List the practitioners
    #[command(after_help = "Example:\n  cpis-server practitioner list")]
    List,
}

/// Badges travel in every grant of the site, and a device keeps its grant in a file of fixed size.
const BADGES_MAX: usize = 200;

pub(crate) fn run(context: &Context<'_>, command: PractitionerCommand) -> anyhow::Result<()> {
    let home = context.home()?;
    match command {
        PractitionerCommand::Add { id, name, role, activity, sites, valid_days } => {
            if id.is_empty() || name.is_empty() {
                return Err(Failure::usage("identity and name must not be empty", "practitioner add --help").into());
            }
            let known = home.store.read::<_, StoreError>(|tx| tx.sites())?;
            if let Some(wrong) = sites.iter().find(|site| !known.iter().any(|row| row.site == **site)) {
                return Err(unknown("site", wrong.as_str(), "site list"));
            }
            let there = home.store.read::<_, StoreError>(|tx| tx.practitioners())?;
            let crowded =
                sites.iter().find(|site| there.iter().filter(|row| row.sites.contains(site)).count() >= BADGES_MAX);
            if let Some(site) = crowded {
                let message = format!("site {site} has {BADGES_MAX} practitioners, as many as its devices can hold");
                return Err(Failure::usage(message, "divide it into several sites").into());
            }
            let valid_until_ms = now_ms() + i64::from(valid_days) * 86_400_000;
            let activity = activity.into();
            let row =
                PractitionerRow { badge: Badge { practitioner: id, name, role, activity, valid_until_ms }, sites };
            home.store.write::<_, StoreError>(|tx| tx.put_practitioner(&row))?;
            let text = format!("Practitioner {id} may unlock devices until {}.", iso(valid_until_ms));
            context.out.result(&value(&row), &text);
        }
        PractitionerCommand::Remove { id, site } => {
            let removed = home.store.write::<_, StoreError>(|tx| tx.remove_practitioner(id, site))?;
            if removed == 0 {
                return Err(unknown("practitioner", id.as_str(), "practitioner list"));
            }
            let place = site.map_or_else(|| "any site".to_owned(), |site| site.to_string());
            let text = format!("Practitioner {id} may not unlock devices at {place} once they have their next grant.");
            let value = json!({"practitioner": id.as_str(), "site": site, "sites_removed": removed});
            context.out.result(&value, &text);
        }
        PractitionerCommand::List => {
            let rows = home.store.read::<_, StoreError>(|tx| tx.practitioners())?;
            let values: Vec<_> = rows.iter().map(value).collect();
            let head = ["PRACTITIONER", "NAME", "ROLE", "ACTIVITY", "VALID UNTIL", "SITES"];
            let mut lines = vec![head.map(str::to_owned).to_vec()];
            lines.extend(rows.iter().map(|row| {
                let badge = &row.badge;
                let sites: Vec<String> = row.sites.iter().map(ToString::to_string).collect();
                vec![
                    badge.practitioner.to_string(),
                    badge.name.to_string(),
                    badge.role.to_string(),
                    badge.activity.code().to_owned(),
                    iso(badge.valid_until_ms),
                    sites.join(" "),
                ]
            }));
            context.out.result(&values, &table(&lines));
        }
    }
    Ok(())
}

fn value(row: &PractitionerRow) -> serde_json::Value {
    json!({
        "practitioner": row.badge.practitioner.as_str(), "name": row.badge.name.as_str(),
        "role": row.badge.role.as_str(), "activity": row.badge.activity.code(), "valid_until": iso(row.badge.valid_until_ms), "sites": row.sites,
    })
}
