//! HTTP: paths and bodies to requests, errors to statuses, and what a cache may keep.
//! The only module that knows axum; it must not decide who may ask for what.

mod range;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderName, HeaderValue, Method, Request as HttpRequest, Response, StatusCode, header};
use axum::routing::get;
use cpis_protocol::limits;
use cpis_protocol::message::{REASON_HEADER, REASON_REVOKED, REASON_SUSPENDED, Request};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

use crate::port::Store;
use crate::service::{Peer, Service, ServiceError};

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
    let shared = Arc::new(Shared { service, workers: Semaphore::new(WORKERS) });
    Router::new()
        .route("/healthz", get(|| async { ([(header::CACHE_CONTROL, NO_STORE)], "ok\n") }))
        .fallback(answer::<S>)
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, REQUEST_TIME))
        .layer(CatchPanicLayer::new())
        .with_state(shared)
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
                if immutable { range::respond(&conditions, body) } else { Response::new(Body::from(body)) };
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
        (&Method::POST, "/v1/sync") if peer.device.is_some() => (limits::CATCH_UP_ASK_BYTES_MAX, Request::CatchUp),
        (&Method::POST, "/v1/audit" | "/v1/device" | "/v1/sync") => return Err(ServiceError::Unauthorised),
        _ => return Err(ServiceError::NotFound),
    };
    let body = axum::body::to_bytes(http.into_body(), limit).await.map_err(|_| ServiceError::TooLarge)?;
    Ok(make(body.to_vec()))
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
    if let ServiceError::Retry(seconds) = error {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(*seconds));
    }
    response
}
