//! The online keys of a server: a directory of small files, readable by their owner only.
//! It must not hold a root key (those are made offline, see [`root_key`]) nor print or log any key.

mod audit;
pub mod file;
mod life;
mod online;
pub mod passphrase;
pub mod root_key;

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use cpis_protocol::seal::{Key, OpeningKey};
use cpis_protocol::sign::{PublicKey, Signer};
use cpis_protocol::trust::{Role, Root};

pub use audit::AuditKeys;
use file::{KeyError, Purpose};
pub use life::{KeyRow, Standing};
pub use online::OnlineSigner;

/// Everything that the running server signs and seals with.
#[derive(Debug)]
pub struct ServerKeys {
    dir: PathBuf,
    /// Signs heads.
    pub publisher: OnlineSigner,
    /// Signs beats.
    pub beat: OnlineSigner,
    /// Signs grants and, as an X.509 authority, certificates.
    pub authority: OnlineSigner,
    /// Signs audit receipts.
    pub receipt: OnlineSigner,
    /// Open audit events; may be taken offline, then events are stored and cannot be shown here.
    pub audit: AuditKeys,
    /// Seals feed keys and look-up tokens in the database.
    pub storage: Key,
    /// Certificates of each device authority by the one before it, the newest first: what a device that knows only an
    /// older authority believes this server by.
    crossed: RwLock<Vec<Vec<u8>>>,
}

impl ServerKeys {
    /// Makes a new set in `dir`, which must not hold one.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn create(dir: &Path) -> Result<Self, KeyError> {
        file::make_private_dir(dir)?;
        for purpose in Purpose::ALL {
            file::write_new(&path(dir, purpose), purpose, &crate::entropy::bytes())?;
        }
        file::sync_dir(dir)?;
        Self::load(dir)
    }

    /// Reads the set. Only audit keys, and the next key of any role, may be missing.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn load(dir: &Path) -> Result<Self, KeyError> {
        let signer = |purpose| -> Result<OnlineSigner, KeyError> {
            let next = optional(file::read(&next_path(dir, purpose), purpose))?;
            let present = Signer::from_seed(*file::read(&path(dir, purpose), purpose)?);
            Ok(OnlineSigner::new(present, next.map(|seed| Signer::from_seed(*seed))))
        };
        let mut audit = Vec::new();
        let present = [path(dir, Purpose::Audit), next_path(dir, Purpose::Audit)];
        for path in present.into_iter().chain(life::before(dir, Purpose::Audit)?) {
            audit.extend(optional(file::read(&path, Purpose::Audit))?.map(|seed| OpeningKey::from_seed(*seed)));
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            publisher: signer(Purpose::Publisher)?,
            beat: signer(Purpose::Beat)?,
            authority: signer(Purpose::Authority)?,
            receipt: signer(Purpose::Receipt)?,
            audit: AuditKeys::new(audit),
            storage: Key::from_bytes(*file::read(&path(dir, Purpose::Storage), Purpose::Storage)?),
            crossed: RwLock::new(life::read_crossed(dir)?),
        })
    }

    /// Takes up what another process changed in the directory: next keys, promoted keys, keys taken away.
    ///
    /// # Errors
    /// [`KeyError`]; the keys stay as they were.
    pub fn reload(&self) -> Result<(), KeyError> {
        let Self { publisher, beat, authority, receipt, audit, crossed, .. } = Self::load(&self.dir)?;
        self.publisher.replace(publisher);
        self.beat.replace(beat);
        self.authority.replace(authority);
        self.receipt.replace(receipt);
        self.audit.replace(audit);
        *self.crossed.write().unwrap_or_else(PoisonError::into_inner) =
            crossed.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(())
    }

    /// The key of a signing role.
    #[must_use]
    pub const fn of(&self, role: Role) -> &OnlineSigner {
        match role {
            Role::Publisher => &self.publisher,
            Role::Beat => &self.beat,
            Role::DeviceAuthority => &self.authority,
            Role::Receipt => &self.receipt,
        }
    }

    /// The public key with which a role signs now.
    #[must_use]
    pub fn public_key(&self, role: Role) -> PublicKey {
        self.of(role).public_key()
    }

    /// The certificates of the device authorities by those before them, the newest first.
    #[must_use]
    pub fn crossed(&self) -> Vec<Vec<u8>> {
        self.crossed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Checks that a root names a key of each role that is here, and from now on signs with what it names: otherwise no
    /// device would accept what this server signs.
    ///
    /// # Errors
    /// [`KeyError::NotInRoot`].
    pub fn check(&self, root: &Root) -> Result<(), KeyError> {
        for (role, name) in ROLES {
            if !self.of(role).follow(root.keys(role)) {
                return Err(KeyError::NotInRoot(name));
            }
        }
        let authority = Some(self.authority.public_key());
        if !root.authority_certificates.iter().any(|der| crate::certificate::public_key(der) == authority) {
            return Err(KeyError::NotInRoot("device authority certificate"));
        }
        let here = self.audit.sealing_keys();
        match root.audit_recipients.first() {
            Some(recipient) if !here.is_empty() && !here.contains(recipient) => Err(KeyError::NotInRoot("audit")),
            Some(_) | None => Ok(()),
        }
    }
}

/// A file that may be missing.
fn optional<T>(result: Result<T, KeyError>) -> Result<Option<T>, KeyError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(KeyError::Missing(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The signing roles and their names for people.
pub const ROLES: [(Role, &str); 4] = [
    (Role::Publisher, "publisher"),
    (Role::Beat, "beat"),
    (Role::DeviceAuthority, "device authority"),
    (Role::Receipt, "receipt"),
];

fn path(dir: &Path, purpose: Purpose) -> PathBuf {
    dir.join(format!("{}.key", purpose.name()))
}

fn next_path(dir: &Path, purpose: Purpose) -> PathBuf {
    dir.join(format!("{}.next.key", purpose.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn created_once_loaded_the_same_private_and_checked() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let keys = ServerKeys::create(dir.path()).unwrap();
        assert!(matches!(ServerKeys::create(dir.path()), Err(KeyError::Exists(_))));
        let again = ServerKeys::load(dir.path()).unwrap();
        assert_eq!(keys.public_key(Role::Beat), again.public_key(Role::Beat));
        let beat = dir.path().join("beat.key");
        assert_eq!(std::fs::metadata(&beat).unwrap().permissions().mode() & 0o777, 0o600);
        // A key in the wrong place, a damaged one, and one that others may read are refused.
        std::fs::copy(dir.path().join("receipt.key"), dir.path().join("publisher.key")).unwrap();
        assert!(matches!(ServerKeys::load(dir.path()), Err(KeyError::Damaged(_))));
        std::fs::copy(&beat, dir.path().join("publisher.key")).unwrap();
        std::fs::set_permissions(&beat, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(ServerKeys::load(dir.path()).is_err());
        assert!(matches!(file::read(&beat, Purpose::Beat), Err(KeyError::Exposed(_))));
        // The audit key may be taken away.
        let other = tempfile::tempdir().unwrap();
        ServerKeys::create(other.path()).unwrap();
        std::fs::remove_file(other.path().join("audit-recipient.key")).unwrap();
        assert!(ServerKeys::load(other.path()).unwrap().audit.is_empty());
    }
}
