//! What the device says of itself to the server before it asks for its grant, and the certificate that may come back.
//! It must not fail a sync, nor let go of a certificate before a good one takes its place.

use cpis_protocol::Refusal;
use cpis_protocol::message::{DeviceReply, DeviceReport};
use cpis_protocol::text::Text;
use cpis_protocol::{codec, limits};

use super::Agent;
use crate::certificate::{self, CertificateRefused, Term};
use crate::keyslot::KeyslotError;

/// Why the reply to a report changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// The reply, or the report, is not in its format.
    #[error("the reply is refused: {0}")]
    Refused(#[from] Refusal),
    /// The certificate in it is not to be used.
    #[error("the new certificate is refused: {0}")]
    Certificate(#[from] CertificateRefused),
    /// It could not be stored.
    #[error(transparent)]
    Keyslot(#[from] KeyslotError),
}

impl Agent {
    /// The term of the TLS certificate in use; `None` when there is no usable one.
    pub fn certificate_term(&self) -> Option<Term> {
        certificate::term(&self.keys.keyslot().contents().certificate)
    }

    /// Trusted time, or where it is not known the time by which TLS judges certificates.
    pub fn certificate_now_ms(&self) -> i64 {
        let reading = self.clock.reading();
        self.replica.clock().now(reading).unwrap_or_else(|| reading.wall_ms.max(self.grant().issued_ms))
    }

    /// Whether the certificate is past its end: the server then takes nothing but what leads to the next one.
    pub fn certificate_is_over(&self) -> bool {
        self.certificate_term().is_none_or(|term| term.until_ms <= self.certificate_now_ms())
    }

    /// The report (R184), encoded.
    ///
    /// # Errors
    /// [`RenewalError::Refused`].
    pub fn report_in(&self) -> Result<Vec<u8>, RenewalError> {
        let (break_glass, unrecorded) = self.exception_counts();
        let report = DeviceReport {
            version: Text::lossy(env!("CARGO_PKG_VERSION")),
            secret: Text::lossy(self.device_secret_kind()),
            root_version: self.trust().root().version,
            certificate_until_ms: self.certificate_term().map_or(0, |term| term.until_ms),
            break_glass,
            unrecorded,
        };
        Ok(codec::encode(&report)?)
    }

    /// Takes in the reply to a report: says whether there is a new certificate, which is in use from now on. The one
    /// before is on the disk no longer.
    ///
    /// # Errors
    /// [`RenewalError`]; the certificate before stays.
    pub fn take_reply(&self, reply: &[u8]) -> Result<bool, RenewalError> {
        let reply: DeviceReply = codec::decode(reply, limits::REPORT_BYTES_MAX)?;
        if reply.certificate.is_empty() {
            return Ok(false);
        }
        let trust = self.trust();
        let present = self.keys.keyslot().contents().certificate.clone();
        let authorities = &trust.root().authority_certificates;
        let key = self.signer.public_key();
        certificate::check(&reply.certificate, &present, &key, authorities, self.certificate_now_ms())?;
        self.keys.keyslot().destroy(|contents| {
            contents.certificate = reply.certificate;
            Ok(())
        })?;
        self.renew_transports();
        Ok(true)
    }
}
