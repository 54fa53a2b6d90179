//! The agent itself: the one place that puts adapters together, and the state that the use cases share.
//! It must not contain a use case: looking up, syncing and enrolling are elsewhere.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use cpis_protocol::answer::{self, CopyState};
use cpis_protocol::audit::{Act, AuditEvent, Batch, Moment, Receipt};
use cpis_protocol::grant::{Badge, Grant};
use cpis_protocol::id::{DeviceId, PractitionerId};
use cpis_protocol::sign::{Signer, Verified};
use cpis_protocol::sync::Now;
use cpis_protocol::sync::pull::{Pull, Start};
use cpis_protocol::text::Text;
use cpis_protocol::trust::Trust;
use cpis_protocol::{Refusal, clock::Carrier};
use serde::Serialize;
use tokio::sync::Notify;

use crate::clock::SystemClock;
use crate::config::Config;
use crate::device_secret::{DeviceSecret, DeviceSecretError};
use crate::durable;
use crate::journal::{Fill, Journal, JournalError, Options, Priority};
use crate::keyslot::{Keyslot, KeyslotError, NewSlot, PassphraseProblem, VaultError, check_passphrase};
use crate::local_keys::LocalKeys;
use crate::lookup;
use crate::port::{Clock, Store as _, StoreError};
use crate::random::{OsRandom, RandomError};
use crate::replica::Replica;
use crate::status::{CopyStatus, OutboxStatus, Status, SyncStatus};
use crate::store::SledStore;
use crate::transport::{HttpTransport, Identity, TransportError};
use crate::vault::Vault;

/// The keyslot file's name.
pub const KEYSLOT: &str = "keyslot";
/// The device secret's name.
pub const DEVICE_SECRET: &str = "device.secret";
/// The journal's directory.
pub const JOURNAL: &str = "journal";
/// The replica's directory.
pub const REPLICA: &str = "replica";
const LOCK: &str = "agent.lock";

/// The agent does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No enrolled agent lives in the directory.
    #[error("no enrolled agent in this directory")]
    NotEnrolled,
    /// Another process has it.
    #[error("another process is using this agent's directory")]
    InUse,
    /// The device secret does not open.
    #[error(transparent)]
    DeviceSecret(#[from] DeviceSecretError),
    /// The keyslot file does not open.
    #[error("the keyslot file does not open: {0}")]
    Keyslot(#[from] KeyslotError),
    /// The audit journal does not open.
    #[error("the audit journal does not open: {0}")]
    Journal(#[from] JournalError),
    /// The replica does not open, and could not be set aside.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the keyslot file holds does not verify.
    #[error("the stored trust does not verify ({code}): {0}", code = .0.code())]
    Refused(Refusal),
    /// The operating system gives no randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The file system.
    #[error("the agent's directory: {0}")]
    Io(#[from] std::io::Error),
}

/// The vault was not unlocked, or no slot was added.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// The slot does not open.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The grant has no valid badge for the practitioner.
    #[error("there is no valid badge for this practitioner on this device: the operator adds one, then sync")]
    NoBadge,
    /// The event could not be recorded, so the vault stays locked.
    #[error("the unlocking could not be recorded, so the vault stays locked: free some disk space")]
    AuditCannotBeWritten,
    /// Adding a slot needs an open vault.
    #[error("somebody who can already unlock this device must do so first")]
    Locked,
    /// The passphrase is too weak.
    #[error(transparent)]
    Passphrase(#[from] PassphraseProblem),
    /// The grant was sealed to another vault.
    #[error("the feed keys do not open: sync, then unlock again")]
    KeysDoNotOpen,
}

impl UnlockError {
    /// A stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Vault(VaultError::WrongPassphrase { .. }) => "wrong-passphrase",
            Self::Vault(VaultError::Closed) => "slot-closed",
            Self::Vault(VaultError::NoSlot) => "no-slot",
            Self::Vault(_) => "vault-failed",
            Self::NoBadge => "no-badge",
            Self::AuditCannotBeWritten => "audit-cannot-be-written",
            Self::Locked => "vault-locked",
            Self::Passphrase(_) => "weak-passphrase",
            Self::KeysDoNotOpen => "keys-do-not-open",
        }
    }
}

/// What waits in the outbox: positions and times, never content.
#[derive(Debug, Clone, Serialize)]
pub struct Outbox {
    /// How many wait.
    pub waiting: u64,
    /// The oldest of them.
    pub events: Vec<WaitingEvent>,
}

/// One waiting event.
#[derive(Debug, Clone, Serialize)]
pub struct WaitingEvent {
    /// Its position in the chain.
    pub seq: u64,
    /// When it happened.
    pub event_ms: i64,
}

/// An enrolled device's agent.
pub struct Agent {
    directory: PathBuf,
    clock: Arc<dyn Clock>,
    secret: DeviceSecret,
    keys: LocalKeys,
    signer: Signer,
    device: DeviceId,
    trust: RwLock<Trust>,
    grant: RwLock<Arc<Verified<Grant>>>,
    journal: Journal,
    replica: Replica<SledStore, LocalKeys>,
    vault: Vault,
    status: SyncStatus,
    revoked: AtomicBool,
    moved: AtomicBool,
    wake_pull: Notify,
    wake_push: Notify,
    _lock: durable::Lock,
}

impl core::fmt::Debug for Agent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Agent({})", self.device)
    }
}

