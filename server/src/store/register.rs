//! The register's rows in SQLite.
//! It must not put a value of a person into an error.

use cpis_protocol::flag::FlagKind;
use cpis_protocol::id::{AuthorityCode, RegisterSeq, UnixMs};
use cpis_protocol::nhs::{Date, NhsNumber};
use rusqlite::OptionalExtension as _;

use super::{SqliteTx, array, name, signed, unsigned};
use crate::port::{AuthorityEntry, IngestRow, Person, PersonId, PersonPlan, Register, RegisterCounts, StoreError};

fn number(raw: i64) -> Result<NhsNumber, StoreError> {
    NhsNumber::new(unsigned(raw)).map_err(|_| StoreError::Corrupt("person.number"))
}

fn date(raw: u16) -> Result<Date, StoreError> {
    Date::try_from(raw).map_err(|_| StoreError::Corrupt("a date"))
}

fn days(date: Option<Date>) -> Option<u16> {
    date.map(Date::days)
}

type RawPlan = (String, u16, Option<u16>, Option<u16>, Option<u16>, Option<u32>);

fn plan((kind, authority, start, end, due, visible_until_min): RawPlan) -> Result<PersonPlan, StoreError> {
    Ok(PersonPlan {
        kind: FlagKind::from_code(&kind).ok_or(StoreError::Corrupt("plan.kind"))?,
        authority,
        start: start.map(date).transpose()?,
        end: end.map(date).transpose()?,
        due: due.map(date).transpose()?,
        visible_until_min,
    })
}

impl SqliteTx<'_> {
    fn plans(&self, id: PersonId) -> Result<Vec<PersonPlan>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT kind, authority, start, ended, due, visible_until_min FROM plan WHERE person = ?1",
        )?;
        let rows = statement.query_map([id], |row| RawPlan::try_from(row))?;
        let mut plans = rows.map(|row| plan(row?)).collect::<Result<Vec<_>, StoreError>>()?;
        plans.sort();
        Ok(plans)
    }

    fn count(&self, sql: &str) -> Result<u64, StoreError> {
        Ok(unsigned(self.0.prepare_cached(sql)?.query_row([], |row| row.get(0))?))
    }
}

