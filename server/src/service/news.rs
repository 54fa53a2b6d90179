//! Who waits for news: devices that asked to be told when the newest head of their scope is another than theirs.
//! It must not hold a thread, a connection of the database or a worker's place while one waits, nor prove anything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cpis_protocol::digest::{self, Hash};
use cpis_protocol::id::{DeviceId, RegisterSeq, ScopeId};
use tokio::sync::{Notify, watch};

use super::{Admitted, Peer, Service, ServiceError};
use crate::port::{DeviceRow, DeviceState, Feeds as _, Fleet as _, Register as _, Store, StoreError};
use crate::publish;

/// More changes than these are left to whoever took them in, and to the minute: two processes must not both do work of
/// minutes.
const PUBLISHED_AT_ONCE: u64 = 1_000;

/// Those who wait.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<Rooms>);

#[derive(Debug, Default)]
struct Rooms {
    /// The newest head of each scope that somebody waits for.
    heads: HashMap<ScopeId, watch::Sender<Option<Hash>>>,
    /// The bell of each device that waits.
    bells: HashMap<DeviceId, Arc<Bell>>,
    closed: bool,
}

/// Ends one device's wait before its time.
#[derive(Debug)]
struct Bell {
    scope: ScopeId,
    rung: Notify,
    why: Mutex<Ended>,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// There is something to ask for.
    News,
    /// The time was over, or the device asked anew on another connection.
    Nothing,
    /// The server stops.
    Stopped,
}

/// One device's wait. Dropped, it is over.
#[derive(Debug)]
pub struct Wait<S: Store> {
    service: Arc<Service<S>>,
    device: DeviceId,
    named: Hash,
    head: watch::Receiver<Option<Hash>>,
    bell: Arc<Bell>,
}

impl Waiting {
    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bell {
    fn ring(&self, why: Ended) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why;
        self.rung.notify_one();
    }
}

/// What was last seen of the database, so that the next look costs next to nothing.
#[derive(Debug, Default)]
pub struct Look {
    version: Option<u64>,
    acts: Option<u64>,
    /// The register sequence that nobody had published at the last look, and the one that was tried here.
    due: Option<RegisterSeq>,
    tried: Option<RegisterSeq>,
}

impl<S: Store> Service<S> {
    /// Whether the newest head of the device's scope is another than the one named, by now.
    pub(super) fn is_news(&self, device: &DeviceRow, named: &Hash) -> Result<bool, ServiceError> {
        let newest = self.store.read(|tx| tx.newest_head(device.scope))?.ok_or(ServiceError::NotFound)?;
        Ok(newest.hash != *named)
    }

    /// A device asks to be told. Gives the wait, or nothing when there is news already. Blocks for the database.
    ///
    /// # Errors
    /// [`ServiceError`]; `Retry` when more wait than may.
    pub fn wait_for_news(self: &Arc<Self>, peer: Peer, named: Hash) -> Result<Option<Wait<S>>, ServiceError> {
        if self.config.news_hold_s == 0 {
            return Err(ServiceError::NotFound);
        }
        let device = match self.admit(peer.device)? {
            Admitted::Active(device) if !peer.expired => device,
            Admitted::Active(_) => return Err(ServiceError::Unauthorised),
            Admitted::Withdrawn(device) if device.state == DeviceState::Suspended => {
                return Err(ServiceError::Suspended);
            }
            Admitted::Withdrawn(_) => return Err(ServiceError::Revoked),
        };
        // Before the newest head is read: one that comes in between is seen by the wait.
        let wait = self.enter(&device, named)?;
        let news = self.is_news(&device, &named)?;
        self.note(&device, self.clock.now_ms(), None);
        Ok(if news { None } else { Some(wait) })
    }

    fn enter(self: &Arc<Self>, device: &DeviceRow, named: Hash) -> Result<Wait<S>, ServiceError> {
        let mut rooms = self.waiting.rooms();
        let again = rooms.bells.get(&device.device).map(Arc::clone);
        // R287
        if rooms.closed || (again.is_none() && rooms.bells.len() >= self.config.news_max as usize) {
            return Err(ServiceError::Retry(self.config.poll_s.into()));
        }
        if let Some(before) = again {
            // Its connection is gone, most likely, and nobody has noticed yet.
            before.ring(Ended::Nothing);
        }
        let bell = Arc::new(Bell { scope: device.scope, rung: Notify::new(), why: Mutex::new(Ended::Nothing) });
        rooms.bells.insert(device.device, Arc::clone(&bell));
        let head = rooms.heads.entry(device.scope).or_insert_with(|| watch::Sender::new(None)).subscribe();
        drop(rooms);
        Ok(Wait { service: Arc::clone(self), device: device.device, named, head, bell })
    }

