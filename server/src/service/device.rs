//! What a device is told of itself: that it is withdrawn, and its next certificate.
//! It must not give a withdrawn device anything that opens a cell.

use cpis_protocol::id::UnixMs;
use cpis_protocol::message::{DeviceReply, DeviceReport};
use cpis_protocol::sign::{Kind, PublicKey};
use cpis_protocol::withdrawal::{Withdrawal, WithdrawalAction};
use cpis_protocol::{codec, limits};

use super::{Service, ServiceError, internal};
use crate::certificate::{self, Issued};
use crate::port::{DeviceRow, DeviceState, Fleet as _, Reported, Store};

const DAY_MS: i64 = 86_400_000;

impl<S: Store> Service<S> {
    /// The signed word that a device is withdrawn; it counts together with the grants.
    pub(super) fn withdrawal(&self, device: &DeviceRow, now_ms: UnixMs) -> Result<Vec<u8>, ServiceError> {
        let (number, action) = self.store.write(|tx| {
            let mut device = tx.device(device.device)?.ok_or(ServiceError::Unauthorised)?;
            let action = match device.state {
                // Another process has just let it in again: it asks once more.
                DeviceState::Active => return Err(ServiceError::Retry(1)),
                DeviceState::Suspended => WithdrawalAction::Suspend,
                DeviceState::Revoked | DeviceState::Lost | DeviceState::Retired => WithdrawalAction::Erase,
            };
            device.grant_number += 1;
            device.last_seen_ms = Some(now_ms);
            tx.put_device(&device)?;
            Ok((device.grant_number, action))
        })?;
        let withdrawal = Withdrawal { device: device.device, number, action, issued_ms: now_ms };
        self.keys.authority.sign(Kind::Withdrawal, &withdrawal).map_err(internal)
    }

    /// Takes in a device's report; a certificate with less than a third of its life left is followed by a new one, and
    /// so is one that is not the newest (the reply that carried that one was lost) or not by the present authority.
    pub(super) fn report(&self, device: &DeviceRow, body: &[u8], now_ms: UnixMs) -> Result<Vec<u8>, ServiceError> {
        let report: DeviceReport =
            codec::decode(body, limits::REPORT_BYTES_MAX).map_err(|refusal| ServiceError::Refused(refusal.code()))?;
        let reported = Reported {
            at_ms: now_ms,
            version: report.version,
            secret: report.secret,
            root_version: report.root_version,
            break_glass: report.break_glass,
            unrecorded: report.unrecorded,
        };
        let renewed = self.store.write::<_, ServiceError>(|tx| {
            // Read again: another process may have withdrawn it.
            let row = tx.device(device.device)?.ok_or(ServiceError::Unauthorised)?;
            let row = DeviceRow { reported: Some(reported), ..row };
            // A device withdrawn for good needs none: its last one carries its audit and its receipt.
            let issued = if row.state.is_final() { None } else { self.renew(&row, &report, now_ms)? };
            let Some((issued, authority)) = issued else {
                tx.put_device(&row)?;
                return Ok(None);
            };
            let (serial, until) = (issued.serial, issued.until_ms);
            let certificate_by = Some(authority);
            tx.put_device(&DeviceRow { serial, certificate_until_ms: until, certificate_by, ..row })?;
            Ok(Some(issued.der))
        })?;
        if renewed.is_some() {
            tracing::info!(device = %device.device, "device certificate renewed");
        }
        codec::encode(&DeviceReply { certificate: renewed.unwrap_or_default() }).map_err(internal)
    }

    /// The next certificate of a device and the authority that issued it; `None` when none is due.
    fn renew(
        &self,
        row: &DeviceRow,
        report: &DeviceReport,
        now_ms: UnixMs,
    ) -> Result<Option<(Issued, PublicKey)>, ServiceError> {
        let signer = self.keys.authority.signer();
        let authority = signer.public_key();
        let days = i64::from(self.config.certificate_days);
        let due = report.certificate_until_ms < row.certificate_until_ms
            || report.certificate_until_ms.saturating_sub(now_ms) < days * DAY_MS / 3
            || row.certificate_by != Some(authority);
        if !due {
            return Ok(None);
        }
        // Each ends later than the one that the device has, so that it can tell them apart, and a lost one is noticed.
        // A report that understates that end gains nothing.
        let before = report.certificate_until_ms.min(row.certificate_until_ms);
        let days = days.max(before.div_euclid(DAY_MS) - now_ms.div_euclid(DAY_MS));
        let issued = certificate::device(&signer, &self.deployment, &row.device_key, now_ms, days)?;
        Ok(Some((issued, authority)))
    }
}
