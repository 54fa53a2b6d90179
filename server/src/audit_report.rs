//! What the audit inbox holds, for people: events opened, chains verified again from their first link.
//! It must not show who was asked about unless it is told to, and must not change anything.

use cpis_protocol::audit::{self, Act, AuditEvent, Tip};
use cpis_protocol::id::{ChainId, DeviceId, UnixMs};
use cpis_protocol::policy::AccessMode;
use serde::Serialize;

use crate::clock::iso;
use crate::keys::AuditKeys;
use crate::port::{ChainRow, Inbox as _, LinkRow, Store, StoreError, Tx};

/// Links read at once.
const PAGE: usize = 512;

/// One event.
#[derive(Debug, Clone, Serialize)]
pub struct EventLine {
    /// The device.
    pub device: String,
    /// The chain.
    pub chain: String,
    /// Its position there.
    pub seq: u64,
    /// When it happened, by the device.
    pub event: String,
    /// When the server stored it.
    pub received: String,
    /// Whole seconds between the two.
    pub delay_s: i64,
    /// The register sequence of the copy that it was answered from.
    pub gseq: u64,
    /// `look-up`, `reveal`, ...; `sealed` when it was not or could not be opened.
    pub act: &'static str,
    /// Whether it happened under break-glass.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub break_glass: bool,
    /// How many look-ups a break-glass allows, or how many answers were told of later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u16>,
    /// Who.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub practitioner: Option<String>,
    /// In which role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The incident.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incident: Option<String>,
    /// Of a look-up: the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Of a look-up that could not be answered: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of a reveal: whether the authority is told; `unscheduled` or `silent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notification: Option<&'static str>,
    /// Of a reveal: the position of its look-up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub look_up: Option<u64>,
    /// Of a reveal: the feed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feed: Option<String>,
    /// Of a look-up, only when asked for: the NHS number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nhs_number: Option<String>,
    /// Of a look-up by name: how many candidates were shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidates: Option<u8>,
    /// Of a look-up by name, only when asked for: the surname.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub surname: Option<String>,
    /// Of a look-up by name, only when asked for: the given name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given: Option<String>,
    /// Of a look-up by name, only when asked for: the postcode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postcode: Option<String>,
    /// Of a look-up, only when asked for: the date of birth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub birth: Option<String>,
}

/// One chain, verified again.
#[derive(Debug, Clone, Serialize)]
pub struct ChainLine {
    /// The device.
    pub device: String,
    /// The chain.
    pub chain: String,
    /// Links stored.
    pub links: u64,
    /// Links that verified, from the first on.
    pub verified: u64,
    /// Whether every link verified and the chain ends where the receipts said.
    pub intact: bool,
    /// The device had another chain when this one began.
    pub beside_another: bool,
    /// Look-ups in it.
    pub look_ups: u64,
    /// Reveals that the authority is told of.
    pub reveals_unscheduled: u64,
    /// Reveals that nobody is told of.
    pub reveals_silent: u64,
    /// Events of other kinds.
    pub others: u64,
    /// Events that were not opened: no key here, or they do not open.
    pub sealed: u64,
    /// When the last event was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_received: Option<String>,
}

/// Something that was set aside.
#[derive(Debug, Clone, Serialize)]
pub struct AsideLine {
    /// `fork`, `bad-signature`, `unreadable`.
    pub why: &'static str,
    /// The device.
    pub device: String,
    /// The chain, if it could be read.
    pub chain: Option<String>,
    /// The position it claimed.
    pub seq: u64,
    /// When.
    pub at: String,
}

/// The result of verifying everything.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// Whether every chain is intact and nothing was set aside.
    pub intact: bool,
    /// The chains.
    pub chains: Vec<ChainLine>,
    /// What was set aside.
    pub aside: Vec<AsideLine>,
}

const fn notification(mode: AccessMode) -> &'static str {
    match mode {
        AccessMode::Unscheduled => "unscheduled",
        AccessMode::Silent => "silent",
    }
}

/// Hands every stored event to `each`, chain by chain; opened where the key is here.
///
/// # Errors
/// [`StoreError`].
pub fn list<S: Store>(
    store: &S,
    keys: &AuditKeys,
    show_persons: bool,
    each: &mut dyn FnMut(EventLine),
) -> Result<(), StoreError> {
    store.read(|tx| {
        for chain in tx.chains()? {
            walk(tx, &chain, &mut |row| {
                let event = open(keys, chain.device, chain.through.chain, row);
                each(line(&chain, row, event.as_ref(), show_persons));
            })?;
        }
        Ok(())
    })
}

