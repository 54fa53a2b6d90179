//! The agent itself: the one place that puts adapters together, and the state that the use cases share.
//! It must not contain a use case: looking up, syncing and enrolling are elsewhere.

mod connection;
mod erase;
mod error;
mod grants;
mod lease;
mod limits;
mod machine;
mod renewal;
mod report;
mod sleep;
mod telling;
mod turn;
mod unlock;
mod wishes;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use cpis_protocol::Refusal;
use cpis_protocol::audit::{AuditEvent, Batch, Moment, Receipt};
use cpis_protocol::clock::Carrier;
use cpis_protocol::grant::Grant;
use cpis_protocol::id::DeviceId;
use cpis_protocol::query::{LookupParameters, Query, Token};
use cpis_protocol::sign::{Kind, Signer, Verified};
use cpis_protocol::sync::Now;
use cpis_protocol::trust::{Role, Trust};
use tokio::sync::Notify;

use crate::config::Config;
use crate::device_secret::DeviceSecret;
use crate::durable;
use crate::environment::{Environment, ThisMachine};
use crate::hurry::Hurry;
use crate::journal::{Journal, JournalError, Options, Priority};
use crate::keyslot::Keyslot;
use crate::local_keys::LocalKeys;
use crate::port::{Clock, Store, StoreError};
use crate::random::OsRandom;
use crate::replica::Replica;
use crate::scrub::ScrubStatus;
use crate::status::SyncStatus;
use crate::transport::HttpTransport;
use crate::vault::Vault;

pub use self::error::{GlassError, OpenError, UnlockError};
pub use self::limits::{Allowance, REASON_MIN};
pub use self::renewal::RenewalError;
pub use self::report::{Outbox, WaitingEvent};
pub use self::turn::Turn;

/// The keyslot file's name.
pub const KEYSLOT: &str = "keyslot";
/// The journal's directory.
pub const JOURNAL: &str = "journal";
/// The replica's directory.
pub const REPLICA: &str = "replica";
/// The lock file's name: held while an agent has the directory.
pub const LOCK: &str = "agent.lock";

/// The grant in force; `signed` is gone once the device is erased.
struct HeldGrant {
    plain: Arc<Grant>,
    signed: Option<Arc<Verified<Grant>>>,
}

