//! The command line's way to the running agent: its loopback API.
//! It must not open the store: the running agent has it.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::agent::LOCK;
use crate::api::{Endpoint, FILE, Problem};

/// The agent did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no running agent in this directory.
    #[error("the agent is not running here")]
    NotRunning,
    /// The agent refused.
    #[error("{}", .0.message)]
    Problem(Problem),
    /// The agent answered something unexpected.
    #[error("the agent answered something unexpected: {0}")]
    Unexpected(String),
}

/// A connection to the running agent.
#[derive(Debug)]
pub struct Client {
    client: reqwest::Client,
    endpoint: Endpoint,
}

impl Client {
    /// Finds the running agent of a directory.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`].
    pub fn find(directory: &Path) -> Result<Self, ClientError> {
        let bytes = Self::endpoint(directory).ok_or(ClientError::NotRunning)?;
        let endpoint = serde_json::from_slice(&bytes).map_err(|e| ClientError::Unexpected(e.to_string()))?;
        // Plain HTTP on loopback: no TLS backend is needed, and a proxy must never see a passphrase.
        crate::transport::install_provider();
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(120))
            .build()
            .map_err(|e| ClientError::Unexpected(e.to_string()))?;
        Ok(Self { client, endpoint })
    }

    /// What the running agent wrote of itself. A file that a killed agent left behind is not believed: somebody else may
    /// listen at that address now, and a passphrase must not go there. An agent that is just starting is waited for.
    fn endpoint(directory: &Path) -> Option<Vec<u8>> {
        for _ in 0..100 {
            if matches!(crate::durable::lock(&directory.join(LOCK)), Ok(Some(_))) || !directory.exists() {
                return None;
            }
            if let Ok(bytes) = std::fs::read(directory.join(FILE)) {
                return Some(bytes);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    /// GET.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<R: DeserializeOwned>(&self, path: &str) -> Result<R, ClientError> {
        self.read(self.client.get(self.url(path))).await
    }

    /// POST with a JSON body. The reply may be empty: then `R` is read from `null`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post<R: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<R, ClientError> {
        self.read(self.client.post(self.url(path)).json(body)).await
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.endpoint.address)
    }

    async fn read<R: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<R, ClientError> {
        let response = request.bearer_auth(&self.endpoint.token).send().await.map_err(|error| {
            if error.is_connect() { ClientError::NotRunning } else { ClientError::Unexpected(error.to_string()) }
        })?;
        let good = response.status().is_success();
        let status = response.status();
        let body = response.bytes().await.map_err(|e| ClientError::Unexpected(e.to_string()))?;
        if !good {
            return Err(match serde_json::from_slice(&body) {
                Ok(problem) => ClientError::Problem(problem),
                Err(_) => ClientError::Unexpected(format!("status {status}")),
            });
        }
        let body: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(body).map_err(|e| ClientError::Unexpected(e.to_string()))
    }
}
