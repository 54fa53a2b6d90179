//! Configuration: flags over environment over `agent.toml` over defaults, checked once.
//! It must not hold a secret or anything that signed policy decides.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::device_secret::tpm::Address;
use crate::device_secret::{Choice, Sources};

/// The file's name in the agent's directory.
pub const FILE: &str = "agent.toml";
/// Where the page and the API listen unless configured.
pub const API: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8787);

/// What may be configured on the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the API listens: a loopback address. Port 0 takes any free one. Not reloaded: needs a restart.
    pub api: SocketAddr,
    /// A folder whose bundles are taken in, e.g. where USB sticks are mounted.
    pub drop_folder: Option<PathBuf>,
    /// What is logged: `error`, `warn`, `info`, `debug`, or a `tracing` filter.
    pub log: String,
    /// The most that the audit journal may take on disk, in MiB.
    pub journal_mib: u32,
    /// Who keeps the device secret: chosen at enrolment and fixed from then on.
    pub device_secret: Choice,
    /// The TPM; without it the machine's own, `/dev/tpmrm0`.
    pub tpm: Option<Address>,
    /// Whether one question is kept open at the server, so that news comes within about a second instead of at the next
    /// poll. Off where each byte is paid for.
    pub news: bool,
    /// Hands the copy to other devices of the site. Off unless it is there. Not reloaded: needs a restart.
    pub station: Option<Station>,
    /// Devices of the site that hand theirs: `https://host:port`. Not reloaded.
    pub stations: Vec<String>,
    /// Mirrors of the server's immutable objects: `https://host`. Not reloaded.
    pub mirrors: Vec<String>,
}

/// How to be a station.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Station {
    /// Where other devices of the site reach it.
    pub listen: SocketAddr,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            api: API,
            drop_folder: None,
            log: "info".into(),
            journal_mib: 64,
            device_secret: Choice::Auto,
            tpm: None,
            station: None,
            stations: Vec::new(),
            mirrors: Vec::new(),
            news: true,
        }
    }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file does not parse, or has a key that does not exist.
    #[error("{}: {error}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        error: Box<toml::de::Error>,
    },
    /// The API would listen where other machines can reach it.
    #[error(
        "api = \"{0}\" is not a loopback address: the API shows children's data and may only listen on 127.0.0.1 or ::1"
    )]
    NotLoopback(SocketAddr),
    /// The journal's limit is out of range.
    #[error("journal_mib = {0} is out of range: it must be between 4 and 1024")]
    Journal(u32),
    /// Not an address of a station or mirror.
    #[error("\"{0}\" is not the address of a station or mirror: it must be like https://host:port, without a path")]
    Neighbour(String),
    /// Too many of them.
    #[error("there are more than {NEIGHBOURS_MAX} stations and mirrors")]
    Neighbours,
}

/// Stations and mirrors that may be configured: each is asked in turn.
pub const NEIGHBOURS_MAX: usize = 8;

impl Config {
    /// Reads `agent.toml` in `directory`; a missing file means defaults.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(directory: &Path) -> Result<Self, ConfigError> {
        let path = directory.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(ConfigError::Read { path, error }),
        };
        let config: Self =
            toml::from_str(&text).map_err(|error| ConfigError::Parse { path, error: Box::new(error) })?;
        config.check()
    }

    /// Where the device secret is to be looked for: this, and systemd's directory of credentials.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        Sources { choice: self.device_secret, tpm: self.tpm.clone(), credentials }
    }

    fn check(self) -> Result<Self, ConfigError> {
        if !self.api.ip().is_loopback() {
            return Err(ConfigError::NotLoopback(self.api));
        }
        if !(4..=1024).contains(&self.journal_mib) {
            return Err(ConfigError::Journal(self.journal_mib));
        }
        let neighbours = || self.stations.iter().chain(&self.mirrors);
        let host = |url: &String| url.strip_prefix("https://").map(|rest| rest.trim_end_matches('/').to_owned());
        if let Some(wrong) =
            neighbours().find(|url| host(url).is_none_or(|h| h.is_empty() || h.contains(['/', '?', '@'])))
        {
            return Err(ConfigError::Neighbour(wrong.clone()));
        }
        if neighbours().count() > NEIGHBOURS_MAX {
            return Err(ConfigError::Neighbours);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), text).unwrap();
        Config::load(dir.path())
    }

    #[test]
    fn defaults_and_refusals() {
        assert_eq!(Config::load(Path::new("/nonexistent")).unwrap(), Config::default());
        assert_eq!(load("log = \"debug\"").unwrap().log, "debug");
        assert!(matches!(load("api = \"0.0.0.0:80\""), Err(ConfigError::NotLoopback(_))));
        assert!(matches!(load("journal_mib = 1"), Err(ConfigError::Journal(1))));
        let config = load("device_secret = \"tpm\"\ntpm = \"tcp:127.0.0.1:2321\"").unwrap();
        assert_eq!((config.device_secret, config.tpm.unwrap().to_string()), (Choice::Tpm, "tcp:127.0.0.1:2321".into()));
        assert!(load("tpm = \"tcp:10.0.0.1:2321\"").unwrap_err().to_string().contains("this machine only"));
        assert!(load("device_secret = \"chip\"").is_err());
        let config = load("stations = [\"https://10.0.0.7:8790\"]\n[station]\nlisten = \"0.0.0.0:8790\"").unwrap();
        assert_eq!((config.stations.len(), config.station.unwrap().listen.port()), (1, 8790));
        for wrong in ["http://a", "https://", "https://a/b", "https://u@a", "a:1"] {
            assert!(matches!(load(&format!("mirrors = [\"{wrong}\"]")), Err(ConfigError::Neighbour(_))), "{wrong}");
        }
        let error = load("drop_foldr = \"x\"").unwrap_err().to_string();
        assert!(error.contains("drop_foldr") && error.contains("drop_folder"), "{error}");
    }
}
