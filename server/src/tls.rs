//! TLS: version 1.3 only, one provider, client certificates by the device authority, and a server certificate that
//! renews itself. The only file that knows rustls; it must not let an unknown certificate pass for a device.

use std::sync::{Arc, PoisonError, RwLock};

use cpis_protocol::id::{DeviceId, UnixMs};
use cpis_protocol::sign::PublicKey;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, ServerConnection,
    SignatureScheme,
};

use crate::certificate;
use crate::keys::ServerKeys;
use crate::service::Peer;

/// Days for which a server certificate is good; a fresh one is made every day the server runs.
const SERVER_DAYS: i64 = 30;
const RENEW_MS: i64 = 86_400_000;
/// Sessions that can be resumed, about a kilobyte each; a device whose session is gone shakes hands in full.
const RESUMABLE: usize = 65_536;
/// Authorities that a device may be behind: webpki follows no longer chain.
const CHAIN_MAX: usize = 6;

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls refuses.
    #[error("TLS cannot be set up: {0}")]
    Rustls(String),
    /// The certificate could not be made.
    #[error(transparent)]
    Certificate(#[from] certificate::CertificateError),
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
    current: RwLock<(UnixMs, PublicKey, Arc<CertifiedKey>)>,
}

impl ServerCertificate {
    /// Makes the first one.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(keys: &ServerKeys, deployment: &str, names: Vec<String>, now_ms: UnixMs) -> Result<Self, TlsError> {
        let current = RwLock::new((now_ms, keys.authority.public_key(), issue(keys, deployment, &names, now_ms)?));
        Ok(Self { deployment: deployment.to_owned(), names, current })
    }

    /// Makes a fresh one when the present one is a day old, or by a device authority that was replaced.
    ///
    /// # Errors
    /// [`TlsError`]; the present one stays.
    pub fn renew(&self, keys: &ServerKeys, now_ms: UnixMs) -> Result<(), TlsError> {
        let authority = keys.authority.public_key();
        let (made_ms, by) = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            (current.0, current.1)
        };
        if now_ms - made_ms >= RENEW_MS || by != authority {
            let fresh = issue(keys, &self.deployment, &self.names, now_ms)?;
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = (now_ms, authority, fresh);
        }
        Ok(())
    }
}

fn issue(keys: &ServerKeys, deployment: &str, names: &[String], now_ms: UnixMs) -> Result<Arc<CertifiedKey>, TlsError> {
    let (issued, key) = certificate::server(&keys.authority, deployment, names, now_ms, SERVER_DAYS)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    // With the way back to every authority before: a device that was away for months knows only one of those.
    let mut chain = vec![CertificateDer::from(issued.der)];
    chain.extend(way_back(keys).into_iter().map(CertificateDer::from));
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &crypto())?))
}

/// The certificates of the present authority by the one before it, of that by the one before, and so on.
fn way_back(keys: &ServerKeys) -> Vec<Vec<u8>> {
    let present = keys.authority.public_key();
    // One that is made and not in use yet leads nowhere.
    let crossed = keys.crossed();
    crossed.into_iter().skip_while(|der| certificate::public_key(der) != Some(present)).take(CHAIN_MAX).collect()
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).2))
    }
}

/// Takes the certificates of devices: by any authority that ever was, also past their end, which the peer is marked with.
/// Who a device is, its key says, and the database knows the key; a certificate alone opens nothing.
#[derive(Debug)]
pub struct DeviceVerifier {
    inner: RwLock<Arc<dyn ClientCertVerifier>>,
}

impl DeviceVerifier {
    /// Over the certificates of all device authorities.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(authorities: &[Vec<u8>]) -> Result<Self, TlsError> {
        Ok(Self { inner: RwLock::new(verifier(authorities)?) })
    }

    /// Takes up the authorities of a newer root.
    ///
    /// # Errors
    /// [`TlsError`]; those before stay.
    pub fn renew(&self, authorities: &[Vec<u8>]) -> Result<(), TlsError> {
        *self.inner.write().unwrap_or_else(PoisonError::into_inner) = verifier(authorities)?;
        Ok(())
    }

    fn inner(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn verifier(authorities: &[Vec<u8>]) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(CertificateDer::from(authority.clone()))?;
    }
    // Without a certificate a device can only enrol; the service sees to that.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto())
        .allow_unauthenticated()
        .clear_root_hint_subjects()
        .build()
        .map_err(|error| TlsError::Rustls(error.to_string()))?;
    Ok(verifier)
}

impl ClientCertVerifier for DeviceVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let at = |now| self.inner().verify_client_cert(end_entity, intermediates, now);
        match at(now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => {
                // Judged as of its last second: everything but its age must be right.
                let until_s = certificate::until_ms(end_entity.as_ref()).and_then(|ms| u64::try_from(ms / 1000).ok());
                let last = until_s.ok_or(rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
                at(UnixTime::since_unix_epoch(std::time::Duration::from_secs(last.saturating_sub(1))))
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner().supported_verify_schemes()
    }
}

/// The server's TLS configuration: a client certificate is asked for and, when given, must be by a known authority.
///
/// # Errors
/// [`TlsError`].
pub fn server_config(
    devices: Arc<DeviceVerifier>,
    certificate: Arc<ServerCertificate>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(devices)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // One is enough: every handshake brings the next. What is resumed is kept here and not in the ticket, which would
    // carry the device's certificate there and back: two kilobytes for each new connection.
    config.send_tls13_tickets = 1;
    // Of a record that is cut nothing is received: a quarter of the largest costs half a per cent, and at 256 kbit/s a
    // cut loses an eighth of a second instead of half of one.
    config.max_fragment_size = Some(4096);
    config.session_storage = ServerSessionMemoryCache::new(RESUMABLE);
    Ok(Arc::new(config))
}

/// The device at the other end: by its public key, which the handshake has proven; nobody without a certificate.
#[must_use]
pub fn peer(connection: &ServerConnection, now_ms: UnixMs) -> Peer {
    let Some(der) = connection.peer_certificates().and_then(|chain| chain.first()) else { return Peer::default() };
    let device = certificate::public_key(der.as_ref()).map(|key| DeviceId::of(&key));
    let expired = certificate::until_ms(der.as_ref()).is_none_or(|until| until <= now_ms);
    Peer { device, expired }
}