fn walk<T: Tx>(tx: &T, chain: &ChainRow, each: &mut dyn FnMut(&LinkRow)) -> Result<(), StoreError> {
    let mut after = 0;
    loop {
        let page = tx.links(chain.device, chain.through.chain, after, PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.seq;
        page.iter().for_each(&mut *each);
    }
}

fn open(keys: &AuditKeys, device: DeviceId, chain: ChainId, row: &LinkRow) -> Option<AuditEvent> {
    keys.open(&row.link, &device, &chain, row.seq)
}

fn line(chain: &ChainRow, row: &LinkRow, event: Option<&AuditEvent>, show_persons: bool) -> EventLine {
    let delay = |event_ms: UnixMs| row.received_ms.saturating_sub(event_ms) / 1000;
    let mut line = EventLine {
        device: chain.device.to_string(),
        chain: chain.through.chain.to_string(),
        seq: row.seq,
        event: iso(row.link.event_ms()),
        received: iso(row.received_ms),
        delay_s: delay(row.link.event_ms()),
        gseq: row.link.gseq(),
        act: event.map_or("sealed", |event| event.act.name()),
        break_glass: event.is_some_and(|event| event.break_glass),
        count: None,
        practitioner: event.map(|event| event.practitioner.into()),
        role: event.map(|event| event.role.into()),
        incident: event.filter(|event| !event.incident.is_empty()).map(|event| event.incident.into()),
        outcome: None,
        reason: None,
        notification: None,
        look_up: None,
        feed: None,
        nhs_number: None,
        candidates: None,
        surname: None,
        given: None,
        postcode: None,
        birth: None,
    };
    match event.map(|event| &event.act) {
        Some(Act::LookUp { number, birth, outcome, reason }) => {
            line.outcome = Some(outcome_text(outcome));
            line.reason = (!reason.is_empty()).then(|| (*reason).into());
            line.nhs_number = show_persons.then(|| number.grouped());
            line.birth = show_persons.then(|| birth.clinical());
        }
        Some(Act::LookUpByName { surname, given, birth, postcode, candidates, outcome, reason }) => {
            line.outcome = Some(outcome_text(outcome));
            line.reason = (!reason.is_empty()).then(|| (*reason).into());
            line.candidates = Some(*candidates);
            line.surname = show_persons.then(|| (*surname).into());
            line.given = show_persons.then(|| (*given).into());
            line.postcode = (show_persons && !postcode.is_empty()).then(|| (*postcode).into());
            line.birth = show_persons.then(|| birth.clinical());
        }
        Some(Act::Candidate { look_up, feed, .. }) => {
            line.look_up = Some(*look_up);
            line.feed = Some((*feed).into());
        }
        Some(Act::Reveal { look_up, feed, access_mode, .. }) => {
            line.look_up = Some(*look_up);
            line.feed = Some((*feed).into());
            line.notification = Some(notification(*access_mode));
        }
        Some(Act::BreakGlass { reason, look_ups }) => {
            line.reason = Some((*reason).into());
            line.count = Some(*look_ups);
        }
        Some(Act::Unrecorded { count, reason, .. }) => {
            line.reason = Some((*reason).into());
            line.count = Some(*count);
        }
        Some(Act::Lock { cause }) => line.reason = word(cause),
        Some(_) | None => {}
    }
    line
}

/// The frozen word of a plain variant.
fn word(value: &impl Serialize) -> Option<String> {
    serde_json::to_value(value).ok()?.as_str().map(str::to_owned)
}

fn outcome_text(outcome: &audit::Outcome) -> String {
    word(outcome).unwrap_or_default()
}

/// Verifies every chain again: each signature, each hash, no gap, and the end where the receipts said.
///
/// # Errors
/// [`StoreError`].
pub fn verify<S: Store>(store: &S, keys: &AuditKeys) -> Result<Verification, StoreError> {
    store.read(|tx| {
        let mut chains = Vec::new();
        for chain in tx.chains()? {
            chains.push(verify_chain(tx, &chain, keys)?);
        }
        let aside = tx.suspicions()?.into_iter().map(|row| AsideLine {
            why: row.why.code(),
            device: row.device.to_string(),
            chain: row.chain.map(|chain| chain.to_string()),
            seq: row.seq,
            at: iso(row.at_ms),
        });
        let aside: Vec<_> = aside.collect();
        Ok(Verification { intact: aside.is_empty() && chains.iter().all(|chain| chain.intact), chains, aside })
    })
}

fn verify_chain<T: Tx>(tx: &T, chain: &ChainRow, keys: &AuditKeys) -> Result<ChainLine, StoreError> {
    let id = chain.through.chain;
    let device = tx.device(chain.device)?.ok_or(StoreError::Corrupt("audit_chain.device"))?;
    let mut tip = Tip::start(&chain.device, id);
    let mut whole = true;
    let mut out = ChainLine {
        device: chain.device.to_string(),
        chain: id.to_string(),
        links: 0,
        verified: 0,
        intact: false,
        beside_another: chain.beside_another,
        look_ups: 0,
        reveals_unscheduled: 0,
        reveals_silent: 0,
        others: 0,
        sealed: 0,
        last_received: None,
    };
    walk(tx, chain, &mut |row| {
        out.links += 1;
        out.last_received = Some(iso(row.received_ms));
        if whole {
            match tip.verify(&chain.device, &device.device_key, &row.link) {
                Ok(next) if next.seq == row.seq && next.hash == row.hash => {
                    tip = next;
                    out.verified += 1;
                }
                Ok(_) | Err(_) => whole = false,
            }
        }
        match open(keys, chain.device, id, row).map(|event| event.act) {
            Some(Act::LookUp { .. } | Act::LookUpByName { .. }) => out.look_ups += 1,
            Some(Act::Reveal { access_mode: AccessMode::Unscheduled, .. }) => out.reveals_unscheduled += 1,
            Some(Act::Reveal { access_mode: AccessMode::Silent, .. }) => out.reveals_silent += 1,
            Some(_) => out.others += 1,
            None => out.sealed += 1,
        }
    })?;
    out.intact = whole && tip == chain.through;
    Ok(out)
}
