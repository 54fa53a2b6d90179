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
use cpis_protocol::trust::{Role, RoleKeys, Root, Trust};

use crate::certificate::{self, CertificateError};
use crate::config::{Config, ConfigError};
use crate::entropy;
use crate::home::{self, Home, HomeError, Paths};
use crate::keys::file::Purpose;
use crate::keys::file::{self, KeyError};
use crate::keys::{KeyRow, ROLES, ServerKeys, Standing, root_key};
use crate::port::{Deployment as _, Meta, Store as _, StoreError};
use crate::publish::PublishError;
use crate::resign;
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
    /// Heads could not be signed again.
    #[error("the root is in force, but heads were not signed again: {0}")]
    Publish(#[from] PublishError),
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

/// What the next root shall be.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Root keys and how many of them must sign; those of the root before where there are none.
    pub root_keys: Option<(Vec<PublicKey>, u8)>,
    /// Days until the root must have been replaced.
    pub days: u16,
    /// Days for single roles, where shorter.
    pub role_days: Vec<(Role, u16)>,
    /// Roles of which only the newest key is named: every older one is withdrawn.
    pub withdraw: Vec<Purpose>,
}

/// Drafts the next root over this server's present and next keys and those that the root before names.
///
/// # Errors
/// As [`draft_as`].
pub fn draft(
    home: &Home,
    root_keys: Option<(Vec<PublicKey>, u8)>,
    days: u16,
    now_ms: UnixMs,
) -> Result<Vec<u8>, CeremonyError> {
    draft_as(home, &Plan { root_keys, days, ..Plan::default() }, now_ms)
}

/// Drafts the next root as planned, without a signature. Keys of the root before stay named until they are withdrawn.
///
/// # Errors
/// [`CeremonyError`].
pub fn draft_as(home: &Home, plan: &Plan, now_ms: UnixMs) -> Result<Vec<u8>, CeremonyError> {
    let before = home.store.read(|tx| home::trust(tx))?;
    let before = before.as_ref().map(Trust::root).map(|root| &**root);
    let (root_keys, threshold) = match (plan.root_keys.clone(), before) {
        (Some(given), _) => given,
        (None, Some(before)) => (before.root_keys.clone(), before.threshold),
        (None, None) => return Err(HomeError::NoRoot.into()),
    };
    let end = |days: u16| now_ms + i64::from(days) * DAY_MS;
    let roles = ROLES.map(|(role, _)| {
        let (present, next) = home.keys.of(role).public_keys();
        let named = before.map_or(&[][..], |before| before.keys(role));
        let only = plan.withdraw.iter().any(|purpose| purpose.role() == Some(role));
        let keys = choose(Some(present), next, named, only);
        let days = plan.role_days.iter().find(|(of, _)| *of == role).map_or(plan.days, |(_, days)| *days);
        RoleKeys { role, keys, expires_ms: end(days.min(plan.days)) }
    });
    let rows = home.keys.list(None)?;
    let audit = |standing| {
        let of = |row: &&KeyRow| row.role == Purpose::Audit.name() && row.standing == standing;
        rows.iter().find(of).map(|row| row.public)
    };
    // The next one first: devices seal to the first, and this server opens what is sealed to either.
    let (next, present) = (audit(Standing::Next), audit(Standing::Present));
    let named = before.map_or(&[][..], |before| &before.audit_recipients);
    let audit_recipients = match next {
        Some(_) if plan.withdraw.contains(&Purpose::Audit) => choose(present, next, named, true),
        Some(_) => choose(next, present, named, false),
        None => choose(present, None, named, plan.withdraw.contains(&Purpose::Audit)),
    };
    if audit_recipients.is_empty() {
        return Err(CeremonyError::Config("the audit recipient key is missing"));
    }
    let root = Root {
        version: before.map_or(1, |before| before.version + 1),
        deployment: Text::new(&home.deployment)?,
        synthetic: home.synthetic,
        issued_ms: now_ms,
        expires_ms: end(plan.days),
        threshold,
        root_keys,
        authority_certificates: certificates(home, before, &roles[2].keys, now_ms)?,
        roles: roles.to_vec(),
        audit_recipients,
    };
    Ok(sign::frame(Kind::Root, &cpis_protocol::codec::encode(&root)?))
}

/// The keys that a role gets: the first, then the second, then those named before; or the newest one alone.
fn choose(first: Option<[u8; 32]>, second: Option<[u8; 32]>, named: &[[u8; 32]], only: bool) -> Vec<[u8; 32]> {
    if only && let Some(newest) = second.or(first) {
        return vec![newest];
    }
    let mut keys: Vec<[u8; 32]> = Vec::new();
    for key in first.into_iter().chain(second).chain(named.iter().copied()) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// The certificates of the device authorities, in the order of their keys: those of the root before, and new ones.
fn certificates(
    home: &Home,
    before: Option<&Root>,
    keys: &[PublicKey],
    now_ms: UnixMs,
) -> Result<Vec<Vec<u8>>, CeremonyError> {
    let known = before.map_or(&[][..], |before| &before.authority_certificates);
    let mut certificates = Vec::new();
    for key in keys {
        let kept = known.iter().find(|der| certificate::public_key(der) == Some(*key));
        if let Some(der) = kept {
            certificates.push(der.clone());
        } else if let Some(signer) = home.keys.authority.find(key) {
            certificates.push(certificate::authority(&signer, &home.deployment, now_ms)?);
        }
    }
    Ok(certificates)
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
pub fn install(home: &Home, bytes: &[u8], now_ms: UnixMs) -> Result<Trust, CeremonyError> {
    // The files of another process may have changed since they were read.
    home.keys.reload()?;
    let trust = home.store.write(|tx| -> Result<Trust, CeremonyError> {
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
    })?;
    // What the root no longer names stops signing here at once, and what it signed is signed again.
    home.keys.settle(trust.root())?;
    resign::heads(&home.store, &home.keys, now_ms)?;
    Ok(trust)
}
