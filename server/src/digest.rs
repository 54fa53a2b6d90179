//! What the audit chains say beyond themselves: erasure receipts as proofs, and alerts, derived once from each link.
//! It must not store whom an event is about, nor move a cursor without what the links before it say.
//!
//! A cursor of each chain stands behind the last link that was looked at, and moves in the same transaction in which what
//! was derived is stored: interrupted or run twice it derives nothing twice. Without the audit recipient key no cursor
//! moves, so that the key may come later; links that are sealed to another recipient are remembered and passed over.

mod patterns;

use cpis_protocol::audit::{self, Act, AuditEvent, Outcome};
use cpis_protocol::digest::{self, Hash};
use cpis_protocol::id::{ChainId, DeviceId, PractitionerId, UnixMs};

use crate::config::Config;
use crate::keys::AuditKeys;
use crate::port::{AlertKind, Evidence as _, LinkRow, Meta, NewAlert, ProofRow, Store, StoreError, Suspicion, Tx};
use patterns::Asked;

/// Links looked at in one transaction.
const PAGE: usize = 200;
/// Links before a page that are opened again for the patterns, at most.
const LOOK_BACK: usize = 2_000;
/// What was set aside, and look-ups that were refused, raise one alert for each such stretch of time.
const STRETCH_MS: i64 = 3_600_000;

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digested {
    /// Links.
    pub links: u64,
    /// Erasure receipts among them.
    pub proofs: u64,
    /// New alerts.
    pub alerts: u64,
}

/// Looks at everything that came in since the last time, as far as the key opens it.
///
/// # Errors
/// [`StoreError`]; what was looked at before stays.
pub fn run<S: Store>(store: &S, keys: &AuditKeys, config: &Config) -> Result<Digested, StoreError> {
    let mut done = Digested::default();
    let news = store.read(|tx| -> Result<bool, StoreError> {
        Ok(!tx.new_chains()?.is_empty() || !tx.suspicions_after(digested_aside(tx)?)?.is_empty())
    })?;
    if news {
        store.write(|tx| without_key(tx, &mut done))?;
    }
    if keys.is_empty() {
        return Ok(done);
    }
    for (device, chain, _) in store.read::<_, StoreError>(|tx| tx.undigested())? {
        let walk = Walk { keys, config, device, chain };
        let mut stretch = Stretch::default();
        while store.write(|tx| walk.page(tx, &mut stretch, &mut done))? {}
    }
    for key in keys.sealing_keys() {
        let recipient = audit::recipient_id(&key);
        let mut stretch = Stretch::default();
        while !store.read::<_, StoreError>(|tx| tx.waiting(recipient, 1))?.is_empty() {
            store.write(|tx| -> Result<(), StoreError> {
                // Read again: another process may have been here.
                for (device, chain, seq) in tx.waiting(recipient, PAGE)? {
                    Walk { keys, config, device, chain }.waited(tx, seq, &mut stretch, &mut done)?;
                }
                Ok(())
            })?;
        }
    }
    Ok(done)
}

fn digested_aside<T: Tx>(tx: &T) -> Result<i64, StoreError> {
    let Some(bytes) = tx.meta(Meta::DigestedAside)? else { return Ok(0) };
    Ok(i64::from_be_bytes(bytes.try_into().map_err(|_| StoreError::Corrupt("meta.digested-aside"))?))
}

/// What needs no key: links set aside, and chains begun beside another.
fn without_key<T: Tx>(tx: &T, done: &mut Digested) -> Result<(), StoreError> {
    for row in tx.new_chains()? {
        let chain = row.through.chain;
        if row.beside_another {
            let once = once(AlertKind::SecondChain, row.device, PractitionerId::EMPTY, &chain.0);
            raise(
                tx,
                done,
                &NewAlert {
                    kind: AlertKind::SecondChain,
                    device: Some(row.device),
                    practitioner: PractitionerId::EMPTY,
                    at_ms: row.opened_ms,
                    seq: 0,
                    count: 1,
                    once,
                    adds: false,
                },
            )?;
        }
        tx.put_cursor(row.device, chain, 0)?;
    }
    for (id, row) in tx.suspicions_after(digested_aside(tx)?)? {
        let kind = match row.why {
            Suspicion::Fork => AlertKind::Fork,
            Suspicion::BadSignature => AlertKind::BadSignature,
            Suspicion::Unreadable => AlertKind::Unreadable,
        };
        let stretch = row.at_ms.div_euclid(STRETCH_MS).to_be_bytes();
        let once = once(kind, row.device, PractitionerId::EMPTY, &stretch);
        let (device, practitioner) = (Some(row.device), PractitionerId::EMPTY);
        let alert = NewAlert { kind, device, practitioner, at_ms: row.at_ms, seq: row.seq, count: 1, once, adds: true };
        raise(tx, done, &alert)?;
        tx.set_meta(Meta::DigestedAside, &id.to_be_bytes())?;
    }
    Ok(())
}

