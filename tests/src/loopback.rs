//! The agent's loopback API by hand: bytes over a socket, so that no client tidies a request up.
//! It must not add what the caller left out on purpose.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::Context as _;
use serde_json::Value;

use crate::scene::text;
use crate::site::AgentSite;

/// Where a running agent's API is, and its token.
#[derive(Debug, Clone)]
pub struct Api {
    /// Address and port.
    pub address: String,
    /// The bearer token.
    pub token: String,
}

/// A reply.
#[derive(Debug)]
pub struct Reply {
    /// 0 when there was none.
    pub status: u16,
    /// In small letters.
    pub headers: String,
    /// `null` when it is no JSON.
    pub body: Value,
}

impl Api {
    /// Of a running agent.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn of(agent: &AgentSite) -> anyhow::Result<Self> {
        let file: Value = serde_json::from_slice(&std::fs::read(agent.directory().join("api.json"))?)?;
        Ok(Self { address: text(&file, "/address").to_owned(), token: text(&file, "/token").to_owned() })
    }

    /// Sends bytes as they are and reads the reply to its end.
    ///
    /// # Errors
    /// When nothing listens there, or the connection ended before a reply.
    pub fn raw(&self, request: &str) -> anyhow::Result<Reply> {
        let mut stream = TcpStream::connect(&self.address)?;
        // The agent may answer and close before everything is sent.
        let _ = stream.write_all(request.as_bytes());
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let reply = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = reply.split_once("\r\n\r\n").context("no reply")?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Ok(Reply { status, headers: head.to_lowercase(), body: serde_json::from_str(body).unwrap_or_default() })
    }

    /// Sends a request as the command line would, but for the headers given; an empty value leaves a header out.
    ///
    /// # Errors
    /// As [`Self::raw`].
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> anyhow::Result<Reply> {
        let bearer = format!("Bearer {}", self.token);
        let usual = [("Host", self.address.as_str()), ("Authorization", &bearer), ("Content-Type", "application/json")];
        let left = usual.iter().filter(|(name, _)| !headers.iter().any(|(given, _)| given == name));
        let lines = left.chain(headers).filter(|(_, value)| !value.is_empty());
        let lines: String = lines.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n{lines}\r\n{body}"
        ))
    }

    /// POST with JSON.
    ///
    /// # Errors
    /// As [`Self::raw`].
    pub fn post(&self, path: &str, body: &Value) -> anyhow::Result<Reply> {
        self.send("POST", path, &[], &body.to_string())
    }
}
