//! Enrolment: a one-time code and a proven key become a certificate and a first grant.
//! It must not keep a code, nor let one be used by two devices.

use cpis_protocol::digest::sha256;
use cpis_protocol::enrol::{EnrolReply, EnrolRequest, Invitation};
use cpis_protocol::id::{DeviceId, ScopeId, SiteId, UnixMs};
use cpis_protocol::sign::{PublicKey, Verified};
use cpis_protocol::trust::Root;
use cpis_protocol::{FORMAT, Refusal, codec, limits};
use subtle::ConstantTimeEq as _;

use super::{Service, ServiceError, internal};
use crate::port::{DeviceRow, DeviceState, Fleet as _, InvitationRow, Store, StoreError, Tx};
use crate::{certificate, entropy};

/// How often an invitation may be tried before it is dead.
pub const ATTEMPTS: u8 = 5;

/// Why an invitation could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The protocol refuses it.
    #[error("the invitation is refused: {0}")]
    Refused(#[from] Refusal),
}

/// Makes an invitation; the code is in the result and nowhere else.
///
/// # Errors
/// [`EnrolError`]; an unknown scope or site is a [`StoreError::Constraint`].
pub fn invite<S: Store>(
    store: &S,
    url: &str,
    root: &Verified<Root>,
    scope: ScopeId,
    site: SiteId,
    now_ms: UnixMs,
    expires_ms: UnixMs,
) -> Result<Invitation, EnrolError> {
    let invitation = Invitation {
        format: FORMAT,
        url: url.trim_end_matches('/').to_owned(),
        code: entropy::bytes(),
        root: root.bytes().to_vec(),
    };
    // Made before it is stored: what cannot be written down must not be waiting to be used.
    invitation.to_text()?;
    let row = InvitationRow {
        code_hash: sha256(&invitation.code),
        scope,
        site,
        root_version: root.version,
        made_ms: now_ms,
        expires_ms,
        attempts_left: ATTEMPTS,
        used_by: None,
    };
    store.write(|tx| tx.add_invitation(&row))?;
    Ok(invitation)
}

/// A certificate and the authority that issued it.
struct Certified {
    issued: certificate::Issued,
    by: PublicKey,
}

/// What became of an attempt; a refusal is a result here, so that the attempt it used up is kept.
type Attempt = Result<Vec<u8>, ServiceError>;

impl<S: Store> Service<S> {
    pub(super) fn enrol(&self, body: &[u8], now_ms: UnixMs) -> Result<Vec<u8>, ServiceError> {
        let request = EnrolRequest::verify(body).map_err(|refusal| match refusal {
            Refusal::TooLarge => ServiceError::TooLarge,
            other => ServiceError::Refused(other.code()),
        })?;
        self.store.write::<Attempt, ServiceError>(|tx| self.attempt(tx, &request, now_ms))?
    }

    fn attempt<T: Tx>(&self, tx: &T, request: &EnrolRequest, now_ms: UnixMs) -> Result<Attempt, ServiceError> {
        let device = DeviceId::of(&request.device_key);
        let hash = sha256(&request.code);
        // Every open invitation is compared in full: how long it takes says nothing about which one is near.
        let mut found = None;
        for row in tx.invitations(now_ms)? {
            if bool::from(row.code_hash.ct_eq(&hash)) {
                found = Some(row);
            }
        }
        let Some(mut invitation) = found else { return Ok(Err(ServiceError::Refused("code"))) };
        let before = tx.device(device)?;
        // R224: The same device may ask again with the same code, since its reply may have been lost on the way; no more
        // once it has come with its certificate. It guesses nothing, so that uses nothing up.
        let again = invitation.used_by == Some(device);
        let has_come = before.as_ref().is_some_and(|before| before.reported.is_some());
        if (again && has_come) || (!again && (invitation.used_by.is_some() || invitation.attempts_left == 0)) {
            return Ok(Err(ServiceError::Refused("code")));
        }
        if !again {
            invitation.attempts_left -= 1;
        } else if let Some(before) = &before {
            // It may have been moved meanwhile: an old code does not move it back.
            (invitation.site, invitation.scope) = (before.site, before.scope);
        }
        let known = tx.badges(invitation.site)?.iter().any(|badge| badge.practitioner == request.practitioner);
        if !known {
            tx.update_invitation(&invitation)?;
            return Ok(Err(ServiceError::Refused("practitioner")));
        }
        if before.as_ref().is_some_and(|before| before.state != DeviceState::Active) {
            tx.update_invitation(&invitation)?;
            return Ok(Err(ServiceError::Revoked));
        }
        invitation.used_by = Some(device);
        tx.update_invitation(&invitation)?;
        let issued = self.certify(request, before.as_ref().filter(|_| again), now_ms)?;
        self.admit_device(tx, request, &invitation, before.as_ref(), issued, now_ms).map(Ok)
    }

    /// A certificate; for who asks again the one that it did not get, where that can still be issued.
    fn certify(
        &self,
        request: &EnrolRequest,
        earlier: Option<&DeviceRow>,
        now_ms: UnixMs,
    ) -> Result<Certified, ServiceError> {
        let days = i64::from(self.config.certificate_days);
        let signer = self.keys.authority.signer();
        let (key, by) = (&request.device_key, signer.public_key());
        if let Some(row) = earlier.filter(|row| row.certificate_by == Some(by)) {
            let at_ms = row.enrolled_at_ms;
            let same = certificate::device_again(&signer, &self.deployment, key, at_ms, days, &row.serial)?;
            if same.until_ms == row.certificate_until_ms {
                return Ok(Certified { issued: same, by });
            }
        }
        Ok(Certified { issued: certificate::device(&signer, &self.deployment, key, now_ms, days)?, by })
    }

    fn admit_device<T: Tx>(
        &self,
        tx: &T,
        request: &EnrolRequest,
        invitation: &InvitationRow,
        before: Option<&DeviceRow>,
        Certified { issued, by }: Certified,
        now_ms: UnixMs,
    ) -> Result<Vec<u8>, ServiceError> {
        let mut device = DeviceRow {
            device: DeviceId::of(&request.device_key),
            device_key: request.device_key,
            vault_key: request.vault_key,
            site: invitation.site,
            scope: invitation.scope,
            practitioner: request.practitioner,
            state: DeviceState::Active,
            serial: issued.serial,
            certificate_until_ms: issued.until_ms,
            certificate_by: Some(by),
            enrolled_at_ms: before.map_or(now_ms, |before| before.enrolled_at_ms),
            last_seen_ms: Some(now_ms),
            last_gseq: before.map_or(0, |before| before.last_gseq),
            grant_number: before.map_or(0, |before| before.grant_number),
            lease_until_ms: now_ms,
            reported: None,
        };
        let grant = self.grant_in(tx, &mut device, now_ms)?;
        let roots = tx.roots_after(invitation.root_version)?;
        let reply = EnrolReply { certificate: issued.der, roots, grant };
        let bytes = codec::encode(&reply).map_err(internal)?;
        if bytes.len() > limits::ENROL_BYTES_MAX {
            return Err(internal(Refusal::TooLarge));
        }
        tracing::info!(device = %device.device, site = %device.site, scope = %device.scope, "device enrolled");
        Ok(bytes)
    }
}
