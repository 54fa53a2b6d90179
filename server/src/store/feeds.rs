//! Feeds, logs, scopes and heads in SQLite.
//! It must not open a cell or a key.

use cpis_protocol::cell::{Cell, CellKind};
use cpis_protocol::digest::Hash;
use cpis_protocol::id::{BlindId, DeviceId, FeedId, FeedSeq, ScopeId, UnixMs};
use rusqlite::{OptionalExtension as _, Row};

use super::{SqliteTx, array, name, signed, unsigned};
use crate::port::{CellLog, FeedRow, Feeds, HeadRow, PersonId, Placement, ScopeRow, StoreError};

type RawFeed = (String, i64, u32, u32, Vec<u8>, u32, u32);

fn feed_row(raw: RawFeed) -> Result<FeedRow, StoreError> {
    let (feed, epoch, seq, count, state_root, key_id, oldest_key_id) = raw;
    let (feed, epoch, state_root) = (name(&feed)?, unsigned(epoch), array(state_root)?);
    Ok(FeedRow { feed, epoch, seq, count, state_root, key_id, oldest_key_id })
}

type RawHead = (Vec<u8>, String, i64, i64, Vec<u8>);

fn head_row((hash, scope, gseq, issued_ms, bytes): RawHead) -> Result<HeadRow, StoreError> {
    Ok(HeadRow { hash: array(hash)?, scope: name(&scope)?, gseq: unsigned(gseq), issued_ms, bytes })
}

impl SqliteTx<'_> {
    fn scope_feeds(&self, scope: &str) -> Result<Vec<FeedId>, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT feed FROM scope_feed WHERE scope = ?1 ORDER BY feed")?;
        let rows = statement.query_map([scope], |row| row.get::<_, String>(0))?;
        rows.map(|feed| name(&feed?)).collect()
    }
}

