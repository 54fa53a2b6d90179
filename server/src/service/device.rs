//! What a device is told of itself: that it is withdrawn, and its next certificate.
//! It must not give a withdrawn device anything that opens a cell.

use cpis_protocol::id::UnixMs;
use cpis_protocol::message::{DeviceReply, DeviceReport};
use cpis_protocol::sign::Kind;
use cpis_protocol::withdrawal::{Withdrawal, WithdrawalAction};
use cpis_protocol::{codec, limits};

use super::{Service, ServiceError, internal};
use crate::certificate;
use crate::port::{DeviceRow, DeviceState, Fleet as _, Store};

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
    /// so is one that is not the newest: the reply that carried that one was lost.
    pub(super) fn report(&self, device: &DeviceRow, body: &[u8], now_ms: UnixMs) -> Result<Vec<u8>, ServiceError> {
        let report: DeviceReport =
            codec::decode(body, limits::REPORT_BYTES_MAX).map_err(|refusal| ServiceError::Refused(refusal.code()))?;
        let days = i64::from(self.config.certificate_days);
        let due = report.certificate_until_ms < device.certificate_until_ms
            || report.certificate_until_ms.saturating_sub(now_ms) < days * DAY_MS / 3;
        let mut reply = DeviceReply { certificate: Vec::new() };
        // A device withdrawn for good needs none: its last one carries its audit and its receipt.
        if due && !device.state.is_final() {
            let issued = certificate::device(&self.keys.authority, &self.deployment, &device.device_key, now_ms, days)?;
            self.store.write::<_, ServiceError>(|tx| {
                let row = tx.device(device.device)?.ok_or(ServiceError::Unauthorised)?;
                let (serial, until) = (issued.serial.clone(), issued.until_ms);
                Ok(tx.put_device(&DeviceRow { serial, certificate_until_ms: until, ..row })?)
            })?;
            tracing::info!(device = %device.device, "device certificate renewed");
            reply.certificate = issued.der;
        }
        codec::encode(&reply).map_err(internal)
    }
}
