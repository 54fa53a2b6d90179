//! Grants: what a device may hold until when, with the feed keys sealed to its vault, signed anew for each request.
//! It must not open a feed key for anything but sealing it again.

use cpis_protocol::cell::FeedKey;
use cpis_protocol::grant::{Grant, GrantedFeed, NamedFeedKey, seal_keys};
use cpis_protocol::id::UnixMs;
use cpis_protocol::limits;
use cpis_protocol::sign::Kind;

use super::{Service, ServiceError, internal};
use crate::port::{CellLog, DeviceRow, DeviceState, Fleet as _, Store, StoreError, Tx};
use crate::publish::{self, open_feed_key};
use crate::rekey::{self, Rekey};
use crate::{entropy, token};

/// Tokens that may be computed while a grant is made.
const TOKENS_WITHIN: u64 = 16;

impl<S: Store> Service<S> {
    /// A fresh grant; its number and lease are durable before it leaves.
    pub(super) fn grant(&self, device: &DeviceRow, now_ms: UnixMs) -> Result<Vec<u8>, ServiceError> {
        self.store.write(|tx| {
            // Read again: another process may have revoked it or counted on.
            let mut device = tx.device(device.device)?.ok_or(ServiceError::Unauthorised)?;
            if device.state != DeviceState::Active {
                return Err(ServiceError::Retry(1));
            }
            self.grant_in(tx, &mut device, now_ms)
        })
    }

    /// Makes the next grant of a device, whose row is changed and stored.
    pub(super) fn grant_in<T: Tx>(
        &self,
        tx: &T,
        device: &mut DeviceRow,
        now_ms: UnixMs,
    ) -> Result<Vec<u8>, ServiceError> {
        let site = tx.site(device.site)?.ok_or(StoreError::Corrupt("device.site"))?;
        let keys = self.keys_of(tx, device, now_ms)?;
        let feeds = keys.iter().map(|key| GrantedFeed { feed: key.feed, epoch: key.epoch, key_id: key.key_id });
        let feeds = feeds.collect();
        let sealed_keys = seal_keys(&keys, &device.device, &device.scope, &device.vault_key, &mut entropy::system())
            .map_err(|_| ServiceError::Refused("vault-key"))?;
        device.grant_number += 1;
        device.lease_until_ms = now_ms.saturating_add(i64::from(site.lease_s) * 1000);
        let grant = Grant {
            number: device.grant_number,
            device: device.device,
            site: device.site,
            scope: device.scope,
            issued_ms: now_ms,
            lease_until_ms: device.lease_until_ms,
            policy: site.policy,
            badges: tx.badges(device.site)?,
            feeds,
            sealed_keys,
        };
        let bytes = self.keys.authority.sign(Kind::Grant, &grant).map_err(internal)?;
        if bytes.len() > limits::GRANT_BYTES_MAX {
            return Err(ServiceError::Internal("the grant is too large: fewer practitioners at one site".into()));
        }
        tx.put_device(device)?;
        tx.granted(device.device, now_ms)?;
        Ok(bytes)
    }

    /// The keys in use of every feed of the device's scope. A feed whose older keys it may not have is re-sealed first, so
    /// that the current key is the only one; the next device finds it so.
    fn keys_of<T: Tx>(&self, tx: &T, device: &DeviceRow, now_ms: UnixMs) -> Result<Vec<NamedFeedKey>, ServiceError> {
        let feeds = tx.scope(device.scope)?.ok_or(StoreError::Corrupt("device.scope"))?.feeds;
        tx.leave_other_feeds(device.device, &feeds, now_ms)?;
        let reseal = rekey::before_grant(tx, device.device, &feeds)?;
        if !reseal.is_empty() {
            let lookup = publish::lookup(tx)?;
            // A large extract is being taken in: its memory-hard steps are not for this transaction.
            let named = token::fingerprint(&lookup).map_err(internal)?;
            if tx.count_without_token(&named)? > TOKENS_WITHIN {
                return Err(ServiceError::Retry(60));
            }
            let plan = Rekey { reseal, ..Rekey::default() };
            rekey::run_in(tx, &self.keys, lookup, &plan, now_ms, &mut |_| ())?;
        }
        let mut out = Vec::new();
        for feed in feeds {
            let row = tx.feed(feed)?.ok_or(StoreError::Corrupt("scope_feed.feed"))?;
            let log = CellLog { feed, epoch: row.epoch };
            for (key_id, sealed) in tx.feed_keys(log)? {
                if (row.oldest_key_id..=row.key_id).contains(&key_id) {
                    let key: FeedKey = open_feed_key(&self.keys.storage, log, key_id, &sealed)?;
                    tx.hold_key(device.device, log, key_id, now_ms)?;
                    out.push(NamedFeedKey { feed, epoch: row.epoch, key_id, key });
                }
            }
        }
        Ok(out)
    }
}
