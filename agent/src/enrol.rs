//! Enrolment: from an invitation to keys, certificate, grant and an empty replica. Once for each device.
//! It must not leave a half-enrolled device: everything is written at the end, the keyslot file last but one.

use std::path::Path;
use std::sync::Arc;

use cpis_protocol::clock::Carrier;
use cpis_protocol::enrol::{EnrolReply, EnrolRequest, Invitation};
use cpis_protocol::grant::Grant;
use cpis_protocol::id::{ChainId, DeviceId, PractitionerId};
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::seal::OpeningKey;
use cpis_protocol::sign::Signer;
use cpis_protocol::trust::Trust;
use cpis_protocol::{Refusal, codec, limits};

use crate::agent;
use crate::clock::SystemClock;
use crate::config::{Config, ConfigError};
use crate::device_secret::{Chosen, DeviceSecret, DeviceSecretError};
use crate::journal::{Journal, JournalError, Options};
use crate::keyslot::{Contents, Keyslot, KeyslotError, NewSlot, PassphraseProblem};
use crate::port::{Clock, Transport as _};
use crate::random::{OsRandom, RandomError};
use crate::transport::{HttpTransport, TransportError};

/// The keyslot file before it is complete.
const STAGED: &str = "keyslot.staged";

/// Enrolment did not work. Nothing was changed on the server unless the code was used up.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// There is an enrolled agent in the directory.
    #[error("this directory already holds an enrolled agent")]
    AlreadyEnrolled,
    /// The invitation is not one.
    #[error("the invitation cannot be used ({code}): {0}", code = .0.code())]
    Invitation(Refusal),
    /// The practitioner's identity is not one.
    #[error("the practitioner's identity must be 1 to 16 plain letters, digits or signs")]
    Practitioner,
    /// The passphrase is too weak.
    #[error("{0}")]
    Passphrase(#[from] PassphraseProblem),
    /// The server cannot be reached.
    #[error("enrolment did not go through: {}", crate::status::describe_failure(*.0))]
    Failed(Failure),
    /// What the server sent is not accepted.
    #[error("the server's reply was refused ({code}): {0}", code = .0.code())]
    Refused(Refusal),
    /// The practitioner has no badge for this site.
    #[error("the server gives this practitioner no badge for this site")]
    NoBadge,
    /// The connection could not be set up.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Something could not be written.
    #[error("the device's state could not be written: {0}")]
    Io(#[from] std::io::Error),
    /// The keyslot file could not be made.
    #[error(transparent)]
    Keyslot(#[from] KeyslotError),
    /// The journal could not be made.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The device secret could not be made.
    #[error(transparent)]
    DeviceSecret(#[from] DeviceSecretError),
    /// `agent.toml` cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The operating system gives no randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
}

impl EnrolError {
    /// Whether another attempt with the same invitation may work.
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Failed(Failure::Offline | Failure::Retry(_) | Failure::NotTheServer))
    }

    /// What to do.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::AlreadyEnrolled => {
                Some("use another --dir, or remove the directory once its audit has been uploaded")
            }
            Self::Invitation(_) => Some("ask the operator for a new one: cpis-server device invite"),
            Self::Failed(Failure::Unauthorised | Failure::Refused) => Some(
                "the code is wrong, used or too old, or the practitioner has no badge at that site: ask the operator",
            ),
            Self::Failed(_) => Some("check the network, then try again with the same invitation"),
            Self::NoBadge => Some("the operator adds one: cpis-server practitioner add"),
            _ => None,
        }
    }
}

