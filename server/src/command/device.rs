//! `device`: invite, list, show, and every step of a device's life.
//! It must not keep or show a one-time code after it was handed out.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use cpis_protocol::id::{DeviceId, ScopeId, SiteId};
use cpis_server::clock::iso;
use cpis_server::keys::file;
use cpis_server::port::{DeviceEvent, DeviceRow, DeviceState, Feeds as _, Fleet as _, Store as _, StoreError};
use cpis_server::rekey;
use cpis_server::service::{ATTEMPTS, invite};
use serde_json::json;

use super::failure::Failure;
use super::{Context, now_ms, unknown};
use crate::output::table;

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Make an invitation for one device: hand it over out of band, e.g. on paper as a QR code
    #[command(after_help = "Example:
  cpis-server device invite --scope south --site rotherham --out /tmp/invitation

The code in it is used up by the first device that enrols with it, and is kept nowhere else.")]
    Invite {
        /// The scope that the device gets
        #[arg(long)]
        scope: ScopeId,
        /// The site that it is used at
        #[arg(long)]
        site: SiteId,
        /// Hours for which the invitation is good
        #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u16).range(1..=720))]
        valid_hours: u16,
        /// Where the device reaches the server, instead of what server.toml says
        #[arg(long)]
        url: Option<String>,
        /// Write it to this file, readable by its owner only, instead of printing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List the devices
    #[command(after_help = "Example:\n  cpis-server device list --json")]
    List,
    /// Show one device and what operators did to it
    #[command(after_help = "Example:\n  cpis-server device show 0f3a...")]
    Show {
        /// The device, as `device list` shows it
        device: DeviceId,
    },
    /// Suspend a device: it locks and answers nothing until it is resumed; it keeps what it holds
    #[command(after_help = "Example:\n  cpis-server device suspend 0f3a... --reason 'left in a vehicle'")]
    Suspend(Change),
    /// Resume a suspended device: its next grant lets it answer again
    #[command(after_help = "Example:\n  cpis-server device resume 0f3a... --reason 'found'")]
    Resume(Change),
    /// Revoke a device: when it next asks it erases itself and proves it; there is no way back but a new enrolment
    #[command(after_help = "Example:\n  cpis-server device revoke 0f3a... --reason 'crew disbanded'")]
    Revoke(Change),
    /// Report a device lost: as revoke, and the keys of its feeds are replaced
    #[command(after_help = "Example:\n  cpis-server device lost 0f3a... --reason 'stolen from station'")]
    Lost(Change),
    /// Retire a device that is handed in: as revoke
    #[command(after_help = "Example:\n  cpis-server device retire 0f3a... --reason 'end of life'")]
    Retire(Change),
    /// Give a device another scope or site: its next grant carries them and it follows by itself
    #[command(after_help = "Example:\n  cpis-server device move 0f3a... --scope south --reason 'new station'")]
    Move {
        /// The new scope
        #[arg(long)]
        scope: Option<ScopeId>,
        /// The new site
        #[arg(long)]
        site: Option<SiteId>,
        #[command(flatten)]
        change: Change,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Change {
    /// The device, as `device list` shows it
    device: DeviceId,
    /// Why; kept with the device
    #[arg(long, default_value = "")]
    reason: String,
    /// Who does it
    #[arg(long, env = "USER", default_value = "operator")]
    by: String,
}

pub(crate) fn run(context: &Context<'_>, command: DeviceCommand) -> anyhow::Result<()> {
    match command {
        DeviceCommand::Invite { scope, site, valid_hours, url, out } => {
            make(context, scope, site, valid_hours, url, out.as_deref())
        }
        DeviceCommand::List => list(context),
        DeviceCommand::Show { device } => show(context, device),
        DeviceCommand::Suspend(change) => set_state(context, &change, DeviceState::Suspended),
        DeviceCommand::Resume(change) => set_state(context, &change, DeviceState::Active),
        DeviceCommand::Revoke(change) => set_state(context, &change, DeviceState::Revoked),
        DeviceCommand::Lost(change) => set_state(context, &change, DeviceState::Lost),
        DeviceCommand::Retire(change) => set_state(context, &change, DeviceState::Retired),
        DeviceCommand::Move { scope, site, change } => move_device(context, &change, scope, site),
    }
}

const fn consequence(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Active => "its next grant lets it answer again",
        DeviceState::Suspended => "it locks when it next asks; its lease bounds the time until then",
        DeviceState::Revoked | DeviceState::Lost | DeviceState::Retired => {
            "it erases itself when it next asks and proves it; its lease bounds the time until then"
        }
    }
}

fn set_state(context: &Context<'_>, change: &Change, state: DeviceState) -> anyhow::Result<()> {
    let home = context.home()?;
    let device = change.device;
    let before = home.store.write(|tx| -> Result<Option<DeviceState>, StoreError> {
        let Some(row) = tx.device(device)? else { return Ok(None) };
        let before = row.state;
        // What was told to erase itself may have done so: only a new enrolment brings it back.
        if !before.is_final() || state.is_final() {
            tx.put_device(&DeviceRow { state, ..row })?;
            tx.add_device_event(&event(change, state.name().to_owned()))?;
        }
        Ok(Some(before))
    })?;
    let before = before.ok_or_else(|| unknown("device", &device.to_string(), "device list"))?;
    if before.is_final() && !state.is_final() {
        let message = format!("device {device} is {} and may have erased itself", before.name());
        return Err(Failure::usage(message, "enrol it again: cpis-server device invite").into());
    }
    if state == DeviceState::Lost {
        // Said again it does no harm: a feed whose key the device never had is left alone.
        let rotated = rekey::rotate_for_loss(&home.store, &home.keys, device, now_ms())?;
        context.out.note(&format!("{} feeds have a new key, which {device} never gets", rotated.len()));
    }
    let text = format!("Device {device} is {}: {}.", state.name(), consequence(state));
    let value = json!({"device": device.to_string(), "state": state.name(), "before": before.name()});
    context.out.result(&value, &text);
    Ok(())
}

fn event(change: &Change, what: String) -> DeviceEvent {
    let (device, by, reason) = (change.device, change.by.clone(), change.reason.clone());
    DeviceEvent { device, at_ms: now_ms(), by, what, reason }
}

fn move_device(
    context: &Context<'_>,
    change: &Change,
    scope: Option<ScopeId>,
    site: Option<SiteId>,
) -> anyhow::Result<()> {
    if scope.is_none() && site.is_none() {
        return Err(Failure::usage("nothing to move it to", "give --scope, --site or both").into());
    }
    let home = context.home()?;
    let device = change.device;
    let moved = home.store.write(|tx| -> Result<Result<DeviceRow, anyhow::Error>, StoreError> {
        let Some(row) = tx.device(device)? else {
            return Ok(Err(unknown("device", &device.to_string(), "device list")));
        };
        let row = DeviceRow { scope: scope.unwrap_or(row.scope), site: site.unwrap_or(row.site), ..row };
        if tx.scope(row.scope)?.is_none() {
            return Ok(Err(unknown("scope", row.scope.as_str(), "scope list")));
        }
        if tx.site(row.site)?.is_none() {
            return Ok(Err(unknown("site", row.site.as_str(), "site list")));
        }
        tx.put_device(&row)?;
        tx.add_device_event(&event(change, format!("moved to {} at {}", row.scope, row.site)))?;
        Ok(Ok(row))
    })??;
    let text = format!("Device {device} gets {} at {} with its next grant.", moved.scope, moved.site);
    let value = json!({"device": device.to_string(), "scope": moved.scope.as_str(), "site": moved.site.as_str()});
    context.out.result(&value, &text);
    Ok(())
}

fn show(context: &Context<'_>, device: DeviceId) -> anyhow::Result<()> {
    let home = context.home()?;
    let (row, events) =
        home.store.read(|tx| -> Result<_, StoreError> { Ok((tx.device(device)?, tx.device_events(device)?)) })?;
    let row = row.ok_or_else(|| unknown("device", &device.to_string(), "device list"))?;
    let values: Vec<_> =
        events.iter().map(|e| json!({"at": iso(e.at_ms), "by": e.by, "what": e.what, "reason": e.reason})).collect();
    let mut value = line(&row);
    if let Some(object) = value.as_object_mut() {
        object.insert("events".into(), values.into());
    }
    let mut lines = vec![["WHEN", "BY", "WHAT", "REASON"].map(str::to_owned).to_vec()];
    lines.extend(events.iter().map(|e| vec![iso(e.at_ms), e.by.clone(), e.what.clone(), e.reason.clone()]));
    let text = format!(
        "Device {device}: {}, {} at {}, lease until {}, certificate until {}\n{}\n{}",
        row.state.name(),
        row.scope,
        row.site,
        iso(row.lease_until_ms),
        iso(row.certificate_until_ms),
        said(&row),
        table(&lines)
    );
    context.out.result(&value, &text);
    Ok(())
}

fn said(row: &DeviceRow) -> String {
    row.reported.as_ref().map_or_else(
        || "It has not reported yet.".into(),
        |it| {
            format!(
                "Reported {}: agent {}, device secret {}, root {}, {} break-glass, {} unrecorded",
                iso(it.at_ms),
                it.version,
                it.secret,
                it.root_version,
                it.break_glass,
                it.unrecorded
            )
        },
    )
}

fn line(row: &DeviceRow) -> serde_json::Value {
    json!({
        "device": row.device.to_string(), "site": row.site.as_str(), "scope": row.scope.as_str(),
        "state": row.state.name(), "set_up_by": row.practitioner.as_str(), "enrolled": iso(row.enrolled_at_ms),
        "last_seen": row.last_seen_ms.map(iso), "gseq": row.last_gseq, "grant": row.grant_number,
        "lease_until": iso(row.lease_until_ms), "certificate_until": iso(row.certificate_until_ms),
        "reported": row.reported.as_ref().map(|reported| json!({
            "at": iso(reported.at_ms), "version": reported.version.as_str(), "device_secret": reported.secret.as_str(),
            "root_version": reported.root_version, "break_glass": reported.break_glass,
            "unrecorded": reported.unrecorded,
        })),
    })
}

fn make(
    context: &Context<'_>,
    scope: ScopeId,
    site: SiteId,
    valid_hours: u16,
    url: Option<String>,
    out: Option<&Path>,
) -> anyhow::Result<()> {
    let mut home = context.home()?;
    if let Some(url) = url {
        home.config.url = url;
        home.config.check().map_err(|reason| Failure::usage(reason, "e.g. --url https://localhost:8443"))?;
    }
    let trust = home.trust()?;
    let (has_scope, has_site, badges) = home.store.read(|tx| -> Result<_, StoreError> {
        Ok((tx.scope(scope)?.is_some(), tx.site(site)?.is_some(), tx.badges(site)?.len()))
    })?;
    if !has_scope {
        return Err(unknown("scope", scope.as_str(), "scope list"));
    }
    if !has_site {
        return Err(unknown("site", site.as_str(), "site list"));
    }
    let now = now_ms();
    let expires = now + i64::from(valid_hours) * 3_600_000;
    let invitation = invite(&home.store, &home.config.url, trust.root(), scope, site, now, expires)?;
    let text = invitation.to_text()?;
    if badges == 0 {
        context.out.note(&format!("note: nobody may unlock at {site} yet: cpis-server practitioner add"));
    }
    let place = match out {
        Some(path) => {
            file::write_private(path, format!("{text}\n").as_bytes())?;
            format!(
                "Invitation for {scope} at {site} is in {}, good until {}, {ATTEMPTS} attempts.",
                path.display(),
                iso(expires)
            )
        }
        None => text.clone(),
    };
    let value = json!({
        "scope": scope.as_str(), "site": site.as_str(), "expires": iso(expires), "attempts": ATTEMPTS,
        "file": out, "invitation": out.is_none().then_some(text),
    });
    context.out.result(&value, &place);
    Ok(())
}

fn list(context: &Context<'_>) -> anyhow::Result<()> {
    let home = context.home()?;
    let rows = home.store.read::<_, StoreError>(|tx| tx.devices())?;
    let values: Vec<_> = rows.iter().map(line).collect();
    let head = ["DEVICE", "SITE", "SCOPE", "STATE", "LAST SEEN", "AT", "LEASE UNTIL", "AGENT", "SECRET", "ROOT"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| {
        vec![
            row.device.to_string(),
            row.site.to_string(),
            row.scope.to_string(),
            row.state.name().to_owned(),
            row.last_seen_ms.map_or("never".into(), iso),
            row.last_gseq.to_string(),
            iso(row.lease_until_ms),
            row.reported.as_ref().map_or("-".into(), |it| it.version.to_string()),
            row.reported.as_ref().map_or("-".into(), |it| it.secret.to_string()),
            row.reported.as_ref().map_or("-".into(), |it| it.root_version.to_string()),
        ]
    }));
    context.out.result(&values, &table(&lines));
    Ok(())
}
