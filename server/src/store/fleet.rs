//! Sites, practitioners, invitations and devices in SQLite.
//! It must not hold a code or a private key.

use cpis_protocol::codec;
use cpis_protocol::grant::Badge;
use cpis_protocol::id::{DeviceId, PractitionerId, RegisterSeq, SiteId, UnixMs};
use cpis_protocol::policy::{AccessMode, Policy};
use cpis_protocol::text::Text;
use rusqlite::{OptionalExtension as _, Row};

use super::{SqliteTx, array, name, signed, unsigned};
use crate::port::{
    DeviceEvent, DeviceRow, DeviceState, Fleet, InvitationRow, PractitionerRow, Reported, SiteRow, StoreError,
};

type RawSite = (String, Vec<u8>, u32);

fn site_row((site, policy, lease_s): RawSite) -> Result<SiteRow, StoreError> {
    let policy: Policy = codec::decode(&policy, 1024).map_err(|_| StoreError::Corrupt("site.policy"))?;
    Ok(SiteRow { site: name(&site)?, policy, lease_s })
}

type RawBadge = (String, String, String, bool, i64);

fn badge((practitioner, full_name, role, silent, valid_until_ms): RawBadge) -> Result<Badge, StoreError> {
    let activity = if silent { AccessMode::Silent } else { AccessMode::Unscheduled };
    let (practitioner, name, role) = (name(&practitioner)?, name(&full_name)?, name(&role)?);
    Ok(Badge { practitioner, name, role, activity, valid_until_ms })
}

type RawInvitation = (Vec<u8>, String, String, u32, i64, i64, u8, Option<Vec<u8>>);

fn invitation(raw: RawInvitation) -> Result<InvitationRow, StoreError> {
    let (code_hash, scope, site, root_version, made_ms, expires_ms, attempts_left, used_by) = raw;
    Ok(InvitationRow {
        code_hash: array(code_hash)?,
        scope: name(&scope)?,
        site: name(&site)?,
        root_version,
        made_ms,
        expires_ms,
        attempts_left,
        used_by: used_by.map(|id| array(id).map(DeviceId)).transpose()?,
    })
}

const DEVICE: &str = "SELECT device, device_key, vault_key, site, scope, practitioner, state, serial,
    certificate_until_ms, enrolled_at_ms, last_seen_ms, last_gseq, grant_number, lease_until_ms, certificate_by,
    reported_ms, reported_version, reported_secret, reported_root, reported_break_glass, reported_unrecorded FROM device";

fn reported(row: &Row<'_>, at_ms: UnixMs) -> Result<Reported, StoreError> {
    let text = |at: usize| -> Result<Text<24>, StoreError> {
        Text::new(&row.get::<_, String>(at)?).map_err(|_| StoreError::Corrupt("device.reported"))
    };
    Ok(Reported {
        at_ms,
        version: text(16)?,
        secret: text(17)?,
        root_version: row.get(18)?,
        break_glass: row.get(19)?,
        unrecorded: row.get(20)?,
    })
}

fn device(row: &Row<'_>) -> Result<DeviceRow, StoreError> {
    let text = |at: usize| -> Result<String, StoreError> { Ok(row.get(at)?) };
    Ok(DeviceRow {
        device: DeviceId(array(row.get(0)?)?),
        device_key: array(row.get(1)?)?,
        vault_key: array(row.get(2)?)?,
        site: name(&text(3)?)?,
        scope: name(&text(4)?)?,
        practitioner: name(&text(5)?)?,
        state: *DeviceState::ALL.get(usize::from(row.get::<_, u8>(6)?)).ok_or(StoreError::Corrupt("device.state"))?,
        serial: row.get(7)?,
        certificate_until_ms: row.get(8)?,
        enrolled_at_ms: row.get(9)?,
        last_seen_ms: row.get(10)?,
        last_gseq: unsigned(row.get(11)?),
        grant_number: unsigned(row.get(12)?),
        lease_until_ms: row.get(13)?,
        certificate_by: array(row.get(14)?).ok(),
        reported: row.get::<_, Option<UnixMs>>(15)?.map(|at_ms| reported(row, at_ms)).transpose()?,
    })
}

