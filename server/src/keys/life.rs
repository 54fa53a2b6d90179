//! The life of an online key: next, present, before; and the certificates that lead from one device authority to the next.
//! It must not overwrite the present key before its successor is durable, nor destroy one that the root in force names.

use std::fs;
use std::path::{Path, PathBuf};

use cpis_protocol::id::{UnixMs, hex};
use cpis_protocol::seal::OpeningKey;
use cpis_protocol::sign::{Signer, key_id};
use cpis_protocol::trust::Root;

use super::file::{self, KeyError, Purpose};
use super::{ServerKeys, next_path, path};
use crate::{certificate, entropy};

/// A certificate, and what binds its file name.
const CROSSED: &str = "device-authority.crossed-";
const CERTIFICATE_MAX: u64 = 8192;

/// What a key file is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Signs, or is sealed to.
    Present,
    /// Will, once a root names it and it is promoted.
    Next,
    /// Did.
    Before,
}

/// One key file.
#[derive(Debug, Clone, serde::Serialize)]
pub struct KeyRow {
    /// Its role.
    pub role: &'static str,
    /// What it is now.
    pub standing: Standing,
    /// Its id.
    pub id: String,
    /// Whether the root in force names it.
    pub named: bool,
    /// Whether the server signs with it, or devices seal to it, now.
    pub in_use: bool,
    /// The file.
    pub file: PathBuf,
    /// The public key.
    #[serde(skip)]
    pub public: [u8; 32],
}

/// The files of earlier keys of a role, the newest first.
pub(super) fn before(dir: &Path, purpose: Purpose) -> Result<Vec<PathBuf>, KeyError> {
    numbered(dir, &format!("{}.before-", purpose.name()), ".key")
}

pub(super) fn read_crossed(dir: &Path) -> Result<Vec<Vec<u8>>, KeyError> {
    let files = numbered(dir, CROSSED, ".der")?;
    files.iter().map(|path| file::read_private(path, CERTIFICATE_MAX).map(|bytes| bytes.to_vec())).collect()
}

fn numbered(dir: &Path, prefix: &str, suffix: &str) -> Result<Vec<PathBuf>, KeyError> {
    let io = |error| KeyError::Io(dir.display().to_string(), error);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_suffix(suffix)?.parse::<u32>().ok());
        found.extend(number.map(|number| (number, entry.path())));
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn free(dir: &Path, prefix: &str, suffix: &str) -> PathBuf {
    let mut names = (1u32..).map(|number| dir.join(format!("{prefix}{number}{suffix}")));
    names.find(|path| !path.exists()).unwrap_or_default()
}

/// The id by which people and roots name a key of this purpose.
fn id_of(path: &Path, purpose: Purpose) -> Result<(String, [u8; 32]), KeyError> {
    let seed = file::read(path, purpose)?;
    let public = match purpose {
        Purpose::Audit => OpeningKey::from_seed(*seed).sealing_key(),
        _ => Signer::from_seed(*seed).public_key(),
    };
    Ok((hex(&key_id(&public)), public))
}

impl ServerKeys {
    /// Makes the next key of a role, beside the present one. For the device authority the present one certifies it, so
    /// that devices which know only the present one will believe a server certificate by the next.
    ///
    /// # Errors
    /// [`KeyError::Exists`] when there is one already.
    pub fn make_next(&self, purpose: Purpose, deployment: &str, now_ms: UnixMs) -> Result<String, KeyError> {
        let target = next_path(&self.dir, purpose);
        if target.exists() {
            return Err(KeyError::Exists(target.display().to_string()));
        }
        let seed: [u8; 32] = entropy::bytes();
        if purpose == Purpose::Authority {
            // First: a next key without its certificate would cut devices off; the contrary does nothing.
            let next = Signer::from_seed(seed).public_key();
            let der = certificate::crossed(&self.authority.signer(), deployment, &next, now_ms)?;
            file::write_private(&free(&self.dir, CROSSED, ".der"), &der)?;
        }
        file::write_new(&target, purpose, &seed)?;
        file::sync_dir(&self.dir)?;
        self.reload()?;
        Ok(id_of(&target, purpose)?.0)
    }

