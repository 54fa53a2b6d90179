//! Erasure proofs, alerts, removed records and cursors in SQLite.
//! It must not open an event, nor name a person.

use cpis_protocol::audit::{ErasureCause, Link};
use cpis_protocol::id::{ChainId, DeviceId, FeedId, RegisterSeq, UnixMs};
use rusqlite::{OptionalExtension as _, Row};

use super::inbox::{RawChain, RawSuspicion, chain_row, suspicion};
use super::{SqliteTx, array, name, signed, unsigned};
use crate::port::{
    AlertKind, AlertRow, ChainRow, Evidence, HeldFeed, LinkRow, Mark, NewAlert, PersonId, ProofRow, RemovalRow,
    StoreError, SuspicionRow,
};

const CAUSES: [(ErasureCause, &str); 3] = [
    (ErasureCause::Update, "update"),
    (ErasureCause::LeaseExpired, "lease-expired"),
    (ErasureCause::Withdrawn, "withdrawn"),
];

type RawAlert = (i64, String, Option<Vec<u8>>, String, i64, i64, i64, Option<String>, Option<i64>);

fn alert_row((id, kind, device, practitioner, at_ms, seq, count, by, when): RawAlert) -> Result<AlertRow, StoreError> {
    let kind =
        AlertKind::ALL.into_iter().find(|known| known.code() == kind).ok_or(StoreError::Corrupt("alert.kind"))?;
    Ok(AlertRow {
        id,
        kind,
        device: device.map(|device| array(device).map(DeviceId)).transpose()?,
        practitioner: name(&practitioner)?,
        at_ms,
        seq: unsigned(seq),
        count: unsigned(count),
        acknowledged: by.zip(when),
    })
}

type RawProof = (Vec<u8>, i64, String, u32, i64, Vec<u8>, i64, i64);

fn proof_row(device: DeviceId, raw: RawProof) -> Result<ProofRow, StoreError> {
    let (chain, seq, cause, records, gseq, head, event_ms, received_ms) = raw;
    let known = CAUSES.iter().find(|(_, code)| *code == cause).ok_or(StoreError::Corrupt("erasure_proof.cause"))?;
    Ok(ProofRow {
        device,
        chain: ChainId(array(chain)?),
        seq: unsigned(seq),
        cause: known.0,
        records,
        gseq: unsigned(gseq),
        head: array(head)?,
        event_ms,
        received_ms,
    })
}

fn place((device, chain, seq): (Vec<u8>, Vec<u8>, i64)) -> Result<(DeviceId, ChainId, u64), StoreError> {
    Ok((DeviceId(array(device)?), ChainId(array(chain)?), unsigned(seq)))
}

