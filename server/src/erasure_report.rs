//! Who has proved that what was taken away is gone, per feed and per removed record, and when the rest lock anyway.
//! It must not take a device's word for proof: only a signed receipt whose head is known here, or time, counts.
//!
//! A device proves a removal by the receipt of an update to a head that lacks it, or by the receipt of a whole erasure
//! after which it was granted nothing more. Without proof its lease end is shown: unless it is granted more, it opens
//! nothing after that moment (R76).

use std::collections::BTreeSet;

use cpis_protocol::audit::ErasureCause;
use cpis_protocol::head::Head;
use cpis_protocol::id::{DeviceId, FeedId, UnixMs};
use cpis_protocol::limits;
use cpis_protocol::sign::{self, Kind};
use serde::Serialize;

use crate::clock::iso;
use crate::port::{
    DeviceRow, Evidence as _, Feeds as _, Fleet as _, HeldFeed, Mark, ProofRow, RemovalRow, Store, StoreError, Tx,
};

/// What is asked for; `None` does not narrow.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// One feed.
    pub feed: Option<FeedId>,
    /// One device.
    pub device: Option<DeviceId>,
    /// The records of one person.
    pub mark: Option<Mark>,
    /// Removed records that nobody holds any more, too.
    pub settled: bool,
}

/// How a device stands to something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceLine {
    /// The device.
    pub device: String,
    /// Its site.
    pub site: String,
    /// `active`, `suspended`, `revoked`, `lost`, `retired`.
    pub state: &'static str,
    /// Why it erased: `update`, `lease-expired`, `withdrawn`; only with proof.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<&'static str>,
    /// When it erased, by the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erased: Option<String>,
    /// When the proof was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<String>,
    /// After this moment nothing can be read there.
    pub lease_end: String,
    /// That moment is past.
    pub lease_over: bool,
    /// The register sequence that it last said it holds; a word, not a proof.
    pub last_gseq: u64,
}

/// One feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FeedLine {
    /// The feed.
    pub feed: String,
    /// Records in it now.
    pub records: u32,
    /// Devices that may read it now.
    pub holding: Vec<DeviceLine>,
    /// Devices that had it and proved that it is gone.
    pub proved: Vec<DeviceLine>,
    /// Devices that should not have it any more, without proof.
    pub unproved: Vec<DeviceLine>,
}

/// One removed record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RemovalLine {
    /// Its number, which says nothing of the person.
    pub removal: i64,
    /// The feed.
    pub feed: String,
    /// When its removal was published.
    pub removed: String,
    /// The register sequence of the first head without it.
    pub gseq: u64,
    /// The person has a record there again, which devices hold rightly.
    pub returned: bool,
    /// Devices that proved that it is gone.
    pub proved: Vec<DeviceLine>,
    /// Devices that may have it, without proof.
    pub unproved: Vec<DeviceLine>,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErasureReport {
    /// When it was made.
    pub at: String,
    /// The feeds.
    pub feeds: Vec<FeedLine>,
    /// Removed records.
    pub removals: Vec<RemovalLine>,
}

/// What one device was granted and what it proved.
struct Witness {
    row: DeviceRow,
    held: Vec<HeldFeed>,
    /// The receipt of an update to the newest head, with that head's number and feeds.
    update: Option<(i64, BTreeSet<FeedId>, ProofRow)>,
    /// The receipt of a whole erasure after which nothing was granted.
    whole: Option<ProofRow>,
}

const fn cause(proof: &ProofRow) -> &'static str {
    match proof.cause {
        ErasureCause::Update => "update",
        ErasureCause::LeaseExpired => "lease-expired",
        ErasureCause::Withdrawn => "withdrawn",
    }
}

impl Witness {
    fn read<T: Tx>(tx: &T, row: DeviceRow) -> Result<Self, StoreError> {
        let (held, granted_ms) = (tx.held_feeds(row.device)?, tx.granted_ms(row.device)?);
        let (mut update, mut whole) = (None::<(i64, BTreeSet<FeedId>, ProofRow)>, None);
        for proof in tx.newest_proofs(row.device)? {
            if proof.cause != ErasureCause::Update {
                // R191
                if proof.received_ms >= granted_ms {
                    whole = Some(proof);
                }
                continue;
            }
            // R190: a head that is not known here proves nothing.
            let Some((number, bytes)) = tx.head_by_half(&proof.head)? else { continue };
            if update.as_ref().is_none_or(|(newest, ..)| number > *newest) {
                let head: Head = sign::peek_unverified(&bytes, Kind::Head, limits::HEAD_BYTES_MAX)
                    .map_err(|_| StoreError::Corrupt("head.bytes"))?;
                update = Some((number, head.feeds.iter().map(|state| state.feed).collect(), proof));
            }
        }
        Ok(Self { row, held, update, whole })
    }

