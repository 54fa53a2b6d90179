//! X.509: the device authority's own certificate, and those that it issues to devices and to this server.
//! The only file that knows rcgen and x509-parser; it must not decide who gets a certificate.

use cpis_protocol::id::{DeviceId, UnixMs};
use cpis_protocol::sign::{PublicKey, Signer};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SerialNumber, SignatureAlgorithm,
};
use zeroize::Zeroizing;

use crate::keys::OnlineSigner;

const DAY_MS: i64 = 86_400_000;
/// How long the device authority's certificate is good; a root rotation replaces it earlier.
const AUTHORITY_DAYS: i64 = 3650;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the certificate could not be made: {0}")]
pub struct CertificateError(String);

impl From<rcgen::Error> for CertificateError {
    fn from(error: rcgen::Error) -> Self {
        Self(error.to_string())
    }
}

/// A certificate that was just issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// DER.
    pub der: Vec<u8>,
    /// Its serial number.
    pub serial: Vec<u8>,
    /// Its end.
    pub until_ms: UnixMs,
}

struct DeviceKey<'a>(&'a PublicKey);

impl PublicKeyData for DeviceKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

fn key_pair(signer: &Signer) -> Result<KeyPair, CertificateError> {
    let der = signer.pkcs8();
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(&der.as_slice().into(), &PKCS_ED25519)?)
}

/// Midnights around a term: a day before, so that a device whose clock is a little behind accepts it, to a day after.
fn term(params: &mut CertificateParams, now_ms: UnixMs, days: i64) -> Result<UnixMs, CertificateError> {
    let until_ms = (now_ms.div_euclid(DAY_MS) + days + 1) * DAY_MS;
    let date = |ms: i64| -> Result<_, CertificateError> {
        let at = jiff::Timestamp::from_millisecond(ms).map_err(|error| CertificateError(error.to_string()))?;
        Ok(at.to_zoned(jiff::tz::TimeZone::UTC).date())
    };
    let (from, until) = (date(now_ms - DAY_MS)?, date(until_ms)?);
    let number = |n: i8| u8::try_from(n).unwrap_or(1);
    params.not_before = rcgen::date_time_ymd(from.year().into(), number(from.month()), number(from.day()));
    params.not_after = rcgen::date_time_ymd(until.year().into(), number(until.month()), number(until.day()));
    Ok(until_ms)
}

fn authority_params(deployment: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("CPIS Edge device authority of {deployment}"));
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// The device authority's self-signed certificate, DER.
///
/// # Errors
/// [`CertificateError`].
pub fn authority(signer: &Signer, deployment: &str, now_ms: UnixMs) -> Result<Vec<u8>, CertificateError> {
    let mut params = authority_params(deployment);
    term(&mut params, now_ms, AUTHORITY_DAYS)?;
    params.serial_number = Some(serial());
    Ok(params.self_signed(&key_pair(signer)?)?.der().to_vec())
}

/// The certificate of the next device authority by the present one, DER: a device that knows only the present one
/// believes the next by it. It may certify the one after, so that a device may be several behind.
///
/// # Errors
/// [`CertificateError`].
pub fn crossed(
    present: &Signer,
    deployment: &str,
    next: &PublicKey,
    now_ms: UnixMs,
) -> Result<Vec<u8>, CertificateError> {
    let mut params = authority_params(deployment);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    term(&mut params, now_ms, AUTHORITY_DAYS)?;
    params.serial_number = Some(serial());
    let issuer = Issuer::new(authority_params(deployment), key_pair(present)?);
    Ok(params.signed_by(&DeviceKey(next), &issuer)?.der().to_vec())
}

/// The end of a certificate; `None` when it is not one.
#[must_use]
pub fn until_ms(der: &[u8]) -> Option<UnixMs> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    certificate.validity().not_after.timestamp().checked_mul(1000)
}

/// Something that issues certificates: a signer, or a role's key that may change under way.
pub trait Issues {
    /// The signer that issues now.
    fn issuer(&self) -> std::sync::Arc<Signer>;
}

impl Issues for std::sync::Arc<Signer> {
    fn issuer(&self) -> Self {
        Self::clone(self)
    }
}

impl Issues for OnlineSigner {
    fn issuer(&self) -> std::sync::Arc<Signer> {
        self.signer()
    }
}

/// A random positive serial number (RFC 5280 4.1.2.2).
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = crate::entropy::bytes();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// A device's TLS client certificate for its own key.
///
/// # Errors
/// [`CertificateError`].
pub fn device(
    signer: &impl Issues,
    deployment: &str,
    device_key: &PublicKey,
    now_ms: UnixMs,
    days: i64,
) -> Result<Issued, CertificateError> {
    device_as(signer, deployment, device_key, now_ms, days, serial())
}

