//! The way to the server: HTTPS with mutual TLS 1.3, pinned to the deployment's own authority. The home of reqwest and rustls.
//! It must not follow redirects, trust the platform's certificate store, or read a longer reply than an honest one has.

mod partial;
mod tls;
mod verifier;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use cpis_protocol::id::hex;
use cpis_protocol::message::{ASK_HEADER, ASK_HEADER_BYTES_MAX, Failure, REASON_HEADER, Request, classify};

use self::partial::Partials;
pub use self::tls::{Beyond, Identity};
pub(crate) use self::tls::{FlooredTime, is_issued, provider};
use self::verifier::Seen;
use crate::port::{Clock, Transport};
use crate::station::CARRIER_HEADER;
use crate::trouble::{NameError, Trouble};

/// How long sent bytes may go unacknowledged: a link that went away is not waited for until the read times out.
const UNACKNOWLEDGED: Duration = Duration::from_secs(25);
/// How long nothing may come in while something was asked for.
const SILENCE: Duration = Duration::from_secs(60);
/// The same for what the server holds back, which it does for an hour at most.
const HELD_BACK: Duration = Duration::from_secs(3_900);
/// The same for a station or a mirror: when it is slow, the server is there.
const SILENCE_BESIDE: Duration = Duration::from_secs(15);

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

/// HTTPS to one server.
pub struct HttpTransport {
    beyond: Beyond,
    client: RwLock<reqwest::Client>,
    clock: Arc<dyn Clock>,
    base: String,
    partials: Partials,
    received: AtomicU64,
    sent: AtomicU64,
    /// Why a certificate was refused, and why the last request failed.
    seen: Seen,
    trouble: Mutex<Option<Trouble>>,
}

