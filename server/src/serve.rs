//! The running server: accepts connections, shakes hands off the accept path, publishes every minute, stops gracefully.
//! It must not let a slow or broken peer keep another from being accepted, while there is room.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use cpis_protocol::trust::Trust;

use crate::clock::Clock;
use crate::digest;
use crate::http;
use crate::port::{Deployment as _, Store, StoreError};
use crate::publish::{self, PublishError};
use crate::rekey::{self, Rekey};
use crate::service::{Look, Service};
use crate::tls::{self, DeviceVerifier, ServerCertificate, TlsError};
use crate::{expiry, prune, resign};

/// The longest that a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The longest that the head of a request may take.
const HEADER: Duration = Duration::from_secs(20);
/// How often it is looked whether anybody has published: half of the second in which a device is to know.
const LOOK: Duration = Duration::from_millis(500);
/// How long open requests get when the server stops.
const GRACE: Duration = Duration::from_millis(1500);
/// How often the logs are shortened.
const PRUNE: Duration = Duration::from_secs(6 * 3600);

/// Serves until `shutdown` is done; then open requests get 1.5 seconds.
///
/// # Errors
/// [`TlsError`] before anything is accepted.
pub async fn run<S: Store>(
    service: Arc<Service<S>>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), TlsError> {
    let trust = service.trust();
    let root = trust.root();
    let now_ms = service.clock().now_ms();
    let names = service.config().names();
    let certificate = Arc::new(ServerCertificate::new(service.keys(), root.deployment.as_str(), names, now_ms)?);
    let devices = Arc::new(DeviceVerifier::new(&authorities(&service))?);
    let acceptor = TlsAcceptor::from(tls::server_config(Arc::clone(&devices), Arc::clone(&certificate))?);
    let router = http::router(Arc::clone(&service));
    let room = Arc::new(Semaphore::new(service.config().connections_max as usize));
    let graceful = GracefulShutdown::new();
    let ticker = tokio::spawn(tick(Arc::clone(&service), certificate, devices));
    let digester = tokio::spawn(digest_tick(Arc::clone(&service)));
    let pruner = tokio::spawn(prune_tick(Arc::clone(&service)));
    let teller = tokio::spawn(news_tick(Arc::clone(&service)));
    tokio::pin!(shutdown);
    loop {
        // Waiting for room must not keep the server from stopping.
        let permit = tokio::select! {
            () = &mut shutdown => break,
            permit = Arc::clone(&room).acquire_owned() => match permit {
                Ok(permit) => permit,
                Err(_) => break,
            },
        };
        let stream = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file handles, most likely: wait for some connection to end.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        tokio::spawn(connection(
            stream,
            acceptor.clone(),
            router.clone(),
            graceful.watcher(),
            permit,
            Arc::clone(service.clock()),
        ));
    }
    drop(listener);
    pruner.abort();
    ticker.abort();
    digester.abort();
    teller.abort();
    service.end_waits();
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::info!("some connections were cut when the server stopped");
    }
    let _ = tokio::task::spawn_blocking(move || service.flush_presence()).await;
    Ok(())
}

/// How long a connection of a known device may live; it simply connects again.
const KNOWN_LIFE: Duration = Duration::from_secs(4 * 3600);
/// How long a connection may be silent before the kernel asks whether somebody is there: longer than a poll's interval.
const SILENT: Duration = Duration::from_secs(900);
/// How long a connection without a certificate may live.
const STRANGER_LIFE: Duration = Duration::from_secs(30);

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: axum::Router,
    watcher: Watcher,
    permit: OwnedSemaphorePermit,
    clock: Arc<dyn Clock>,
) {
    // One small object each way: waiting to fill a segment only adds delay.
    let _ = stream.set_nodelay(true);
    keep_watch(&stream);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a handshake failed"),
        Err(_) => return tracing::debug!("a handshake took too long"),
    };
    let peer = tls::peer(stream.get_ref().1, clock.now_ms());
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(32);
    let serving = watcher.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned());
    // Whoever shows no certificate may only enrol, and gets no longer than that takes: silent connections hold places.
    let life = if peer.device.is_some() { KNOWN_LIFE } else { STRANGER_LIFE };
    match tokio::time::timeout(life, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended"),
        Err(_) => tracing::debug!("a connection had its time"),
    }
    drop(permit);
}

