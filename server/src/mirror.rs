//! Mirrors: ordinary caching proxies that may ask for immutable objects of some scopes, and for nothing else.
//! It must not let a mirror pass for a device or for this server, nor keep a mirror's private key.

use cpis_protocol::id::{DeviceId, ScopeId, UnixMs};
use cpis_protocol::sign::Signer;
use cpis_protocol::{Refusal, codec};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::certificate::{self, CertificateError};
use crate::config::Config;
use crate::entropy;
use crate::keys::ServerKeys;
use crate::port::{Meta, StoreError, Tx};

/// Mirrors of one deployment: they are looked through at each of their requests.
pub const MIRRORS_MAX: usize = 64;
const BYTES_MAX: usize = 64 * 1024;

/// One mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorRow {
    /// Its name, for operators.
    pub name: String,
    /// Its key's name, which the handshake proves.
    pub key: DeviceId,
    /// The name or address in its certificate, under which devices reach it.
    pub host: String,
    /// The scopes of which it may have the objects.
    pub scopes: Vec<ScopeId>,
    /// The end of its certificate.
    pub until_ms: UnixMs,
}

/// Why a mirror was not added.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate could not be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The list cannot be written.
    #[error("the list of mirrors is refused: {0}")]
    Refused(#[from] Refusal),
    /// It would hold a certificate for the server's own name.
    #[error("{0} is a name of this server: a mirror of that name could pass for it; give the mirror a name of its own")]
    ServersName(String),
    /// The name is taken.
    #[error("there is a mirror {0} already: remove it, or renew it")]
    Taken(String),
    /// There is no such mirror.
    #[error("there is no mirror {0}")]
    Unknown(String),
    /// No such scope.
    #[error("there is no scope {0}")]
    NoScope(ScopeId),
    /// Too many.
    #[error("there are {MIRRORS_MAX} mirrors already")]
    Full,
}

/// What a mirror is given, once: it is kept nowhere.
#[derive(Debug)]
pub struct Given {
    /// Its row.
    pub row: MirrorRow,
    /// Its certificate, PEM: for both sides of TLS.
    pub certificate: String,
    /// Its private key, PKCS#8 PEM.
    pub key: Zeroizing<String>,
    /// The device authorities of the root in force, PEM: who devices and server are.
    pub authorities: String,
}

/// All mirrors.
///
/// # Errors
/// [`StoreError`].
pub fn list<T: Tx>(tx: &T) -> Result<Vec<MirrorRow>, StoreError> {
    let Some(bytes) = tx.meta(Meta::Mirrors)? else { return Ok(Vec::new()) };
    codec::decode(&bytes, BYTES_MAX).map_err(|_| StoreError::Corrupt("meta.mirrors"))
}

fn put<T: Tx>(tx: &T, rows: &Vec<MirrorRow>) -> Result<(), MirrorError> {
    Ok(tx.set_meta(Meta::Mirrors, &codec::encode(rows)?)?)
}

/// The mirror with this key.
///
/// # Errors
/// [`StoreError`].
pub fn with_key<T: Tx>(tx: &T, key: DeviceId) -> Result<Option<MirrorRow>, StoreError> {
    Ok(list(tx)?.into_iter().find(|row| row.key == key))
}

/// Adds a mirror with a fresh key.
///
/// # Errors
/// [`MirrorError`]; nothing is kept then.
pub fn add<T: Tx>(
    tx: &T,
    deployment: &Deployment<'_>,
    name: &str,
    host: &str,
    scopes: Vec<ScopeId>,
    days: i64,
) -> Result<Given, MirrorError> {
    let mut rows = list(tx)?;
    if rows.iter().any(|row| row.name == name) {
        return Err(MirrorError::Taken(name.to_owned()));
    }
    if rows.len() >= MIRRORS_MAX {
        return Err(MirrorError::Full);
    }
    for scope in &scopes {
        tx.scope(*scope)?.ok_or(MirrorError::NoScope(*scope))?;
    }
    let given = issue(
        deployment,
        MirrorRow { name: name.into(), key: DeviceId([0; 16]), host: host.into(), scopes, until_ms: 0 },
        days,
    )?;
    rows.push(given.row.clone());
    put(tx, &rows)?;
    Ok(given)
}

/// Gives a mirror a fresh key and certificate; those before are worth nothing from now on.
///
/// # Errors
/// [`MirrorError`].
pub fn renew<T: Tx>(tx: &T, deployment: &Deployment<'_>, name: &str, days: i64) -> Result<Given, MirrorError> {
    let mut rows = list(tx)?;
    let row = rows.iter_mut().find(|row| row.name == name).ok_or_else(|| MirrorError::Unknown(name.to_owned()))?;
    let given = issue(deployment, row.clone(), days)?;
    *row = given.row.clone();
    put(tx, &rows)?;
    Ok(given)
}

/// Takes a mirror out: it gets nothing from now on.
///
/// # Errors
/// [`MirrorError`].
pub fn remove<T: Tx>(tx: &T, name: &str) -> Result<(), MirrorError> {
    let mut rows = list(tx)?;
    let before = rows.len();
    rows.retain(|row| row.name != name);
    if rows.len() == before {
        return Err(MirrorError::Unknown(name.to_owned()));
    }
    put(tx, &rows)
}

/// What a certificate is made with.
#[derive(Debug)]
pub struct Deployment<'a> {
    /// The keys.
    pub keys: &'a ServerKeys,
    /// The configuration, for the server's own names.
    pub config: &'a Config,
    /// The deployment's name.
    pub name: &'a str,
    /// The device authorities of the root in force.
    pub authorities: &'a [Vec<u8>],
    /// The present.
    pub now_ms: UnixMs,
}

fn issue(deployment: &Deployment<'_>, row: MirrorRow, days: i64) -> Result<Given, MirrorError> {
    let Deployment { keys, config, name, authorities, now_ms } = deployment;
    if config.names().iter().any(|own| own.eq_ignore_ascii_case(&row.host)) {
        return Err(MirrorError::ServersName(row.host)); // R283
    }
    let signer = Signer::from_seed(entropy::bytes());
    let issued = certificate::mirror(&keys.authority, name, &signer, &row.host, *now_ms, days)?;
    let row = MirrorRow { key: DeviceId::of(&signer.public_key()), until_ms: issued.until_ms, ..row };
    let authorities = authorities.iter().map(|der| pem("CERTIFICATE", der)).collect();
    let key = Zeroizing::new(pem("PRIVATE KEY", &signer.pkcs8()));
    Ok(Given { row, certificate: pem("CERTIFICATE", &issued.der), key, authorities })
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for three in line.chunks(3) {
            let word = three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
            for at in 0..4 {
                let letter = LETTERS.get((word >> (18 - 6 * at) & 63) as usize).copied().unwrap_or(b'=');
                text.push(if at > three.len() { '=' } else { char::from(letter) });
            }
        }
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_as_rfc_4648_has_it() {
        let body = |bytes: &[u8]| pem("X", bytes).lines().nth(1).map(str::to_owned);
        for (bytes, text) in
            [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(body(bytes.as_bytes()).as_deref(), Some(text));
        }
        assert_eq!(pem("X", &[0xff; 49]).lines().map(str::len).collect::<Vec<_>>(), [17, 64, 4, 15]);
    }
}
