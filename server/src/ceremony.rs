//! Setting a deployment up, and drafting, signing and installing its roots.
//! It must not keep a root key: a signer is borrowed for one signature.

use std::path::{Path, PathBuf};

use cpis_protocol::Refusal;
use cpis_protocol::id::UnixMs;
use cpis_protocol::limits;
use cpis_protocol::query::LookupParameters;
use cpis_protocol::seal::MemoryHard;
use cpis_protocol::sign::{self, Kind, PublicKey, Signer};
use cpis_protocol::text::Text;
use cpis_protocol::trust::{RoleKeys, Root, Trust};

use crate::certificate::{self, CertificateError};
use crate::config::{Config, ConfigError};
use crate::entropy;
use crate::home::{self, Home, HomeError, Paths};
use crate::keys::file::{self, KeyError};
use crate::keys::{ROLES, ServerKeys, root_key};
use crate::port::{Deployment as _, Meta, Store as _, StoreError};
use crate::store::SqliteStore;

const DAY_MS: i64 = 86_400_000;

/// Why a step of the ceremony failed.
#[derive(Debug, thiserror::Error)]
pub enum CeremonyError {
    /// The directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The device authority's certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The configuration.
    #[error("{0}")]
    Config(&'static str),
    /// The root is not accepted.
    #[error("the root is refused: {0}")]
    Refused(#[from] Refusal),
    /// The root carries another name or nature than the directory.
    #[error("the root is of another deployment, or one of the two is synthetic and the other is not")]
    AnotherDeployment,
}

impl From<ConfigError> for CeremonyError {
    fn from(error: ConfigError) -> Self {
        Self::Home(error.into())
    }
}

/// What `init` needs to know.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The deployment's name, at most 32 characters.
    pub deployment: Text<32>,
    /// Only test numbers.
    pub synthetic: bool,
    /// The price of one guess at a look-up.
    pub cost: MemoryHard,
    /// Configuration to begin with.
    pub config: Config,
}

/// Makes a server's directory without a root: keys, database, configuration.
///
/// # Errors
/// [`CeremonyError`]; existing keys or an existing database are never touched.
pub fn set_up(dir: &Path, setup: &Setup) -> Result<Home, CeremonyError> {
    setup.config.check().map_err(CeremonyError::Config)?;
    let cost = setup.cost.check(setup.synthetic)?;
    let paths = Paths(dir.to_path_buf());
    if paths.database().exists() {
        return Err(KeyError::Exists(paths.database().display().to_string()).into());
    }
    file::make_private_dir(dir)?;
    ServerKeys::create(&paths.keys())?;
    file::replace(&paths.config(), setup.config.to_text().as_bytes())?;
    let store = SqliteStore::create(&paths.database())?;
    let lookup = LookupParameters { salt_epoch: 1, salt: entropy::bytes(), cost };
    let lookup = cpis_protocol::codec::encode(&lookup)?;
    store.write(|tx| {
        tx.set_meta(Meta::Name, setup.deployment.as_str().as_bytes())?;
        tx.set_meta(Meta::Synthetic, &[u8::from(setup.synthetic)])?;
        tx.set_meta(Meta::Lookup, &lookup)
    })?;
    drop(store);
    file::sync_dir(dir)?;
    Ok(Home::open(dir)?)
}

/// The root key files that [`make_root_keys`] makes.
#[must_use]
pub fn root_key_paths(dir: &Path, count: u8) -> Vec<PathBuf> {
    (1..=count).map(|number| dir.join(format!("root-{number}.rootkey"))).collect()
}

/// Makes `count` root keys in `dir` and gives their paths and public keys.
///
/// # Errors
/// [`CeremonyError`].
pub fn make_root_keys(
    dir: &Path,
    count: u8,
    passphrase: Option<&str>,
) -> Result<Vec<(PathBuf, PublicKey)>, CeremonyError> {
    file::make_private_dir(dir)?;
    root_key_paths(dir, count)
        .into_iter()
        .map(|path| {
            let public_key = root_key::create(&path, passphrase)?;
            Ok((path, public_key))
        })
        .collect()
}

/// Drafts the next root: this server's present keys, the given root keys (or those of the root before), no signature.
///
/// # Errors
/// [`CeremonyError`].
pub fn draft(
    home: &Home,
    root_keys: Option<(Vec<PublicKey>, u8)>,
    days: u16,
    now_ms: UnixMs,
) -> Result<Vec<u8>, CeremonyError> {
    let before = home.store.read(|tx| home::trust(tx))?;
    let before = before.as_ref().map(Trust::root);
    let (keys, threshold) = match (root_keys, before) {
        (Some(given), _) => given,
        (None, Some(before)) => (before.root_keys.clone(), before.threshold),
        (None, None) => return Err(HomeError::NoRoot.into()),
    };
    let authority_certificates = match before {
        Some(before)
            if certificate::public_key(before.authority_certificate()) == Some(home.keys.authority.public_key()) =>
        {
            before.authority_certificates.clone()
        }
        Some(_) | None => vec![certificate::authority(&home.keys.authority, &home.deployment, now_ms)?],
    };
    let recipient = match (&home.keys.audit, before) {
        (Some(key), _) => vec![key.sealing_key()],
        (None, Some(before)) => before.audit_recipients.clone(),
        (None, None) => return Err(CeremonyError::Config("the audit recipient key is missing")),
    };
    let root = Root {
        version: before.map_or(1, |before| before.version + 1),
        deployment: Text::new(&home.deployment)?,
        synthetic: home.synthetic,
        issued_ms: now_ms,
        expires_ms: now_ms + i64::from(days) * DAY_MS,
        threshold,
        root_keys: keys,
        roles: ROLES
            .iter()
            .map(|(role, _)| RoleKeys { role: *role, keys: vec![home.keys.public_key(*role)] })
            .collect(),
        audit_recipients: recipient,
        authority_certificates,
    };
    Ok(sign::frame(Kind::Root, &cpis_protocol::codec::encode(&root)?))
}

/// Adds one signature to a draft.
///
/// # Errors
/// [`CeremonyError::Refused`] when it is not a root, or the key is not one of its root keys nor of the root before.
pub fn endorse(draft: &[u8], signer: &Signer) -> Result<Vec<u8>, CeremonyError> {
    let _: Root = show(draft)?;
    Ok(signer.endorse(draft)?)
}

/// What a draft or a root says, unverified, for the people who are about to sign it.
///
/// # Errors
/// [`CeremonyError::Refused`].
pub fn show(bytes: &[u8]) -> Result<Root, CeremonyError> {
    Ok(sign::peek_unverified(bytes, Kind::Root, limits::ROOT_BYTES_MAX)?)
}

/// Verifies a signed root as the exact successor of the stored one, with this server's keys in it, and stores it.
///
/// # Errors
/// [`CeremonyError`]; the root before stays in force.
pub fn install(home: &Home, bytes: &[u8]) -> Result<Trust, CeremonyError> {
    home.store.write(|tx| {
        let trust = match home::trust(tx)? {
            None => Trust::pin(bytes)?,
            Some(before) => before.rotate(bytes)?,
        };
        let root = trust.root();
        if root.deployment.as_str() != home.deployment || root.synthetic != home.synthetic {
            return Err(CeremonyError::AnotherDeployment);
        }
        home.keys.check(root)?;
        tx.put_root(root.version, bytes)?;
        Ok(trust)
    })
}
