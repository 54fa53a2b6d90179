//! The real server service over its real store, without sockets: who asks is known, what is answered is bytes.
//! It must not answer for the service, but for what HTTP makes of its errors.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use anyhow::{Context as _, anyhow};
use cpis_protocol::digest::{self, Hash};
use cpis_protocol::grant::Badge;
use cpis_protocol::head::Head;
use cpis_protocol::id::{DeviceId, FeedId, PractitionerId, ScopeId, SiteId};
use cpis_protocol::limits;
use cpis_protocol::message::{Failure, REASON_REVOKED, REASON_SUSPENDED, Request, classify};
use cpis_protocol::policy::{AccessMode, Policy};
use cpis_protocol::seal::MemoryHard;
use cpis_protocol::sign::{self, Kind, Signer};
use cpis_protocol::text::Text;
use cpis_server::ceremony::{self, Plan, Setup};
use cpis_server::config::Config;
use cpis_server::home::Home;
use cpis_server::ingest::{self, Source};
use cpis_server::keys::file::Purpose;
use cpis_server::port::{
    DeviceRow, DeviceState, Feeds as _, Fleet as _, Inbox as _, PractitionerRow, ScopeRow, SiteRow, Store as _,
    StoreError,
};
use cpis_server::publish;
use cpis_server::register::Extract;
use cpis_server::resign;
use cpis_server::serve;
use cpis_server::service::{Peer, Service, ServiceError};
use cpis_server::store::SqliteStore;

use super::dice::Dice;
use super::register::Truth;
use super::time::TrueTime;

/// The scopes: all feeds, and all but the last.
pub const SCOPES: [&str; 2] = ["all", "part"];
/// The one site.
pub const SITE: &str = "station";
/// Who works there.
pub const PRACTITIONER: &str = "P001";
/// Seconds between two polls: fewer than a real device's, so that a day is quick.
pub const POLL_S: u16 = 1800;

/// Seconds for which a beat is signed once: few, so that what a device's time is behind by has other reasons.
pub const BEAT_EVERY_S: u16 = 5;

/// The service as it runs.
pub type Running = Service<SqliteStore>;

/// The server of one simulation.
pub struct Server {
    directory: PathBuf,
    time: TrueTime,
    service: RwLock<Arc<Running>>,
    officers: [Signer; 2],
    truth: Mutex<Truth>,
    extracts: Mutex<u64>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.directory.display())
    }
}

fn start(directory: &Path, time: TrueTime) -> anyhow::Result<Arc<Running>> {
    let home = Home::open(directory)?;
    let trust = home.trust()?;
    Ok(Arc::new(Service::new(Arc::new(home.store), Arc::new(home.keys), trust, Arc::new(time), home.config)))
}

fn scope(name: &str) -> ScopeId {
    name.parse().unwrap_or(ScopeId::EMPTY)
}

impl Server {
    /// Sets a deployment up as its operators would, in an empty directory.
    ///
    /// # Errors
    /// When a step fails.
    pub fn set_up(directory: &Path, time: TrueTime, dice: &mut Dice) -> anyhow::Result<Self> {
        let config = Config {
            poll_s: POLL_S,
            beat_every_s: BEAT_EVERY_S,
            certificate_days: u16::try_from(dice.between(3, 90))?,
            feed_key_days: u16::try_from(dice.between(1, 30))?,
            reseal_hours: u16::try_from(dice.between(0, 24))?,
            ..Config::default()
        };
        let deployment = Text::lossy("Simulation");
        let setup = Setup { deployment, synthetic: true, cost: MemoryHard::SYNTHETIC, config };
        let home = ceremony::set_up(directory, &setup)?;
        let officers = [Signer::from_seed(super::bytes(dice)), Signer::from_seed(super::bytes(dice))];
        let keys = officers.iter().map(Signer::public_key).collect();
        let now_ms = time.now_ms();
        let draft = ceremony::draft(&home, Some((keys, 2)), 400, now_ms)?;
        ceremony::install(&home, &signed(draft, &officers)?, now_ms)?;
        drop(home);
        let (service, truth) = (start(directory, time)?, Truth::new()?);
        let server = Self {
            directory: directory.to_owned(),
            time,
            service: RwLock::new(service),
            officers,
            truth: Mutex::new(truth),
            extracts: Mutex::new(0),
        };
        let first = server.truth().begin(dice, now_ms)?;
        server.ingest(&[first])?;
        // Feeds are made when an authority is first published, scopes name them, and get their first head.
        server.publish()?;
        server.add_scopes()?;
        server.publish()?;
        server.put_site(dice)?;
        server.put_practitioner()?;
        Ok(server)
    }