    /// The proof that a feed which the device left is gone.
    fn without_feed(&self, held: &HeldFeed) -> Option<&ProofRow> {
        let update = self.update.as_ref().filter(|(_, feeds, proof)| {
            // R190: a receipt from before it left may be from before it came.
            !feeds.contains(&held.feed) && held.left_ms.is_some_and(|left_ms| proof.received_ms >= left_ms)
        });
        self.whole.as_ref().or_else(|| update.map(|(.., proof)| proof))
    }

    /// The proof that a removed record is gone.
    fn without_record(&self, held: &HeldFeed, removal: &RemovalRow) -> Option<&ProofRow> {
        // R190
        let update = self.update.as_ref().filter(|(head, ..)| *head > removal.last_head);
        self.without_feed(held).or_else(|| update.map(|(.., proof)| proof))
    }

    fn line(&self, proof: Option<&ProofRow>, now_ms: UnixMs) -> DeviceLine {
        DeviceLine {
            device: self.row.device.to_string(),
            site: self.row.site.to_string(),
            state: self.row.state.name(),
            proof: proof.map(cause),
            erased: proof.map(|proof| iso(proof.event_ms)),
            received: proof.map(|proof| iso(proof.received_ms)),
            lease_end: iso(self.row.lease_until_ms),
            lease_over: self.row.lease_until_ms <= now_ms,
            last_gseq: self.row.last_gseq,
        }
    }
}

/// Makes the report from what was derived; see [`crate::digest::run`], which comes first.
///
/// # Errors
/// [`StoreError`].
pub fn report<S: Store>(store: &S, wanted: &Wanted, now_ms: UnixMs) -> Result<ErasureReport, StoreError> {
    store.read(|tx| {
        let devices = tx.devices()?.into_iter().filter(|row| wanted.device.is_none_or(|id| id == row.device));
        let witnesses: Vec<Witness> = devices.map(|row| Witness::read(tx, row)).collect::<Result<_, _>>()?;
        let mut feeds = Vec::new();
        for row in tx.feeds()?.into_iter().filter(|row| wanted.feed.is_none_or(|feed| feed == row.feed)) {
            feeds.push(feed_line(&witnesses, row.feed, row.count, now_ms));
        }
        let removals = tx.removals(wanted.feed, wanted.mark.as_ref())?;
        let lines = removals.iter().map(|removal| removal_line(&witnesses, removal, now_ms));
        let open = |line: &RemovalLine| line.unproved.iter().any(|device| !device.lease_over);
        let removals = lines.filter(|line| wanted.settled || wanted.mark.is_some() || open(line)).collect();
        Ok(ErasureReport { at: iso(now_ms), feeds, removals })
    })
}

fn feed_line(witnesses: &[Witness], feed: FeedId, records: u32, now_ms: UnixMs) -> FeedLine {
    let mut line =
        FeedLine { feed: feed.to_string(), records, holding: Vec::new(), proved: Vec::new(), unproved: Vec::new() };
    for witness in witnesses {
        // Who was never granted it never held it.
        let Some(held) = witness.held.iter().find(|held| held.feed == feed) else { continue };
        let proof = witness.without_feed(held);
        let withdrawn = witness.row.state.is_final() || held.left_ms.is_some();
        let over = witness.row.lease_until_ms <= now_ms;
        let entry = witness.line(proof, now_ms);
        match proof {
            Some(_) => line.proved.push(entry),
            None if withdrawn || over => line.unproved.push(entry),
            None => line.holding.push(entry),
        }
    }
    line
}

fn removal_line(witnesses: &[Witness], removal: &RemovalRow, now_ms: UnixMs) -> RemovalLine {
    let (mut proved, mut unproved) = (Vec::new(), Vec::new());
    for witness in witnesses {
        let held = witness.held.iter().find(|held| held.feed == removal.feed && held.since_ms <= removal.at_ms);
        let Some(held) = held else { continue };
        match witness.without_record(held, removal) {
            Some(proof) => proved.push(witness.line(Some(proof), now_ms)),
            None => unproved.push(witness.line(None, now_ms)),
        }
    }
    RemovalLine {
        removal: removal.id,
        feed: removal.feed.to_string(),
        removed: iso(removal.at_ms),
        gseq: removal.gseq,
        returned: removal.returned,
        proved,
        unproved,
    }
}
