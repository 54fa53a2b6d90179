//! Where a TPM is: a character device, or the socket of a software TPM on this machine.
//! It must not name a TPM of another machine: what it keeps would lie open on the network.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the kernel's resource manager offers the machine's TPM.
pub const DEVICE: &str = "/dev/tpmrm0";

/// The address of a TPM: `/dev/tpmrm0`, `unix:/run/swtpm.sock` or `tcp:127.0.0.1:2321`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// A character device.
    Device(PathBuf),
    /// A socket in the file system: a software TPM.
    Unix(PathBuf),
    /// A port of this machine: a software TPM.
    Tcp(SocketAddr),
}

/// Not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no address of a TPM: write \"/dev/tpmrm0\", or for a software TPM \"unix:/path/of/socket\" or \
     \"tcp:127.0.0.1:PORT\" (this machine only)"
)]
pub struct BadAddress(String);

impl Default for Address {
    fn default() -> Self {
        Self::Device(DEVICE.into())
    }
}

impl TryFrom<String> for Address {
    type Error = BadAddress;
    fn try_from(text: String) -> Result<Self, BadAddress> {
        if let Some(port) = text.strip_prefix("tcp:") {
            let socket = port.replace("localhost:", "127.0.0.1:").parse::<SocketAddr>().ok();
            return match socket {
                Some(socket) if is_here(socket.ip()) => Ok(Self::Tcp(socket)),
                _ => Err(BadAddress(text)),
            };
        }
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            None if text.starts_with('/') => Ok(Self::Device(text.into())),
            _ => Err(BadAddress(text)),
        }
    }
}

const fn is_here(ip: IpAddr) -> bool {
    ip.is_loopback()
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device(path) => write!(f, "{}", path.display()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(socket) => write!(f, "tcp:{socket}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for text in ["/dev/tpmrm0", "unix:/run/swtpm.sock", "tcp:127.0.0.1:2321", "tcp:[::1]:2321"] {
            assert_eq!(Address::try_from(text.to_owned()).unwrap().to_string(), text);
        }
        assert_eq!(Address::try_from("tcp:localhost:7".to_owned()).unwrap().to_string(), "tcp:127.0.0.1:7");
        for text in ["", "tpmrm0", "tcp:10.0.0.1:2321", "tcp:0.0.0.0:1", "tcp:127.0.0.1", "unix:relative"] {
            let refused = Address::try_from(text.to_owned()).unwrap_err();
            assert!(refused.to_string().contains("/dev/tpmrm0"), "{text}");
        }
    }
}