impl Agent {
    /// Opens an enrolled agent's state and proves its replica. Blocks for the disk.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(directory: &Path, config: &Config) -> Result<Self, OpenError> {
        if !directory.join(KEYSLOT).exists() {
            return Err(OpenError::NotEnrolled);
        }
        let lock = durable::lock(&directory.join(LOCK))?.ok_or(OpenError::InUse)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(OsRandom::bytes()?));
        let secret = DeviceSecret::open_file(&directory.join(DEVICE_SECRET))?;
        let keyslot = Keyslot::open(&directory.join(KEYSLOT), &secret)?;
        let contents = keyslot.contents();
        // The keyslot's own copy stays where it is; this one signs audit links and the TLS handshake.
        let signer = Signer::from_seed(*contents.signer.seed());
        let device = DeviceId::of(&signer.public_key());
        let trust = Trust::pin(&contents.root).map_err(OpenError::Refused)?;
        let grant = Grant::verify(&contents.grant, &device, &trust, None).map_err(OpenError::Refused)?;
        let revoked = AtomicBool::new(contents.revoked);
        let capacity_bytes = u64::from(config.journal_mib) * 1024 * 1024;
        let options = Options { capacity_bytes, ..Options::default() };
        let (journal, recovery) = Journal::open(&directory.join(JOURNAL), device, options)?;
        if recovery.torn_bytes > 0 {
            // Nothing acknowledged is in a torn tail: an append returns only after its sync.
            tracing::warn!(bytes = recovery.torn_bytes, "the audit journal had a torn tail, which was cut off");
        }
        let keys = LocalKeys::new(keyslot, &secret);
        let replica = Self::open_replica(directory, &keys, &trust, &grant)?;
        let reading = clock.reading();
        // A grant is signed time too: it bounds the clock even when the replica had to be set aside.
        replica.observe(grant.issued_ms, Carrier::Stored, reading);
        Ok(Self {
            directory: directory.to_path_buf(),
            clock,
            secret,
            keys,
            signer,
            device,
            trust: RwLock::new(trust),
            grant: RwLock::new(Arc::new(grant)),
            journal,
            replica,
            vault: Vault::default(),
            status: SyncStatus::default(),
            revoked,
            moved: AtomicBool::new(false),
            wake_pull: Notify::new(),
            wake_push: Notify::new(),
            _lock: lock,
        })
    }

    /// Opens the replica; a broken directory is set aside and fetched again. Meanwhile the answer is "cannot answer".
    fn open_replica(
        directory: &Path,
        keys: &LocalKeys,
        trust: &Trust,
        grant: &Grant,
    ) -> Result<Replica<SledStore, LocalKeys>, OpenError> {
        let path = directory.join(REPLICA);
        let open = || Replica::open(SledStore::open(&path)?, keys.clone(), trust, &grant.scope);
        match open() {
            Ok(replica) => Ok(replica),
            Err(error) => {
                tracing::error!(%error, "the replica does not open; it is set aside and fetched again");
                let aside = directory.join("replica.damaged");
                if aside.exists() {
                    std::fs::remove_dir_all(&aside)?;
                }
                std::fs::rename(&path, &aside)?;
                Ok(open()?)
            }
        }
    }

    /// Ends the session and puts what is in memory on the disk.
    pub fn close(&self) {
        self.lock();
        if let Err(error) = self.replica.raise_floor(self.clock.reading()) {
            tracing::warn!(%error, "the floor of trusted time could not be stored");
        }
    }

    /// Where the state lies.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The device's identity.
    pub const fn device(&self) -> DeviceId {
        self.device
    }

    /// The clocks.
    pub fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    /// The present for the sync machines.
    pub fn now(&self) -> Now {
        let reading = self.clock.reading();
        Now { tick_ms: reading.boot_ms, time_ms: self.replica.clock().now(reading) }
    }

    /// The trusted root.
    pub fn trust(&self) -> Trust {
        self.trust.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The grant in force.
    pub fn grant(&self) -> Arc<Verified<Grant>> {
        Arc::clone(&self.grant.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The replica.
    pub const fn replica(&self) -> &Replica<SledStore, LocalKeys> {
        &self.replica
    }

    /// The vault.
    pub const fn vault(&self) -> &Vault {
        &self.vault
    }

    /// The link's state.
    pub const fn sync_status(&self) -> &SyncStatus {
        &self.status
    }

    /// Rings when a sync is wanted now.
    pub const fn wake_pull(&self) -> &Notify {
        &self.wake_pull
    }

    /// Rings when an event was queued.
    pub const fn wake_push(&self) -> &Notify {
        &self.wake_push
    }

    /// Whether the server withdrew this device.
    pub fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// Which provider keeps the device secret.
    pub fn device_secret_kind(&self) -> &'static str {
        self.secret.kind()
    }

    /// Marks that something other than the pull loop moved the copy.
    pub fn mark_moved(&self) {
        self.moved.store(true, Ordering::Release);
    }

    /// Whether something other than the pull loop moved the copy since the last call.
    pub fn copy_moved(&self) -> bool {
        self.moved.swap(false, Ordering::AcqRel)
    }

    /// The sync machine over the present state.
    pub fn pull_machine(&self, with_grant: bool) -> Pull {
        let view = self.replica.view();
        Pull::new(Start {
            trust: self.trust(),
            grant: (*self.grant()).clone(),
            beat: view.beat.as_ref().map(|beat| (**beat).clone()),
            head: view.head.clone(),
            damaged: view.damaged.clone(),
            with_grant,
        })
    }

    /// The transport to the server.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn transport(&self) -> Result<HttpTransport, TransportError> {
        let keyslot = self.keys.keyslot();
        let contents = keyslot.contents();
        let identity = Identity { signer: &self.signer, certificate: &contents.certificate };
        let trust = self.trust();
        let authority = &trust.root().authority_certificate;
        let floor_ms = self.grant().issued_ms;
        HttpTransport::new(&contents.url, authority, Some(&identity), Arc::clone(&self.clock), floor_ms)
    }

    /// Stores a newer root.
    ///
    /// # Errors
    /// [`KeyslotError`]; the old root stays in force.
    pub fn store_root(&self, trust: Trust) -> Result<(), KeyslotError> {
        self.keys.keyslot().update(|contents| {
            contents.root = trust.root().bytes().to_vec();
            Ok(())
        })?;
        *self.trust.write().unwrap_or_else(PoisonError::into_inner) = trust;
        Ok(())
    }

    /// Stores a newer grant; an open session gets its keys.
    ///
    /// # Errors
    /// [`KeyslotError`]; the old grant stays in force.
    pub fn store_grant(&self, grant: Verified<Grant>) -> Result<(), KeyslotError> {
        self.keys.keyslot().destroy(|contents| {
            contents.grant = grant.bytes().to_vec();
            // A grant from the server itself proves that the device is not withdrawn.
            contents.revoked = false;
            Ok(())
        })?;
        self.revoked.store(false, Ordering::Release);
        let reading = self.clock.reading();
        self.replica.observe(grant.issued_ms, Carrier::Live, reading);
        self.vault.renew(&grant, self.replica.clock().now(reading).unwrap_or(reading.wall_ms));
        *self.grant.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(grant);
        Ok(())
    }

    /// The server withdrew this device: nothing is answered any more, also after a restart.
    pub fn set_revoked(&self) {
        self.revoked.store(true, Ordering::Release);
        self.vault.close();
        if let Err(error) = self.keys.keyslot().update(|contents| {
            contents.revoked = true;
            Ok(())
        }) {
            tracing::error!(%error, "the withdrawal could not be stored");
        }
    }

    /// Appends an event to the chain; returns once it is on stable storage.
    ///
    /// # Errors
    /// [`JournalError`]: then there is no answer.
    pub fn append(&self, priority: Priority, moment: &Moment, event: &AuditEvent) -> Result<u64, JournalError> {
        let trust = self.trust();
        let recipient = *trust.audit_recipient().map_err(JournalError::Refused)?;
        let appended = self
            .journal
            .append(priority, |tip| tip.append(&self.device, &self.signer, &recipient, moment, event, &mut OsRandom))?;
        self.wake_push.notify_one();
        Ok(appended.0)
    }

    /// The oldest unacknowledged links.
    pub fn unacknowledged(&self, max: usize) -> Option<Batch> {
        self.journal.unacknowledged(max).unwrap_or_else(|error| {
            tracing::error!(%error, "the audit journal cannot be read");
            None
        })
    }

    /// Takes in a verified receipt: how many links it newly covers.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn acknowledge(&self, receipt: &Verified<Receipt>) -> Result<u64, Refusal> {
        self.journal.acknowledge(receipt).map_err(|error| {
            tracing::error!(%error, "a receipt was not accepted");
            match error {
                JournalError::Refused(refusal) => refusal,
                _ => Refusal::Malformed,
            }
        })
    }

    /// Unlocks the vault for a practitioner. Blocks for the memory-hard step.
    ///
    /// # Errors
    /// [`UnlockError`].
    pub fn unlock(&self, practitioner: &str, passphrase: &str) -> Result<Badge, UnlockError> {
        let practitioner = PractitionerId::new(practitioner).map_err(|_| UnlockError::NoBadge)?;
        let grant = self.grant();
        let reading = self.clock.reading();
        let now_ms = self.replica.clock().now(reading).unwrap_or(reading.wall_ms);
        let badge = grant.badge(&practitioner, now_ms).cloned().ok_or(UnlockError::NoBadge)?;
        let opened = self.keys.keyslot().open_vault(practitioner, passphrase);
        let act = if opened.is_ok() { Act::Unlock } else { Act::UnlockFailed };
        let recorded = lookup::record(self, &badge, Text::EMPTY, act);
        let opening = opened?;
        recorded.map_err(|()| UnlockError::AuditCannotBeWritten)?;
        self.vault
            .open(badge.clone(), opening, &grant, self.clock.reading().boot_ms)
            .map_err(|_| UnlockError::KeysDoNotOpen)?;
        Ok(badge)
    }

    /// Gives another practitioner with a badge an own slot.
    ///
    /// # Errors
    /// [`UnlockError`].
    pub fn add_slot(&self, practitioner: &str, passphrase: &str) -> Result<(), UnlockError> {
        let practitioner = PractitionerId::new(practitioner).map_err(|_| UnlockError::NoBadge)?;
        let grant = self.grant();
        let reading = self.clock.reading();
        let now_ms = self.replica.clock().now(reading).unwrap_or(reading.wall_ms);
        grant.badge(&practitioner, now_ms).ok_or(UnlockError::NoBadge)?;
        check_passphrase(passphrase)?;
        let slot = NewSlot {
            practitioner,
            cost: grant.policy.passphrase_cost,
            synthetic: self.trust().root().synthetic,
            created_ms: now_ms,
        };
        let add = |opening: &_| self.keys.keyslot().add_vault_slot(slot, passphrase, opening);
        let added = self.vault.with(reading.boot_ms, |session| add(session.opening()));
        added.ok_or(UnlockError::Locked)?.map_err(|error| UnlockError::Vault(error.into()))
    }

    /// Locks the vault and records it.
    pub fn lock(&self) {
        if let Some(badge) = self.vault.close() {
            let _ = lookup::record(self, &badge, Text::EMPTY, Act::Lock { idle: false });
        }
    }

    /// Locks the vault if nobody has used it for too long.
    pub fn lock_if_idle(&self) {
        if let Some(badge) = self.vault.close_if_idle(self.clock.reading().boot_ms) {
            tracing::info!("the vault locked itself");
            let _ = lookup::record(self, &badge, Text::EMPTY, Act::Lock { idle: true });
        }
    }

    /// What waits in the outbox.
    pub fn outbox(&self) -> Outbox {
        let waiting = self.journal.tip().seq.saturating_sub(self.journal.acknowledged().seq);
        let events = self.unacknowledged(100).map_or_else(Vec::new, |batch| {
            let links = (batch.after.seq + 1..).zip(batch.links);
            links.map(|(seq, link)| WaitingEvent { seq, event_ms: link.event_ms() }).collect()
        });
        Outbox { waiting, events }
    }

    /// Everything that the agent says of itself.
    pub fn status(&self) -> Status {
        let trust = self.trust();
        let grant = self.grant();
        let outbox = self.outbox();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            device: self.device.to_string(),
            deployment: trust.root().deployment.to_string(),
            synthetic: trust.root().synthetic,
            site: grant.site.to_string(),
            scope: grant.scope.to_string(),
            access_mode: grant.policy.access_mode,
            server: self.keys.keyslot().contents().url.clone(),
            revoked: self.is_revoked(),
            unlocked_by: self.vault.holder().map(|badge| badge.name.to_string()),
            copy: self.copy_status(&grant),
            link: self.status.get(),
            outbox: OutboxStatus {
                waiting: outbox.waiting,
                through: self.journal.tip().seq,
                acknowledged: self.journal.acknowledged().seq,
                oldest_ms: outbox.events.first().map(|event| event.event_ms),
                space: match self.journal.fill() {
                    Fill::Normal => "normal".into(),
                    Fill::Warning => "warning".into(),
                    Fill::Full => "full".into(),
                },
            },
        }
    }

    fn copy_status(&self, grant: &Grant) -> CopyStatus {
        let view = self.replica.view();
        let state = CopyState {
            as_at_ms: view.beat.as_ref().map(|beat| beat.issued_ms),
            verified: view.is_proved(),
            revoked: self.is_revoked(),
            lease_until_ms: grant.lease_until_ms,
            policy: &grant.policy,
        };
        let reading = self.clock.reading();
        let admitted = answer::admit(&state, &view.clock, reading);
        let now_ms = view.clock.now(reading);
        CopyStatus {
            as_at_ms: state.as_at_ms,
            age_s: now_ms.zip(state.as_at_ms).map(|(now, at)| (now - at).max(0) / 1000),
            freshness: admitted.ok().map(|(_, freshness)| freshness),
            cannot_answer: admitted.err().map(|reason| reason.code().into()),
            gseq: view.head.as_ref().map_or(0, |head| head.gseq),
            records: view.feeds.values().map(|copy| u64::from(copy.state().count)).sum(),
            feeds: view.feeds.len(),
            damaged: view.damaged.len(),
            covers: view.covers(),
            lease_until_ms: grant.lease_until_ms,
            store_bytes: self.replica.store().bytes(),
        }
    }
}