    fn add_scopes(&self) -> anyhow::Result<()> {
        let mut feeds = self.truth().feeds.clone();
        feeds.sort_unstable();
        for (name, taken) in SCOPES.into_iter().zip([feeds.len(), feeds.len() - 1]) {
            let row = ScopeRow { scope: scope(name), feeds: feeds.iter().take(taken).copied().collect() };
            self.service().store().write(|tx| tx.add_scope(&row))?;
        }
        Ok(())
    }

    /// Gives the site its rules, or others.
    ///
    /// # Errors
    /// Those of the store.
    pub fn put_site(&self, dice: &mut Dice) -> anyhow::Result<()> {
        let policy = Policy {
            passphrase_cost: MemoryHard::SYNTHETIC,
            look_up_burst: 1000,
            look_up_refill_s: 1,
            grant_refresh_s: u32::try_from(dice.between(1, 8))? * 3600,
            break_glass_look_ups: u16::try_from(dice.below(2))? * 20,
            ..Policy::default()
        };
        let lease_s = 86_400 * u32::try_from(dice.between(2, 9))?;
        let row = SiteRow { site: SITE.parse().unwrap_or(SiteId::EMPTY), policy, lease_s };
        self.service().store().write::<_, StoreError>(|tx| match tx.site(row.site)? {
            Some(_) => tx.change_site(&row),
            None => tx.add_site(&row),
        })?;
        Ok(())
    }

    fn put_practitioner(&self) -> anyhow::Result<()> {
        let badge = Badge {
            practitioner: PRACTITIONER.parse().unwrap_or(PractitionerId::EMPTY),
            name: Text::lossy("Sam Example"),
            role: Text::lossy("R1070"),
            activity: AccessMode::Unscheduled,
            valid_until_ms: i64::MAX,
        };
        let row = PractitionerRow { badge, sites: vec![SITE.parse().unwrap_or(SiteId::EMPTY)] };
        self.service().store().write(|tx| tx.put_practitioner(&row))?;
        Ok(())
    }