/// What makes an alert the same as an earlier one; it names nobody who was asked about.
fn once(kind: AlertKind, device: DeviceId, practitioner: PractitionerId, what: &[u8]) -> Hash {
    digest::hash("cpis-edge/1/alert", &[kind.code().as_bytes(), &device.0, practitioner.as_bytes(), what])
}

fn raise<T: Tx>(tx: &T, done: &mut Digested, alert: &NewAlert) -> Result<(), StoreError> {
    if tx.raise(alert)? {
        done.alerts += 1;
        let device = alert.device.map(tracing::field::display);
        tracing::error!(device, seq = alert.seq, kind = alert.kind.code(), "AUDIT ALERT: run alert list");
    }
    Ok(())
}

/// The look-ups before a place in a chain, kept from page to page of one run.
#[derive(Default)]
struct Stretch {
    end: Option<(DeviceId, ChainId, u64)>,
    asked: Vec<Asked>,
}

struct Walk<'a> {
    keys: &'a AuditKeys,
    config: &'a Config,
    device: DeviceId,
    chain: ChainId,
}

impl Walk<'_> {
    /// The next links of the chain; false when there were none.
    fn page<T: Tx>(&self, tx: &T, stretch: &mut Stretch, done: &mut Digested) -> Result<bool, StoreError> {
        // Read again: another process may have been here.
        let cursor = tx.cursor(self.device, self.chain)?;
        let page = tx.links(self.device, self.chain, cursor, PAGE)?;
        let (Some(first), Some(last)) = (page.first(), page.last()) else { return Ok(false) };
        self.reach_back(tx, stretch, cursor, first.link.event_ms())?;
        for row in &page {
            if self.keys.named(row.link.recipient()).is_some() {
                self.link(tx, row, &mut stretch.asked, done)?;
            } else {
                tx.wait_for_key(self.device, self.chain, row.seq, row.link.recipient())?;
            }
        }
        stretch.end = Some((self.device, self.chain, last.seq));
        tx.put_cursor(self.device, self.chain, last.seq)?; // R192
        Ok(true)
    }

    /// A link that was passed over, now that its key is here.
    fn waited<T: Tx>(&self, tx: &T, seq: u64, stretch: &mut Stretch, done: &mut Digested) -> Result<(), StoreError> {
        let row = tx.links(self.device, self.chain, seq - 1, 1)?.pop().ok_or(StoreError::Corrupt("digest_waiting"))?;
        self.reach_back(tx, stretch, seq - 1, row.link.event_ms())?;
        self.link(tx, &row, &mut stretch.asked, done)?;
        stretch.end = Some((self.device, self.chain, seq));
        tx.waited(self.device, self.chain, seq)
    }

    /// Opens the look-ups of the stretch before an event again, unless they are at hand.
    fn reach_back<T: Tx>(
        &self,
        tx: &T,
        stretch: &mut Stretch,
        through: u64,
        event_ms: UnixMs,
    ) -> Result<(), StoreError> {
        if stretch.end == Some((self.device, self.chain, through)) {
            return Ok(());
        }
        let from = event_ms.saturating_sub(patterns::look_back_ms(self.config));
        let links = tx.links_before(self.device, self.chain, through, from, LOOK_BACK)?;
        let asked = links.iter().filter_map(|row| Asked::of(row.seq, row.link.event_ms(), &self.open(row)?));
        stretch.asked = asked.collect();
        Ok(())
    }

    fn open(&self, row: &LinkRow) -> Option<AuditEvent> {
        self.keys.open(&row.link, &self.device, &self.chain, row.seq)
    }

    fn link<T: Tx>(
        &self,
        tx: &T,
        row: &LinkRow,
        asked: &mut Vec<Asked>,
        done: &mut Digested,
    ) -> Result<(), StoreError> {
        done.links += 1;
        let Some(event) = self.open(row) else {
            return self.single(tx, row, AlertKind::Unreadable, PractitionerId::EMPTY, 1, done);
        };
        let who = event.practitioner;
        match &event.act {
            Act::Erased { cause, records } => {
                done.proofs += 1;
                tx.add_proof(&ProofRow {
                    device: self.device,
                    chain: self.chain,
                    seq: row.seq,
                    cause: *cause,
                    records: *records,
                    gseq: row.link.gseq(),
                    head: row.link.head_half(),
                    event_ms: row.link.event_ms(),
                    received_ms: row.received_ms,
                })
            }
            Act::BreakGlass { look_ups, .. } => {
                self.single(tx, row, AlertKind::BreakGlass, who, (*look_ups).into(), done)
            }
            Act::Unrecorded { count, .. } => self.single(tx, row, AlertKind::Unrecorded, who, (*count).into(), done),
            Act::SlotClosed { practitioner } => self.single(tx, row, AlertKind::SlotClosed, *practitioner, 1, done),
            Act::LookUp { outcome, reason, .. } | Act::LookUpByName { outcome, reason, .. } => {
                if *outcome == Outcome::CannotAnswer && reason.as_str() == "rate-limited" {
                    self.windowed(tx, row, (AlertKind::RateLimited, 1), who, STRETCH_MS, done)?;
                }
                self.look_up(tx, row, &event, asked, done)
            }
            _ => Ok(()),
        }
    }

    fn look_up<T: Tx>(
        &self,
        tx: &T,
        row: &LinkRow,
        event: &AuditEvent,
        asked: &mut Vec<Asked>,
        done: &mut Digested,
    ) -> Result<(), StoreError> {
        let Some(now) = Asked::of(row.seq, row.link.event_ms(), event) else { return Ok(()) };
        let from = now.event_ms.saturating_sub(patterns::look_back_ms(self.config));
        asked.retain(|before| before.event_ms > from && before.seq + LOOK_BACK as u64 > now.seq);
        asked.push(now);
        for found in patterns::judge(self.config, asked) {
            let window_ms = if found.0 == AlertKind::EnumerationDates {
                patterns::BIRTHS_MS
            } else {
                i64::from(self.config.alert_window_s) * 1000
            };
            self.windowed(tx, row, found, event.practitioner, window_ms, done)?;
        }
        Ok(())
    }

    /// An alert of its own for this event.
    fn single<T: Tx>(
        &self,
        tx: &T,
        row: &LinkRow,
        kind: AlertKind,
        practitioner: PractitionerId,
        count: u64,
        done: &mut Digested,
    ) -> Result<(), StoreError> {
        let what = [&self.chain.0[..], &row.seq.to_be_bytes()].concat();
        let once = once(kind, self.device, practitioner, &what);
        let (device, at_ms, seq) = (Some(self.device), row.link.event_ms(), row.seq);
        raise(tx, done, &NewAlert { kind, device, practitioner, at_ms, seq, count, once, adds: false })
    }

    /// One alert for each window, practitioner and device.
    fn windowed<T: Tx>(
        &self,
        tx: &T,
        row: &LinkRow,
        (kind, count): (AlertKind, u64),
        practitioner: PractitionerId,
        window_ms: i64,
        done: &mut Digested,
    ) -> Result<(), StoreError> {
        let (device, at_ms, seq) = (Some(self.device), row.link.event_ms(), row.seq);
        let once = once(kind, self.device, practitioner, &at_ms.div_euclid(window_ms).to_be_bytes());
        let adds = kind == AlertKind::RateLimited;
        raise(tx, done, &NewAlert { kind, device, practitioner, at_ms, seq, count, once, adds })
    }
}
