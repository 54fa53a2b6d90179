//! What stands between the device and its server, in words for whoever holds the device: what is wrong, and what to do.
//! It must not decide anything: the sync knows that there was no reply, and waits; this says why.

use std::error::Error;
use std::io::ErrorKind;

use serde::{Deserialize, Serialize};

use crate::phone::london;

/// Why the server was not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// A page, a redirection to one, or an answer without encryption.
    SignInPage,
    /// A certificate by another authority. Its name is no secret, and tells the network's operators whose it is.
    Opened {
        /// The authority's common name; empty when none was seen.
        issuer: String,
    },
    /// The server's own certificate is not good by the device's clock.
    WrongClock {
        /// What the device takes the time for.
        now_ms: i64,
    },
    /// The network's proxy wants a name and a password.
    ProxySignIn,
    /// The network's proxy lets nobody through to the server.
    ProxyRefuses,
    /// The server's name is not known to the network.
    NameUnknown,
    /// There is no network, or none that leads to the server.
    NoRoute,
    /// The machine is there, and nothing listens.
    Refused,
    /// Nothing answers.
    Silent,
    /// The connection broke.
    Cut,
}

/// The same for the API, the command line and the page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TroubleStatus {
    /// Stable.
    pub code: String,
    /// What is wrong.
    pub finding: String,
    /// What to do.
    pub remedy: String,
}

