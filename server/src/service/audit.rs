//! The audit inbox: verify each link, store it, commit, and only then sign what is stored.
//! It must not open an event, and must not acknowledge a link that is not on the disk.
//!
//! What is done with links that are not the exact successor of what is stored:
//! - at or below the end, equal to what is stored: ignored (the receipt was lost on the way);
//! - at or below the end, signed, but another: a fork; kept aside, alerted, never acknowledged, since the receipt
//!   names the hash of the link that is stored and the device sees that it is not its own;
//! - beyond the next: nothing is stored; the receipt tells where the chain stands;
//! - a signature that does not verify: no later link can be followed over it, so it is kept aside and the rest of the
//!   batch is left; the receipt stands at the link before. The device gets past it only with a new chain;
//! - a link that is signed and whose event nobody can open is a good link: it is stored and acknowledged, the device
//!   moves on, and `audit list` shows that it does not open;
//! - a body that is no batch is kept aside and refused: there is no chain that a receipt could speak of.

use cpis_protocol::Refusal;
use cpis_protocol::audit::{Batch, Link, Receipt, Tip};
use cpis_protocol::id::UnixMs;
use cpis_protocol::sign::Kind;

use super::{Service, ServiceError, internal};
use crate::port::{ChainRow, DeviceRow, Inbox as _, LinkRow, Store, StoreError, Suspicion, SuspicionRow, Tx};

/// What is kept aside for one device: enough to see what is going on, too little to fill the disk with.
const ASIDE_MAX: usize = 1000;

impl<S: Store> Service<S> {
    pub(super) fn audit(&self, device: &DeviceRow, body: &[u8], now_ms: UnixMs) -> Result<Vec<u8>, ServiceError> {
        let batch = match Batch::from_bytes(body) {
            Ok(batch) => batch,
            Err(Refusal::TooLarge) => return Err(ServiceError::TooLarge),
            Err(refusal) => {
                self.unreadable(device, body, now_ms)?;
                return Err(ServiceError::Refused(refusal.code()));
            }
        };
        if batch.device != device.device {
            tracing::error!(device = %device.device, "AUDIT ALERT: a device sent the batch of another");
            return Err(ServiceError::Unauthorised);
        }
        // The receipt is signed after the commit, over what the commit left.
        let through = self.store.write(|tx| Intake { tx, device, now_ms }.batch(&batch))?;
        let receipt = Receipt { device: device.device, through, issued_ms: now_ms };
        self.keys.receipt.sign(Kind::Receipt, &receipt).map_err(internal)
    }

    fn unreadable(&self, device: &DeviceRow, body: &[u8], now_ms: UnixMs) -> Result<(), ServiceError> {
        let row = SuspicionRow {
            why: Suspicion::Unreadable,
            device: device.device,
            chain: None,
            seq: 0,
            bytes: body.to_vec(),
            at_ms: now_ms,
        };
        let new = self.store.write::<_, StoreError>(|tx| tx.set_aside(&row, ASIDE_MAX))?;
        if new {
            tracing::error!(device = %device.device, "AUDIT ALERT: a batch could not be read and was kept aside");
        }
        Ok(())
    }
}

struct Intake<'a, T: Tx> {
    tx: &'a T,
    device: &'a DeviceRow,
    now_ms: UnixMs,
}

impl<T: Tx> Intake<'_, T> {
    /// Takes in what can be, and gives the end of the chain as it is stored then.
    fn batch(&self, batch: &Batch) -> Result<Tip, StoreError> {
        let (id, chain) = (self.device.device, batch.after.chain);
        let stored = self.tx.chain(id, chain)?;
        let mut tip = stored.as_ref().map_or_else(|| Tip::start(&id, chain), |row| row.through);
        if batch.after.seq > tip.seq {
            return Ok(tip);
        }
        let mut own = batch.after;
        let mut forked = self.hash_at(&own, &tip)? != Some(own.hash);
        let mut opened = stored;
        for link in &batch.links {
            let next = own.follow(&id, link);
            if !forked && next.seq <= tip.seq && self.hash_at(&next, &tip)? == Some(next.hash) {
                own = next;
                continue;
            }
            if own.verify(&id, &self.device.device_key, link).is_err() {
                self.aside(Suspicion::BadSignature, &next, link)?;
                return Ok(tip);
            }
            if forked || next.seq <= tip.seq {
                forked = true;
                self.aside(Suspicion::Fork, &next, link)?;
            } else {
                let row = match opened.take() {
                    Some(row) => ChainRow { through: next, ..row },
                    None => self.open_chain(next)?,
                };
                self.tx.put_chain(&row)?;
                opened = Some(row);
                let row = LinkRow { seq: next.seq, link: link.clone(), hash: next.hash, received_ms: self.now_ms };
                self.tx.add_link(id, chain, &row)?;
                tip = next;
            }
            own = next;
        }
        Ok(tip)
    }

    /// The stored hash at the position of `at`.
    fn hash_at(&self, at: &Tip, tip: &Tip) -> Result<Option<[u8; 32]>, StoreError> {
        if at.seq == 0 {
            return Ok(Some(Tip::start(&self.device.device, at.chain).hash));
        }
        if at.seq == tip.seq {
            return Ok(Some(tip.hash));
        }
        self.tx.link_hash(self.device.device, at.chain, at.seq)
    }

    fn open_chain(&self, through: Tip) -> Result<ChainRow, StoreError> {
        let device = self.device.device;
        let beside_another = self.tx.has_chain(device)?;
        if beside_another {
            tracing::warn!(%device, chain = %through.chain, "AUDIT ALERT: a second chain was begun by a device");
        }
        Ok(ChainRow { device, through, opened_ms: self.now_ms, beside_another })
    }

    fn aside(&self, why: Suspicion, at: &Tip, link: &Link) -> Result<(), StoreError> {
        let device = self.device.device;
        let row = SuspicionRow {
            why,
            device,
            chain: Some(at.chain),
            seq: at.seq,
            bytes: link.as_bytes().to_vec(),
            at_ms: self.now_ms,
        };
        if self.tx.set_aside(&row, ASIDE_MAX)? {
            tracing::error!(%device, chain = %at.chain, seq = at.seq, why = why.code(), "AUDIT ALERT: a link was kept aside");
        }
        Ok(())
    }
}