/// Has the kernel ask a silent device whether it is there still: seldom, because every packet costs it money, and never
/// while it polls.
fn keep_watch(stream: &TcpStream) {
    let set = rustix::net::sockopt::set_socket_keepalive(stream, true)
        .and_then(|()| rustix::net::sockopt::set_tcp_keepidle(stream, SILENT))
        .and_then(|()| rustix::net::sockopt::set_tcp_keepintvl(stream, HEADER))
        .and_then(|()| rustix::net::sockopt::set_tcp_keepcnt(stream, 4));
    if let Err(error) = set {
        tracing::debug!(%error, "a silent connection will not be noticed");
    }
}

/// Publishes what other processes took in, removes what has outlived its time, takes up a newer root.
async fn tick<S: Store>(service: Arc<Service<S>>, certificate: Arc<ServerCertificate>, devices: Arc<DeviceVerifier>) {
    let mut every = tokio::time::interval(Duration::from_secs(service.config().tick_s.into()));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let reminder = Arc::new(Mutex::new(expiry::Reminder::default()));
    loop {
        every.tick().await;
        let (service, certificate) = (Arc::clone(&service), Arc::clone(&certificate));
        let (devices, reminder) = (Arc::clone(&devices), Arc::clone(&reminder));
        let work = move || {
            // First, so that nothing that goes wrong below keeps it from being said.
            remind(&service, &reminder);
            housekeeping(&service, &certificate, &devices);
        };
        let _ = tokio::task::spawn_blocking(work).await;
    }
}

/// Tells devices that wait of what was published, by whatever process, and publishes what was left lying.
async fn news_tick<S: Store>(service: Arc<Service<S>>) {
    let mut every = tokio::time::interval(LOOK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let look = Arc::new(Mutex::new(Look::default()));
    loop {
        every.tick().await;
        let (service, look) = (Arc::clone(&service), Arc::clone(&look));
        let work = move || {
            let mut look = look.lock().unwrap_or_else(PoisonError::into_inner);
            match service.look_for_news(&mut look) {
                Ok(true) => publish_left(&service),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "nobody was told of news; the next look tries again"),
            }
        };
        let _ = tokio::task::spawn_blocking(work).await;
    }
}

fn publish_left<S: Store>(service: &Service<S>) {
    match maintain(service, service.clock().now_ms()) {
        Ok(cells) => tracing::info!(cells, "published"),
        Err(error) => tracing::error!(%error, "nothing was published; what was published before stands"),
    }
}

/// Looks at the audit that came in. It has a clock of its own: publishing a large extract must not put alerts off.
async fn digest_tick<S: Store>(service: Arc<Service<S>>) {
    let mut every = tokio::time::interval(Duration::from_secs(service.config().digest_s.into()));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let service = Arc::clone(&service);
        let digested = tokio::task::spawn_blocking(move || {
            service.flush_presence();
            digest::run(&**service.store(), &service.keys().audit, service.config())
        });
        if let Ok(Err(error)) = digested.await {
            tracing::error!(%error, "the audit that came in was not looked at; it will be");
        }
    }
}

