//! TLS 1.3 to whoever is at the other end, by the deployment's own authorities.
//! It must not trust the platform's certificate store, nor take a device for the server.

use std::sync::Arc;
use std::time::Duration;

use cpis_protocol::sign::Signer;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::time_provider::TimeProvider;

use super::TransportError;
use super::verifier::{Seen, Verifier};
use crate::port::Clock;
use crate::station::tls::DeviceAtTheOtherEnd;

/// Who the device is to the server.
#[derive(Debug)]
pub struct Identity<'a> {
    /// The device key.
    pub signer: &'a Signer,
    /// Its certificate, DER.
    pub certificate: &'a [u8],
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beyond {
    /// The server: its certificate is for its name, and its word is live.
    Server,
    /// A mirror of the server's immutable objects, with a certificate for its name.
    Mirror,
    /// Another device: see `station::tls`.
    Station,
}

/// Certificates are judged by the later of wall clock and floor of trusted time: a clock that lost its battery must not
/// cut the device off for ever.
pub(crate) struct FlooredTime {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) floor_ms: i64,
}

impl core::fmt::Debug for FlooredTime {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("FlooredTime")
    }
}

impl TimeProvider for FlooredTime {
    fn current_time(&self) -> Option<UnixTime> {
        let ms = self.clock.reading().wall_ms.max(self.floor_ms);
        Some(UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(ms).ok()?)))
    }
}

/// The one explicit provider: aws-lc-rs, hybrid post-quantum key exchange first.
pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Whether one of these authorities issued the certificate for a TLS client, good at `now_ms`.
pub(crate) fn is_issued(certificate: &[u8], authorities: &[Vec<u8>], now_ms: i64) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    for authority in authorities {
        if roots.add(CertificateDer::from(authority.clone())).is_err() {
            return false;
        }
    }
    let Ok(now) = u64::try_from(now_ms) else { return false };
    let now = UnixTime::since_unix_epoch(Duration::from_millis(now));
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    verifier.is_ok_and(|v| v.verify_client_cert(&CertificateDer::from(certificate.to_vec()), &[], now).is_ok())
}

/// TLS that believes the given authorities and nobody else; what was wrong with a certificate is kept in `seen`.
pub(super) fn config(
    beyond: Beyond,
    authorities: &[Vec<u8>],
    identity: Option<&Identity<'_>>,
    time: FlooredTime,
    seen: Seen,
) -> Result<rustls::ClientConfig, TransportError> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in authorities {
        roots.add(CertificateDer::from(authority.clone()))?;
    }
    let config = rustls::ClientConfig::builder_with_details(provider(), Arc::new(time))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous();
    let config = match beyond {
        // Judges as the authorities alone would, and remembers why.
        Beyond::Server | Beyond::Mirror => {
            config.with_custom_certificate_verifier(Arc::new(Verifier::new(roots, authorities, provider(), seen)?))
        }
        Beyond::Station => config.with_custom_certificate_verifier(Arc::new(DeviceAtTheOtherEnd::new(authorities)?)),
    };
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let chain = vec![CertificateDer::from(identity.certificate.to_vec())];
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.signer.pkcs8().to_vec()));
            config.with_client_auth_cert(chain, key)?
        }
    };
    // One connection for everything, several requests at once, and headers that cost a few bytes.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