/// The same certificate as one that was issued earlier on the day of `issued_ms`, byte for byte, where authority and
/// `days` are as they were: its signature has no randomness.
///
/// # Errors
/// [`CertificateError`].
pub fn device_again(
    signer: &impl Issues,
    deployment: &str,
    device_key: &PublicKey,
    issued_ms: UnixMs,
    days: i64,
    serial: &[u8],
) -> Result<Issued, CertificateError> {
    device_as(signer, deployment, device_key, issued_ms, days, SerialNumber::from_slice(serial))
}

fn device_as(
    signer: &impl Issues,
    deployment: &str,
    device_key: &PublicKey,
    now_ms: UnixMs,
    days: i64,
    serial: SerialNumber,
) -> Result<Issued, CertificateError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, DeviceId::of(device_key).to_string());
    params.distinguished_name = name;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let until_ms = term(&mut params, now_ms, days)?;
    let number = serial.to_bytes();
    params.serial_number = Some(serial);
    let issuer = Issuer::new(authority_params(deployment), key_pair(&signer.issuer())?);
    let der = params.signed_by(&DeviceKey(device_key), &issuer)?.der().to_vec();
    Ok(Issued { der, serial: number, until_ms })
}

/// A server certificate for a fresh key: DER, and the key as PKCS#8 DER.
///
/// # Errors
/// [`CertificateError`], e.g. for a name that is not one.
pub fn server(
    signer: &impl Issues,
    deployment: &str,
    names: &[String],
    now_ms: UnixMs,
    days: i64,
) -> Result<(Issued, Zeroizing<Vec<u8>>), CertificateError> {
    let fresh = Signer::from_seed(crate::entropy::bytes());
    let mut params = CertificateParams::new(names.to_vec())?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("CPIS Edge server of {deployment}"));
    params.distinguished_name = name;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let until_ms = term(&mut params, now_ms, days)?;
    let serial = serial();
    let number = serial.to_bytes();
    params.serial_number = Some(serial);
    let issuer = Issuer::new(authority_params(deployment), key_pair(&signer.issuer())?);
    let der = params.signed_by(&key_pair(&fresh)?, &issuer)?.der().to_vec();
    Ok((Issued { der, serial: number, until_ms }, fresh.pkcs8()))
}

/// A mirror's certificate for its own key: a client to this server, and a server to devices, for one name.
///
/// # Errors
/// [`CertificateError`], e.g. for a name that is not one.
pub fn mirror(
    signer: &impl Issues,
    deployment: &str,
    key: &Signer,
    host: &str,
    now_ms: UnixMs,
    days: i64,
) -> Result<Issued, CertificateError> {
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("CPIS Edge mirror of {deployment}"));
    params.distinguished_name = name;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let until_ms = term(&mut params, now_ms, days)?;
    let serial = serial();
    let number = serial.to_bytes();
    params.serial_number = Some(serial);
    let issuer = Issuer::new(authority_params(deployment), key_pair(&signer.issuer())?);
    let der = params.signed_by(&DeviceKey(&key.public_key()), &issuer)?.der().to_vec();
    Ok(Issued { der, serial: number, until_ms })
}

/// The Ed25519 public key of a certificate; `None` for any other kind of key.
#[must_use]
pub fn public_key(der: &[u8]) -> Option<PublicKey> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let info = certificate.public_key();
    let ed25519 = info.algorithm.algorithm == x509_parser::oid_registry::OID_SIG_ED25519;
    if !rest.is_empty() || !ed25519 {
        return None;
    }
    info.subject_public_key.data.as_ref().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_305_600_000;

    #[test]
    fn certificates_carry_the_keys_they_should() {
        let authority_key = std::sync::Arc::new(Signer::from_seed([1; 32]));
        let device_key = Signer::from_seed([2; 32]).public_key();
        let root = authority(&authority_key, "test", NOW).unwrap();
        assert_eq!(public_key(&root), Some(authority_key.public_key()));
        let issued = device(&authority_key, "test", &device_key, NOW, 90).unwrap();
        assert_eq!(public_key(&issued.der), Some(device_key));
        assert!(issued.until_ms - NOW >= 90 * DAY_MS && issued.until_ms - NOW <= 91 * DAY_MS);
        assert!(issued.der.len() <= cpis_protocol::limits::CERTIFICATE_BYTES_MAX);
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let (server, _) = server(&authority_key, "test", &names, NOW, 90).unwrap();
        assert!(public_key(&server.der).is_some());
        assert_eq!(public_key(b"not a certificate"), None);
    }

    #[test]
    fn use_is_for_one_side_only() {
        let authority_key = std::sync::Arc::new(Signer::from_seed([1; 32]));
        let issued = device(&authority_key, "test", &[3; 32], NOW, 90).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&issued.der).unwrap();
        let usage = certificate.extended_key_usage().unwrap().unwrap().value.clone();
        assert!(usage.client_auth && !usage.server_auth);
        let (issued, _) = server(&authority_key, "test", &["localhost".into()], NOW, 90).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&issued.der).unwrap();
        let usage = certificate.extended_key_usage().unwrap().unwrap().value.clone();
        assert!(usage.server_auth && !usage.client_auth);
    }
}
