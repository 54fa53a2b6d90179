//! The loopback API that the page, the command line and record systems use. The home of axum.
//! It must not decide anything, listen beyond loopback, keep an identifier in a URL, or let an answer be cached.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::agent::{Agent, UnlockError};
use crate::lookup::{self, NameQuestion, Question, RevealError};
use crate::{bundle, export, memory, random};

/// The file that tells local callers, who may read it, where the API is.
pub const FILE: &str = "api.json";
const BODY_BYTES_MAX: usize = 16 * 1024;

/// Where the API is, and the secret that opens it. A new one at each start.
#[derive(Clone, Serialize, Deserialize)]
pub struct Endpoint {
    /// The loopback address.
    pub address: SocketAddr,
    /// The bearer token.
    pub token: String,
}

impl core::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Endpoint({}, [secret])", self.address)
    }
}

/// Who unlocks, or gets a slot.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnlockRequest {
    /// Who.
    pub practitioner: String,
    /// The passphrase of the slot.
    pub passphrase: String,
}

/// Asks about one person.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookUpRequest {
    /// The NHS number; spaces are allowed.
    pub nhs_number: String,
    /// The date of birth.
    pub date_of_birth: String,
    /// Where the person lives, when known.
    #[serde(default)]
    pub area: Option<String>,
    /// The incident that the crew works on.
    #[serde(default)]
    pub incident: Option<String>,
}

/// Asks by name.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookUpByNameRequest {
    /// The surname; the whole name of somebody with a single one.
    pub surname: String,
    /// Given names, when known.
    #[serde(default)]
    pub given_name: String,
    /// The date of birth.
    pub date_of_birth: String,
    /// The full postcode, when known.
    #[serde(default)]
    pub postcode: Option<String>,
    /// Where the person lives, when known.
    #[serde(default)]
    pub area: Option<String>,
    /// The incident that the crew works on.
    #[serde(default)]
    pub incident: Option<String>,
}

/// Asks for the details of a look-up.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevealRequest {
    /// The look-up.
    pub look_up: u64,
    /// Of a look-up by name: which candidate, from 1.
    #[serde(default)]
    pub candidate: Option<usize>,
    /// The incident that the crew works on.
    #[serde(default)]
    pub incident: Option<String>,
}

/// Breaks the glass.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakGlassRequest {
    /// Why; it is recorded and reported.
    pub reason: String,
    /// That the person was asked a second time.
    #[serde(default)]
    pub confirmed: bool,
}

/// Takes a bundle in.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// The file, on this machine.
    pub path: std::path::PathBuf,
}

/// Writes the present copy to a bundle.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportRequest {
    /// The file, on this machine.
    pub path: std::path::PathBuf,
}

/// What went wrong: a stable code, what it means, what to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    /// Stable.
    pub code: String,
    /// For people.
    pub message: String,
}

macro_rules! redacted {
    ($($name:ident),*) => {
        $(impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(concat!(stringify!($name), "([redacted])"))
            }
        })*
    };
}
redacted!(
    BreakGlassRequest,
    UnlockRequest,
    LookUpRequest,
    LookUpByNameRequest,
    RevealRequest,
    ImportRequest,
    ExportRequest
);

struct Api {
    agent: Arc<Agent>,
    endpoint: Endpoint,
}

fn problem(status: StatusCode, code: &str, message: impl core::fmt::Display) -> Response {
    (status, Json(Problem { code: code.into(), message: message.to_string() })).into_response()
}

/// Serves until shutdown; writes [`FILE`] once the address is known.
///
/// # Errors
/// When the address is taken, or the file cannot be written.
pub async fn serve(agent: Arc<Agent>, address: SocketAddr, mut shutdown: watch::Receiver<bool>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let token = cpis_protocol::id::hex(&random::OsRandom::bytes::<32>()?);
    let endpoint = Endpoint { address: listener.local_addr()?, token };
    crate::durable::replace(&agent.directory().join(FILE), &serde_json::to_vec(&endpoint)?)?;
    let file = agent.directory().join(FILE);
    let state = Arc::new(Api { agent, endpoint });
    let result = axum::serve(listener, router(state))
        .with_graceful_shutdown(async move {
            let _ = shutdown.changed().await;
        })
        .await;
    let _ = std::fs::remove_file(file);
    Ok(result?)
}

fn router(state: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/outbox", get(outbox))
        .route("/v1/doctor", get(doctor))
        .route("/v1/unlock", post(unlock))
        .route("/v1/practitioner", post(practitioner))
        .route("/v1/lock", post(lock))
        .route("/v1/break-glass", post(break_glass))
        .route("/v1/look-up", post(look_up))
        .route("/v1/look-up-by-name", post(look_up_by_name))
        .route("/v1/reveal", post(reveal))
        .route("/v1/sync", post(sync))
        .route("/v1/import", post(import))
        .route("/v1/export", post(export_copy))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), guard))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(state)
}

