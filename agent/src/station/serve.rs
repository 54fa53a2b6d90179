//! A station's listener: TLS with devices of the deployment, GET of what the present copy holds, and nothing else.
//! It must not keep anything of a client, nor let clients take more than a fixed share of memory, threads and places.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Body;
use cpis_protocol::message::Request;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::{CARRIER_HEADER, STORED};
use crate::agent::Agent;
use crate::{driver, holdings};

/// Connections at once; and from one address.
const CONNECTIONS: usize = 64;
const CONNECTIONS_OF_ONE: usize = 16;
/// Requests that read the copy at once: look-ups come first.
const READERS: usize = 2;
/// Requests under way on one connection. With the places above, what waits to be sent is at most 16 MiB.
const STREAMS: u32 = 4;
/// Bytes that wait to be sent on one connection's stream.
const UNSENT: usize = 64 * 1024;
/// The longest that a handshake, the head of a request, or an unanswered ping may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may live; it simply connects again.
const LIFE: Duration = Duration::from_secs(600);

/// Who is connected: how many from each address. Nothing is kept of whoever is gone.
type Places = Arc<Mutex<BTreeMap<IpAddr, usize>>>;

struct Place {
    places: Places,
    address: IpAddr,
}

impl Place {
    fn take(places: &Places, address: IpAddr) -> Option<Self> {
        let mut taken = places.lock().unwrap_or_else(PoisonError::into_inner);
        let of_this = taken.get(&address).copied().unwrap_or(0);
        if of_this >= CONNECTIONS_OF_ONE || taken.values().sum::<usize>() >= CONNECTIONS {
            return None;
        }
        taken.insert(address, of_this + 1);
        drop(taken);
        Some(Self { places: Arc::clone(places), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.remove(&self.address);
            }
        }
    }
}

/// Where answers come from; it may block.
pub type Source = dyn Fn(&Agent, &Request) -> Option<Vec<u8>> + Send + Sync;

/// Serves the present copy until shutdown.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(agent: Arc<Agent>, address: SocketAddr, shutdown: watch::Receiver<bool>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen as a station on {address}"))?;
    serve_from(agent, listener, Arc::new(holdings::answer), shutdown).await
}

/// The same with answers from elsewhere.
///
/// # Errors
/// When the listener fails.
pub async fn serve_from(
    agent: Arc<Agent>,
    listener: TcpListener,
    source: Arc<Source>,
    mut shutdown: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    tracing::info!(address = %listener.local_addr()?, "this device is a station: it hands its copy to others");
    let (places, readers) = (Places::default(), Arc::new(Semaphore::new(READERS)));
    let mut tls = None;
    loop {
        let (stream, address) = tokio::select! {
            _ = shutdown.changed() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection to the station could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        // Full: whoever comes now asks elsewhere, at once.
        let Some(place) = Place::take(&places, address.ip()) else { continue };
        let acceptor = match agent.station_tls(&mut tls) {
            Ok(config) => TlsAcceptor::from(config),
            Err(error) => {
                tracing::error!(%error, "the station cannot set up TLS");
                continue;
            }
        };
        let with = Answering { agent: Arc::clone(&agent), readers: Arc::clone(&readers), source: Arc::clone(&source) };
        let mut shutdown = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = tokio::time::timeout(LIFE, connection(with, stream, acceptor)) => {}
                _ = shutdown.changed() => {}
            }
            drop(place);
        });
    }
}

/// What a connection answers with.
#[derive(Clone)]
struct Answering {
    agent: Arc<Agent>,
    readers: Arc<Semaphore>,
    source: Arc<Source>,
}

async fn connection(with: Answering, stream: TcpStream, acceptor: TlsAcceptor) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a handshake with the station failed"),
        Err(_) => return tracing::debug!("a handshake with the station took too long"),
    };
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let with = with.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(&with, &request).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(UNSENT)
        .keep_alive_interval(PATIENCE)
        .keep_alive_timeout(PATIENCE);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the station ended");
    }
}

async fn answer(with: &Answering, http: &hyper::Request<Incoming>) -> Response<Body> {
    if http.method() != Method::GET {
        return reply(StatusCode::METHOD_NOT_ALLOWED, Vec::new(), false);
    }
    let Some(request) = Request::from_path(http.uri().path()) else {
        return reply(StatusCode::NOT_FOUND, Vec::new(), false);
    };
    let immutable = request.is_immutable();
    let Ok(_reader) = with.readers.acquire().await else {
        return reply(StatusCode::SERVICE_UNAVAILABLE, Vec::new(), false);
    };
    let source = Arc::clone(&with.source);
    match driver::blocking(&with.agent, move |agent| source(agent, &request)).await.flatten() {
        Some(body) => reply(StatusCode::OK, body, immutable),
        None => reply(StatusCode::NOT_FOUND, Vec::new(), false),
    }
}

/// R278: only what is immutable may be cached, and everything is marked as stored.
fn reply(status: StatusCode, body: Vec<u8>, immutable: bool) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let cache = if immutable { "public, max-age=31536000, immutable" } else { "no-store" };
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(HeaderName::from_static(CARRIER_HEADER), HeaderValue::from_static(STORED));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_few_and_given_back() {
        let places = Places::default();
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        let taken: Vec<_> = (0..40).filter_map(|_| Place::take(&places, address(1))).collect();
        assert_eq!(taken.len(), CONNECTIONS_OF_ONE, "one address takes no more than its share");
        let others: Vec<_> = (2..20).filter_map(|n| Place::take(&places, address(n))).collect();
        assert_eq!(others.len(), 18);
        let more: Vec<_> = (20..120).filter_map(|n| Place::take(&places, address(n))).collect();
        assert_eq!(more.len(), CONNECTIONS - 18 - CONNECTIONS_OF_ONE);
        drop((taken, others, more));
        assert!(places.lock().unwrap().is_empty(), "nothing is kept of whoever is gone");
    }
}
