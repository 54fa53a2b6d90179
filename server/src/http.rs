//! HTTP: paths and bodies to requests, errors to statuses, and what a cache may keep.
//! The only module that knows axum; it must not decide who may ask for what.

mod range;
mod slices;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderName, HeaderValue, Method, Request as HttpRequest, Response, StatusCode, header};
use axum::routing::get;
use cpis_protocol::Refusal;
use cpis_protocol::id::unhex;
use cpis_protocol::limits;
use cpis_protocol::message::{
    ASK_HEADER, ASK_HEADER_BYTES_MAX, NEWS, REASON_HEADER, REASON_REVOKED, REASON_SUSPENDED, Request,
};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

use crate::port::Store;
use crate::service::{Ended, Peer, Service, ServiceError};

/// The longest that one request may take, its body included.
const REQUEST_TIME: Duration = Duration::from_secs(60);
/// Requests that touch the database at once.
const WORKERS: usize = 32;

const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

struct Shared<S: Store> {
    service: Arc<Service<S>>,
    workers: Semaphore,
}

/// The routes; every request must carry a [`Peer`] extension.
pub fn router<S: Store>(service: Arc<Service<S>>) -> Router {
    router_within(service, REQUEST_TIME)
}

/// The same with another limit to the time of a request.
pub fn router_within<S: Store>(service: Arc<Service<S>>, request_time: Duration) -> Router {
    let shared = Arc::new(Shared { service, workers: Semaphore::new(WORKERS) });
    // Outside the time limit of requests: these wait, holding nothing.
    let waits = Router::new().route("/v1/news/{head}", get(news::<S>)).layer(CatchPanicLayer::new());
    let waits = waits.with_state(Arc::clone(&shared));
    Router::new()
        .route("/healthz", get(|| async { ([(header::CACHE_CONTROL, NO_STORE)], "ok\n") }))
        .fallback(answer::<S>)
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, request_time))
        .layer(CatchPanicLayer::new())
        .with_state(shared)
        .merge(waits)
}