/// Takes out of the logs what is older than is kept. It has a clock of its own: nothing waits for it.
async fn prune_tick<S: Store>(service: Arc<Service<S>>) {
    let mut every = tokio::time::interval(PRUNE);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let service = Arc::clone(&service);
        let pruned = tokio::task::spawn_blocking(move || {
            prune::run(&**service.store(), service.config(), service.clock().now_ms())
        });
        match pruned.await {
            Ok(Ok(pruned)) if pruned.cells > 0 => {
                tracing::info!(cells = pruned.cells, logs = pruned.logs, "the logs were shortened");
            }
            Ok(Err(error)) => tracing::error!(%error, "the logs were not shortened; they will be"),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
}

/// The certificates of every device authority that any stored root names: a device may come with the certificate that it
/// got years ago. Who it is, its key says, which the database knows.
fn authorities<S: Store>(service: &Service<S>) -> Vec<Vec<u8>> {
    let roots = service.store().read::<_, StoreError>(|tx| tx.roots_after(0)).unwrap_or_else(|error| {
        tracing::error!(%error, "the stored roots cannot be read");
        Vec::new()
    });
    let mut authorities = service.trust().root().authority_certificates.clone();
    for root in roots.iter().filter_map(|bytes| Trust::pin(bytes).ok()) {
        authorities.extend(root.root().authority_certificates.iter().cloned());
    }
    authorities.sort_unstable();
    authorities.dedup();
    authorities
}

/// Warns of what ends.
fn remind<S: Store>(service: &Service<S>, reminder: &Mutex<expiry::Reminder>) {
    let mut reminder = reminder.lock().unwrap_or_else(PoisonError::into_inner);
    for end in reminder.due(service.trust().root(), service.clock().now_ms()) {
        tracing::warn!(what = end.what, days = end.days, "a trust root or role ends: draft and sign the next root");
    }
}

fn housekeeping<S: Store>(service: &Service<S>, certificate: &ServerCertificate, devices: &DeviceVerifier) {
    let now_ms = service.clock().now_ms();
    let before = service.trust().root().version;
    if let Err(error) = service.refresh_trust() {
        tracing::error!(%error, "the newest trust root was not taken up");
    }
    if service.trust().root().version != before
        && let Err(error) = devices.renew(&authorities(service))
    {
        tracing::error!(%error, "certificates by the newest device authority are not accepted yet");
    }
    match resign::heads(&**service.store(), service.keys(), now_ms) {
        Ok(0) => {}
        Ok(scopes) => tracing::info!(scopes, "heads were signed again by the present key"),
        Err(error) => tracing::error!(%error, "heads were not signed again"),
    }
    if let Err(error) = certificate.renew(service.keys(), now_ms) {
        tracing::error!(%error, "the server certificate was not renewed");
    }
    if let Err(error) = rekey_due(service, now_ms) {
        tracing::error!(%error, "feed keys were not renewed; the keys before stay in use");
    }
    match maintain(service, now_ms) {
        Ok(0) => {}
        Ok(cells) => tracing::info!(cells, "published"),
        Err(error) => tracing::error!(%error, "nothing was published; what was published before stands"),
    }
}

/// Rotates and re-seals the feeds whose time it is; gives what was done.
///
/// # Errors
/// [`PublishError`].
pub fn rekey_due<S: Store>(service: &Service<S>, now_ms: i64) -> Result<Rekey, PublishError> {
    let plan = rekey::due(&**service.store(), service.config(), now_ms)?;
    if !plan.is_empty() {
        rekey::run(&**service.store(), service.keys(), &plan, now_ms, &mut |_| ())?;
        tracing::info!(rotated = plan.rotate.len(), resealed = plan.reseal.len(), "feed keys renewed");
    }
    Ok(plan)
}

/// Expires and publishes; gives the number of cells that were published.
///
/// # Errors
/// [`PublishError`].
pub fn maintain<S: Store>(service: &Service<S>, now_ms: i64) -> Result<u64, PublishError> {
    publish::expire(&**service.store(), now_ms)?;
    if !publish::is_due(&**service.store())? {
        return Ok(0);
    }
    let published = publish::publish(&**service.store(), service.keys(), now_ms, &mut |_| ())?;
    if published.crowded > 0 {
        tracing::warn!(
            people = published.crowded,
            "more people share their details than a device finds by name: run alert list"
        );
    }
    Ok(published.puts + published.removes)
}
