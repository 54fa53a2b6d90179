//! Errors in words, with what to do about them and the exit status that scripts go by.
//! It must not show a value of a person: the errors that it explains hold none.

use cpis_protocol::Refusal;
use cpis_server::ceremony::CeremonyError;
use cpis_server::config::ConfigError;
use cpis_server::home::HomeError;
use cpis_server::ingest::IngestError;
use cpis_server::keys::file::KeyError;
use cpis_server::port::StoreError;
use cpis_server::publish::PublishError;
use cpis_server::service::EnrolError;

pub(crate) const FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;
pub(crate) const TRY_LATER: u8 = 75;
pub(crate) const CONFIG: u8 = 78;

/// A failure that already knows its words.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) code: u8,
}

impl Failure {
    /// The arguments do not fit.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()), code: USAGE }
    }

    /// It was tried and did not work.
    pub(crate) fn failed(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()), code: FAILED }
    }
}

/// What is told of an error.
pub(crate) struct Told {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) code: u8,
}

/// Finds the words for an error.
pub(crate) fn explain(error: &anyhow::Error) -> Told {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return Told { message: failure.message.clone(), hint: failure.hint.clone(), code: failure.code };
    }
    let (hint, code) = error.chain().find_map(hint).unwrap_or((None, FAILED));
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Most errors of the library quote their cause already.
        if !message.ends_with(&cause) {
            let colon = if message.is_empty() { "" } else { ": " };
            message = format!("{message}{colon}{cause}");
        }
    }
    Told { message, hint: hint.map(str::to_owned), code }
}

type Hint = (Option<&'static str>, u8);

fn hint(error: &(dyn std::error::Error + 'static)) -> Option<Hint> {
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return Some(store(error));
    }
    if let Some(error) = error.downcast_ref::<HomeError>() {
        return Some(home(error));
    }
    if let Some(error) = error.downcast_ref::<KeyError>() {
        return Some(key(error));
    }
    if error.is::<ConfigError>() {
        return Some((Some("mend server.toml; an empty file gives the defaults"), CONFIG));
    }
    match error.downcast_ref::<CeremonyError>() {
        Some(CeremonyError::Home(error)) => return Some(home(error)),
        Some(CeremonyError::Store(error)) => return Some(store(error)),
        Some(CeremonyError::Key(error)) => return Some(key(error)),
        Some(CeremonyError::Config(_)) => return Some((None, CONFIG)),
        Some(CeremonyError::Refused(Refusal::UnknownKey | Refusal::BelowThreshold)) => {
            let hint = "more root keys must sign: cpis-server root show FILE says which have; a changed set of root keys \
                        needs the old threshold and the new one";
            return Some((Some(hint), FAILED));
        }
        Some(CeremonyError::Refused(Refusal::Gap | Refusal::Rollback)) => {
            return Some((Some("draft it again: it is not the successor of the root in force"), FAILED));
        }
        Some(
            CeremonyError::Certificate(_)
            | CeremonyError::Refused(_)
            | CeremonyError::AnotherDeployment
            | CeremonyError::Publish(_),
        )
        | None => {}
    }
    match error.downcast_ref::<PublishError>() {
        Some(PublishError::Store(error)) => return Some(store(error)),
        Some(PublishError::NotSetUp | PublishError::StorageKey(_)) => return Some((None, CONFIG)),
        Some(PublishError::Token(_) | PublishError::Refused(_)) | None => {}
    }
    match error.downcast_ref::<IngestError>() {
        Some(IngestError::Store(error)) => return Some(store(error)),
        Some(IngestError::RealNumbers(_)) => {
            return Some((
                Some("real data goes into a deployment made without --synthetic, and needs a permission"),
                FAILED,
            ));
        }
        Some(IngestError::NotEngland(_)) => {
            return Some((Some("invented people go into a deployment made with --synthetic"), FAILED));
        }
        Some(IngestError::AnotherBirth) => {
            let hint = "trace the number: one of the two authorities has the wrong person or date; nothing was changed";
            return Some((Some(hint), FAILED));
        }
        Some(IngestError::TooManyAuthorities | IngestError::Rehearsed(_)) | None => {}
    }
    match error.downcast_ref::<EnrolError>() {
        Some(EnrolError::Store(error)) => Some(store(error)),
        Some(EnrolError::Refused(_)) | None => None,
    }
}

fn store(error: &StoreError) -> Hint {
    match error {
        StoreError::Busy => (Some("another process is writing; try again in a minute"), TRY_LATER),
        StoreError::Disk(_) => (Some("is the disk full, or the directory not writable?"), FAILED),
        StoreError::Newer { .. } => (None, CONFIG),
        StoreError::Missing(_) => (Some("run cpis-server init, or give --dir"), CONFIG),
        StoreError::Corrupt(_) => (Some("restore the database from a backup"), FAILED),
        StoreError::Constraint(_) | StoreError::Failed(_) => (None, FAILED),
    }
}

fn home(error: &HomeError) -> Hint {
    match error {
        HomeError::Store(error) => store(error),
        HomeError::Key(error) => key(error),
        HomeError::Config(_) => (Some("mend server.toml; an empty file gives the defaults"), CONFIG),
        HomeError::Root(_) => (Some("the database was changed by somebody: restore it from a backup"), CONFIG),
        HomeError::NoRoot => (Some("cpis-server root draft, root sign, root install make one"), CONFIG),
        HomeError::NotSetUp(_) => (Some("cpis-server init --help; or give --dir"), CONFIG),
    }
}

fn key(error: &KeyError) -> Hint {
    match error {
        KeyError::Exists(_) => (Some("give another directory or file"), FAILED),
        KeyError::Missing(_) | KeyError::Damaged(_) => (Some("restore the key file from a backup"), CONFIG),
        KeyError::Exposed(_) => (None, CONFIG),
        KeyError::NoPassphrase(_) => {
            let hint = "make one with a passphrase (cpis-server root new-key), and draft the root with it in place of this one; \
                        without one a key signs roots of synthetic deployments only";
            (Some(hint), FAILED)
        }
        KeyError::NotInRoot(_) => (Some("install a root that names the present keys: cpis-server root draft"), CONFIG),
        KeyError::NoNext(_) => (Some("cpis-server key next ROLE makes one"), FAILED),
        KeyError::NextNotInRoot(_) => (Some("cpis-server root draft, root sign, root install first"), FAILED),
        KeyError::InUse(..) => (Some("withdraw it first: cpis-server root draft --withdraw ROLE"), FAILED),
        KeyError::NoSuchKey(..) => (Some("cpis-server key list shows those that are here"), FAILED),
        KeyError::Certificate(_) | KeyError::WrongPassphrase(_) | KeyError::Derivation | KeyError::Io(..) => {
            (None, FAILED)
        }
    }
}
