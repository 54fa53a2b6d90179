//! Enrolment: from an invitation to keys, certificate, grant and an empty replica. Once for each device.
//! It must not leave a half-enrolled device: the keyslot file is written at the end, and until then there is an attempt,
//! which another try goes on with.

mod attempt;

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
use zeroize::Zeroizing;

use self::attempt::Attempt;
use crate::agent;
use crate::clock::SystemClock;
use crate::config::{Config, ConfigError};
use crate::device_secret::{Chosen, DeviceSecretError};
use crate::journal::{Journal, JournalError, Options};
use crate::keyslot::{Contents, KeyslotError, NewSlot, PassphraseProblem};
use crate::port::{Clock, Transport as _};
use crate::random::{OsRandom, RandomError};
use crate::transport::{HttpTransport, TransportError};

/// Enrolment did not work. Where the server may have taken the code, another try with the same invitation goes on with it.
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
    let trust = Trust::pin(&invitation.root).map_err(EnrolError::Invitation)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(OsRandom::bytes()?));
    let since_ms = clock.reading().wall_ms.max(trust.root().issued_ms);
    // Before the network is touched: who keeps the secret, and whether a PIN may be used, is known and proved.
    let sources = Config::load(directory)?.sources();
    let (place, invited, secret) = (directory.to_path_buf(), invitation.clone(), Zeroizing::new(passphrase.to_owned()));
    let attempt = off_the_async_threads(move || {
        let chosen = Chosen::find(&sources)?;
        chosen.check_new(&secret)?;
        Attempt::begin(&place, chosen, &sources, &invited, since_ms)
    })
    .await?;
    let vault = OpeningKey::from_seed(OsRandom::bytes()?);
    let request = EnrolRequest {
        code: invitation.code,
        device_key: attempt.signer().public_key(),
        vault_key: vault.sealing_key(),
        practitioner,
    };
    let authorities = &trust.root().authority_certificates;
    let transport = HttpTransport::new(&invitation.url, authorities, None, Arc::clone(&clock), trust.root().issued_ms)?;
    let body = request.sign(attempt.signer()).map_err(EnrolError::Refused)?;
    // Enrolment is the first word of the server itself: without it a device that lives on bundles knows no time.
    let asked = clock.reading();
    let (attempt, reply) = ask(&transport, body, attempt, directory).await?;
    let (trust, reply) = follow_roots(trust, &reply).map_err(EnrolError::Refused)?;
    let device = DeviceId::of(&attempt.signer().public_key());
    let grant = Grant::verify(&reply.grant, &device, &trust, None).map_err(EnrolError::Refused)?;
    grant.check_new(&trust, None).map_err(EnrolError::Refused)?;
    grant.open_keys(&vault).map_err(EnrolError::Refused)?;
    if grant.badge(&practitioner, grant.issued_ms).is_none() {
        return Err(EnrolError::NoBadge);
    }
    let mut contents = Contents::new(Signer::from_seed(*attempt.signer().seed()), vault.sealing_key());
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
    let (directory, passphrase) = (directory.to_path_buf(), Zeroizing::new(passphrase.to_owned()));
    off_the_async_threads(move || {
        // A journal may hold the only copy of events that were never uploaded: it is set aside, never deleted.
        set_aside(&directory.join(agent::JOURNAL))?;
        Journal::create(&directory.join(agent::JOURNAL), device, ChainId(OsRandom::bytes()?), Options::default())?;
        attempt.complete(&directory, &contents, slot, &passphrase, &vault)
    })
    .await?;
    Ok(device)
}

/// Sends the request. Only a refusal says that the device is not known by this key, and gives the attempt up: anything else
/// may be a reply that was lost.
async fn ask(
    transport: &HttpTransport,
    body: Vec<u8>,
    attempt: Attempt,
    directory: &Path,
) -> Result<(Attempt, Vec<u8>), EnrolError> {
    let failure = match transport.send(Request::Enrol(body)).await {
        Ok(reply) => return Ok((attempt, reply)),
        Err(failure) => failure,
    };
    if matches!(failure, Failure::Unauthorised | Failure::Refused | Failure::Revoked | Failure::Suspended) {
        drop(attempt);
        Attempt::discard(directory)?;
    }
    Err(EnrolError::Failed(failure))
}

async fn off_the_async_threads<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, EnrolError> + Send + 'static,
) -> Result<R, EnrolError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| EnrolError::Io(std::io::Error::other(error)))?
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