/// Answers a device that waits for news: when there is some, or when the time is over.
async fn news<S: Store>(
    State(shared): State<Arc<Shared<S>>>,
    Extension(peer): Extension<Peer>,
    http: HttpRequest<Body>,
) -> Response<Body> {
    let Some(Request::News(named)) = Request::from_path(http.uri().path()) else {
        return refuse(&ServiceError::NotFound);
    };
    let service = Arc::clone(&shared.service);
    let entered = {
        let Ok(_permit) = shared.workers.acquire().await else { return refuse(&ServiceError::Retry(1)) };
        tokio::task::spawn_blocking(move || service.wait_for_news(peer, named)).await
    };
    let ended = match entered {
        Ok(Ok(None)) => Ended::News,
        Ok(Ok(Some(wait))) => wait.end().await,
        Ok(Err(error)) => return refuse(&error),
        Err(_) => return refuse(&ServiceError::Internal("a request panicked".into())),
    };
    let body = match ended {
        Ended::News => Body::from(&NEWS[..]),
        Ended::Nothing => Body::empty(),
        // They come back over the spread that every outage has.
        Ended::Stopped => return refuse(&ServiceError::Retry(0)),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
    response
}

async fn answer<S: Store>(
    State(shared): State<Arc<Shared<S>>>,
    Extension(peer): Extension<Peer>,
    http: HttpRequest<Body>,
) -> Response<Body> {
    let conditions = range::Conditions::of(http.headers());
    let request = match read(peer, http).await {
        Ok(request) => request,
        Err(error) => return refuse(&error),
    };
    let immutable = request.is_immutable();
    let cache = match &request {
        request if request.is_immutable() => IMMUTABLE,
        _ => NO_STORE,
    };
    let Ok(permit) = shared.workers.acquire().await else { return refuse(&ServiceError::Retry(1)) };
    let service = Arc::clone(&shared.service);
    // The database blocks; the threads that serve connections must not.
    let result = tokio::task::spawn_blocking(move || service.handle(peer, request)).await;
    drop(permit);
    match result {
        Ok(Ok(body)) => {
            let mut response =
                if immutable { range::respond(&conditions, body) } else { Response::new(slices::body(body)) };
            // A range that is not there now may be there in what a cache keeps of another.
            let cache = if response.status() == StatusCode::RANGE_NOT_SATISFIABLE { NO_STORE } else { cache };
            response.headers_mut().insert(header::CACHE_CONTROL, cache);
            let binary = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(header::CONTENT_TYPE, binary);
            response
        }
        Ok(Err(error)) => refuse(&error),
        Err(_) => refuse(&ServiceError::Internal("a request panicked".into())),
    }
}

/// Reads a request; a body only where one belongs and up to its limit, and no audit body from nobody.
async fn read(peer: Peer, http: HttpRequest<Body>) -> Result<Request, ServiceError> {
    let path = http.uri().path();
    if http.method() == Method::GET {
        return Request::from_path(path).ok_or(ServiceError::NotFound);
    }
    let (limit, make): (usize, fn(Vec<u8>) -> Request) = match (http.method(), path) {
        // A request to enrol is smaller than a beat; its reply is what needs room.
        (&Method::POST, "/v1/enrol") => (limits::BEAT_BYTES_MAX, Request::Enrol),
        (&Method::POST, "/v1/audit") if peer.device.is_some() => (limits::AUDIT_BATCH_BYTES_MAX, Request::Audit),
        (&Method::POST, "/v1/device") if peer.device.is_some() => (limits::REPORT_BYTES_MAX, Request::Report),
        (&Method::POST, "/v1/sync") if peer.device.is_some() => {
            if let Some(value) = http.headers().get(ASK_HEADER) {
                return short_question(value).map(Request::CatchUp);
            }
            (limits::CATCH_UP_ASK_BYTES_MAX, Request::CatchUp)
        }
        (&Method::POST, "/v1/audit" | "/v1/device" | "/v1/sync") => return Err(ServiceError::Unauthorised),
        _ => return Err(ServiceError::NotFound),
    };
    let body = axum::body::to_bytes(http.into_body(), limit).await.map_err(|_| ServiceError::TooLarge)?;
    Ok(make(body.to_vec()))
}

/// R238: A combined question that came as a header.
fn short_question(value: &HeaderValue) -> Result<Vec<u8>, ServiceError> {
    let malformed = || ServiceError::Refused(Refusal::Malformed.code());
    let text = value.to_str().map_err(|_| malformed())?;
    if text.len() > 2 * ASK_HEADER_BYTES_MAX {
        return Err(ServiceError::TooLarge);
    }
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(malformed()) };
    let byte = |pair: &[u8; 2]| unhex::<1>(std::str::from_utf8(pair).ok()?).ok().map(|[byte]| byte);
    pairs.iter().map(byte).collect::<Option<Vec<_>>>().ok_or_else(malformed)
}

fn refuse(error: &ServiceError) -> Response<Body> {
    let (status, reason) = match error {
        ServiceError::NotFound => (StatusCode::NOT_FOUND, None),
        ServiceError::Unauthorised => (StatusCode::FORBIDDEN, None),
        ServiceError::Revoked => (StatusCode::FORBIDDEN, Some(REASON_REVOKED)),
        ServiceError::Suspended => (StatusCode::FORBIDDEN, Some(REASON_SUSPENDED)),
        ServiceError::Refused(code) => (StatusCode::BAD_REQUEST, Some(*code)),
        ServiceError::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, None),
        ServiceError::Retry(_) => (StatusCode::SERVICE_UNAVAILABLE, None),
        ServiceError::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, None),
    };
    if let ServiceError::Internal(text) = error {
        tracing::error!(error = %text, "a request failed");
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    // R133, R284: What is not there now may be there later: no refusal is ever kept by a cache.
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    if let Some(reason) = reason {
        headers.insert(HeaderName::from_static(REASON_HEADER), HeaderValue::from_static(reason));
    }
    if let ServiceError::Retry(seconds @ 1..) = error {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(*seconds));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_questions() {
        let read = |text: &'static str| short_question(&HeaderValue::from_static(text)).map_err(|e| e.to_string());
        assert_eq!(read("01a0ff"), Ok(vec![1, 0xa0, 0xff]));
        assert_eq!(read(""), Ok(Vec::new()));
        for wrong in ["1", "0g", "+1", "01 2", "0123456789abcdefx"] {
            assert_eq!(read(wrong), Err("refused: malformed".into()), "{wrong}");
        }
        let long = HeaderValue::from_str(&"00".repeat(ASK_HEADER_BYTES_MAX + 1)).unwrap();
        assert!(matches!(short_question(&long), Err(ServiceError::TooLarge)));
    }
}
