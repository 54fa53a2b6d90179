//! Devices that the benchmark is itself: enrolled through the server's library with real invitations and keys, asking
//! with the real sync machine over the agent's real transport, their copies in memory.
//! It must not make up a certificate, a grant or a receipt: all come from the service.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use cpis_agent::clock::SystemClock as AgentClock;
use cpis_agent::port::Transport;
use cpis_agent::transport::HttpTransport;
use cpis_protocol::catch_up::CaughtUp;
use cpis_protocol::cell::Cell;
use cpis_protocol::codec;
use cpis_protocol::enrol::{EnrolReply, EnrolRequest};
use cpis_protocol::grant::Grant;
use cpis_protocol::head::{Beat, FeedState, Head};
use cpis_protocol::id::{DeviceId, FeedId, PractitionerId, ScopeId, SiteId};
use cpis_protocol::limits;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::replica;
use cpis_protocol::seal::OpeningKey;
use cpis_protocol::sign::{Signer, Verified};
use cpis_protocol::sync::Now;
use cpis_protocol::sync::pull::{Effect, Input, Outcome, Plan, Pull, Source, StagedChunk, Start};
use cpis_protocol::tree::TreeHasher;
use cpis_protocol::trust::Trust;
use cpis_server::clock::{Clock as _, SystemClock};
use cpis_server::home::Home;
use cpis_server::service::{Peer, Service, invite};
use cpis_server::store::SqliteStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::site::PRACTITIONER;

/// Enrols devices in a server's directory, without its program.
#[derive(Debug)]
pub struct Enroller {
    service: Service<SqliteStore>,
    store: Arc<SqliteStore>,
    url: String,
    scope: ScopeId,
    site: SiteId,
}

impl Enroller {
    /// Opens a server's directory.
    ///
    /// # Errors
    /// When it is not one.
    pub fn open(directory: &Path, scope: &str, site: &str) -> anyhow::Result<Self> {
        let home = Home::open(directory)?;
        let trust = home.trust()?;
        let Home { config, keys, store, .. } = home;
        let (store, url) = (Arc::new(store), config.url.clone());
        let service = Service::new(Arc::clone(&store), Arc::new(keys), trust, Arc::new(SystemClock), config);
        Ok(Self { service, store, url, scope: scope.parse()?, site: site.parse()? })
    }

    /// Invites and enrols one device.
    ///
    /// # Errors
    /// When the service refuses.
    pub fn enrol(&self) -> anyhow::Result<Enrolled> {
        let (mut seed, mut vault) = ([0; 32], [0; 32]);
        getrandom::fill(&mut seed)?;
        getrandom::fill(&mut vault)?;
        let signer = Signer::from_seed(seed);
        let (trust, now_ms) = (self.service.trust(), SystemClock.now_ms());
        let until_ms = now_ms + 3_600_000;
        let invitation = invite(&*self.store, &self.url, trust.root(), self.scope, self.site, now_ms, until_ms)?;
        let request = EnrolRequest {
            code: invitation.code,
            device_key: signer.public_key(),
            vault_key: OpeningKey::from_seed(vault).sealing_key(),
            practitioner: PRACTITIONER.parse::<PractitionerId>()?,
        };
        let reply = self.service.handle(Peer::default(), Request::Enrol(request.sign(&signer)?))?;
        let reply: EnrolReply = codec::decode(&reply, limits::ENROL_BYTES_MAX)?;
        let grant = Grant::verify(&reply.grant, &DeviceId::of(&signer.public_key()), &trust, None)?;
        let trust = (*trust).clone();
        Ok(Enrolled { url: self.url.clone(), signer, certificate: reply.certificate, trust, grant })
    }
}

/// The identity of one device.
#[derive(Debug)]
pub struct Enrolled {
    url: String,
    signer: Signer,
    certificate: Vec<u8>,
    trust: Trust,
    grant: Verified<Grant>,
}