impl Evidence for SqliteTx<'_> {
    fn new_chains(&self) -> Result<Vec<ChainRow>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT device, chain, through_seq, through_hash, opened_ms, beside_another FROM audit_chain c
             WHERE NOT EXISTS (SELECT 1 FROM digest_cursor d WHERE d.device = c.device AND d.chain = c.chain)",
        )?;
        let rows = statement.query_map([], |row: &Row<'_>| RawChain::try_from(row))?;
        rows.map(|row| chain_row(row?)).collect()
    }

    fn undigested(&self) -> Result<Vec<(DeviceId, ChainId, u64)>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT c.device, c.chain, d.seq FROM audit_chain c
             JOIN digest_cursor d ON d.device = c.device AND d.chain = c.chain WHERE c.through_seq > d.seq",
        )?;
        let rows = statement.query_map([], |row| <(Vec<u8>, Vec<u8>, i64)>::try_from(row))?;
        rows.map(|row| place(row?)).collect()
    }

    fn cursor(&self, device: DeviceId, chain: ChainId) -> Result<u64, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT seq FROM digest_cursor WHERE device = ?1 AND chain = ?2")?;
        let seq = statement.query_row((device.0, chain.0), |row| row.get(0)).optional()?;
        Ok(seq.map_or(0, unsigned))
    }

    fn put_cursor(&self, device: DeviceId, chain: ChainId, seq: u64) -> Result<(), StoreError> {
        let mut statement =
            self.0.prepare_cached("INSERT OR REPLACE INTO digest_cursor (device, chain, seq) VALUES (?1, ?2, ?3)")?;
        statement.execute((device.0, chain.0, signed(seq)))?;
        Ok(())
    }

    fn wait_for_key(&self, device: DeviceId, chain: ChainId, seq: u64, recipient: [u8; 4]) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT OR IGNORE INTO digest_waiting (device, chain, seq, recipient) VALUES (?1, ?2, ?3, ?4)",
        )?;
        statement.execute((device.0, chain.0, signed(seq), recipient))?;
        Ok(())
    }

    fn waiting(&self, recipient: [u8; 4], limit: usize) -> Result<Vec<(DeviceId, ChainId, u64)>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT device, chain, seq FROM digest_waiting WHERE recipient = ?1 ORDER BY device, chain, seq LIMIT ?2",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map((recipient, limit), |row| <(Vec<u8>, Vec<u8>, i64)>::try_from(row))?;
        rows.map(|row| place(row?)).collect()
    }

    fn waited(&self, device: DeviceId, chain: ChainId, seq: u64) -> Result<(), StoreError> {
        let mut statement =
            self.0.prepare_cached("DELETE FROM digest_waiting WHERE device = ?1 AND chain = ?2 AND seq = ?3")?;
        statement.execute((device.0, chain.0, signed(seq)))?;
        Ok(())
    }

    fn links_before(
        &self,
        device: DeviceId,
        chain: ChainId,
        through: u64,
        event_ms: UnixMs,
        limit: usize,
    ) -> Result<Vec<LinkRow>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT seq, bytes, hash, received_ms FROM audit_link
             WHERE device = ?1 AND chain = ?2 AND seq <= ?3 ORDER BY seq DESC LIMIT ?4",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut rows = statement.query((device.0, chain.0, signed(through), limit))?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            let (seq, bytes, hash, received_ms) = <(i64, Vec<u8>, Vec<u8>, i64)>::try_from(row)?;
            let link = Link::from_bytes(&bytes).map_err(|_| StoreError::Corrupt("audit_link.bytes"))?;
            // Not the end of the search: one event by a clock that stood wrong must not hide those before it.
            if link.event_ms() > event_ms {
                out.push(LinkRow { seq: unsigned(seq), link, hash: array(hash)?, received_ms });
            }
        }
        out.reverse();
        Ok(out)
    }

    fn suspicions_after(&self, id: i64) -> Result<Vec<(i64, SuspicionRow)>, StoreError> {
        let mut statement = self
            .0
            .prepare_cached("SELECT why, device, chain, seq, at_ms, id FROM audit_aside WHERE id > ?1 ORDER BY id")?;
        let rows = statement.query_map([id], |row: &Row<'_>| {
            let raw: RawSuspicion = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
            Ok((row.get(5)?, raw))
        })?;
        rows.map(|row| {
            let (id, raw) = row?;
            Ok((id, suspicion(raw)?))
        })
        .collect()
    }

    fn add_proof(&self, proof: &ProofRow) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT INTO erasure_proof (device, chain, seq, cause, records, gseq, head, event_ms, received_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?;
        statement.execute((
            proof.device.0,
            proof.chain.0,
            signed(proof.seq),
            CAUSES.iter().find(|(cause, _)| *cause == proof.cause).map(|(_, code)| *code),
            proof.records,
            signed(proof.gseq),
            proof.head,
            proof.event_ms,
            proof.received_ms,
        ))?;
        Ok(())
    }

    fn newest_proofs(&self, device: DeviceId) -> Result<Vec<ProofRow>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT chain, seq, cause, records, gseq, head, event_ms, received_ms FROM erasure_proof
             WHERE device = ?1 AND (chain, seq) IN (
               SELECT chain, MAX(seq) FROM erasure_proof WHERE device = ?1 GROUP BY chain, cause = 'update')
             ORDER BY received_ms, chain, seq",
        )?;
        let rows = statement.query_map([device.0], |row| RawProof::try_from(row))?;
        rows.map(|row| proof_row(device, row?)).collect()
    }

    fn raise(&self, alert: &NewAlert) -> Result<bool, StoreError> {
        let sql = if alert.adds {
            "UPDATE alert SET count = count + ?2 WHERE once = ?1"
        } else {
            "UPDATE alert SET count = MAX(count, ?2) WHERE once = ?1"
        };
        if self.0.prepare_cached(sql)?.execute((alert.once, signed(alert.count)))? > 0 {
            return Ok(false);
        }
        let mut statement = self.0.prepare_cached(
            "INSERT INTO alert (kind, device, practitioner, at_ms, seq, count, once) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        statement.execute((
            alert.kind.code(),
            alert.device.map(|device| device.0),
            alert.practitioner.as_str(),
            alert.at_ms,
            signed(alert.seq),
            signed(alert.count),
            alert.once,
        ))?;
        Ok(true)
    }

    fn alerts(&self, all: bool) -> Result<Vec<AlertRow>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT id, kind, device, practitioner, at_ms, seq, count, acknowledged_by, acknowledged_ms FROM alert
             WHERE ?1 OR acknowledged_ms IS NULL ORDER BY id",
        )?;
        let rows = statement.query_map([all], |row| RawAlert::try_from(row))?;
        rows.map(|row| alert_row(row?)).collect()
    }

    fn acknowledge(&self, id: i64, by: &str, at_ms: UnixMs) -> Result<bool, StoreError> {
        let mut statement = self.0.prepare_cached(
            "UPDATE alert SET acknowledged_by = ?2, acknowledged_ms = ?3 WHERE id = ?1 AND acknowledged_ms IS NULL",
        )?;
        Ok(statement.execute((id, by, at_ms))? > 0)
    }

    fn put_mark(&self, person: PersonId, mark: &Mark) -> Result<(), StoreError> {
        let mut statement =
            self.0.prepare_cached("INSERT OR IGNORE INTO person_mark (person, mark) VALUES (?1, ?2)")?;
        statement.execute((person, mark))?;
        Ok(())
    }

    fn mark(&self, person: PersonId) -> Result<Option<Mark>, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT mark FROM person_mark WHERE person = ?1")?;
        let mark: Option<Vec<u8>> = statement.query_row([person], |row| row.get(0)).optional()?;
        mark.map(array).transpose()
    }

    fn add_removal(&self, mark: &Mark, feed: FeedId, at_ms: UnixMs, gseq: RegisterSeq) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT INTO removal (mark, feed, at_ms, gseq, last_head)
             SELECT ?1, ?2, ?3, ?4, COALESCE((SELECT MAX(id) FROM head), 0)",
        )?;
        statement.execute((mark, feed.as_str(), at_ms, signed(gseq)))?;
        Ok(())
    }

    fn returned(&self, mark: &Mark, feed: FeedId) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached("UPDATE removal SET returned = 1 WHERE mark = ?1 AND feed = ?2")?;
        statement.execute((mark, feed.as_str()))?;
        Ok(())
    }

    fn removals(&self, feed: Option<FeedId>, mark: Option<&Mark>) -> Result<Vec<RemovalRow>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT id, mark, feed, at_ms, gseq, last_head, returned FROM removal
             WHERE (?1 IS NULL OR feed = ?1) AND (?2 IS NULL OR mark = ?2) ORDER BY id",
        )?;
        let feed = feed.as_ref().map(|feed| feed.as_str());
        let rows =
            statement.query_map((feed, mark), |row| <(i64, Vec<u8>, String, i64, i64, i64, bool)>::try_from(row))?;
        rows.map(|row| {
            let (id, mark, feed, at_ms, gseq, last_head, returned) = row?;
            let (mark, feed, gseq) = (array(mark)?, name(&feed)?, unsigned(gseq));
            Ok(RemovalRow { id, mark, feed, at_ms, gseq, last_head, returned })
        })
        .collect()
    }

    fn head_by_half(&self, half: &[u8; 16]) -> Result<Option<(i64, Vec<u8>)>, StoreError> {
        let (mut from, mut to) = ([0; 32], [0xff; 32]);
        from[..16].copy_from_slice(half);
        to[..16].copy_from_slice(half);
        let mut statement = self.0.prepare_cached("SELECT id, bytes FROM head WHERE hash BETWEEN ?1 AND ?2")?;
        Ok(statement.query_row((from, to), |row| <(i64, Vec<u8>)>::try_from(row)).optional()?)
    }

    fn granted(&self, device: DeviceId, at_ms: UnixMs) -> Result<(), StoreError> {
        self.0.prepare_cached("UPDATE device SET granted_ms = ?2 WHERE device = ?1")?.execute((device.0, at_ms))?;
        Ok(())
    }

    fn granted_ms(&self, device: DeviceId) -> Result<UnixMs, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT granted_ms FROM device WHERE device = ?1")?;
        Ok(statement.query_row([device.0], |row| row.get(0)).optional()?.unwrap_or(0))
    }

    fn held_feeds(&self, device: DeviceId) -> Result<Vec<HeldFeed>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT feed, MIN(granted_ms), MAX(throughout), MAX(left_ms) FROM device_key
             WHERE device = ?1 GROUP BY feed ORDER BY feed",
        )?;
        let rows = statement.query_map([device.0], |row| <(String, i64, bool, i64)>::try_from(row))?;
        rows.map(|row| {
            let (feed, since_ms, held, left_ms) = row?;
            Ok(HeldFeed { feed: name(&feed)?, since_ms, left_ms: (!held).then_some(left_ms) })
        })
        .collect()
    }
}