/// Only callers who can read the token, by the exact host: stops other users, web pages and DNS rebinding.
async fn guard(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let port = api.endpoint.address.port();
    let hosts = [api.endpoint.address.to_string(), format!("localhost:{port}")];
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let mut response = if !hosts.iter().any(|allowed| allowed == host) {
        problem(StatusCode::MISDIRECTED_REQUEST, "wrong-host", "this API answers only under its own loopback address")
    } else if headers.contains_key(header::ORIGIN) {
        problem(StatusCode::FORBIDDEN, "foreign-origin", "web pages may not call this API")
    } else if !authorised(headers, &api.endpoint.token) {
        problem(StatusCode::UNAUTHORIZED, "no-token", "the bearer token of this agent is missing or wrong")
    } else {
        next.run(request).await
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A connection's buffers hold what was asked until it ends.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn authorised(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    // Hashes are compared, so that time tells nothing of the token.
    cpis_protocol::digest::sha256(given.as_bytes()) == cpis_protocol::digest::sha256(token.as_bytes())
}

/// Runs blocking work of the agent; a panic in it becomes an error, never a dead agent.
async fn blocking<R: Send + 'static>(
    api: &Arc<Api>,
    work: impl FnOnce(&Agent) -> R + Send + 'static,
) -> Result<R, Response> {
    let agent = Arc::clone(&api.agent);
    tokio::task::spawn_blocking(move || memory::wiping(|| work(&agent)))
        .await
        .map_err(|_| problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the agent failed; see its log"))
}

async fn status(State(api): State<Arc<Api>>) -> Result<Response, Response> {
    Ok(Json(blocking(&api, Agent::status).await?).into_response())
}

async fn outbox(State(api): State<Arc<Api>>) -> Result<Response, Response> {
    Ok(Json(blocking(&api, Agent::outbox).await?).into_response())
}

async fn doctor(State(api): State<Arc<Api>>) -> Result<Response, Response> {
    // What is on the disk, not what was there when the agent started.
    crate::scrub::pass(&api.agent, Duration::ZERO).await;
    Ok(Json(blocking(&api, crate::doctor::examine).await?).into_response())
}

async fn unlock(State(api): State<Arc<Api>>, Json(body): Json<UnlockRequest>) -> Result<Response, Response> {
    let passphrase = Zeroizing::new(body.passphrase);
    match blocking(&api, move |agent| agent.unlock(&body.practitioner, &passphrase)).await? {
        Ok(badge) => {
            Ok(Json(serde_json::json!({ "practitioner": badge.practitioner, "name": badge.name })).into_response())
        }
        Err(error) => Ok(unlock_problem(&error)),
    }
}

fn unlock_problem(error: &UnlockError) -> Response {
    problem(StatusCode::FORBIDDEN, error.code(), error)
}

async fn practitioner(State(api): State<Arc<Api>>, Json(body): Json<UnlockRequest>) -> Result<Response, Response> {
    let passphrase = Zeroizing::new(body.passphrase);
    match blocking(&api, move |agent| agent.add_slot(&body.practitioner, &passphrase)).await? {
        Ok(()) => Ok(StatusCode::NO_CONTENT.into_response()),
        Err(error) => Ok(unlock_problem(&error)),
    }
}

async fn lock(State(api): State<Arc<Api>>) -> Result<Response, Response> {
    blocking(&api, Agent::lock).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn break_glass(State(api): State<Arc<Api>>, Json(body): Json<BreakGlassRequest>) -> Result<Response, Response> {
    let result = blocking(&api, move |agent| agent.break_glass(&body.reason, body.confirmed)).await?;
    Ok(match result {
        Ok(allowance) => Json(allowance).into_response(),
        Err(error) => problem(StatusCode::FORBIDDEN, error.code(), error),
    })
}

async fn look_up(State(api): State<Arc<Api>>, Json(body): Json<LookUpRequest>) -> Result<Response, Response> {
    let question =
        Question { number: body.nhs_number, birth: body.date_of_birth, area: body.area, incident: body.incident };
    let reply = blocking(&api, move |agent| lookup::look_up(agent, &question)).await?;
    api.agent.wake_push().notify_one();
    Ok(Json(reply).into_response())
}

async fn look_up_by_name(
    State(api): State<Arc<Api>>,
    Json(body): Json<LookUpByNameRequest>,
) -> Result<Response, Response> {
    let question = NameQuestion {
        surname: body.surname,
        given: body.given_name,
        birth: body.date_of_birth,
        postcode: body.postcode,
        area: body.area,
        incident: body.incident,
    };
    let reply = blocking(&api, move |agent| lookup::look_up_by_name(agent, &question)).await?;
    api.agent.wake_push().notify_one();
    Ok(Json(reply).into_response())
}

async fn reveal(State(api): State<Arc<Api>>, Json(body): Json<RevealRequest>) -> Result<Response, Response> {
    let result =
        blocking(&api, move |agent| lookup::reveal(agent, body.look_up, body.candidate, body.incident.as_deref()))
            .await?;
    api.agent.wake_push().notify_one();
    Ok(match result {
        Ok(revealed) => Json(revealed).into_response(),
        Err(error @ RevealError::CannotAnswer(reason)) => problem(StatusCode::CONFLICT, reason.code(), error),
        Err(error @ RevealError::NoSuchCandidate) => problem(StatusCode::BAD_REQUEST, "no-such-candidate", error),
        Err(error @ RevealError::NothingToReveal) => problem(StatusCode::NOT_FOUND, "nothing-to-reveal", error),
    })
}

async fn sync(State(api): State<Arc<Api>>) -> Response {
    api.agent.wake_pull().notify_one();
    api.agent.wake_push().notify_one();
    StatusCode::ACCEPTED.into_response()
}

async fn import(State(api): State<Arc<Api>>, Json(body): Json<ImportRequest>) -> Response {
    match bundle::import(&api.agent, &body.path).await {
        Ok(done) => Json(done).into_response(),
        Err(error) => problem(StatusCode::UNPROCESSABLE_ENTITY, "not-taken-in", error),
    }
}

async fn export_copy(State(api): State<Arc<Api>>, Json(body): Json<ExportRequest>) -> Result<Response, Response> {
    Ok(match blocking(&api, move |agent| export::write(agent, &body.path)).await? {
        Ok(done) => Json(done).into_response(),
        Err(error) => problem(StatusCode::UNPROCESSABLE_ENTITY, "not-exported", error),
    })
}
