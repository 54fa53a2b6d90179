//! `erasure`: which devices have proved that removed records are gone, and when the rest lock anyway.
//! It must not print or log the number that it was asked with.

use clap::Args;
use cpis_protocol::id::{DeviceId, FeedId};
use cpis_protocol::nhs::NhsNumber;
use cpis_server::erasure_report::{self, DeviceLine, ErasureReport, RemovalLine, Wanted};
use cpis_server::port::{Feeds as _, Fleet as _, Register as _, Store as _, StoreError};
use cpis_server::removal;
use serde_json::json;

use super::{Context, digested, now_ms, unknown};
use crate::output::table;

/// Arguments.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cpis-server erasure
  cpis-server erasure --feed E08000019 --json
  cpis-server erasure --person '999 000 0000'

A device has proved a removal when it has sent the signed receipt of an update to a head without the record, or of the
erasure of everything after which it was granted nothing. For the others LEASE END is the moment after which nothing can be
read there. A removed record is shown by a number of its own until no device may hold it any more; --all shows every one,
--person those of one person, who may have left the register. Removals are followed by person and feed, so a feed that was
sealed anew changes nothing. COPY AT is the register sequence that the device last said it holds: a word, not a proof.")]
pub(crate) struct Erasure {
    /// Only this feed
    #[arg(long, value_name = "FEED")]
    feed: Option<FeedId>,
    /// Only the removed records of this person
    #[arg(long, value_name = "NHS NUMBER")]
    person: Option<NhsNumber>,
    /// Only this device
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceId>,
    /// Also removed records that no device can read any more
    #[arg(long)]
    all: bool,
}

pub(crate) fn run(context: &Context<'_>, args: &Erasure) -> anyhow::Result<()> {
    let home = context.home()?;
    let (feeds, known) = home.store.read(|tx| -> Result<_, StoreError> {
        Ok((tx.feeds()?, args.device.map(|id| tx.device(id)).transpose()?.flatten().is_some()))
    })?;
    if let Some(feed) = args.feed.filter(|feed| !feeds.iter().any(|row| row.feed == *feed)) {
        return Err(unknown("feed", feed.as_str(), "feed list"));
    }
    if let Some(device) = args.device.filter(|_| !known) {
        return Err(unknown("device", &device.to_string(), "device list"));
    }
    digested(context, &home)?;
    let mark = args.person.map(|number| removal::mark(&home.keys.storage, number));
    let wanted = Wanted { feed: args.feed, device: args.device, mark, settled: args.all };
    let report = erasure_report::report(&home.store, &wanted, now_ms())?;
    let Some(number) = args.person else {
        context.out.result(&report, &format!("{}\n\n{}", feeds_text(&report), removals_text(&report.removals)));
        return Ok(());
    };
    let placed = home.store.read(|tx| -> Result<Vec<String>, StoreError> {
        let Some(id) = tx.person_id(number)? else { return Ok(Vec::new()) };
        Ok(tx.placements(id)?.into_iter().map(|placement| placement.feed.to_string()).collect())
    })?;
    let now =
        if placed.is_empty() { "in no feed now".into() } else { format!("in these feeds now: {}", placed.join(" ")) };
    let text = format!("{}\n\nThe person is {now}.", removals_text(&report.removals));
    context.out.result(&json!({"at": report.at, "placed": placed, "removals": report.removals}), &text);
    Ok(())
}

fn row(first: &[&str], stands: &str, device: &DeviceLine) -> Vec<String> {
    let proof = device.proof.zip(device.erased.as_deref()).map(|(cause, erased)| format!("{cause} {erased}"));
    let over = if device.lease_over { " (past)" } else { "" };
    let mut cells: Vec<String> = first.iter().map(|&cell| cell.to_owned()).collect();
    cells.extend([
        device.device.clone(),
        device.state.to_owned(),
        stands.to_owned(),
        proof.unwrap_or_else(|| "none".into()),
        format!("{}{over}", device.lease_end),
        device.last_gseq.to_string(),
    ]);
    cells
}

fn feeds_text(report: &ErasureReport) -> String {
    let head = ["FEED", "DEVICE", "STATE", "STANDS", "PROOF", "LEASE END", "COPY AT"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for feed in &report.feeds {
        let groups = [("holds it", &feed.holding), ("proved it is gone", &feed.proved), ("NOT PROVED", &feed.unproved)];
        for (stands, devices) in groups {
            lines.extend(devices.iter().map(|device| row(&[&feed.feed], stands, device)));
        }
    }
    table(&lines)
}

fn removals_text(removals: &[RemovalLine]) -> String {
    if removals.is_empty() {
        return "No removed record to show.".into();
    }
    let head = ["REMOVED", "FEED", "AT", "SEQUENCE", "DEVICE", "STATE", "STANDS", "PROOF", "LEASE END", "COPY AT"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for removal in removals {
        let number = format!("#{}{}", removal.removal, if removal.returned { " (back again)" } else { "" });
        let gseq = removal.gseq.to_string();
        let first = [number.as_str(), &removal.feed, &removal.removed, &gseq];
        for (stands, devices) in [("proved it is gone", &removal.proved), ("NOT PROVED", &removal.unproved)] {
            lines.extend(devices.iter().map(|device| row(&first, stands, device)));
        }
        if removal.proved.is_empty() && removal.unproved.is_empty() {
            let mut cells: Vec<String> = first.iter().map(|&cell| cell.to_owned()).collect();
            cells.extend(["no device ever held it".to_owned()]);
            lines.push(cells);
        }
    }
    table(&lines)
}