    /// The service as it runs now.
    pub fn service(&self) -> Arc<Running> {
        Arc::clone(&self.service.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the register should say.
    pub fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process ends and another begins: what it kept in memory is gone.
    ///
    /// # Errors
    /// When the directory does not open.
    pub fn restart(&self) -> anyhow::Result<()> {
        let service = start(&self.directory, self.time)?;
        *self.service.write().unwrap_or_else(PoisonError::into_inner) = service;
        Ok(())
    }

    /// Answers as HTTP would: the body, or what the agent makes of the status.
    ///
    /// # Errors
    /// `Ok(Err)` is the answer. `Err`: a fault of the server itself, which no simulation may bring about.
    pub fn answer(&self, peer: Peer, request: Request) -> anyhow::Result<Result<Vec<u8>, Failure>> {
        let (asked, limit) = (format!("{request:?}"), request.reply_bytes_max());
        if request.body().is_none() && Request::from_path(&request.path()).as_ref() != Some(&request) {
            return Err(anyhow!("the path of {asked} does not lead back to it"));
        }
        let failure = match self.service().handle(peer, request) {
            Ok(body) if body.len() > limit => return Err(anyhow!("an honest reply of {} bytes", body.len())),
            Ok(body) => return Ok(Ok(body)),
            Err(ServiceError::NotFound) => classify(404, None, None),
            Err(ServiceError::Unauthorised) => classify(403, None, None),
            Err(ServiceError::Revoked) => classify(403, Some(REASON_REVOKED), None),
            Err(ServiceError::Suspended) => classify(403, Some(REASON_SUSPENDED), None),
            Err(ServiceError::Refused(code)) => classify(400, Some(code), None),
            Err(ServiceError::TooLarge) => classify(413, None, None),
            Err(ServiceError::Retry(seconds)) => classify(503, None, Some(seconds)),
            Err(ServiceError::Internal(text)) => return Err(anyhow!("the server failed at {asked}: {text}")),
        };
        Ok(Err(failure))
    }

    /// Takes extracts in, one after the other, and notes what the register says then.
    ///
    /// # Errors
    /// When one is refused.
    pub fn ingest(&self, extracts: &[Extract]) -> anyhow::Result<u64> {
        let mut gseq = 0;
        for extract in extracts {
            let hash = {
                let mut extracts = self.extracts.lock().unwrap_or_else(PoisonError::into_inner);
                *extracts += 1;
                digest::sha256(&extracts.to_be_bytes())
            };
            let source = Source { kind: "simulated", hash, again: false, rehearse: false, keep_others: false };
            let service = self.service();
            let applied = ingest::apply(&**service.store(), extract, &source, true, self.time.now_ms(), &mut |_| ())?;
            gseq = applied.gseq;
        }
        self.truth().settle(gseq);
        Ok(gseq)
    }

    /// Publishes what is due.
    ///
    /// # Errors
    /// When that fails.
    pub fn publish(&self) -> anyhow::Result<u64> {
        let service = self.service();
        publish::publish(&**service.store(), service.keys(), self.time.now_ms(), &mut |_| ())?;
        Ok(serve::maintain(&service, self.time.now_ms())?)
    }

    /// What a running server does by itself every minute, without sockets and certificates.
    ///
    /// # Errors
    /// When a step fails.
    pub fn tick(&self) -> anyhow::Result<()> {
        let (service, now_ms) = (self.service(), self.time.now_ms());
        service.refresh_trust()?;
        resign::heads(&**service.store(), service.keys(), now_ms)?;
        serve::rekey_due(&service, now_ms)?;
        serve::maintain(&service, now_ms)?;
        cpis_server::digest::run(&**service.store(), &service.keys().audit, service.config())?;
        Ok(())
    }

    /// The next root: with a new key of a role beside the old one, or with only the newest key of it.
    ///
    /// # Errors
    /// When the ceremony fails.
    pub fn next_root(&self, purpose: Purpose, withdraw: bool) -> anyhow::Result<u32> {
        let home = Home::open(&self.directory)?;
        let now_ms = self.time.now_ms();
        if !withdraw {
            home.keys.make_next(purpose, &home.deployment, now_ms)?;
        }
        let withdraw = if withdraw { vec![purpose] } else { Vec::new() };
        let plan = Plan { days: 400, withdraw, ..Plan::default() };
        let draft = ceremony::draft_as(&home, &plan, now_ms)?;
        let trust = ceremony::install(&home, &signed(draft, &self.officers)?, now_ms)?;
        Ok(trust.root().version)
    }

    /// The bundle of a scope as it is now.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn bundle(&self, scope: ScopeId) -> anyhow::Result<Vec<u8>> {
        let service = self.service();
        let (store, keys) = (service.store(), service.keys());
        Ok(cpis_server::export::bundle(&**store, keys, service.config(), scope, self.time.now_ms())?)
    }

    /// A device's row.
    ///
    /// # Errors
    /// Those of the store; when there is none.
    pub fn device(&self, device: DeviceId) -> anyhow::Result<DeviceRow> {
        self.service().store().read::<_, StoreError>(|tx| tx.device(device))?.context("no such device")
    }

    /// Changes a device's state or scope.
    ///
    /// # Errors
    /// Those of the store.
    pub fn change_device(
        &self,
        device: DeviceId,
        state: Option<DeviceState>,
        scope_name: Option<&str>,
    ) -> anyhow::Result<()> {
        let before = self.device(device)?;
        let (state, scope) = (state.unwrap_or(before.state), scope_name.map_or(before.scope, scope));
        self.service().store().write(|tx| tx.put_device(&DeviceRow { state, scope, ..before }))?;
        Ok(())
    }

    /// A head that was published, by its hash.
    ///
    /// # Errors
    /// Those of the store.
    pub fn head(&self, hash: &Hash) -> anyhow::Result<Option<Head>> {
        let row = self.service().store().read::<_, StoreError>(|tx| tx.head(hash))?;
        let head = row.map(|row| sign::peek_unverified(&row.bytes, Kind::Head, limits::HEAD_BYTES_MAX));
        Ok(head.transpose()?)
    }

    /// The hash of the newest head of a scope.
    ///
    /// # Errors
    /// Those of the store; when there is none.
    pub fn newest(&self, scope: ScopeId) -> anyhow::Result<Hash> {
        let row = self.service().store().read::<_, StoreError>(|tx| tx.newest_head(scope))?;
        Ok(row.context("no head")?.hash)
    }

    /// All feeds.
    ///
    /// # Errors
    /// Those of the store.
    pub fn feeds(&self) -> anyhow::Result<Vec<FeedId>> {
        let rows = self.service().store().read::<_, StoreError>(|tx| tx.feeds())?;
        Ok(rows.into_iter().map(|row| row.feed).collect())
    }

    /// What was set aside of the audit.
    ///
    /// # Errors
    /// Those of the store.
    pub fn suspicions(&self) -> anyhow::Result<Vec<cpis_server::port::SuspicionRow>> {
        Ok(self.service().store().read::<_, StoreError>(|tx| tx.suspicions())?)
    }
}

fn signed(draft: Vec<u8>, officers: &[Signer]) -> anyhow::Result<Vec<u8>> {
    let mut bytes = draft;
    for officer in officers {
        bytes = ceremony::endorse(&bytes, officer)?;
    }
    Ok(bytes)
}
