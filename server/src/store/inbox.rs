//! The audit inbox in SQLite.
//! It must not open an event.

use cpis_protocol::audit::{Link, Tip};
use cpis_protocol::digest::{self, Hash};
use cpis_protocol::id::{ChainId, DeviceId};
use rusqlite::{OptionalExtension as _, Row};

use super::{SqliteTx, array, signed, unsigned};
use crate::port::{ChainRow, Inbox, LinkRow, StoreError, Suspicion, SuspicionRow};

pub(super) type RawChain = (Vec<u8>, Vec<u8>, i64, Vec<u8>, i64, bool);

pub(super) fn chain_row(
    (device, chain, seq, hash, opened_ms, beside_another): RawChain,
) -> Result<ChainRow, StoreError> {
    let through = Tip { chain: ChainId(array(chain)?), seq: unsigned(seq), hash: array(hash)? };
    Ok(ChainRow { device: DeviceId(array(device)?), through, opened_ms, beside_another })
}

pub(super) type RawSuspicion = (String, Vec<u8>, Option<Vec<u8>>, i64, i64);

pub(super) fn suspicion((why, device, chain, seq, at_ms): RawSuspicion) -> Result<SuspicionRow, StoreError> {
    let known = [Suspicion::Fork, Suspicion::BadSignature, Suspicion::Unreadable];
    let why = known.into_iter().find(|known| known.code() == why).ok_or(StoreError::Corrupt("audit_aside.why"))?;
    Ok(SuspicionRow {
        why,
        device: DeviceId(array(device)?),
        chain: chain.map(|chain| array(chain).map(ChainId)).transpose()?,
        seq: unsigned(seq),
        bytes: Vec::new(),
        at_ms,
    })
}

impl Inbox for SqliteTx<'_> {
    fn chains(&self) -> Result<Vec<ChainRow>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT device, chain, through_seq, through_hash, opened_ms, beside_another FROM audit_chain
             ORDER BY device, opened_ms, chain",
        )?;
        let rows = statement.query_map([], |row: &Row<'_>| RawChain::try_from(row))?;
        rows.map(|row| chain_row(row?)).collect()
    }

    fn chain(&self, device: DeviceId, chain: ChainId) -> Result<Option<ChainRow>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT device, chain, through_seq, through_hash, opened_ms, beside_another FROM audit_chain
             WHERE device = ?1 AND chain = ?2",
        )?;
        let raw = statement.query_row((device.0, chain.0), |row| RawChain::try_from(row)).optional()?;
        raw.map(chain_row).transpose()
    }

    fn has_chain(&self, device: DeviceId) -> Result<bool, StoreError> {
        Ok(self.0.prepare_cached("SELECT 1 FROM audit_chain WHERE device = ?1 LIMIT 1")?.exists([device.0])?)
    }

    fn put_chain(&self, row: &ChainRow) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT INTO audit_chain (device, chain, through_seq, through_hash, opened_ms, beside_another)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (device, chain) DO UPDATE SET through_seq = ?3, through_hash = ?4",
        )?;
        let through = &row.through;
        statement.execute((
            row.device.0,
            through.chain.0,
            signed(through.seq),
            through.hash,
            row.opened_ms,
            row.beside_another,
        ))?;
        Ok(())
    }

    fn link_hash(&self, device: DeviceId, chain: ChainId, seq: u64) -> Result<Option<Hash>, StoreError> {
        let mut statement =
            self.0.prepare_cached("SELECT hash FROM audit_link WHERE device = ?1 AND chain = ?2 AND seq = ?3")?;
        let raw = statement.query_row((device.0, chain.0, signed(seq)), |row| row.get(0)).optional()?;
        raw.map(array).transpose()
    }

    fn add_link(&self, device: DeviceId, chain: ChainId, row: &LinkRow) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT INTO audit_link (device, chain, seq, bytes, hash, received_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        statement.execute((device.0, chain.0, signed(row.seq), &row.link.as_bytes()[..], row.hash, row.received_ms))?;
        Ok(())
    }

    fn links(&self, device: DeviceId, chain: ChainId, after: u64, limit: usize) -> Result<Vec<LinkRow>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT seq, bytes, hash, received_ms FROM audit_link
             WHERE device = ?1 AND chain = ?2 AND seq > ?3 ORDER BY seq LIMIT ?4",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map((device.0, chain.0, signed(after), limit), |row| {
            <(i64, Vec<u8>, Vec<u8>, i64)>::try_from(row)
        })?;
        rows.map(|row| {
            let (seq, bytes, hash, received_ms) = row?;
            let link = Link::from_bytes(&bytes).map_err(|_| StoreError::Corrupt("audit_link.bytes"))?;
            Ok(LinkRow { seq: unsigned(seq), link, hash: array(hash)?, received_ms })
        })
        .collect()
    }

    fn set_aside(&self, row: &SuspicionRow, keep: usize) -> Result<bool, StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT OR IGNORE INTO audit_aside (why, device, chain, seq, bytes, bytes_hash, at_ms)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE (SELECT COUNT(*) FROM audit_aside WHERE device = ?2) < ?8",
        )?;
        let added = statement.execute((
            row.why.code(),
            row.device.0,
            row.chain.map(|chain| chain.0),
            signed(row.seq),
            &row.bytes,
            digest::sha256(&row.bytes),
            row.at_ms,
            i64::try_from(keep).unwrap_or(i64::MAX),
        ))?;
        Ok(added > 0)
    }

    fn suspicions(&self) -> Result<Vec<SuspicionRow>, StoreError> {
        let mut statement =
            self.0.prepare_cached("SELECT why, device, chain, seq, at_ms FROM audit_aside ORDER BY id")?;
        let rows = statement.query_map([], |row: &Row<'_>| RawSuspicion::try_from(row))?;
        rows.map(|row| suspicion(row?)).collect()
    }
}