/// An enrolled device's agent.
pub struct Agent {
    directory: PathBuf,
    environment: Arc<dyn Environment>,
    clock: Arc<dyn Clock>,
    secret: DeviceSecret,
    keys: LocalKeys,
    signer: Signer,
    device: DeviceId,
    trust: RwLock<Trust>,
    grant: RwLock<HeldGrant>,
    previous: RwLock<Option<Arc<Verified<Grant>>>>,
    journal: Journal,
    replica: Replica<Box<dyn Store>, LocalKeys>,
    vault: Vault,
    status: SyncStatus,
    scrub: ScrubStatus,
    moved: AtomicBool,
    news: AtomicBool,
    hurry: Hurry,
    wake_pull: Notify,
    wake_push: Notify,
    /// The turn for a memory-hard step, and how many there were.
    memory_hard: Mutex<u64>,
    people: Mutex<()>,
    erasing: Mutex<()>,
    sleep: sleep::Sleep,
    lease_watch: Mutex<lease::LeaseWatch>,
    turn: Turn,
    upload: tokio::sync::Mutex<()>,
    /// The transports in use: they change with the root and the certificate.
    transports: Mutex<Vec<Weak<HttpTransport>>>,
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
        Self::open_in(directory, config, Arc::new(ThisMachine))
    }

    /// The same on the given machine.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_in(directory: &Path, config: &Config, environment: Arc<dyn Environment>) -> Result<Self, OpenError> {
        if !directory.join(KEYSLOT).exists() {
            return Err(OpenError::NotEnrolled);
        }
        let lock = Self::wait_for_lock(&directory.join(LOCK))?;
        let clock = environment.clock()?;
        let secret = DeviceSecret::open(directory, &config.sources())?;
        let mut keyslot = Keyslot::open_on(&directory.join(KEYSLOT), &secret, environment.disk())?;
        let contents = keyslot.contents();
        // The keyslot's own copy stays where it is; this one signs audit links and the TLS handshake.
        let signer = Signer::from_seed(*contents.signer.seed());
        let device = DeviceId::of(&signer.public_key());
        let trust = Trust::pin(&contents.root).map_err(OpenError::Refused)?;
        let (grant, signed) = match &contents.erasure {
            Some(erasure) => (erase::remains(erasure, device), None),
            None => {
                let grant = Self::open_grant(contents, &device, &trust).map_err(OpenError::Refused)?;
                ((*grant).clone(), Some(Arc::new(grant)))
            }
        };
        let previous = Grant::verify(&contents.previous_grant, &device, &trust, None).ok().map(Arc::new);
        let journal = Self::open_journal(environment.as_ref(), directory, config, device)?;
        let reading = clock.reading();
        keyslot.begin_delays(reading.boot_ms);
        let keys = LocalKeys::new(keyslot, &secret);
        let replica = Self::open_replica(environment.as_ref(), directory, &keys, &trust, &grant)?;
        replica.begin_clock(keys.keyslot().contents().clock);
        replica.set_clock_rule(grant.policy.clock_after_restart);
        // A grant is signed time too: it bounds the clock even when the replica had to be set aside.
        // Not one by a withdrawn key, which may say what it likes.
        if signed.as_ref().is_some_and(|grant| trust.stands(Role::DeviceAuthority, Kind::Grant, grant)) {
            replica.observe(grant.issued_ms, Carrier::Stored, reading);
        } else if signed.is_some() {
            // A crash may have come before what the root withdrew was let go of on the disk as well.
            replica.follow(&trust, 0, false);
        }
        let sleep = sleep::Sleep::new(reading.boot_ms, clock.awake_ms());
        let this = Self {
            directory: directory.to_path_buf(),
            environment,
            clock,
            secret,
            keys,
            signer,
            device,
            trust: RwLock::new(trust),
            grant: RwLock::new(HeldGrant { plain: Arc::new(grant), signed }),
            previous: RwLock::new(previous),
            journal,
            replica,
            vault: Vault::default(),
            status: SyncStatus::default(),
            scrub: ScrubStatus::default(),
            moved: AtomicBool::new(false),
            news: AtomicBool::new(config.news),
            hurry: Hurry::default(),
            wake_pull: Notify::new(),
            wake_push: Notify::new(),
            memory_hard: Mutex::new(0),
            people: Mutex::new(()),
            erasing: Mutex::new(()),
            sleep,
            lease_watch: Mutex::default(),
            turn: Turn::default(),
            upload: tokio::sync::Mutex::new(()),
            transports: Mutex::default(),
            _lock: lock,
        };
        // Before anything else is appended, and before a receipt can cover what an earlier process told.
        this.tell_unrecorded();
        // What a crash cut short is finished before anything is answered.
        if let Err(error) = this.erase_if_expired() {
            tracing::error!(%error, "the erasure is not complete");
        }
        Ok(this)
    }

    /// A command that is just ending is waited for.
    fn wait_for_lock(path: &Path) -> Result<durable::Lock, OpenError> {
        for _ in 0..60 {
            if let Some(lock) = durable::lock(path)? {
                return Ok(lock);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Err(OpenError::InUse)
    }

    fn open_journal(
        environment: &dyn Environment,
        directory: &Path,
        config: &Config,
        device: DeviceId,
    ) -> Result<Journal, OpenError> {
        let capacity_bytes = u64::from(config.journal_mib) * 1024 * 1024;
        let options = Options { capacity_bytes, ..Options::default() };
        let (journal, recovery) = Journal::open_on(&directory.join(JOURNAL), device, options, environment.disk())?;
        if recovery.torn_bytes > 0 {
            // Nothing acknowledged is in a torn tail: an append returns only after its sync.
            tracing::warn!(bytes = recovery.torn_bytes, "the audit journal had a torn tail, which was cut off");
        }
        Ok(journal)
    }

    /// Opens the replica; a broken directory is set aside and fetched again. Meanwhile the answer is "cannot answer".
    fn open_replica(
        environment: &dyn Environment,
        directory: &Path,
        keys: &LocalKeys,
        trust: &Trust,
        grant: &Grant,
    ) -> Result<Replica<Box<dyn Store>, LocalKeys>, OpenError> {
        let path = directory.join(REPLICA);
        let open = || Replica::open(environment.open_store(&path)?, keys.clone(), trust, &grant.scope);
        match open() {
            Ok(replica) => Ok(replica),
            // A full or failing disk is no reason to give up a good copy.
            Err(error @ (StoreError::Io(_) | StoreError::Overtaken)) => Err(error.into()),
            Err(error @ StoreError::DoesNotOpen(_)) => {
                tracing::error!(%error, "the replica does not open; it is set aside and fetched again");
                let aside = directory.join("replica.damaged");
                let older = directory.join("replica.damaged.older");
                if older.exists() {
                    std::fs::remove_dir_all(&older)?;
                }
                if aside.exists() {
                    std::fs::rename(&aside, &older)?;
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

    /// The machine that it runs on.
    pub fn environment(&self) -> &dyn Environment {
        self.environment.as_ref()
    }

    /// The audit journal.
    pub const fn journal(&self) -> &Journal {
        &self.journal
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

    /// The present by which the sync machine judges what comes by this carrier.
    pub fn now_for(&self, carrier: Carrier) -> Now {
        let reading = self.clock.reading();
        Now { tick_ms: reading.boot_ms, time_ms: self.replica.clock().now_for(carrier, reading) }
    }

    /// The trusted root.
    pub fn trust(&self) -> Trust {
        self.trust.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The grant in force.
    pub fn grant(&self) -> Arc<Grant> {
        Arc::clone(&self.grant.read().unwrap_or_else(PoisonError::into_inner).plain)
    }

    fn set_grant(&self, grant: Grant, signed: Option<Arc<Verified<Grant>>>) {
        *self.grant.write().unwrap_or_else(PoisonError::into_inner) = HeldGrant { plain: Arc::new(grant), signed };
    }

    /// The replica.
    pub const fn replica(&self) -> &Replica<Box<dyn Store>, LocalKeys> {
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

    /// What the readings of the copy found.
    pub const fn scrub_status(&self) -> &ScrubStatus {
        &self.scrub
    }

    /// The turn to move the copy: held by whoever brings a newer one.
    pub const fn turn(&self) -> &Turn {
        &self.turn
    }

    /// The turn to upload: held while links are on their way.
    pub const fn upload_turn(&self) -> &tokio::sync::Mutex<()> {
        &self.upload
    }

    /// The memory-hard step of one question. Blocks. One at a time: many at once would take all the memory that a tablet
    /// has.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] when the memory cannot be had.
    pub fn token(&self, query: &Query, parameters: &LookupParameters) -> Result<Token, Refusal> {
        let mut steps = self.memory_hard.lock().unwrap_or_else(PoisonError::into_inner);
        *steps += 1;
        query.token(parameters)
    }

    /// How many memory-hard steps look-ups have taken since the start.
    pub fn steps(&self) -> u64 {
        *self.memory_hard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn to open the vault, or to change what practitioners may do.
    fn people(&self) -> MutexGuard<'_, ()> {
        self.people.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the server withdrew this device for good.
    pub fn is_revoked(&self) -> bool {
        self.barred() == Some(cpis_protocol::answer::CannotAnswer::Revoked)
    }

    /// Which provider keeps the device secret: `tpm`, `credential` or `file`.
    pub const fn device_secret_kind(&self) -> &'static str {
        self.secret.provider().code()
    }

    /// The device secret.
    pub const fn device_secret(&self) -> &DeviceSecret {
        &self.secret
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
        self.tell_unrecorded();
        let held_by_usage =
            self.keys.keyslot().contents().usage.iter().any(|usage| telling::holds_back(usage, receipt.through.seq));
        if held_by_usage || self.erasure_holds_back(receipt.through.seq) {
            tracing::error!("a receipt waits: what its links tell could not be noted");
            return Err(Refusal::Malformed);
        }
        self.journal.acknowledge(receipt).map_err(|error| {
            tracing::error!(%error, "a receipt was not accepted");
            match error {
                JournalError::Refused(refusal) => refusal,
                _ => Refusal::Malformed,
            }
        })
    }
}