/// The server's name could not be turned into an address.
#[derive(Debug, thiserror::Error)]
#[error("the name is not known: {0}")]
pub(crate) struct NameError(#[source] pub(crate) std::io::Error);

impl Trouble {
    /// What an error of a connection means; `None` for one that says nothing. Looks at types, and at words only where a
    /// library has no type for it.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut at = Some(error);
        while let Some(cause) = at {
            if cause.is::<NameError>() {
                return Some(Self::NameUnknown);
            }
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return Self::of_tls(tls);
            }
            match cause.to_string().strip_prefix("tunnel error: ") {
                Some("proxy authorization required") => return Some(Self::ProxySignIn),
                Some("unsuccessful" | "unexpected end of file") => return Some(Self::ProxyRefuses),
                _ => {}
            }
            let io = cause.downcast_ref::<std::io::Error>();
            if let Some(found) = io.and_then(|io| Self::of_io(io.kind())) {
                return Some(found);
            }
            let inner = io.and_then(std::io::Error::get_ref);
            at = inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| cause.source());
        }
        None
    }

    fn of_tls(error: &rustls::Error) -> Option<Self> {
        match error {
            // Whose it is, the verifier has seen.
            rustls::Error::InvalidCertificate(_)
            | rustls::Error::PeerIncompatible(_)
            | rustls::Error::PeerMisbehaved(_) => Some(Self::Opened { issuer: String::new() }),
            rustls::Error::InvalidMessage(_) => Some(Self::SignInPage),
            _ => None,
        }
    }

    const fn of_io(kind: ErrorKind) -> Option<Self> {
        Some(match kind {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::NetworkUnreachable
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::AddrNotAvailable => Self::NoRoute,
            ErrorKind::TimedOut => Self::Silent,
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof => Self::Cut,
            _ => return None,
        })
    }

    /// Whether somebody else answered: to be told from silence.
    pub(crate) const fn is_somebody_else(&self) -> bool {
        matches!(self, Self::SignInPage | Self::Opened { .. } | Self::ProxySignIn | Self::WrongClock { .. })
    }

    /// Stable.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::SignInPage => "sign-in-page",
            Self::Opened { .. } => "tls-opened",
            Self::WrongClock { .. } => "wrong-clock",
            Self::ProxySignIn => "proxy-sign-in",
            Self::ProxyRefuses => "proxy-refuses",
            Self::NameUnknown => "name-unknown",
            Self::NoRoute => "no-route",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Cut => "cut",
        }
    }

    /// What is wrong, for people.
    #[must_use]
    pub fn finding(&self) -> String {
        match self {
            Self::SignInPage => {
                "a sign-in page answers in its place: this network wants somebody to sign in or accept its terms".into()
            }
            Self::Opened { issuer } if issuer.is_empty() => {
                "something on the way opens encrypted connections and answers in its place; nothing was sent to it"
                    .into()
            }
            Self::Opened { issuer } => format!(
                "something on the way opens encrypted connections and answers in its place, with a certificate by \
                 \"{issuer}\"; nothing was sent to it"
            ),
            Self::WrongClock { now_ms } => {
                format!("the server's certificate is not good by this device's clock, which says {}", london(*now_ms))
            }
            Self::ProxySignIn => {
                "this network's proxy wants a name and a password before it lets anything through".into()
            }
            Self::ProxyRefuses => "this network's proxy does not let this device through to the server".into(),
            Self::NameUnknown => {
                "this network does not know the server's name: no connection, or a network of its own".into()
            }
            Self::NoRoute => "no network: there is no way from this device to the server".into(),
            Self::Refused => {
                "nothing listens at the server's address: the server is stopped, or a firewall refuses".into()
            }
            Self::Silent => "the server does not answer: no signal, or a firewall that drops the connection".into(),
            Self::Cut => "the connection broke".into(),
        }
    }

    /// What to do, for whoever holds the device and whoever runs the network.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::SignInPage => {
                "open a browser on this device and sign in to the network, or use another one; then `cpis-agent sync`"
            }
            Self::Opened { .. } => {
                "use another network, and ask this one's operators to let connections to the server through unopened \
                 (an exception from TLS inspection)"
            }
            Self::WrongClock { .. } => {
                "set this device's date and time; if they are right, tell the server's operators that its certificate is not"
            }
            Self::ProxySignIn | Self::ProxyRefuses => {
                "ask the network's operators to let the server through, or put the proxy's name and password into \
                 HTTPS_PROXY of the agent's service; or use another network"
            }
            Self::NameUnknown => "check that the device is connected; if other sites open, tell the operators: DNS",
            Self::NoRoute => "connect the device: mobile data, Wi-Fi or cable; the present copy answers meanwhile",
            Self::Refused => "try another network; if that does not help, tell the server's operators",
            Self::Silent => "move to where there is signal, or try another network; it is tried again by itself",
            Self::Cut => "nothing: it is tried again by itself, and goes on where it was",
        }
    }

    /// For the API.
    #[must_use]
    pub fn status(&self) -> TroubleStatus {
        TroubleStatus { code: self.code().into(), finding: self.finding(), remedy: self.remedy().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// An error as deep in others as the client's are.
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] Box<dyn Error + 'static>);

    fn nested(error: impl Error + 'static) -> Option<Trouble> {
        Trouble::of(&Outer(Box::new(Outer(Box::new(error)))))
    }

    #[test]
    fn what_the_system_says_has_a_name() {
        for (kind, code) in [
            (ErrorKind::ConnectionRefused, "refused"),
            (ErrorKind::NetworkUnreachable, "no-route"),
            (ErrorKind::HostUnreachable, "no-route"),
            (ErrorKind::TimedOut, "silent"),
            (ErrorKind::ConnectionReset, "cut"),
        ] {
            assert_eq!(nested(io::Error::from(kind)).map(|trouble| trouble.code()), Some(code), "{kind}");
        }
        assert_eq!(nested(io::Error::from(ErrorKind::PermissionDenied)), None);
        // The name comes first, whatever the resolver's own error is.
        assert_eq!(nested(NameError(io::Error::from(ErrorKind::TimedOut))), Some(Trouble::NameUnknown));
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert_eq!(
            nested(io::Error::new(ErrorKind::InvalidData, tls)),
            Some(Trouble::Opened { issuer: String::new() })
        );
        let plain = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert_eq!(nested(io::Error::new(ErrorKind::InvalidData, plain)), Some(Trouble::SignInPage));
    }

    #[test]
    fn everything_says_what_to_do() {
        let all = [
            Trouble::SignInPage,
            Trouble::Opened { issuer: "Acme Inspection".into() },
            Trouble::WrongClock { now_ms: 0 },
            Trouble::ProxySignIn,
            Trouble::ProxyRefuses,
            Trouble::NameUnknown,
            Trouble::NoRoute,
            Trouble::Refused,
            Trouble::Silent,
            Trouble::Cut,
        ];
        for trouble in all {
            let status = trouble.status();
            assert!(status.finding.len() > 15 && status.remedy.len() > 15 && !status.code.contains(' '), "{status:?}");
            assert_eq!(
                trouble.is_somebody_else(),
                status.code.contains("sign-in") || status.code.contains("tls") || status.code.contains("clock"),
                "{status:?}"
            );
        }
    }
}
