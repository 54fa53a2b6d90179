//! `device`: invite, list, revoke.
//! It must not keep or show a one-time code after it was handed out.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use cpis_protocol::id::{DeviceId, ScopeId, SiteId};
use cpis_server::clock::iso;
use cpis_server::keys::file;
use cpis_server::port::{DeviceRow, DeviceState, Feeds as _, Fleet as _, Store as _, StoreError};
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
    /// Revoke a device: it is refused from now on, and told so
    #[command(after_help = "Example:\n  cpis-server device revoke 0f3a...")]
    Revoke {
        /// The device, as `device list` shows it
        device: DeviceId,
    },
}

pub(crate) fn run(context: &Context<'_>, command: DeviceCommand) -> anyhow::Result<()> {
    match command {
        DeviceCommand::Invite { scope, site, valid_hours, url, out } => {
            make(context, scope, site, valid_hours, url, out.as_deref())
        }
        DeviceCommand::List => list(context),
        DeviceCommand::Revoke { device } => {
            let home = context.home()?;
            let found = home.store.write(|tx| -> Result<bool, StoreError> {
                let Some(row) = tx.device(device)? else { return Ok(false) };
                tx.put_device(&DeviceRow { state: DeviceState::Revoked, ..row })?;
                Ok(true)
            })?;
            if !found {
                return Err(unknown("device", &device.to_string(), "device list"));
            }
            let text = format!(
                "Device {device} is revoked: it gets nothing more from this server and answers nothing once it has heard so; its lease bounds the time until then."
            );
            context.out.result(&json!({"device": device.to_string(), "state": "revoked"}), &text);
            Ok(())
        }
    }
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
    let state = |row: &DeviceRow| match row.state {
        DeviceState::Active => "active",
        DeviceState::Revoked => "revoked",
    };
    let values: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "device": row.device.to_string(), "site": row.site.as_str(), "scope": row.scope.as_str(),
                "state": state(row), "set_up_by": row.practitioner.as_str(), "enrolled": iso(row.enrolled_at_ms),
                "last_seen": row.last_seen_ms.map(iso), "gseq": row.last_gseq, "grant": row.grant_number,
                "lease_until": iso(row.lease_until_ms), "certificate_until": iso(row.certificate_until_ms),
            })
        })
        .collect();
    let head = ["DEVICE", "SITE", "SCOPE", "STATE", "LAST SEEN", "AT", "LEASE UNTIL"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| {
        vec![
            row.device.to_string(),
            row.site.to_string(),
            row.scope.to_string(),
            state(row).to_owned(),
            row.last_seen_ms.map_or("never".into(), iso),
            row.last_gseq.to_string(),
            iso(row.lease_until_ms),
        ]
    }));
    context.out.result(&values, &table(&lines));
    Ok(())
}