impl Feeds for SqliteTx<'_> {
    fn feeds(&self) -> Result<Vec<FeedRow>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT feed, epoch, seq, count, state_root, key_id, oldest_key_id FROM feed ORDER BY feed",
        )?;
        let rows = statement.query_map([], |row: &Row<'_>| RawFeed::try_from(row))?;
        rows.map(|row| feed_row(row?)).collect()
    }

    fn feed(&self, feed: FeedId) -> Result<Option<FeedRow>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT feed, epoch, seq, count, state_root, key_id, oldest_key_id FROM feed WHERE feed = ?1",
        )?;
        let raw = statement.query_row([feed.as_str()], |row| RawFeed::try_from(row)).optional()?;
        raw.map(feed_row).transpose()
    }

    fn put_feed(&self, row: &FeedRow) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT INTO feed (feed, epoch, seq, count, state_root, key_id, oldest_key_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (feed) DO UPDATE
             SET epoch = ?2, seq = ?3, count = ?4, state_root = ?5, key_id = ?6, oldest_key_id = ?7",
        )?;
        let (feed, epoch) = (row.feed.as_str(), signed(row.epoch));
        let keys = (row.key_id, row.oldest_key_id);
        statement.execute((feed, epoch, row.seq, row.count, row.state_root, keys.0, keys.1))?;
        Ok(())
    }

    fn feed_keys(&self, log: CellLog) -> Result<Vec<(u32, Vec<u8>)>, StoreError> {
        let mut statement = self
            .0
            .prepare_cached("SELECT key_id, sealed FROM feed_key WHERE feed = ?1 AND epoch = ?2 ORDER BY key_id")?;
        let rows =
            statement.query_map((log.feed.as_str(), signed(log.epoch)), |row| <(u32, Vec<u8>)>::try_from(row))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn put_feed_key(&self, log: CellLog, key_id: u32, sealed: &[u8], made_ms: UnixMs) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT INTO feed_key (feed, epoch, key_id, sealed, made_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        statement.execute((log.feed.as_str(), signed(log.epoch), key_id, sealed, made_ms))?;
        Ok(())
    }

    fn feed_key_made(&self, log: CellLog, key_id: u32) -> Result<Option<UnixMs>, StoreError> {
        let mut statement =
            self.0.prepare_cached("SELECT made_ms FROM feed_key WHERE feed = ?1 AND epoch = ?2 AND key_id = ?3")?;
        Ok(statement.query_row((log.feed.as_str(), signed(log.epoch), key_id), |row| row.get(0)).optional()?)
    }

    fn hold_key(&self, device: DeviceId, log: CellLog, key_id: u32, granted_ms: UnixMs) -> Result<(), StoreError> {
        // The time of the first grant stands.
        let mut statement = self.0.prepare_cached(
            "INSERT INTO device_key (device, feed, epoch, key_id, granted_ms) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (device, feed, epoch, key_id) DO UPDATE SET throughout = 1 WHERE throughout = 0",
        )?;
        statement.execute((device.0, log.feed.as_str(), signed(log.epoch), key_id, granted_ms))?;
        Ok(())
    }

    fn held_keys(&self, device: DeviceId, log: CellLog) -> Result<Vec<(u32, bool)>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT key_id, throughout FROM device_key WHERE device = ?1 AND feed = ?2 AND epoch = ?3 ORDER BY key_id",
        )?;
        let rows = statement
            .query_map((device.0, log.feed.as_str(), signed(log.epoch)), |row| <(u32, bool)>::try_from(row))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn leave_other_feeds(&self, device: DeviceId, kept: &[FeedId], at_ms: UnixMs) -> Result<(), StoreError> {
        let held: Vec<String> = {
            let mut statement =
                self.0.prepare_cached("SELECT DISTINCT feed FROM device_key WHERE device = ?1 AND throughout = 1")?;
            statement.query_map([device.0], |row| row.get(0))?.collect::<Result<_, _>>()?
        };
        let mut leave = self
            .0
            .prepare_cached("UPDATE device_key SET throughout = 0, left_ms = ?3 WHERE device = ?1 AND feed = ?2")?;
        for feed in held.iter().filter(|feed| !kept.iter().any(|kept| kept.as_str() == feed.as_str())) {
            leave.execute((device.0, feed, at_ms))?;
        }
        Ok(())
    }

    fn holders_of_older(&self, log: CellLog, key_id: u32) -> Result<u64, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT COUNT(DISTINCT device) FROM device_key WHERE feed = ?1 AND NOT (epoch = ?2 AND key_id = ?3)",
        )?;
        let count = statement.query_row((log.feed.as_str(), signed(log.epoch), key_id), |row| row.get(0))?;
        Ok(unsigned(count))
    }

    fn placed_after(&self, feed: FeedId, above: PersonId, limit: usize) -> Result<Vec<PersonId>, StoreError> {
        let mut statement = self
            .0
            .prepare_cached("SELECT person FROM placement WHERE feed = ?1 AND person > ?2 ORDER BY person LIMIT ?3")?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map((feed.as_str(), above, limit), |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn placements(&self, person: PersonId) -> Result<Vec<Placement>, StoreError> {
        let mut statement =
            self.0.prepare_cached("SELECT feed, blind, fingerprint FROM placement WHERE person = ?1 ORDER BY feed")?;
        let rows = statement.query_map([person], |row| <(String, Vec<u8>, Vec<u8>)>::try_from(row))?;
        rows.map(|row| {
            let (feed, blind, fingerprint) = row?;
            Ok(Placement { feed: name(&feed)?, blind: BlindId(array(blind)?), fingerprint: array(fingerprint)? })
        })
        .collect()
    }

    fn put_placement(&self, person: PersonId, placement: &Placement) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT OR REPLACE INTO placement (person, feed, blind, fingerprint) VALUES (?1, ?2, ?3, ?4)",
        )?;
        statement.execute((person, placement.feed.as_str(), placement.blind.0, placement.fingerprint))?;
        Ok(())
    }

    fn delete_placement(&self, person: PersonId, feed: FeedId) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached("DELETE FROM placement WHERE person = ?1 AND feed = ?2")?;
        statement.execute((person, feed.as_str()))?;
        Ok(())
    }

    fn seats(&self, person: PersonId, feed: FeedId) -> Result<Vec<(Hash, u32)>, StoreError> {
        let mut statement = self
            .0
            .prepare_cached("SELECT question, seat FROM seat WHERE person = ?1 AND feed = ?2 ORDER BY question")?;
        let rows = statement.query_map((person, feed.as_str()), |row| <(Vec<u8>, u32)>::try_from(row))?;
        rows.map(|row| {
            let (question, seat) = row?;
            Ok((array(question)?, seat))
        })
        .collect()
    }

    fn take_seat(&self, person: PersonId, feed: FeedId, question: &Hash) -> Result<u32, StoreError> {
        let mut taken =
            self.0.prepare_cached("SELECT seat FROM seat WHERE feed = ?1 AND question = ?2 ORDER BY seat")?;
        let mut free = 0;
        for seat in taken.query_map((feed.as_str(), question), |row| row.get::<_, u32>(0))? {
            if seat? > free {
                break;
            }
            free += 1;
        }
        let mut insert =
            self.0.prepare_cached("INSERT INTO seat (feed, question, seat, person) VALUES (?1, ?2, ?3, ?4)")?;
        insert.execute((feed.as_str(), question, free, person))?;
        Ok(free)
    }

    fn leave_seat(&self, person: PersonId, feed: FeedId, question: &Hash) -> Result<(), StoreError> {
        let mut statement =
            self.0.prepare_cached("DELETE FROM seat WHERE person = ?1 AND feed = ?2 AND question = ?3")?;
        statement.execute((person, feed.as_str(), question))?;
        Ok(())
    }

    fn seated_from(&self, feed: FeedId, question: &Hash, from: u32) -> Result<Option<PersonId>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT person FROM seat WHERE feed = ?1 AND question = ?2 AND seat >= ?3 ORDER BY seat LIMIT 1",
        )?;
        Ok(statement.query_row((feed.as_str(), question, from), |row| row.get(0)).optional()?)
    }

    fn append(&self, log: CellLog, cell: &Cell) -> Result<(), StoreError> {
        let (feed, epoch, blind) = (log.feed, signed(log.epoch), cell.blind().0);
        let live = cell.kind() == CellKind::Put;
        if cell.kind() != CellKind::Pad {
            let mut supersede = self.0.prepare_cached(
                "UPDATE cell SET superseded = ?4
                 WHERE feed = ?1 AND epoch = ?2 AND blind = ?3 AND live = 1 AND superseded IS NULL",
            )?;
            supersede.execute((feed.as_str(), epoch, blind, cell.seq()))?;
        }
        let mut insert = self.0.prepare_cached(
            "INSERT INTO cell (feed, epoch, seq, live, blind, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        insert.execute((feed.as_str(), epoch, cell.seq(), live, blind, cell.as_bytes()))?;
        Ok(())
    }

    fn cells(&self, log: CellLog, from: FeedSeq, to: FeedSeq) -> Result<Vec<u8>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT bytes FROM cell WHERE feed = ?1 AND epoch = ?2 AND seq > ?3 AND seq <= ?4 ORDER BY seq",
        )?;
        let mut rows = statement.query((log.feed.as_str(), signed(log.epoch), from, to))?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            out.extend_from_slice(row.get_ref(0)?.as_blob().map_err(|_| StoreError::Corrupt("cell.bytes"))?);
        }
        Ok(out)
    }

    fn live(
        &self,
        log: CellLog,
        seq: FeedSeq,
        each: &mut dyn FnMut(&[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        // The log of an earlier epoch is asked for by heads of then: always re-created.
        let last = self.feed(log.feed)?.filter(|row| row.epoch == log.epoch).map_or(u32::MAX, |row| row.seq);
        // The present live set comes sorted out of its own index; an older one is re-created from the log.
        let sql = if seq >= last {
            "SELECT bytes FROM cell WHERE feed = ?1 AND epoch = ?2 AND seq <= ?3 AND live = 1 AND superseded IS NULL
             ORDER BY blind"
        } else {
            "SELECT bytes FROM cell WHERE feed = ?1 AND epoch = ?2 AND seq <= ?3 AND live = 1
             AND (superseded IS NULL OR superseded > ?3) ORDER BY blind"
        };
        let mut statement = self.0.prepare_cached(sql)?;
        let mut rows = statement.query((log.feed.as_str(), signed(log.epoch), seq))?;
        while let Some(row) = rows.next()? {
            each(row.get_ref(0)?.as_blob().map_err(|_| StoreError::Corrupt("cell.bytes"))?)?;
        }
        Ok(())
    }

    fn log_end(&self, log: CellLog) -> Result<FeedSeq, StoreError> {
        let mut statement =
            self.0.prepare_cached("SELECT COALESCE(MAX(seq), 0) FROM cell WHERE feed = ?1 AND epoch = ?2")?;
        Ok(statement.query_row((log.feed.as_str(), signed(log.epoch)), |row| row.get(0))?)
    }

    fn logs(&self) -> Result<Vec<CellLog>, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT DISTINCT feed, epoch FROM feed_key ORDER BY feed, epoch")?;
        let rows = statement.query_map([], |row| <(String, i64)>::try_from(row))?;
        rows.map(|row| {
            let (feed, epoch) = row?;
            Ok(CellLog { feed: name(&feed)?, epoch: unsigned(epoch) })
        })
        .collect()
    }

    fn log_floor(&self, log: CellLog) -> Result<FeedSeq, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT floor FROM log WHERE feed = ?1 AND epoch = ?2")?;
        let floor = statement.query_row((log.feed.as_str(), signed(log.epoch)), |row| row.get(0)).optional()?;
        Ok(floor.unwrap_or(0))
    }

    fn raise_floor(&self, log: CellLog, floor: FeedSeq) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT INTO log (feed, epoch, floor) VALUES (?1, ?2, ?3)
             ON CONFLICT (feed, epoch) DO UPDATE SET floor = MAX(floor, ?3)",
        )?;
        statement.execute((log.feed.as_str(), signed(log.epoch), floor))?;
        Ok(())
    }

    fn end_log(&self, log: CellLog, now_ms: UnixMs) -> Result<UnixMs, StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT INTO log (feed, epoch, ended_ms) VALUES (?1, ?2, ?3)
             ON CONFLICT (feed, epoch) DO UPDATE SET ended_ms = COALESCE(ended_ms, ?3) RETURNING ended_ms",
        )?;
        Ok(statement.query_row((log.feed.as_str(), signed(log.epoch), now_ms), |row| row.get(0))?)
    }

    fn prune(&self, log: CellLog, floor: FeedSeq, limit: usize) -> Result<usize, StoreError> {
        let mut statement = self.0.prepare_cached(
            "DELETE FROM cell WHERE feed = ?1 AND epoch = ?2 AND seq IN (
               SELECT seq FROM cell WHERE feed = ?1 AND epoch = ?2 AND seq <= ?3
               AND (?3 = 4294967295 OR live = 0 OR superseded <= ?3) ORDER BY seq LIMIT ?4)",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Ok(statement.execute((log.feed.as_str(), signed(log.epoch), floor, limit))?)
    }

    fn head_at(&self, scope: ScopeId, at_ms: UnixMs) -> Result<Option<HeadRow>, StoreError> {
        // Each head of a scope is later than the one before: times and numbers have one order.
        let mut before = self.0.prepare_cached(
            "SELECT hash, scope, gseq, issued_ms, bytes FROM head
             WHERE scope = ?1 AND issued_ms <= ?2 ORDER BY id DESC LIMIT 1",
        )?;
        let raw = before.query_row((scope.as_str(), at_ms), |row| RawHead::try_from(row)).optional()?;
        if let Some(raw) = raw {
            return head_row(raw).map(Some);
        }
        let mut first = self.0.prepare_cached(
            "SELECT hash, scope, gseq, issued_ms, bytes FROM head WHERE scope = ?1 ORDER BY id LIMIT 1",
        )?;
        let raw = first.query_row([scope.as_str()], |row| RawHead::try_from(row)).optional()?;
        raw.map(head_row).transpose()
    }

    fn count_cells(&self) -> Result<u64, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT COALESCE(SUM(seq), 0) FROM feed")?;
        Ok(unsigned(statement.query_row([], |row| row.get(0))?))
    }

    fn scopes(&self) -> Result<Vec<ScopeRow>, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT scope FROM scope ORDER BY scope")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        rows.map(|scope| {
            let scope = scope?;
            Ok(ScopeRow { scope: name(&scope)?, feeds: self.scope_feeds(&scope)? })
        })
        .collect()
    }

    fn scope(&self, scope: ScopeId) -> Result<Option<ScopeRow>, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT 1 FROM scope WHERE scope = ?1")?;
        if !statement.exists([scope.as_str()])? {
            return Ok(None);
        }
        Ok(Some(ScopeRow { scope, feeds: self.scope_feeds(scope.as_str())? }))
    }

    fn add_scope(&self, row: &ScopeRow) -> Result<(), StoreError> {
        self.0.prepare_cached("INSERT INTO scope (scope) VALUES (?1)")?.execute([row.scope.as_str()])?;
        let mut statement = self.0.prepare_cached("INSERT INTO scope_feed (scope, feed) VALUES (?1, ?2)")?;
        for feed in &row.feeds {
            statement.execute((row.scope.as_str(), feed.as_str()))?;
        }
        Ok(())
    }

    fn put_head(&self, row: &HeadRow) -> Result<(), StoreError> {
        let mut statement = self
            .0
            .prepare_cached("INSERT INTO head (hash, scope, gseq, issued_ms, bytes) VALUES (?1, ?2, ?3, ?4, ?5)")?;
        statement.execute((row.hash, row.scope.as_str(), signed(row.gseq), row.issued_ms, &row.bytes))?;
        Ok(())
    }

    fn head(&self, hash: &Hash) -> Result<Option<HeadRow>, StoreError> {
        let mut statement =
            self.0.prepare_cached("SELECT hash, scope, gseq, issued_ms, bytes FROM head WHERE hash = ?1")?;
        let raw = statement.query_row([hash], |row| RawHead::try_from(row)).optional()?;
        raw.map(head_row).transpose()
    }

    fn newest_head(&self, scope: ScopeId) -> Result<Option<HeadRow>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT hash, scope, gseq, issued_ms, bytes FROM head WHERE scope = ?1 ORDER BY id DESC LIMIT 1",
        )?;
        let raw = statement.query_row([scope.as_str()], |row| RawHead::try_from(row)).optional()?;
        raw.map(head_row).transpose()
    }

    fn reference(&self, hash: &Hash) -> Result<Option<Vec<u8>>, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT bytes FROM reference WHERE hash = ?1")?;
        Ok(statement.query_row([hash], |row| row.get(0)).optional()?)
    }

    fn put_reference(&self, hash: &Hash, bytes: &[u8]) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached("INSERT OR IGNORE INTO reference (hash, bytes) VALUES (?1, ?2)")?;
        statement.execute((hash, bytes))?;
        Ok(())
    }
}
