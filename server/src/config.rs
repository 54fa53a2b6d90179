//! The server's configuration file, `server.toml`: where to listen and how to pace devices.
//! It must not hold a secret, nor anything that is signed: policy, look-up cost and keys live elsewhere.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file's name inside the server's directory.
pub const FILE: &str = "server.toml";

/// Why the configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error("{0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// Not TOML, an unknown name, or a value of the wrong kind.
    #[error("{0}: {1}")]
    Parse(PathBuf, String),
    /// A value that may not be.
    #[error("{0}: {1}")]
    Value(PathBuf, &'static str),
}

/// The configuration. Every value has a default, so an empty file will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where devices reach this server: goes into invitations and the server's certificate.
    pub url: String,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Seconds between two polls of a device.
    pub poll_s: u16,
    /// Seconds over which devices spread after an outage.
    pub spread_s: u16,
    /// Hours for which a beat may be installed.
    pub beat_valid_hours: u16,
    /// Seconds between two signatures over an unchanged beat.
    pub beat_every_s: u16,
    /// Seconds between two looks for plans whose time to be shown is over and for unpublished changes.
    pub tick_s: u16,
    /// Days for which a device's certificate is good.
    pub certificate_days: u16,
    /// Days after which a feed gets a new key for new cells.
    pub feed_key_days: u16,
    /// Hours after such a rotation until the whole feed is sealed anew; 0: at once.
    pub reseal_hours: u16,
    /// Days for which the log of a feed is kept: a device that was away for longer fetches what differs, or the whole.
    pub log_days: u16,
    /// Seconds between two looks at the audit that came in, for alerts and erasure receipts.
    pub digest_s: u16,
    /// Seconds over which look-ups are counted for the alerts below.
    pub alert_window_s: u32,
    /// Look-ups of one practitioner on one device within the window that raise an alert.
    pub alert_look_ups: u32,
    /// The fewest look-ups within the window of which the share that found nobody is judged.
    pub alert_misses_of: u32,
    /// The share of them, in percent, that raises an alert.
    pub alert_misses_percent: u8,
    /// Different dates of birth with one NHS number or one name, within a day, that raise an alert.
    pub alert_births: u32,
    /// Consecutive NHS numbers within the window that raise an alert.
    pub alert_sequence: u32,
    /// Connections at once; further ones wait.
    pub connections_max: u32,
    /// Seconds for which a device that waits for news is left without an answer; 0: no device may wait, all only poll.
    pub news_hold_s: u16,
    /// Devices that may wait for news at once; the others poll.
    pub news_max: u32,
    /// Devices that are told of news in one second: each comes at once.
    pub news_per_s: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "https://localhost:8443".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8443)),
            poll_s: 300,
            spread_s: 60,
            beat_valid_hours: 72,
            beat_every_s: 60,
            tick_s: 60,
            certificate_days: 90,
            feed_key_days: 30,
            reseal_hours: 24,
            log_days: 90,
            digest_s: 5,
            alert_window_s: 3600,
            alert_look_ups: 40,
            alert_misses_of: 30,
            alert_misses_percent: 98,
            alert_births: 5,
            alert_sequence: 5,
            connections_max: 4096,
            news_hold_s: 1800,
            news_max: 4096,
            news_per_s: 1000,
        }
    }
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read(path.to_path_buf(), error))?;
        let config: Self =
            toml::from_str(&text).map_err(|error| ConfigError::Parse(path.to_path_buf(), error.to_string()))?;
        config.check().map_err(|reason| ConfigError::Value(path.to_path_buf(), reason))?;
        Ok(config)
    }

    /// Checks the values.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), &'static str> {
        if host(&self.url).is_none() {
            return Err("url must look like https://cpis.example.nhs.uk:8443, without a path");
        }
        let positive = [self.poll_s, self.beat_valid_hours, self.beat_every_s, self.tick_s, self.certificate_days];
        if self.feed_key_days == 0 {
            return Err("feed_key_days: at least 1");
        }
        if self.log_days < 90 {
            return Err("log_days: at least 90");
        }
        if positive.contains(&0) || self.connections_max == 0 {
            return Err(
                "poll_s, beat_valid_hours, beat_every_s, tick_s, certificate_days, connections_max: at least 1",
            );
        }
        if self.digest_s == 0 || self.alert_window_s == 0 || self.alert_look_ups == 0 || self.alert_misses_of == 0 {
            return Err("digest_s, alert_window_s, alert_look_ups, alert_misses_of: at least 1");
        }
        if self.alert_misses_percent > 100 || self.alert_births < 2 || self.alert_sequence < 2 {
            return Err("alert_misses_percent: at most 100; alert_births, alert_sequence: at least 2");
        }
        if self.news_hold_s > 3600 || (1..10).contains(&self.news_hold_s) || self.news_per_s == 0 {
            return Err("news_hold_s: 10 to 3600, or 0 to let no device wait; news_per_s: at least 1");
        }
        Ok(())
    }

    /// The file as it is first written.
    #[must_use]
    pub fn to_text(&self) -> String {
        let values = toml::to_string(self).unwrap_or_default();
        format!(
            "# CP-IS Edge server. Every line may be left out; the values here are the defaults or were given to init.\n{values}"
        )
    }

    /// The names for the server's certificate: the host of the URL, and this machine.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        if let Some(host) = host(&self.url).filter(|host| !names.iter().any(|name| name == host)) {
            names.insert(0, host.to_owned());
        }
        names
    }
}

/// The host of `https://host[:port]`; an IPv6 address without its brackets.
fn host(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = if let Some(rest) = rest.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        (host, port.strip_prefix(':'))
    } else {
        rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)))
    };
    let host_ok = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:".contains(&b));
    let port_ok = port.is_none_or(|port| port.parse::<u16>().is_ok());
    (host_ok && port_ok).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let config = Config { url: "https://cpis.example.org:9443".into(), ..Config::default() };
        std::fs::write(&path, config.to_text()).unwrap();
        assert_eq!(Config::read(&path).unwrap(), config);
        assert_eq!(config.names()[0], "cpis.example.org");
        std::fs::write(&path, "").unwrap();
        assert_eq!(Config::read(&path).unwrap(), Config::default());
    }

    #[test]
    fn mistakes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        for (text, word) in [
            ("pol_s = 3", "pol_s"),
            ("poll_s = 0", "at least 1"),
            ("url = \"http://x\"", "https"),
            ("listen = 3", "listen"),
            ("digest_s = 0", "digest_s"),
            ("log_days = 89", "log_days"),
            ("alert_misses_percent = 101", "at most 100"),
            ("alert_births = 1", "alert_births"),
            ("news_hold_s = 3", "news_hold_s"),
            ("news_per_s = 0", "news_per_s"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Config::read(&path).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn hosts() {
        assert_eq!(host("https://localhost:8443"), Some("localhost"));
        assert_eq!(host("https://[::1]:8443"), Some("::1"));
        assert_eq!(host("https://a.example/"), Some("a.example"));
        for wrong in ["localhost", "http://a", "https://", "https://a/b", "https://a:99999", "https://u@a"] {
            assert_eq!(host(wrong), None, "{wrong}");
        }
    }
}