/// Enrols a device.
///
/// # Errors
/// [`EnrolError`].
pub async fn enrol(
    directory: &Path,
    invitation: &str,
    practitioner: &str,
    passphrase: &str,
) -> Result<DeviceId, EnrolError> {
    if directory.join(agent::KEYSLOT).exists() {
        return Err(EnrolError::AlreadyEnrolled);
    }
    let text =
        if Path::new(invitation).exists() { std::fs::read_to_string(invitation)? } else { invitation.to_owned() };
    let invitation = Invitation::from_text(&text).map_err(EnrolError::Invitation)?;
    let practitioner =
        PractitionerId::new(practitioner).ok().filter(|p| !p.is_empty()).ok_or(EnrolError::Practitioner)?;
    // Before the network is touched: who keeps the secret, and whether a PIN may be used, is known and proved.
    let sources = Config::load(directory)?.sources();
    let found = tokio::task::spawn_blocking(move || Chosen::find(&sources)).await;
    let chosen = found.map_err(|error| EnrolError::Io(std::io::Error::other(error)))??;
    chosen.check_new(passphrase)?;
    let trust = Trust::pin(&invitation.root).map_err(EnrolError::Invitation)?;
    let signer = Signer::from_seed(OsRandom::bytes()?);
    let vault = OpeningKey::from_seed(OsRandom::bytes()?);
    let request = EnrolRequest {
        code: invitation.code,
        device_key: signer.public_key(),
        vault_key: vault.sealing_key(),
        practitioner,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(OsRandom::bytes()?));
    let authorities = &trust.root().authority_certificates;
    let transport = HttpTransport::new(&invitation.url, authorities, None, Arc::clone(&clock), trust.root().issued_ms)?;
    let body = request.sign(&signer).map_err(EnrolError::Refused)?;
    // Enrolment is the first word of the server itself: without it a device that lives on bundles knows no time.
    let asked = clock.reading();
    let reply = transport.send(Request::Enrol(body)).await.map_err(EnrolError::Failed)?;
    let (trust, reply) = follow_roots(trust, &reply).map_err(EnrolError::Refused)?;
    let device = DeviceId::of(&signer.public_key());
    let grant = Grant::verify(&reply.grant, &device, &trust, None).map_err(EnrolError::Refused)?;
    grant.check_new(&trust, None).map_err(EnrolError::Refused)?;
    grant.open_keys(&vault).map_err(EnrolError::Refused)?;
    if grant.badge(&practitioner, grant.issued_ms).is_none() {
        return Err(EnrolError::NoBadge);
    }
    let mut contents = Contents::new(signer, vault.sealing_key());
    contents.certificate = reply.certificate;
    contents.grant = grant.bytes().to_vec();
    contents.root = trust.root().bytes().to_vec();
    contents.url = invitation.url;
    contents.clock.set_rule(grant.policy.clock_after_restart);
    contents.clock.observe(grant.issued_ms, Carrier::Live, asked);
    let slot = NewSlot {
        practitioner,
        cost: grant.policy.passphrase_cost,
        synthetic: trust.root().synthetic,
        created_ms: grant.issued_ms,
    };
    let directory = directory.to_path_buf();
    let passphrase = zeroize::Zeroizing::new(passphrase.to_owned());
    let write = tokio::task::spawn_blocking(move || -> Result<(), EnrolError> {
        crate::durable::create_dir(&directory)?;
        // What an earlier attempt left before it had a keyslot file belongs to a device that nobody knows.
        DeviceSecret::discard(&directory)?;
        discard(&directory.join(STAGED))?;
        // A journal may hold the only copy of events that were never uploaded: it is set aside, never deleted.
        set_aside(&directory.join(agent::JOURNAL))?;
        let secret = DeviceSecret::create(&directory, chosen, slot.created_ms, &mut OsRandom)?;
        Journal::create(&directory.join(agent::JOURNAL), device, ChainId(OsRandom::bytes()?), Options::default())?;
        // Until the slot is in it, the file is under another name: a crash leaves a directory to enrol again.
        let (staged, keyslot) = (directory.join(STAGED), directory.join(agent::KEYSLOT));
        Keyslot::create(&staged, &secret, &contents)?.add_vault_slot(slot, &passphrase, &vault)?;
        std::fs::rename(staged, keyslot)?;
        crate::durable::sync_dir(&directory)?;
        Ok(())
    });
    write.await.map_err(|error| EnrolError::Io(std::io::Error::other(error)))??;
    Ok(device)
}

fn discard(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Renames a directory to the first free name beside it.
fn set_aside(path: &Path) -> std::io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let free = (1u32..).map(|n| path.with_extension(format!("before-{n}"))).find(|aside| !aside.exists());
    free.map_or(Ok(()), |aside| std::fs::rename(path, aside))
}

fn follow_roots(mut trust: Trust, reply: &[u8]) -> Result<(Trust, EnrolReply), Refusal> {
    let reply: EnrolReply = codec::decode(reply, limits::ENROL_BYTES_MAX)?;
    for root in &reply.roots {
        trust = trust.rotate(root)?;
    }
    Ok((trust, reply))
}
