//! `status`: what this server holds.
//! It must not show anything of a person.

use cpis_server::clock::iso;
use cpis_server::expiry;
use cpis_server::home;
use cpis_server::port::{
    ChainRow, DeviceRow, DeviceState, Evidence as _, Feeds as _, Fleet as _, Inbox as _, Register as _, RegisterCounts,
    Store as _, StoreError,
};
use cpis_server::publish::published_gseq;
use serde_json::json;

use super::{Context, now_ms};

struct Held {
    counts: RegisterCounts,
    last_gseq: u64,
    published_gseq: u64,
    live: u64,
    logged: u64,
    scopes: usize,
    devices: Vec<DeviceRow>,
    chains: Vec<ChainRow>,
    aside: usize,
    alerts: usize,
}

pub(crate) fn run(context: &Context<'_>) -> anyhow::Result<()> {
    let home = context.home()?;
    let trust = home.store.read(|tx| home::trust(tx))?;
    let held = home.store.read(|tx| -> Result<Held, StoreError> {
        Ok(Held {
            counts: tx.register_counts()?,
            last_gseq: tx.last_gseq()?,
            published_gseq: published_gseq(tx)?,
            live: tx.feeds()?.iter().map(|feed| u64::from(feed.count)).sum(),
            logged: tx.count_cells()?,
            scopes: tx.scopes()?.len(),
            devices: tx.devices()?,
            chains: tx.chains()?,
            aside: tx.suspicions()?.len(),
            alerts: tx.alerts(false)?.len(),
        })
    })?;
    let links: u64 = held.chains.iter().map(|chain| chain.through.seq).sum();
    let active = held.devices.iter().filter(|device| device.state == DeviceState::Active).count();
    let now = now_ms();
    let locked = held.devices.iter().filter(|device| device.lease_until_ms <= now).count();
    let root =
        trust.as_ref().map(|trust| json!({"version": trust.root().version, "expires": iso(trust.root().expires_ms)}));
    let ends = trust.as_ref().map(|trust| expiry::ends(trust.root(), now)).unwrap_or_default();
    let soon = trust.as_ref().map(|trust| expiry::soon(trust.root(), now)).unwrap_or_default();
    let value = json!({
        "deployment": home.deployment, "synthetic": home.synthetic, "url": home.config.url, "root": root,
        "ends": ends, "ends_soon": soon,
        "gseq": held.last_gseq, "published_gseq": held.published_gseq,
        "authorities": held.counts.authorities, "persons": held.counts.persons, "plans": held.counts.plans,
        "live_cells": held.live, "logged_cells": held.logged, "scopes": held.scopes,
        "devices": held.devices.len(), "devices_active": active, "devices_lease_over": locked,
        "audit_chains": held.chains.len(), "audit_links": links, "audit_set_aside": held.aside,
        "alerts_open": held.alerts,
    });
    let root = trust.as_ref().map_or("none installed".into(), |trust| {
        format!("{}, good until {}", trust.root().version, iso(trust.root().expires_ms))
    });
    let text = format!(
        "Deployment   {}{} at {}\nTrust root   {root}\nRegister     {} persons, {} plans, {} authorities; sequence {}, published {}\n\
         Feeds        {} live cells of {} logged, {} scopes\nDevices      {} ({active} active, {locked} past their lease)\n\
         Audit        {links} links in {} chains, {} set aside{}\nAlerts       {} open{}",
        home.deployment,
        if home.synthetic { " (synthetic)" } else { "" },
        home.config.url,
        held.counts.persons,
        held.counts.plans,
        held.counts.authorities,
        held.last_gseq,
        held.published_gseq,
        held.live,
        held.logged,
        held.scopes,
        held.devices.len(),
        held.chains.len(),
        held.aside,
        if held.aside > 0 { ": run audit verify" } else { "" },
        held.alerts,
        if held.alerts > 0 { ": run alert list" } else { "" },
    );
    for end in &soon {
        let when = if end.days < 0 { "ended".into() } else { format!("ends in {} days", end.days) };
        context.out.note(&format!("WARNING: {} {when} ({}): draft and sign the next root", end.what, end.at));
    }
    context.out.result(&value, &text);
    Ok(())
}
