//! Root keys: made offline, one file each, under a passphrase of whoever keeps it.
//! The running server must never read one: only `root new-key`, `root sign` and the `init` ceremony do.

use std::path::Path;

use cpis_protocol::codec;
use cpis_protocol::seal::{Key, MemoryHard};
use cpis_protocol::sign::{PublicKey, Signer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::file::{self, KeyError};

const MAGIC: &[u8] = b"CPIS-ROOT-KEY\x01";
const FILE_BYTES_MAX: usize = 512;
const ASSOCIATED: &[u8] = b"cpis-edge/1/root-key";

#[derive(Serialize, Deserialize)]
enum Protection {
    /// For demonstrations: whoever reads the file has the key.
    None,
    Passphrase {
        cost: MemoryHard,
        salt: [u8; 16],
    },
}

#[derive(Serialize, Deserialize)]
struct RootKeyFile {
    public_key: PublicKey,
    protection: Protection,
    sealed: Vec<u8>,
}

/// Makes a root key file and gives its public key. Without a passphrase the file is as good as the key.
///
/// # Errors
/// [`KeyError`].
pub fn create(path: &Path, passphrase: Option<&str>) -> Result<PublicKey, KeyError> {
    let signer = Signer::from_seed(crate::entropy::bytes());
    let public_key = signer.public_key();
    let (protection, key) = match passphrase {
        None => (Protection::None, Key::from_bytes([0; 32])),
        Some(passphrase) => {
            let (cost, salt) = (MemoryHard::DEFAULT, crate::entropy::bytes());
            (Protection::Passphrase { cost, salt }, harden(passphrase, cost, &salt)?)
        }
    };
    let sealed = key
        .seal(&public_key, signer.seed().as_slice(), &mut crate::entropy::system())
        .map_err(|_| KeyError::Derivation)?;
    let body = codec::encode(&RootKeyFile { public_key, protection, sealed }).map_err(|_| KeyError::Derivation)?;
    file::write_private(path, &[MAGIC, &body].concat())?;
    Ok(public_key)
}

/// Opens a root key file; `ask` is called only when it has a passphrase.
///
/// # Errors
/// [`KeyError`].
pub fn open(path: &Path, ask: impl FnOnce() -> Result<Zeroizing<String>, KeyError>) -> Result<Signer, KeyError> {
    unseal(path, ask, true)
}

/// The same, for a root that real people hang on: a file without a passphrase is refused.
///
/// # Errors
/// [`KeyError::NoPassphrase`], and the others.
pub fn open_protected(
    path: &Path,
    ask: impl FnOnce() -> Result<Zeroizing<String>, KeyError>,
) -> Result<Signer, KeyError> {
    unseal(path, ask, false)
}

fn unseal(
    path: &Path,
    ask: impl FnOnce() -> Result<Zeroizing<String>, KeyError>,
    bare_will_do: bool,
) -> Result<Signer, KeyError> {
    let shown = path.display().to_string();
    let bytes = file::read_private(path, FILE_BYTES_MAX as u64 + 1)?;
    let body = bytes.strip_prefix(MAGIC).ok_or_else(|| KeyError::Damaged(shown.clone()))?;
    let stored: RootKeyFile = codec::decode(body, FILE_BYTES_MAX).map_err(|_| KeyError::Damaged(shown.clone()))?;
    let key = match stored.protection {
        Protection::None if !bare_will_do => return Err(KeyError::NoPassphrase(shown)),
        Protection::None => Key::from_bytes([0; 32]),
        Protection::Passphrase { cost, salt } => {
            cost.check(true).map_err(|_| KeyError::Damaged(shown.clone()))?;
            harden(&ask()?, cost, &salt)?
        }
    };
    let seed = key.open(&stored.public_key, &stored.sealed).map_err(|_| KeyError::WrongPassphrase(shown.clone()))?;
    let seed: [u8; 32] = seed.as_slice().try_into().map_err(|_| KeyError::Damaged(shown.clone()))?;
    let signer = Signer::from_seed(seed);
    if signer.public_key() == stored.public_key { Ok(signer) } else { Err(KeyError::Damaged(shown)) }
}

fn harden(passphrase: &str, cost: MemoryHard, salt: &[u8; 16]) -> Result<Key, KeyError> {
    let key = cost.derive(passphrase.as_bytes(), salt, ASSOCIATED).map_err(|_| KeyError::Derivation)?;
    Ok(Key::from_bytes(*key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_with_its_passphrase_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.rootkey");
        let public = create(&path, Some("correct horse")).unwrap();
        let say = |text: &str| Ok(Zeroizing::new(text.to_owned()));
        assert_eq!(open(&path, || say("correct horse")).unwrap().public_key(), public);
        assert!(matches!(open(&path, || say("wrong")), Err(KeyError::WrongPassphrase(_))));
        assert!(matches!(create(&path, None), Err(KeyError::Exists(_))));
        let bare = dir.path().join("b.rootkey");
        let public = create(&bare, None).unwrap();
        let never = || -> Result<_, KeyError> { Err(KeyError::Derivation) };
        assert_eq!(open(&bare, never).unwrap().public_key(), public);
        assert!(matches!(open_protected(&bare, never), Err(KeyError::NoPassphrase(_))));
        assert!(open_protected(&path, || say("correct horse")).is_ok());
    }
}
