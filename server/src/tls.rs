//! TLS: version 1.3 only, one provider, client certificates by the device authority, and a server certificate that
//! renews itself. The only file that knows rustls; it must not let an unknown certificate pass for a device.

use std::sync::{Arc, PoisonError, RwLock};

use cpis_protocol::id::{DeviceId, UnixMs};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use crate::certificate::{self, CertificateError};
use crate::keys::ServerKeys;

/// Days for which a server certificate is good; a fresh one is made every day the server runs.
const SERVER_DAYS: i64 = 30;
const RENEW_MS: i64 = 86_400_000;

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls refuses.
    #[error("TLS cannot be set up: {0}")]
    Rustls(String),
    /// The certificate could not be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Rustls(error.to_string())
    }
}

/// The one provider of the server: hybrid post-quantum key exchange first (see the features in Cargo.toml).
fn crypto() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

/// The server's certificate, made anew while it runs; its key is only ever in memory.
#[derive(Debug)]
pub struct ServerCertificate {
    deployment: String,
    names: Vec<String>,
    current: RwLock<(UnixMs, Arc<CertifiedKey>)>,
}

impl ServerCertificate {
    /// Makes the first one.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(keys: &ServerKeys, deployment: &str, names: Vec<String>, now_ms: UnixMs) -> Result<Self, TlsError> {
        let current = RwLock::new((now_ms, issue(keys, deployment, &names, now_ms)?));
        Ok(Self { deployment: deployment.to_owned(), names, current })
    }

    /// Makes a fresh one when the present one is a day old.
    ///
    /// # Errors
    /// [`TlsError`]; the present one stays.
    pub fn renew(&self, keys: &ServerKeys, now_ms: UnixMs) -> Result<(), TlsError> {
        let made_ms = self.current.read().unwrap_or_else(PoisonError::into_inner).0;
        if now_ms - made_ms >= RENEW_MS {
            let fresh = issue(keys, &self.deployment, &self.names, now_ms)?;
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = (now_ms, fresh);
        }
        Ok(())
    }
}

fn issue(keys: &ServerKeys, deployment: &str, names: &[String], now_ms: UnixMs) -> Result<Arc<CertifiedKey>, TlsError> {
    let (issued, key) = certificate::server(&keys.authority, deployment, names, now_ms, SERVER_DAYS)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    let chain = vec![CertificateDer::from(issued.der)];
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &crypto())?))
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).1))
    }
}

/// The server's TLS configuration: a client certificate is asked for and, when given, must be by this authority.
///
/// # Errors
/// [`TlsError`].
pub fn server_config(authority: &[u8], certificate: Arc<ServerCertificate>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.to_vec()))?;
    // Without a certificate a device can only enrol; the service sees to that.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto())
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::Rustls(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = provider::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// The device at the other end: by its public key, which the handshake has proven; `None` without a certificate.
#[must_use]
pub fn peer(connection: &ServerConnection) -> Option<DeviceId> {
    let certificate = connection.peer_certificates()?.first()?;
    certificate::public_key(certificate.as_ref()).map(|key| DeviceId::of(&key))
}