impl Fleet for SqliteTx<'_> {
    fn sites(&self) -> Result<Vec<SiteRow>, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT site, policy, lease_s FROM site ORDER BY site")?;
        let rows = statement.query_map([], |row: &Row<'_>| RawSite::try_from(row))?;
        rows.map(|row| site_row(row?)).collect()
    }

    fn site(&self, site: SiteId) -> Result<Option<SiteRow>, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT site, policy, lease_s FROM site WHERE site = ?1")?;
        let raw = statement.query_row([site.as_str()], |row| RawSite::try_from(row)).optional()?;
        raw.map(site_row).transpose()
    }

    fn add_site(&self, row: &SiteRow) -> Result<(), StoreError> {
        let policy = codec::encode(&row.policy).map_err(|_| StoreError::Corrupt("site.policy"))?;
        let mut statement = self.0.prepare_cached("INSERT INTO site (site, policy, lease_s) VALUES (?1, ?2, ?3)")?;
        statement.execute((row.site.as_str(), policy, row.lease_s))?;
        Ok(())
    }

    fn change_site(&self, row: &SiteRow) -> Result<(), StoreError> {
        let policy = codec::encode(&row.policy).map_err(|_| StoreError::Corrupt("site.policy"))?;
        let mut statement = self.0.prepare_cached("UPDATE site SET policy = ?2, lease_s = ?3 WHERE site = ?1")?;
        statement.execute((row.site.as_str(), policy, row.lease_s))?;
        Ok(())
    }

    fn practitioners(&self) -> Result<Vec<PractitionerRow>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT practitioner, name, role, silent, valid_until_ms FROM practitioner ORDER BY practitioner",
        )?;
        let mut sites =
            self.0.prepare_cached("SELECT site FROM practitioner_site WHERE practitioner = ?1 ORDER BY site")?;
        let rows = statement.query_map([], |row: &Row<'_>| RawBadge::try_from(row))?;
        rows.map(|row| {
            let badge = badge(row?)?;
            let found = sites.query_map([badge.practitioner.as_str()], |row| row.get::<_, String>(0))?;
            let sites = found.map(|site| name(&site?)).collect::<Result<_, StoreError>>()?;
            Ok(PractitionerRow { badge, sites })
        })
        .collect()
    }

    fn badges(&self, site: SiteId) -> Result<Vec<Badge>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT practitioner, name, role, silent, valid_until_ms FROM practitioner JOIN practitioner_site USING (practitioner)
             WHERE site = ?1 ORDER BY practitioner",
        )?;
        let rows = statement.query_map([site.as_str()], |row: &Row<'_>| RawBadge::try_from(row))?;
        rows.map(|row| badge(row?)).collect()
    }

    fn put_practitioner(&self, row: &PractitionerRow) -> Result<(), StoreError> {
        let badge = &row.badge;
        let mut statement = self.0.prepare_cached(
            "INSERT INTO practitioner (practitioner, name, role, silent, valid_until_ms) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (practitioner) DO UPDATE SET name = ?2, role = ?3, silent = ?4, valid_until_ms = ?5",
        )?;
        let id = badge.practitioner.as_str();
        let silent = badge.activity == AccessMode::Silent;
        statement.execute((id, badge.name.as_str(), badge.role.as_str(), silent, badge.valid_until_ms))?;
        let mut statement =
            self.0.prepare_cached("INSERT OR IGNORE INTO practitioner_site (practitioner, site) VALUES (?1, ?2)")?;
        for site in &row.sites {
            statement.execute((id, site.as_str()))?;
        }
        Ok(())
    }

    fn remove_practitioner(&self, id: PractitionerId, site: Option<SiteId>) -> Result<usize, StoreError> {
        let mut statement = self
            .0
            .prepare_cached("DELETE FROM practitioner_site WHERE practitioner = ?1 AND (?2 IS NULL OR site = ?2)")?;
        let removed = statement.execute((id.as_str(), site.as_ref().map(SiteId::as_str)))?;
        let mut statement = self.0.prepare_cached(
            "DELETE FROM practitioner WHERE practitioner = ?1
             AND NOT EXISTS (SELECT 1 FROM practitioner_site WHERE practitioner_site.practitioner = ?1)",
        )?;
        statement.execute([id.as_str()])?;
        Ok(removed)
    }

    fn add_invitation(&self, row: &InvitationRow) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT INTO invitation (code_hash, scope, site, root_version, made_ms, expires_ms, attempts_left)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        statement.execute((
            row.code_hash,
            row.scope.as_str(),
            row.site.as_str(),
            row.root_version,
            row.made_ms,
            row.expires_ms,
            row.attempts_left,
        ))?;
        Ok(())
    }

    fn invitations(&self, now_ms: UnixMs) -> Result<Vec<InvitationRow>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT code_hash, scope, site, root_version, made_ms, expires_ms, attempts_left, used_by FROM invitation
             WHERE expires_ms > ?1 ORDER BY made_ms",
        )?;
        let rows = statement.query_map([now_ms], |row: &Row<'_>| RawInvitation::try_from(row))?;
        rows.map(|row| invitation(row?)).collect()
    }

    fn update_invitation(&self, row: &InvitationRow) -> Result<(), StoreError> {
        let mut statement =
            self.0.prepare_cached("UPDATE invitation SET attempts_left = ?2, used_by = ?3 WHERE code_hash = ?1")?;
        statement.execute((row.code_hash, row.attempts_left, row.used_by.map(|id| id.0)))?;
        Ok(())
    }

    fn devices(&self) -> Result<Vec<DeviceRow>, StoreError> {
        let mut statement = self.0.prepare_cached(&format!("{DEVICE} ORDER BY device"))?;
        let mut rows = statement.query([])?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            out.push(device(row)?);
        }
        Ok(out)
    }

    fn device(&self, id: DeviceId) -> Result<Option<DeviceRow>, StoreError> {
        let mut statement = self.0.prepare_cached(&format!("{DEVICE} WHERE device = ?1"))?;
        let mut rows = statement.query([id.0])?;
        rows.next()?.map(device).transpose()
    }

    fn put_device(&self, row: &DeviceRow) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT INTO device (device, device_key, vault_key, site, scope, practitioner, revoked, serial,
               certificate_until_ms, enrolled_at_ms, last_seen_ms, last_gseq, grant_number, lease_until_ms, state, certificate_by)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7 <> 0, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?7, ?15)
             ON CONFLICT (device) DO UPDATE SET vault_key = ?3, site = ?4, scope = ?5, practitioner = ?6, state = ?7, revoked = ?7 <> 0,
               serial = ?8, certificate_until_ms = ?9, enrolled_at_ms = ?10, last_seen_ms = ?11, last_gseq = ?12,
               grant_number = ?13, lease_until_ms = ?14, certificate_by = ?15",
        )?;
        statement.execute((
            row.device.0,
            row.device_key,
            row.vault_key,
            row.site.as_str(),
            row.scope.as_str(),
            row.practitioner.as_str(),
            (0u8..).zip(DeviceState::ALL).find(|(_, state)| *state == row.state).map_or(1, |(number, _)| number),
            &row.serial,
            row.certificate_until_ms,
            row.enrolled_at_ms,
            row.last_seen_ms,
            signed(row.last_gseq),
            signed(row.grant_number),
            row.lease_until_ms,
            row.certificate_by.map_or_else(Vec::new, |key| key.to_vec()),
        ))?;
        // A device has reported nothing, or what the row says: nothing takes a report back.
        let Some(reported) = &row.reported else { return Ok(()) };
        let mut statement = self.0.prepare_cached(
            "UPDATE device SET reported_ms = ?2, reported_version = ?3, reported_secret = ?4, reported_root = ?5,
               reported_break_glass = ?6, reported_unrecorded = ?7 WHERE device = ?1",
        )?;
        statement.execute((
            row.device.0,
            reported.at_ms,
            reported.version.as_str(),
            reported.secret.as_str(),
            reported.root_version,
            reported.break_glass,
            reported.unrecorded,
        ))?;
        Ok(())
    }

    fn add_device_event(&self, event: &DeviceEvent) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT INTO device_event (device, at_ms, by_whom, what, reason) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        statement.execute((event.device.0, event.at_ms, &event.by, &event.what, &event.reason))?;
        Ok(())
    }

    fn last_device_event(&self) -> Result<u64, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT coalesce(max(id), 0) FROM device_event")?;
        Ok(unsigned(statement.query_row([], |row| row.get(0))?))
    }

    fn device_events(&self, device: DeviceId) -> Result<Vec<DeviceEvent>, StoreError> {
        let mut statement = self
            .0
            .prepare_cached("SELECT at_ms, by_whom, what, reason FROM device_event WHERE device = ?1 ORDER BY id")?;
        let rows = statement.query_map([device.0], |row| {
            Ok(DeviceEvent { device, at_ms: row.get(0)?, by: row.get(1)?, what: row.get(2)?, reason: row.get(3)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn seen(&self, device: DeviceId, at_ms: UnixMs, gseq: Option<RegisterSeq>) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "UPDATE device SET last_seen_ms = ?2, last_gseq = COALESCE(?3, last_gseq) WHERE device = ?1",
        )?;
        statement.execute((device.0, at_ms, gseq.map(signed)))?;
        Ok(())
    }
}