    /// The next key becomes the present one, which is kept as one before.
    ///
    /// # Errors
    /// [`KeyError::NoNext`]; [`KeyError::NextNotInRoot`] while devices would not accept it.
    pub fn promote(&self, purpose: Purpose, root: &Root) -> Result<(), KeyError> {
        let (present, next) = (path(&self.dir, purpose), next_path(&self.dir, purpose));
        if !next.exists() {
            return Err(KeyError::NoNext(purpose.name()));
        }
        if !is_named(root, purpose, &id_of(&next, purpose)?.1) {
            return Err(KeyError::NextNotInRoot(purpose.name()));
        }
        let io = |error| KeyError::Io(present.display().to_string(), error);
        if present.exists() {
            let kept = free(&self.dir, &format!("{}.before-", purpose.name()), ".key");
            fs::hard_link(&present, kept).map_err(io)?;
            file::sync_dir(&self.dir)?;
        }
        fs::rename(&next, &present).map_err(io)?;
        file::sync_dir(&self.dir)?;
        self.reload()?;
        self.check(root)
    }

    /// Promotes every next key whose present one a root no longer names, and the audit recipient that it names first.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn settle(&self, root: &Root) -> Result<Vec<Purpose>, KeyError> {
        let mut promoted = Vec::new();
        for purpose in Purpose::ALL.into_iter().filter(|purpose| *purpose != Purpose::Storage) {
            let next = next_path(&self.dir, purpose);
            if !next.exists() {
                continue;
            }
            let next = id_of(&next, purpose)?.1;
            let due = match purpose.role() {
                Some(role) => {
                    let (present, _) = self.of(role).public_keys();
                    !root.keys(role).contains(&present) && root.keys(role).contains(&next)
                }
                None => root.audit_recipients.first() == Some(&next),
            };
            if due {
                self.promote(purpose, root)?;
                promoted.push(purpose);
            }
        }
        Ok(promoted)
    }

    /// Destroys key files that are not needed any more: every signing key from before that `root` does not name, or the
    /// one with this id. An audit recipient key goes only by its id: what only it opens stays sealed for ever.
    ///
    /// # Errors
    /// [`KeyError::InUse`], [`KeyError::NoSuchKey`].
    pub fn retire(&self, purpose: Purpose, id: Option<&str>, root: &Root) -> Result<Vec<String>, KeyError> {
        let rows = self.list(Some(root))?;
        let mut gone = Vec::new();
        for row in rows.iter().filter(|row| row.role == purpose.name()) {
            let wanted = id.map_or(row.standing == Standing::Before && !row.named, |id| row.id == id);
            if !wanted {
                continue;
            }
            if row.standing == Standing::Present || (row.named && purpose != Purpose::Audit) || row.in_use {
                return Err(KeyError::InUse(purpose.name(), row.id.clone()));
            }
            file::destroy(&row.file)?;
            gone.push(row.id.clone());
        }
        if let (Some(id), true) = (id, gone.is_empty()) {
            return Err(KeyError::NoSuchKey(purpose.name(), id.to_owned()));
        }
        file::sync_dir(&self.dir)?;
        self.reload()?;
        self.check(root)?;
        Ok(gone)
    }

    /// Every key file that a root may name.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn list(&self, root: Option<&Root>) -> Result<Vec<KeyRow>, KeyError> {
        let mut rows = Vec::new();
        for purpose in Purpose::ALL.into_iter().filter(|purpose| *purpose != Purpose::Storage) {
            let files =
                [(path(&self.dir, purpose), Standing::Present), (next_path(&self.dir, purpose), Standing::Next)];
            let before = before(&self.dir, purpose)?.into_iter().map(|file| (file, Standing::Before));
            for (file, standing) in files.into_iter().chain(before) {
                let Some((id, public)) = super::optional(id_of(&file, purpose))? else { continue };
                let named = root.is_some_and(|root| is_named(root, purpose, &public));
                let in_use = match purpose.role() {
                    Some(role) => self.public_key(role) == public,
                    None => root.is_some_and(|root| root.audit_recipients.first() == Some(&public)),
                };
                rows.push(KeyRow { role: purpose.name(), standing, id, named, in_use, file, public });
            }
        }
        Ok(rows)
    }
}

fn is_named(root: &Root, purpose: Purpose, public: &[u8; 32]) -> bool {
    purpose.role().map_or_else(|| root.audit_recipients.contains(public), |role| root.keys(role).contains(public))
}
