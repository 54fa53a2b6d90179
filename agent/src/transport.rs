//! The way to the server: HTTPS with mutual TLS 1.3, pinned to the deployment's own authority. The home of reqwest and rustls.
//! It must not follow redirects, trust the platform's certificate store, or read a longer reply than an honest one has.

use std::error::Error as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cpis_protocol::id::hex;
use cpis_protocol::message::{ASK_HEADER, ASK_HEADER_BYTES_MAX, Failure, REASON_HEADER, Request, classify};
use cpis_protocol::sign::Signer;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::time_provider::TimeProvider;

use crate::port::{Clock, Transport};

/// How long sent bytes may go unacknowledged: a link that went away is not waited for until the read times out.
const UNACKNOWLEDGED: Duration = Duration::from_secs(25);

/// The longest HTTP/2 frame that is taken: longer than any object.
const FRAME_BYTES_MAX: u32 = 1 << 20;

/// The transport could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The device's certificate or key, or the authority's certificate, is not usable.
    #[error("TLS could not be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be made: {0}")]
    Client(#[from] reqwest::Error),
    /// The server's address is not an `https://` URL.
    #[error("the server's address must begin with https://")]
    NotHttps,
}

/// Who the device is to the server.
#[derive(Debug)]
pub struct Identity<'a> {
    /// The device key.
    pub signer: &'a Signer,
    /// Its certificate, DER.
    pub certificate: &'a [u8],
}

/// HTTPS to one server.
pub struct HttpTransport {
    client: RwLock<reqwest::Client>,
    clock: Arc<dyn Clock>,
    base: String,
    received: AtomicU64,
    sent: AtomicU64,
}

impl core::fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "HttpTransport({})", self.base)
    }
}

/// Certificates are judged by the later of wall clock and floor of trusted time: a clock that lost its battery must not
/// cut the device off for ever.
struct FlooredTime {
    clock: Arc<dyn Clock>,
    floor_ms: i64,
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
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl HttpTransport {
    /// Connects lazily to `url`; without an identity only enrolment works.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn new(
        url: &str,
        authorities: &[Vec<u8>],
        identity: Option<&Identity<'_>>,
        clock: Arc<dyn Clock>,
        floor_ms: i64,
    ) -> Result<Self, TransportError> {
        if !url.starts_with("https://") {
            return Err(TransportError::NotHttps);
        }
        let config = tls(authorities, identity, Arc::clone(&clock), floor_ms)?;
        Self::over(url, config, clock)
    }

    /// The same over TLS settings of the caller's own, e.g. to measure what others would cost. A connection made from a
    /// clone of them resumes what the one before left.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn over(url: &str, config: rustls::ClientConfig, clock: Arc<dyn Clock>) -> Result<Self, TransportError> {
        let client = client(url, config)?;
        let base = url.trim_end_matches('/').to_owned();
        let (received, sent) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { client: RwLock::new(client), clock, base, received, sent })
    }

    /// Takes up another certificate, or the authorities of a newer root. Requests under way end as they began; those
    /// after it go over a new connection.
    ///
    /// # Errors
    /// [`TransportError`]; the connection stays as it was.
    pub fn renew(
        &self,
        authorities: &[Vec<u8>],
        identity: Option<&Identity<'_>>,
        floor_ms: i64,
    ) -> Result<(), TransportError> {
        let fresh = client(&self.base, tls(authorities, identity, Arc::clone(&self.clock), floor_ms)?)?;
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Bytes of bodies received and sent.
    pub fn bytes(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }
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

/// TLS that believes the given authorities and nobody else.
fn tls(
    authorities: &[Vec<u8>],
    identity: Option<&Identity<'_>>,
    clock: Arc<dyn Clock>,
    floor_ms: i64,
) -> Result<rustls::ClientConfig, TransportError> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in authorities {
        roots.add(CertificateDer::from(authority.clone()))?;
    }
    let config = rustls::ClientConfig::builder_with_details(provider(), Arc::new(FlooredTime { clock, floor_ms }))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
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

fn client(url: &str, config: rustls::ClientConfig) -> Result<reqwest::Client, TransportError> {
    let mut client = reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .https_only(true)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(15))
        .read_timeout(Duration::from_secs(60))
        .tcp_user_timeout(UNACKNOWLEDGED)
        // A frame of the usual 16 KiB is nine bytes longer than a TLS record: each would cost a second one.
        .http2_max_frame_size(Some(FRAME_BYTES_MAX))
        // Nothing is sent while nothing is to be said: a link that is paid by the byte, and a battery.
        .tcp_keepalive(None)
        // The server's polls come every five minutes and an eighth more, or when it says: it ends the connection, not we.
        .pool_idle_timeout(None);
    if is_loopback(url) {
        client = client.no_proxy();
    }
    Ok(client.build()?)
}

fn is_loopback(url: &str) -> bool {
    let host = url.trim_start_matches("https://");
    host.starts_with("localhost") || host.starts_with("127.") || host.starts_with("[::1]")
}

impl Transport for HttpTransport {
    async fn send(&self, request: Request) -> Result<Vec<u8>, Failure> {
        let url = format!("{}{}", self.base, request.path());
        let limit = request.reply_bytes_max();
        // Its whole parts are good even when the reply was cut.
        let keeps_part = matches!(request, Request::CatchUp(_));
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner).clone();
        let builder = match request.body() {
            None => client.get(url),
            Some(body) if keeps_part && body.len() <= ASK_HEADER_BYTES_MAX => {
                self.sent.fetch_add(body.len() as u64, Ordering::Relaxed);
                client.post(url).header(ASK_HEADER, hex(body)) // R238
            }
            Some(body) => {
                self.sent.fetch_add(body.len() as u64, Ordering::Relaxed);
                client.post(url).header("content-type", "application/octet-stream").body(body.to_vec())
            }
        };
        let mut response = builder.send().await.map_err(|error| failure(&error))?;
        let status = response.status().as_u16();
        if status != 200 {
            let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            let retry_after_s = header("retry-after").and_then(|text| text.parse().ok());
            return Err(classify(status, header(REASON_HEADER), retry_after_s));
        }
        let mut body = Vec::new();
        loop {
            let part = match response.chunk().await {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(_) if keeps_part && !body.is_empty() => break,
                Err(error) => return Err(failure(&error)),
            };
            if body.len() + part.len() > limit {
                return Err(Failure::EndlessReply);
            }
            body.extend_from_slice(&part);
        }
        self.received.fetch_add(body.len() as u64, Ordering::Relaxed);
        Ok(body)
    }
}

/// Something that speaks TLS with another certificate, or no TLS at all, is not the server.
fn failure(error: &reqwest::Error) -> Failure {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return match tls {
                rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidMessage(_) => Failure::NotTheServer,
                _ => Failure::Offline,
            };
        }
        source = cause
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .map(|inner| inner as &(dyn std::error::Error + 'static))
            .or_else(|| cause.source());
    }
    Failure::Offline
}

/// Makes the provider the process's own, for clients that name none.
pub fn install_provider() {
    // The second call finds the first one's provider in place, which is the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
