//! Requests in, replies out, without any transport: HTTP asks it now, a simulator may later.
//! It must not answer a device that is not known and active, except to enrol it.

mod audit;
mod beat;
mod catch_up;
mod device;
mod enrol;
mod grant;
mod mirror;
mod news;
pub(crate) mod objects;
mod presence;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cpis_protocol::Refusal;
use cpis_protocol::id::{DeviceId, ScopeId};
use cpis_protocol::message::{NEWS, Request};
use cpis_protocol::trust::Trust;

use crate::certificate::CertificateError;
use crate::clock::Clock;
use crate::config::Config;
use crate::home::{self, HomeError};
use crate::keys::ServerKeys;
use crate::port::{DeviceRow, DeviceState, Fleet as _, Store, StoreError};
use crate::publish::PublishError;

pub(crate) use beat::sign as sign_beat;
pub use enrol::{ATTEMPTS, EnrolError, invite};
use mirror::Asker;
pub use news::{Ended, Look, Wait};

/// Why a request gets no reply. The transport turns it into its own words.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Not there, or not there yet: never a deletion.
    #[error("not found")]
    NotFound,
    /// No certificate, an unknown device, or something that this device may not ask.
    #[error("not allowed")]
    Unauthorised,
    /// The device was withdrawn for good.
    #[error("revoked")]
    Revoked,
    /// The device is suspended.
    #[error("suspended")]
    Suspended,
    /// The request itself is refused.
    #[error("refused: {0}")]
    Refused(&'static str),
    /// Larger than the server takes.
    #[error("too large")]
    TooLarge,
    /// Come back in so many seconds.
    #[error("busy")]
    Retry(u32),
    /// A fault of the server; the text is for its own log and holds no person.
    #[error("internal: {0}")]
    Internal(String),
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy => Self::Retry(5),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<PublishError> for ServiceError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Store(error) => error.into(),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<HomeError> for ServiceError {
    fn from(error: HomeError) -> Self {
        match error {
            HomeError::Store(error) => error.into(),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<CertificateError> for ServiceError {
    fn from(error: CertificateError) -> Self {
        Self::Internal(error.to_string())
    }
}

/// A refusal of the server's own objects is the server's fault; one of the request's is mapped where it is read.
fn internal(refusal: Refusal) -> ServiceError {
    ServiceError::Internal(format!("the protocol refuses: {refusal}"))
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peer {
    /// The device, by its key, which the handshake has proven; `None` without a certificate.
    pub device: Option<DeviceId>,
    /// Its certificate is past its end: it may report, get its grant and follow roots, no more.
    pub expired: bool,
}

impl From<Option<DeviceId>> for Peer {
    fn from(device: Option<DeviceId>) -> Self {
        Self { device, expired: false }
    }
}

/// The server behind any transport.
pub struct Service<S: Store> {
    store: Arc<S>,
    keys: Arc<ServerKeys>,
    trust: RwLock<Arc<Trust>>,
    clock: Arc<dyn Clock>,
    config: Config,
    deployment: String,
    beats: Mutex<beat::Beats>,
    snapshots: Mutex<objects::Snapshots>,
    presence: Mutex<presence::Presence>,
    waiting: news::Waiting,
}

/// A device that has shown who it is.
enum Admitted {
    /// May ask for everything that its scope covers.
    Active(DeviceRow),
    /// Is withdrawn, for now or for good.
    Withdrawn(DeviceRow),
}

impl<S: Store> std::fmt::Debug for Service<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Service({})", self.deployment)
    }
}

impl<S: Store> Service<S> {
    /// A service over a store; `trust` must name `keys` (see [`ServerKeys::check`]).
    #[must_use]
    pub fn new(store: Arc<S>, keys: Arc<ServerKeys>, trust: Trust, clock: Arc<dyn Clock>, config: Config) -> Self {
        let deployment = trust.root().deployment.as_str().to_owned();
        Self {
            store,
            keys,
            trust: RwLock::new(Arc::new(trust)),
            clock,
            config,
            deployment,
            beats: Mutex::default(),
            snapshots: Mutex::default(),
            presence: Mutex::default(),
            waiting: news::Waiting::default(),
        }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<S> {
        &self.store
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &Arc<ServerKeys> {
        &self.keys
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The root in force.
    #[must_use]
    pub fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.trust.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes up a root that another process installed.
    ///
    /// # Errors
    /// [`HomeError`]; the root before stays.
    pub fn refresh_trust(&self) -> Result<(), HomeError> {
        // Keys that another process made or promoted.
        self.keys.reload()?;
        let newest = self.store.read(|tx| home::trust(tx))?.ok_or(HomeError::NoRoot)?;
        self.keys.check(newest.root())?;
        if newest.root().version != self.trust().root().version {
            *self.trust.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(newest);
        }
        Ok(())
    }

    /// Answers one request. `peer` is the device that the transport has authenticated.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub fn handle(&self, peer: impl Into<Peer>, request: Request) -> Result<Vec<u8>, ServiceError> {
        let now_ms = self.clock.now_ms();
        let Peer { device: peer, expired } = peer.into();
        // What leads to a new certificate, and what the device has to report.
        let leads_on = matches!(
            request,
            Request::Audit(_) | Request::Report(_) | Request::Grant | Request::Root(_) | Request::CatchUp(_)
        );
        if expired && !leads_on {
            return Err(ServiceError::Unauthorised);
        }
        if let Request::Enrol(body) = &request {
            return self.enrol(body, now_ms);
        }
        let admitted = match self.admit(peer) {
            // No device: perhaps a mirror.
            Err(ServiceError::Unauthorised) => return self.mirrored(peer, &request),
            admitted => admitted?,
        };
        if let Request::CatchUp(body) = &request {
            let (reply, gseq) = self.catch_up(&admitted, expired, body, now_ms)?;
            if let Admitted::Active(device) = &admitted {
                self.note(device, now_ms, gseq);
            }
            return Ok(reply);
        }
        let device = match admitted {
            Admitted::Active(device) => device,
            // A withdrawn device gets nothing but the word that it is, and the roots to verify that with; what it has
            // to report is evidence.
            Admitted::Withdrawn(device) => {
                return match request {
                    Request::Audit(body) => self.audit(&device, &body, now_ms),
                    Request::Report(body) => self.report(&device, &body, now_ms),
                    Request::Root(version) => self.root(version),
                    Request::Grant => self.withdrawal(&device, now_ms),
                    _ if device.state == DeviceState::Suspended => Err(ServiceError::Suspended),
                    _ => Err(ServiceError::Revoked),
                };
            }
        };
        let (reply, gseq) = match request {
            Request::Enrol(_) | Request::CatchUp(_) => return Err(ServiceError::Unauthorised),
            Request::Grant => (self.grant(&device, now_ms)?, None),
            Request::Beat(scope) => {
                self.check_scope(&device, scope)?;
                let (bytes, gseq) = self.beat(scope, now_ms)?;
                (bytes, Some(gseq))
            }
            Request::Head(hash) => (self.head(&device, &hash)?, None),
            Request::Reference(hash) => (self.reference(&hash)?, None),
            Request::Root(version) => (self.root(version)?, None),
            Request::Delta { feed, epoch, from, to } => (self.delta(&device, feed, epoch, from, to)?, None),
            Request::Manifest { feed, epoch, seq } => (self.manifest(&device, feed, epoch, seq)?, None),
            Request::Bounds { feed, epoch, seq } => (self.bounds(&device, feed, epoch, seq)?, None),
            Request::Chunk { feed, epoch, seq, index } => (self.chunk(&device, feed, epoch, seq, index)?, None),
            Request::Audit(body) => (self.audit(&device, &body, now_ms)?, None),
            Request::Report(body) => (self.report(&device, &body, now_ms)?, None),
            // At once: whatever carries requests holds the answer back, if it can.
            Request::News(head) => (if self.is_news(&device, &head)? { NEWS.to_vec() } else { Vec::new() }, None),
        };
        self.note(&device, now_ms, gseq);
        Ok(reply)
    }

    /// The device, if it may ask for anything.
    fn admit(&self, peer: Option<DeviceId>) -> Result<Admitted, ServiceError> {
        let peer = peer.ok_or(ServiceError::Unauthorised)?;
        let device = self.store.read(|tx| tx.device(peer))?.ok_or(ServiceError::Unauthorised)?;
        Ok(match device.state {
            DeviceState::Active => Admitted::Active(device),
            DeviceState::Revoked | DeviceState::Suspended | DeviceState::Lost | DeviceState::Retired => {
                Admitted::Withdrawn(device)
            }
        })
    }

    fn check_scope(&self, asker: &impl Asker, scope: ScopeId) -> Result<(), ServiceError> {
        if asker.scopes().contains(&scope) { Ok(()) } else { Err(ServiceError::Unauthorised) }
    }
}