impl core::fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "HttpTransport({})", self.base)
    }
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
        Self::to(Beyond::Server, url, authorities, identity, clock, floor_ms)
    }

    /// The same for whoever is at the other end.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn to(
        beyond: Beyond,
        url: &str,
        authorities: &[Vec<u8>],
        identity: Option<&Identity<'_>>,
        clock: Arc<dyn Clock>,
        floor_ms: i64,
    ) -> Result<Self, TransportError> {
        if !url.starts_with("https://") {
            return Err(TransportError::NotHttps);
        }
        let (seen, time) = (Seen::default(), FlooredTime { clock: Arc::clone(&clock), floor_ms });
        let config = tls::config(beyond, authorities, identity, time, Arc::clone(&seen))?;
        Self::with(beyond, url, config, clock, seen)
    }

    /// The way to the server over TLS settings of the caller's own, e.g. to measure what others would cost. A connection
    /// made from a clone of them resumes what the one before left.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn over(url: &str, config: rustls::ClientConfig, clock: Arc<dyn Clock>) -> Result<Self, TransportError> {
        Self::with(Beyond::Server, url, config, clock, Seen::default())
    }

    fn with(
        beyond: Beyond,
        url: &str,
        config: rustls::ClientConfig,
        clock: Arc<dyn Clock>,
        seen: Seen,
    ) -> Result<Self, TransportError> {
        Ok(Self {
            beyond,
            client: RwLock::new(client(beyond, url, config)?),
            clock,
            base: url.trim_end_matches('/').to_owned(),
            partials: Partials::default(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            seen,
            trouble: Mutex::default(),
        })
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
        let time = FlooredTime { clock: Arc::clone(&self.clock), floor_ms };
        let config = tls::config(self.beyond, authorities, identity, time, Arc::clone(&self.seen))?;
        let fresh = client(self.beyond, &self.base, config)?;
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Who is at the other end.
    pub const fn beyond(&self) -> Beyond {
        self.beyond
    }

    /// Bytes of bodies received and sent.
    pub fn bytes(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }
}

fn client(beyond: Beyond, url: &str, config: rustls::ClientConfig) -> Result<reqwest::Client, TransportError> {
    let mut client = reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .https_only(true)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(if beyond == Beyond::Server { 15 } else { 3 }))
        .dns_resolver(Arc::new(Names))
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
        let result =
            if request.is_immutable() { self.send_immutable(&request).await } else { self.exchange(request).await };
        if result.is_ok() {
            self.set_trouble(None);
        }
        result
    }

    fn take_up(&self, request: &Request, begun: Vec<u8>) {
        if request.is_immutable() && begun.len() <= request.reply_bytes_max() {
            self.partials.keep(request.path(), begun);
        }
    }

    fn heard(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    fn trouble(&self) -> Option<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl HttpTransport {
    fn set_trouble(&self, trouble: Option<Trouble>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// What comes in, unless nothing comes in for too long.
    async fn within<R>(
        &self,
        patience: Duration,
        coming: impl Future<Output = reqwest::Result<R>>,
    ) -> Result<R, Failure> {
        match tokio::time::timeout(patience, coming).await {
            Ok(Ok(come)) => Ok(come),
            Ok(Err(error)) => Err(self.failure(&error)),
            Err(_) => {
                self.set_trouble(Some(Trouble::Silent));
                Err(Failure::Offline)
            }
        }
    }

    /// The reply's head. A page in place of a reply is not from the server, whoever proved what before.
    async fn ask(&self, builder: reqwest::RequestBuilder, patience: Duration) -> Result<reqwest::Response, Failure> {
        let response = self.within(patience, builder.send()).await?;
        let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_page = kind.starts_with("text/html");
        if matches!((response.status().as_u16(), is_page), (300..=399 | 511, _) | (200, true)) {
            self.set_trouble(Some(Trouble::SignInPage));
            return Err(Failure::NotTheServer);
        }
        Ok(response)
    }

    /// Why there was no reply. Something that speaks TLS with another certificate, or no TLS at all, is not the server.
    fn failure(&self, error: &reqwest::Error) -> Failure {
        let refused = self.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        let silent = error.is_timeout().then_some(Trouble::Silent);
        let trouble = match Trouble::of(error) {
            // Whose the certificate is, only the verifier has seen.
            Some(Trouble::Opened { issuer }) => Some(refused.unwrap_or(Trouble::Opened { issuer })),
            found => found.or(silent),
        };
        let is_somebody_else = trouble.as_ref().is_some_and(Trouble::is_somebody_else);
        self.set_trouble(trouble);
        if is_somebody_else { Failure::NotTheServer } else { Failure::Offline }
    }

    async fn exchange(&self, request: Request) -> Result<Vec<u8>, Failure> {
        let url = format!("{}{}", self.base, request.path());
        // Its whole parts are good even when the reply was cut.
        let keeps_part = matches!(request, Request::CatchUp(_));
        let patience = if matches!(request, Request::News(_)) { HELD_BACK } else { self.silence() };
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
        let mut response = self.ask(builder, patience).await?;
        // R278: what is marked as stored is never the server's own word.
        if self.beyond == Beyond::Server && response.headers().contains_key(CARRIER_HEADER) {
            return Err(Failure::NotTheServer);
        }
        if response.status().as_u16() != 200 {
            return Err(refused(&response));
        }
        let mut body = Vec::new();
        loop {
            let part = match self.within(self.silence(), response.chunk()).await {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(_) if keeps_part && !body.is_empty() => break,
                Err(failure) => return Err(failure),
            };
            if body.len() + part.len() > request.reply_bytes_max() {
                return Err(Failure::EndlessReply);
            }
            body.extend_from_slice(&part);
            self.received.fetch_add(part.len() as u64, Ordering::Relaxed);
        }
        Ok(body)
    }

    /// How long nothing may come in while something was asked for.
    fn silence(&self) -> Duration {
        if self.beyond == Beyond::Server { SILENCE } else { SILENCE_BESIDE }
    }

    /// Asks for an immutable object, from the byte on at which the last attempt was cut (RFC 9110 section 14).
    async fn send_immutable(&self, request: &Request) -> Result<Vec<u8>, Failure> {
        let (path, limit) = (request.path(), request.reply_bytes_max());
        let url = format!("{}{path}", self.base);
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut body = self.partials.take_up(path);
        loop {
            let mut builder = client.get(&url);
            let held = body.held().map(|(bytes, tag)| (format!("bytes={bytes}-"), tag.to_owned()));
            if let Some((range, tag)) = &held {
                builder = builder.header("range", range); // R257
                if !tag.is_empty() {
                    builder = builder.header("if-range", tag);
                }
            }
            let mut response = self.ask(builder, self.silence()).await?;
            let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            match response.status().as_u16() {
                200 => body.begin(header("etag")),
                206 if body.goes_on(header("etag"), header("content-range"), limit) => {}
                416 if held.is_some() => {
                    // Once: without anything held no range is asked for.
                    body.discard();
                    continue;
                }
                _ => {
                    let failure = refused(&response);
                    if !matches!(failure, Failure::Retry(_)) {
                        body.discard();
                    }
                    return Err(failure);
                }
            }
            while let Some(part) = self.within(self.silence(), response.chunk()).await? {
                if !body.push(&part, limit) {
                    body.discard();
                    return Err(Failure::EndlessReply);
                }
                self.received.fetch_add(part.len() as u64, Ordering::Relaxed);
            }
            return Ok(body.finish());
        }
    }
}

fn refused(response: &reqwest::Response) -> Failure {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let retry_after_s = header("retry-after").and_then(|text| text.parse().ok());
    classify(response.status().as_u16(), header(REASON_HEADER), retry_after_s)
}

/// Names to addresses by the system's own means, with an error that can be told from others.
struct Names;

impl reqwest::dns::Resolve for Names {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(NameError)?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as reqwest::dns::Addrs)
        })
    }
}

/// Makes the provider the process's own, for clients that name none.
pub fn install_provider() {
    // The second call finds the first one's provider in place, which is the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
