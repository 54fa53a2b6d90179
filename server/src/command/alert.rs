//! `alert`: what the audit that came in gave reason to look at, and who has looked.
//! It must not show who was asked about: the audit does, when it is asked to.

use clap::Subcommand;
use cpis_protocol::text::Text;
use cpis_server::clock::iso;
use cpis_server::port::{AlertRow, Evidence as _, Store as _, StoreError};
use serde_json::{Value, json};

use super::failure::Failure;
use super::{Context, digested, now_ms};
use crate::output::table;

#[derive(Debug, Subcommand)]
pub(crate) enum AlertCommand {
    /// List the alerts that nobody has acknowledged
    #[command(after_help = "Examples:
  cpis-server alert list
  cpis-server alert list --all --json

Kinds: crowded (more people share a name and a date of birth than a device finds by name: COUNT people are found by NHS
number only); fork, bad-signature, unreadable, second-chain (a chain that is not what one honest device sends); break-glass,
unrecorded, slot-closed, rate-limited; enumeration-rate, enumeration-misses, enumeration-dates, enumeration-sequence
(somebody who asks to find out who is in the register; thresholds are alert_* in server.toml).
EVENT is the position in the device's audit chain: audit list --show-persons shows what was asked.
Kinds after second-chain need the audit recipient key; without it they are raised once it is here.")]
    List {
        /// Also those that were acknowledged
        #[arg(long)]
        all: bool,
    },
    /// Write down that somebody has looked into an alert
    #[command(after_help = "Example:\n  cpis-server alert acknowledge 7 --by 'S. Example'")]
    Acknowledge {
        /// The alert, as `alert list` shows it
        id: i64,
        /// Who has looked
        #[arg(long, value_name = "NAME")]
        by: Text<64>,
    },
}

pub(crate) fn run(context: &Context<'_>, command: &AlertCommand) -> anyhow::Result<()> {
    match command {
        AlertCommand::List { all } => list(context, *all),
        AlertCommand::Acknowledge { id, by } => acknowledge(context, *id, by.as_str()),
    }
}

fn acknowledge(context: &Context<'_>, id: i64, by: &str) -> anyhow::Result<()> {
    if by.trim().is_empty() {
        return Err(Failure::usage("--by is empty", "say who has looked into it").into());
    }
    let home = context.home()?;
    if !home.store.write::<_, StoreError>(|tx| tx.acknowledge(id, by, now_ms()))? {
        let hint = "cpis-server alert list shows those that are open, with --all every one";
        return Err(Failure::usage(format!("there is no open alert {id}"), hint).into());
    }
    context.out.result(&json!({"alert": id, "acknowledged_by": by}), &format!("Alert {id} was acknowledged by {by}."));
    Ok(())
}

fn value(row: &AlertRow) -> Value {
    json!({
        "alert": row.id, "kind": row.kind.code(), "device": row.device.map(|device| device.to_string()),
        "practitioner": row.practitioner,
        "at": iso(row.at_ms), "event": row.seq, "count": row.count,
        "acknowledged_by": row.acknowledged.as_ref().map(|(by, _)| by),
        "acknowledged": row.acknowledged.as_ref().map(|(_, at_ms)| iso(*at_ms)),
    })
}

fn list(context: &Context<'_>, all: bool) -> anyhow::Result<()> {
    let home = context.home()?;
    digested(context, &home)?;
    let rows = home.store.read::<_, StoreError>(|tx| tx.alerts(all))?;
    let values: Vec<Value> = rows.iter().map(value).collect();
    let head = ["ALERT", "KIND", "AT", "DEVICE", "PRACTITIONER", "EVENT", "COUNT", "ACKNOWLEDGED BY"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| {
        vec![
            row.id.to_string(),
            row.kind.code().to_owned(),
            iso(row.at_ms),
            row.device.map_or_else(String::new, |device| device.to_string()),
            row.practitioner.to_string(),
            row.seq.to_string(),
            row.count.to_string(),
            row.acknowledged.as_ref().map_or("", |(by, _)| by).to_owned(),
        ]
    }));
    context.out.result(&values, &format!("{}\n{} alerts", table(&lines), rows.len()));
    Ok(())
}