impl Enrolled {
    /// TLS settings as the agent's own; without the post-quantum exchange where that is left out. Clones share what they
    /// resume from.
    ///
    /// # Errors
    /// When rustls refuses.
    pub fn tls(&self, post_quantum: bool) -> anyhow::Result<rustls::ClientConfig> {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        if !post_quantum {
            provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
        }
        let mut roots = rustls::RootCertStore::empty();
        for authority in &self.trust.root().authority_certificates {
            roots.add(CertificateDer::from(authority.clone()))?;
        }
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.signer.pkcs8().to_vec()));
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![CertificateDer::from(self.certificate.clone())], key)?;
        // As the agent's, but for room for other servers' tickets, which thousands of devices would take.
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// A transport that has no connection yet.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn transport(&self, tls: &rustls::ClientConfig) -> anyhow::Result<HttpTransport> {
        Ok(HttpTransport::over(&self.url, tls.clone(), Arc::new(AgentClock::new([1; 16])))?)
    }
}

/// Copies that were built and proven, shared by all devices of a scope: building the same copy from the same cells again
/// would measure this program, not the server.
#[derive(Debug, Default)]
pub struct Shelf(Mutex<Vec<(Plan, Arc<Copy>)>>);

/// One copy.
#[derive(Debug, Default)]
pub struct Copy(BTreeMap<FeedId, (FeedState, Vec<Cell>)>);

impl Shelf {
    /// An empty one.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Plan, Arc<Copy>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, plan: &Plan) -> Option<Arc<Copy>> {
        let same =
            |known: &&(Plan, Arc<Copy>)| known.0.head.hash() == plan.head.hash() && known.0.sources == plan.sources;
        self.lock().iter().find(same).map(|(_, copy)| Arc::clone(copy))
    }
}

/// One device at work.
#[derive(Debug)]
pub struct Device {
    pull: Pull,
    grant: Verified<Grant>,
    trust: Trust,
    beat: Option<Verified<Beat>>,
    head: Option<Verified<Head>>,
    copy: Arc<Copy>,
    staged: BTreeMap<(FeedId, u32), Vec<Cell>>,
    shelf: Arc<Shelf>,
}

impl Device {
    /// A device that holds nothing yet.
    #[must_use]
    pub fn new(enrolled: &Enrolled, shelf: &Arc<Shelf>) -> Self {
        let (trust, grant, shelf) = (enrolled.trust.clone(), enrolled.grant.clone(), Arc::clone(shelf));
        let (beat, head, copy) = (None, None, Arc::default());
        let pull = Pull::new(start(&trust, &grant, beat.as_ref(), head.as_ref()));
        Self { pull, grant, trust, beat, head, copy, staged: BTreeMap::new(), shelf }
    }

    /// A device that holds the copy of another of the same scope, as if it had synced then and started again now.
    #[must_use]
    pub fn like(enrolled: &Enrolled, other: &Self) -> Self {
        let mut device = Self::new(enrolled, &other.shelf);
        (device.beat, device.head, device.copy) = (other.beat.clone(), other.head.clone(), Arc::clone(&other.copy));
        device.pull = Pull::new(start(&device.trust, &device.grant, device.beat.as_ref(), device.head.as_ref()));
        device
    }

    /// Records held.
    #[must_use]
    pub fn records(&self) -> usize {
        self.copy.0.values().map(|(_, cells)| cells.len()).sum()
    }

