//! What the device makes of a TLS certificate of its own: its term, and whether a new one may replace it.
//! The only file that knows x509-parser; it must not let a certificate for another key, or by another authority, pass.

use cpis_protocol::id::UnixMs;
use cpis_protocol::sign::PublicKey;

use crate::transport;

/// When a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// From.
    pub from_ms: UnixMs,
    /// Until.
    pub until_ms: UnixMs,
}

impl Term {
    /// Less than a third of its life is left: the server should have followed it with a new one by now.
    #[must_use]
    pub const fn is_nearly_over(&self, now_ms: UnixMs) -> bool {
        self.until_ms.saturating_sub(now_ms) < self.until_ms.saturating_sub(self.from_ms) / 3
    }
}

/// Why a certificate from the server does not replace the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRefused {
    /// Not X.509, or something behind it.
    #[error("it is no certificate")]
    Malformed,
    /// It is for another key than this device's.
    #[error("it is for another key")]
    OtherKey,
    /// None of the root's device authorities issued it for a client, or it is not good now.
    #[error("no device authority of the trusted root issued it for now")]
    NotIssued,
    /// It ends no later than the present one.
    #[error("it ends no later than the present one")]
    NotLater,
}

/// The term of a certificate; `None` when it is not one.
#[must_use]
pub fn term(der: &[u8]) -> Option<Term> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let validity = certificate.validity();
    let ms = |at: x509_parser::time::ASN1Time| at.timestamp().checked_mul(1000);
    Some(Term { from_ms: ms(validity.not_before)?, until_ms: ms(validity.not_after)? })
}

/// Whether `fresh` may take the place of `present`: for this key, by one of these authorities, and good for longer.
///
/// # Errors
/// [`CertificateRefused`]; the present one is to be kept.
pub fn check(
    fresh: &[u8],
    present: &[u8],
    key: &PublicKey,
    authorities: &[Vec<u8>],
    now_ms: UnixMs,
) -> Result<Term, CertificateRefused> {
    // R185
    let (rest, certificate) = x509_parser::parse_x509_certificate(fresh).map_err(|_| CertificateRefused::Malformed)?;
    let next = term(fresh).filter(|_| rest.is_empty()).ok_or(CertificateRefused::Malformed)?;
    let info = certificate.public_key();
    let ed25519 = info.algorithm.algorithm == x509_parser::oid_registry::OID_SIG_ED25519;
    if !ed25519 || info.subject_public_key.data.as_ref() != key.as_slice() {
        return Err(CertificateRefused::OtherKey);
    }
    if !transport::is_issued(fresh, authorities, now_ms) {
        return Err(CertificateRefused::NotIssued);
    }
    if term(present).is_some_and(|present| next.until_ms <= present.until_ms) {
        return Err(CertificateRefused::NotLater);
    }
    Ok(next)
}
