//! The online keys of a server: a directory of small files, readable by their owner only.
//! It must not hold a root key (those are made offline, see [`root_key`]) nor print or log any key.

pub mod file;
pub mod root_key;

use std::path::{Path, PathBuf};

use cpis_protocol::seal::{Key, OpeningKey};
use cpis_protocol::sign::{PublicKey, Signer};
use cpis_protocol::trust::{Role, Root};

use file::{KeyError, Purpose};

/// Everything that the running server signs and seals with.
#[derive(Debug)]
pub struct ServerKeys {
    /// Signs heads.
    pub publisher: Signer,
    /// Signs beats.
    pub beat: Signer,
    /// Signs grants and, as an X.509 authority, certificates.
    pub authority: Signer,
    /// Signs audit receipts.
    pub receipt: Signer,
    /// Opens audit events; may be taken offline, then events are stored and cannot be shown here.
    pub audit: Option<OpeningKey>,
    /// Seals feed keys and look-up tokens in the database.
    pub storage: Key,
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

    /// Reads the set. Only the audit key may be missing.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn load(dir: &Path) -> Result<Self, KeyError> {
        let read = |purpose| file::read(&path(dir, purpose), purpose);
        let signer = |purpose| -> Result<Signer, KeyError> { Ok(Signer::from_seed(*read(purpose)?)) };
        let audit = match read(Purpose::Audit) {
            Ok(seed) => Some(OpeningKey::from_seed(*seed)),
            Err(KeyError::Missing(_)) => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            publisher: signer(Purpose::Publisher)?,
            beat: signer(Purpose::Beat)?,
            authority: signer(Purpose::Authority)?,
            receipt: signer(Purpose::Receipt)?,
            audit,
            storage: Key::from_bytes(*read(Purpose::Storage)?),
        })
    }

    /// The public key of a role.
    #[must_use]
    pub fn public_key(&self, role: Role) -> PublicKey {
        match role {
            Role::Publisher => self.publisher.public_key(),
            Role::Beat => self.beat.public_key(),
            Role::DeviceAuthority => self.authority.public_key(),
            Role::Receipt => self.receipt.public_key(),
        }
    }

    /// Checks that a root names these keys: otherwise no device would accept what this server signs.
    ///
    /// # Errors
    /// [`KeyError::NotInRoot`].
    pub fn check(&self, root: &Root) -> Result<(), KeyError> {
        for (role, name) in ROLES {
            if !root.keys(role).contains(&self.public_key(role)) {
                return Err(KeyError::NotInRoot(name));
            }
        }
        let certified = crate::certificate::public_key(root.authority_certificate());
        if certified != Some(self.authority.public_key()) {
            return Err(KeyError::NotInRoot("device authority certificate"));
        }
        match &self.audit {
            Some(key) if !root.audit_recipients.contains(&key.sealing_key()) => Err(KeyError::NotInRoot("audit")),
            Some(_) | None => Ok(()),
        }
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
        assert!(ServerKeys::load(other.path()).unwrap().audit.is_none());
    }
}