    /// One attempt to reach the newest head, grant included where `with_grant`. Gives the number of requests.
    ///
    /// # Errors
    /// When the copy is not up to date afterwards.
    pub async fn sync<T: Transport>(&mut self, transport: &T, with_grant: bool) -> anyhow::Result<u32> {
        let mut requests = 0;
        let mut effect = self.pull.step(if with_grant { Input::WakeNow } else { Input::Wake }, now());
        loop {
            let input = match effect {
                Effect::CatchUp(ask) => {
                    requests += 1;
                    let reply = transport.send(Request::CatchUp(ask.to_bytes()?)).await;
                    Input::CaughtUp(reply.and_then(|bytes| CaughtUp::read(&bytes).map_err(|_| Failure::Refused)))
                }
                Effect::Fetch(wanted) => {
                    requests += u32::try_from(wanted.len())?;
                    let mut replies = Vec::new();
                    for request in wanted {
                        replies.push(transport.send(request).await);
                    }
                    Input::Fetched(replies)
                }
                Effect::StoreRoot(trust) => {
                    self.trust = trust;
                    Input::Stored
                }
                Effect::StoreGrant { grant, .. } => {
                    self.grant = grant;
                    Input::Stored
                }
                Effect::Confirm { beat, .. } => {
                    self.beat = Some(beat);
                    Input::Stored
                }
                // In memory nothing outlives a stop, and nothing of another state is here to compare with.
                Effect::Pin(_) => Input::Stored,
                Effect::Compare(_) => Input::Compared(Vec::new()),
                Effect::Stage(chunks) => self.stage(chunks),
                Effect::Apply(plan) => Input::Applied(self.apply(*plan)),
                Effect::Wait { outcome, .. } => {
                    ensure!(outcome == Outcome::UpToDate, "the sync ended with {outcome:?}");
                    return Ok(requests);
                }
                other @ (Effect::Suspend { .. } | Effect::Erase) => {
                    anyhow::bail!("nobody withdrew this device: {other:?}")
                }
            };
            effect = self.pull.step(input, now());
        }
    }

    fn stage(&mut self, chunks: Vec<StagedChunk>) -> Input {
        for chunk in chunks {
            self.staged.insert((chunk.state.feed, chunk.index), chunk.cells);
        }
        Input::Stored
    }

    fn apply(&mut self, plan: Plan) -> Result<(), Vec<FeedId>> {
        let copy = match self.shelf.find(&plan) {
            Some(copy) => copy,
            None => {
                let copy = Arc::new(self.build(&plan)?);
                self.shelf.lock().push((plan.clone(), Arc::clone(&copy)));
                copy
            }
        };
        self.staged.clear();
        (self.copy, self.head, self.beat) = (copy, Some(plan.head), Some(plan.beat));
        Ok(())
    }

    fn build(&self, plan: &Plan) -> Result<Copy, Vec<FeedId>> {
        let mut next = BTreeMap::new();
        for (state, source) in plan.head.feeds.iter().zip(&plan.sources) {
            let old = || self.copy.0.get(&state.feed).map(|(_, cells)| cells.clone()).unwrap_or_default();
            let cells = match source {
                Source::Unchanged => old(),
                Source::Delta(cells) => {
                    let old = old().into_iter().map(Ok::<_, cpis_protocol::Refusal>);
                    replica::merge(old, replica::changes(cells))
                        .collect::<Result<_, _>>()
                        .map_err(|_| vec![state.feed])?
                }
                Source::Staged => {
                    let chunks = self.staged.range((state.feed, 0)..=(state.feed, u32::MAX));
                    chunks.flat_map(|(_, cells)| cells.clone()).collect()
                }
            };
            let mut tree = TreeHasher::default();
            cells.iter().for_each(|cell: &Cell| tree.push(cell.leaf()));
            replica::check_state(&tree, state).map_err(|_| vec![state.feed])?;
            next.insert(state.feed, (state.clone(), cells));
        }
        Ok(Copy(next))
    }
}

fn start(
    trust: &Trust,
    grant: &Verified<Grant>,
    beat: Option<&Verified<Beat>>,
    head: Option<&Verified<Head>>,
) -> Start {
    Start {
        trust: trust.clone(),
        grant: grant.clone(),
        beat: beat.cloned(),
        head: head.cloned(),
        damaged: std::collections::BTreeSet::new(),
        pinned: None,
        staged: BTreeMap::new(),
        with_grant: true,
        withdrawn: None,
    }
}

/// The tick is the machine's boot time, the time the wall clock's.
fn now() -> Now {
    let at = |clock| {
        let time = rustix::time::clock_gettime(clock);
        time.tv_sec * 1000 + time.tv_nsec / 1_000_000
    };
    let (wall_ms, boot_ms) = (at(rustix::time::ClockId::Realtime), at(rustix::time::ClockId::Boottime));
    Now { tick_ms: boot_ms.cast_unsigned(), time_ms: Some(wall_ms) }
}

/// A runtime of one thread, for the benchmark's own devices.
///
/// # Errors
/// When it cannot be made.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("make a runtime")
}