impl Register for SqliteTx<'_> {
    fn authorities(&self) -> Result<Vec<AuthorityEntry>, StoreError> {
        let mut statement = self
            .0
            .prepare_cached("SELECT number, code, name, office_phone, duty_phone FROM authority ORDER BY number")?;
        let rows = statement.query_map([], |row| <(u16, String, String, String, String)>::try_from(row))?;
        rows.map(|row| {
            let (number, code, full_name, office_phone, duty_phone) = row?;
            Ok(AuthorityEntry { number, code: name(&code)?, name: full_name, office_phone, duty_phone })
        })
        .collect()
    }

    fn put_authority(&self, code: AuthorityCode, name: &str, office: &str, duty: &str) -> Result<u16, StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT INTO authority (number, code, name, office_phone, duty_phone)
             VALUES ((SELECT COALESCE(MAX(number), 0) + 1 FROM authority), ?1, ?2, ?3, ?4)
             ON CONFLICT (code) DO UPDATE SET name = ?2, office_phone = ?3, duty_phone = ?4 RETURNING number",
        )?;
        Ok(statement.query_row((code.as_str(), name, office, duty), |row| row.get(0))?)
    }

    fn person_id(&self, number: NhsNumber) -> Result<Option<PersonId>, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT id FROM person WHERE number = ?1")?;
        Ok(statement.query_row([signed(number.as_u64())], |row| row.get(0)).optional()?)
    }

    fn person(&self, id: PersonId) -> Result<Option<Person>, StoreError> {
        let mut statement = self
            .0
            .prepare_cached("SELECT number, birth, surname, given, postcode, restricted FROM person WHERE id = ?1")?;
        let raw = statement.query_row([id], |row| <(i64, u16, String, String, String, bool)>::try_from(row));
        let Some((raw, birth, surname, given, postcode, restricted)) = raw.optional()? else { return Ok(None) };
        let plans = self.plans(id)?;
        Ok(Some(Person { number: number(raw)?, birth: date(birth)?, surname, given, postcode, restricted, plans }))
    }

    fn put_person(&self, person: &Person) -> Result<PersonId, StoreError> {
        // Tokens of other questions: they would not open, and this way they are made again before the publication.
        let mut stale = self.0.prepare_cached(
            "DELETE FROM token WHERE person = (SELECT id FROM person WHERE number = ?1 AND NOT
             (birth = ?2 AND surname = ?3 AND given = ?4 AND postcode = ?5 AND restricted = ?6))",
        )?;
        stale.execute((
            signed(person.number.as_u64()),
            person.birth.days(),
            &person.surname,
            &person.given,
            &person.postcode,
            person.restricted,
        ))?;
        let mut statement = self.0.prepare_cached(
            "INSERT INTO person (number, birth, surname, given, postcode, restricted) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (number) DO UPDATE SET birth = ?2, surname = ?3, given = ?4, postcode = ?5, restricted = ?6
             RETURNING id",
        )?;
        let id: PersonId = statement.query_row(
            (
                signed(person.number.as_u64()),
                person.birth.days(),
                &person.surname,
                &person.given,
                &person.postcode,
                person.restricted,
            ),
            |row| row.get(0),
        )?;
        self.0.prepare_cached("DELETE FROM plan WHERE person = ?1")?.execute([id])?;
        let mut statement = self.0.prepare_cached(
            "INSERT INTO plan (person, kind, authority, start, ended, due, visible_until_min)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        for plan in &person.plans {
            statement.execute((
                id,
                plan.kind.code(),
                plan.authority,
                days(plan.start),
                days(plan.end),
                days(plan.due),
                plan.visible_until_min,
            ))?;
        }
        Ok(id)
    }

    fn delete_person(&self, id: PersonId) -> Result<(), StoreError> {
        self.0.prepare_cached("DELETE FROM person WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    fn log_change(&self, person: Option<PersonId>, at_ms: UnixMs) -> Result<RegisterSeq, StoreError> {
        self.0.prepare_cached("INSERT INTO change (person, at_ms) VALUES (?1, ?2)")?.execute((person, at_ms))?;
        Ok(unsigned(self.0.last_insert_rowid()))
    }

    fn last_gseq(&self) -> Result<RegisterSeq, StoreError> {
        self.count("SELECT COALESCE(MAX(gseq), 0) FROM change")
    }

    fn changed_after(&self, gseq: RegisterSeq, above: PersonId, limit: usize) -> Result<Vec<PersonId>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT DISTINCT person FROM change WHERE gseq > ?1 AND person > ?2 ORDER BY person LIMIT ?3",
        )?;
        let rows = statement.query_map((signed(gseq), above, limit_of(limit)), |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn count_changed_after(&self, gseq: RegisterSeq) -> Result<u64, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT COUNT(DISTINCT person) FROM change WHERE gseq > ?1")?;
        Ok(unsigned(statement.query_row([signed(gseq)], |row| row.get(0))?))
    }

    /// Both ways: a clock that was ahead once must not keep a visible plan out of the feeds for ever.
    fn outlived(&self, minute: u32) -> Result<Vec<PersonId>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT DISTINCT person FROM plan
             WHERE visible_until_min IS NOT NULL AND settled <> (visible_until_min <= ?1) ORDER BY person",
        )?;
        let rows = statement.query_map([minute], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn settle_outlived(&self, minute: u32) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "UPDATE plan SET settled = (visible_until_min <= ?1)
             WHERE visible_until_min IS NOT NULL AND settled <> (visible_until_min <= ?1)",
        )?;
        statement.execute([minute])?;
        Ok(())
    }

    fn tokens(&self, id: PersonId, parameters: &[u8; 32]) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut statement =
            self.0.prepare_cached("SELECT sealed FROM token WHERE person = ?1 AND parameters = ?2 ORDER BY slot")?;
        let rows = statement.query_map((id, parameters), |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn put_tokens(&self, id: PersonId, parameters: &[u8; 32], sealed: &[Vec<u8>]) -> Result<(), StoreError> {
        self.0.prepare_cached("DELETE FROM token WHERE person = ?1")?.execute([id])?;
        // Not for a person who was taken out meanwhile.
        let mut statement = self.0.prepare_cached(
            "INSERT INTO token (person, slot, parameters, sealed) SELECT id, ?2, ?3, ?4 FROM person WHERE id = ?1",
        )?;
        for (slot, sealed) in (0i64..).zip(sealed) {
            statement.execute((id, slot, parameters, sealed))?;
        }
        Ok(())
    }

    fn without_token(&self, parameters: &[u8; 32], above: PersonId, limit: usize) -> Result<Vec<PersonId>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT id FROM person
             WHERE id > ?2 AND NOT EXISTS (SELECT 1 FROM token WHERE token.person = id AND slot = 0 AND parameters = ?1)
             ORDER BY id LIMIT ?3",
        )?;
        let rows = statement.query_map((parameters, above, limit_of(limit)), |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn count_without_token(&self, parameters: &[u8; 32]) -> Result<u64, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT (SELECT COUNT(*) FROM person)
             - (SELECT COUNT(*) FROM token WHERE slot = 0 AND parameters = ?1)",
        )?;
        Ok(unsigned(statement.query_row([parameters], |row| row.get(0))?))
    }

    fn ingested(&self, hash: &[u8; 32]) -> Result<Option<IngestRow>, StoreError> {
        let mut statement =
            self.0.prepare_cached("SELECT hash, at_ms, source, records, changed FROM ingest WHERE hash = ?1")?;
        let raw = statement.query_row([hash], |row| <(Vec<u8>, i64, String, i64, i64)>::try_from(row)).optional()?;
        raw.map(|(hash, at_ms, source, records, changed)| {
            Ok(IngestRow { hash: array(hash)?, at_ms, source, records: unsigned(records), changed: unsigned(changed) })
        })
        .transpose()
    }

    fn put_ingested(&self, row: &IngestRow) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT OR REPLACE INTO ingest (hash, at_ms, source, records, changed) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        statement.execute((&row.hash, row.at_ms, &row.source, signed(row.records), signed(row.changed)))?;
        Ok(())
    }

    fn register_counts(&self) -> Result<RegisterCounts, StoreError> {
        Ok(RegisterCounts {
            persons: self.count("SELECT COUNT(*) FROM person")?,
            plans: self.count("SELECT COUNT(*) FROM plan")?,
            authorities: self.count("SELECT COUNT(*) FROM authority")?,
        })
    }
}

fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