    /// How many devices wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.rooms().bells.len()
    }

    /// The server stops: nobody waits any longer.
    pub fn end_waits(&self) {
        let mut rooms = self.waiting.rooms();
        rooms.closed = true;
        for bell in rooms.bells.values() {
            bell.ring(Ended::Stopped);
        }
    }

    /// Looks whether anybody, in whatever process, has published, and tells those who wait. Gives whether there is
    /// something to publish that nobody has published since the look before. Blocks for the database.
    ///
    /// # Errors
    /// [`StoreError`]; the next look tries again.
    pub fn look_for_news(&self, look: &mut Look) -> Result<bool, StoreError> {
        let version = self.store.version()?;
        if version.is_some() && version == look.version && look.due == look.tried {
            return Ok(false);
        }
        let due = self.due()?;
        // Whoever takes something in publishes it a moment later: only what was left lying is published here, and what
        // cannot be published is left to the minute.
        let left = due.is_some() && due == look.due && due != look.tried;
        look.due = due;
        look.tried = if left { due } else { look.tried.filter(|_| due.is_some()) };
        self.tell_heads()?;
        self.tell_withdrawn(look)?;
        look.version = version;
        Ok(left)
    }

    fn due(&self) -> Result<Option<RegisterSeq>, StoreError> {
        self.store.read(|tx| {
            let last = tx.last_gseq()?;
            let changes = last.saturating_sub(publish::published_gseq(tx)?);
            Ok((1..=PUBLISHED_AT_ONCE).contains(&changes).then_some(last))
        })
    }

    fn tell_heads(&self) -> Result<(), StoreError> {
        let scopes: Vec<ScopeId> = {
            let mut rooms = self.waiting.rooms();
            rooms.heads.retain(|_, head| head.receiver_count() > 0);
            rooms.heads.keys().copied().collect()
        };
        for scope in scopes {
            let Some(newest) = self.store.read::<_, StoreError>(|tx| tx.newest_head(scope))? else { continue };
            if let Some(head) = self.waiting.rooms().heads.get(&scope) {
                head.send_if_modified(|told| told.replace(newest.hash) != Some(newest.hash));
            }
        }
        Ok(())
    }

    /// A device that was suspended, withdrawn or moved meanwhile is told so too: by its own question, and signed.
    fn tell_withdrawn(&self, look: &mut Look) -> Result<(), StoreError> {
        let acts = self.store.read::<_, StoreError>(|tx| tx.last_device_event())?;
        if look.acts.replace(acts) == Some(acts) {
            return Ok(());
        }
        let bells: Vec<_> =
            self.waiting.rooms().bells.iter().map(|(device, bell)| (*device, Arc::clone(bell))).collect();
        for (device, bell) in bells {
            let row = self.store.read::<_, StoreError>(|tx| tx.device(device))?;
            if row.is_none_or(|row| row.state != DeviceState::Active || row.scope != bell.scope) {
                bell.ring(Ended::News);
            }
        }
        Ok(())
    }
}

impl<S: Store> Wait<S> {
    /// Waits for another head than the one named, at most for the time that the configuration sets. Of many who wait
    /// for one head each is told at its own moment.
    pub async fn end(mut self) -> Ended {
        let hold = Duration::from_secs(self.service.config.news_hold_s.into());
        let named = self.named;
        let told = tokio::select! {
            told = another(&mut self.head, named) => told,
            () = self.bell.rung.notified() => return *self.bell.why.lock().unwrap_or_else(PoisonError::into_inner),
            () = tokio::time::sleep(hold) => return Ended::Nothing,
        };
        let Some(told) = told else { return Ended::Stopped };
        tokio::time::sleep(self.turn(&told)).await;
        Ended::News
    }

    /// So many are told in a second, the server's configuration says: each comes with a question of its own then.
    fn turn(&self, told: &Hash) -> Duration {
        let waiting = self.service.waiting() as u64;
        let over_ms = waiting.saturating_mul(1000) / u64::from(self.service.config.news_per_s).max(1);
        let hash = digest::hash("cpis-edge/1/news", &[&self.device.0, told]);
        let [a, b, c, d, ..] = hash;
        Duration::from_millis(u64::from(u32::from_be_bytes([a, b, c, d])) % over_ms.max(1))
    }
}

/// Waits until another head than the one named is told. What was told before counts for nothing: the database was asked
/// after that. `None` when nobody tells any more.
async fn another(head: &mut watch::Receiver<Option<Hash>>, named: Hash) -> Option<Hash> {
    loop {
        head.changed().await.ok()?;
        let told = *head.borrow_and_update();
        if let Some(told) = told.filter(|told| *told != named) {
            return Some(told);
        }
    }
}

impl<S: Store> Drop for Wait<S> {
    fn drop(&mut self) {
        let mut rooms = self.service.waiting.rooms();
        // Not the bell of a wait that took this one's place.
        if rooms.bells.get(&self.device).is_some_and(|bell| Arc::ptr_eq(bell, &self.bell)) {
            rooms.bells.remove(&self.device);
        }
    }
}
