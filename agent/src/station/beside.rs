//! The server, with mirrors and stations beside it that are asked for immutable objects first, so that the way to the
//! server carries them once.
//!
//! R281: whatever can change is the server's to say. What a neighbour gives is verified like everything else; where the
//! same object is asked for again, something was wrong with it, and the neighbour is left alone for an hour.
//! It must not take a neighbour's "not there" for the server's, nor wait long for a neighbour.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cpis_protocol::catch_up::CatchUp;
use cpis_protocol::digest::{Hash, sha256};
use cpis_protocol::message::{Failure, Request};

use crate::port::Transport;
use crate::transport::{Beyond, HttpTransport};
use crate::trouble::Trouble;

/// The longest that one object may take from a neighbour.
const NEAR: Duration = Duration::from_secs(20);
/// How long a neighbour is left alone that did not answer, twice as long each time in a row, up to the time of one that gave
/// what was asked for again.
const SILENT: Duration = Duration::from_secs(60);
const DOUBTED: Duration = Duration::from_secs(3600);
/// Objects remembered of each neighbour: more than a national scope has chunks.
const GIVEN_MAX: usize = 4096;

/// What is known of a neighbour.
#[derive(Debug, Default)]
struct Record {
    /// Names of what it gave, the oldest first.
    given: VecDeque<Hash>,
    known: BTreeSet<Hash>,
    left_alone_until: Option<Instant>,
    /// Times in a row that it did not answer.
    silences: u32,
}

impl Record {
    fn is_asked(&mut self, name: &Hash, now: Instant) -> bool {
        if self.left_alone_until.is_some_and(|until| now < until) {
            return false;
        }
        if self.known.contains(name) {
            self.left_alone_until = Some(now + DOUBTED);
            self.given.clear();
            self.known.clear();
            return false;
        }
        true
    }

    fn was_silent(&mut self, now: Instant) {
        self.left_alone_until = Some(now + DOUBTED.min(SILENT * 2u32.pow(self.silences.min(6))));
        self.silences += 1;
    }

    fn gave(&mut self, name: Hash) {
        self.silences = 0;
        if self.known.insert(name) {
            self.given.push_back(name);
        }
        if self.given.len() > GIVEN_MAX
            && let Some(oldest) = self.given.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[derive(Debug)]
struct Neighbour {
    transport: Arc<HttpTransport>,
    record: Mutex<Record>,
}

impl Neighbour {
    fn with<R>(&self, work: impl FnOnce(&mut Record) -> R) -> R {
        work(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_there(&self) -> bool {
        self.with(|record| record.left_alone_until.is_none_or(|until| Instant::now() >= until))
    }

    /// The object, if the neighbour gives it.
    async fn ask(&self, request: &Request) -> Option<Vec<u8>> {
        let name = sha256(request.path().as_bytes());
        let was_there = self.is_there();
        if !self.with(|record| record.is_asked(&name, Instant::now())) {
            if was_there {
                tracing::warn!(neighbour = ?self.transport, "an object of it was no use: the server is asked for an hour");
            }
            return None;
        }
        match tokio::time::timeout(NEAR, self.transport.send(request.clone())).await {
            Ok(Ok(body)) => {
                self.with(|record| record.gave(name));
                Some(body)
            }
            Ok(Err(Failure::NotFound | Failure::Unauthorised)) => None,
            Ok(Err(_)) | Err(_) => {
                self.with(|record| record.was_silent(Instant::now()));
                None
            }
        }
    }
}

/// The server and its neighbours.
#[derive(Debug)]
pub struct Beside {
    server: Arc<HttpTransport>,
    neighbours: Vec<Neighbour>,
}

impl Beside {
    /// The server with these neighbours, asked in this order; without any it is the server alone.
    #[must_use]
    pub fn new(server: Arc<HttpTransport>, neighbours: impl IntoIterator<Item = Arc<HttpTransport>>) -> Self {
        let neighbour = |transport| Neighbour { transport, record: Mutex::default() };
        Self { server, neighbours: neighbours.into_iter().map(neighbour).collect() }
    }
}

/// Whether a neighbour may be asked: never for a root, of which nobody but the server can say that there is none; and a
/// station not for a delta, because it holds none.
const fn is_near(request: &Request, beyond: Beyond) -> bool {
    match request {
        Request::Root(_) => false,
        Request::Delta { .. } => matches!(beyond, Beyond::Mirror),
        request => request.is_immutable(),
    }
}

impl Transport for Beside {
    async fn send(&self, request: Request) -> Result<Vec<u8>, Failure> {
        for neighbour in self.neighbours.iter().filter(|n| is_near(&request, n.transport.beyond())) {
            if let Some(body) = neighbour.ask(&request).await {
                return Ok(body);
            }
        }
        let request = match request {
            Request::CatchUp(body) => Request::CatchUp(self.without_cells(body)),
            request => request,
        };
        self.server.send(request).await
    }

    fn take_up(&self, request: &Request, begun: Vec<u8>) {
        self.server.take_up(request, begun);
    }

    fn heard(&self) -> u64 {
        let near: u64 = self.neighbours.iter().map(|neighbour| neighbour.transport.heard()).sum();
        self.server.heard().saturating_add(near)
    }

    fn trouble(&self) -> Option<Trouble> {
        self.server.trouble()
    }
}

impl Beside {
    /// The combined question without the cells, where a neighbour gives them by their names: a mirror all, a station those
    /// of a first copy. A few changes are cheaper in the one exchange.
    fn without_cells(&self, body: Vec<u8>) -> Vec<u8> {
        let there = |beyond| self.neighbours.iter().any(|n| n.transport.beyond() == beyond && n.is_there());
        let Ok(ask) = CatchUp::from_bytes(&body) else { return body };
        if there(Beyond::Mirror) || (ask.head.is_none() && there(Beyond::Station)) {
            return CatchUp { cells: false, ..ask }.to_bytes().unwrap_or(body);
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_once_for_each_object_and_doubted_when_it_was_no_use() {
        let (mut record, now) = (Record::default(), Instant::now());
        assert!(record.is_asked(&[1; 32], now));
        record.gave([1; 32]);
        assert!(record.is_asked(&[2; 32], now));
        assert!(!record.is_asked(&[1; 32], now), "the same again: something was wrong with it");
        assert!(!record.is_asked(&[3; 32], now + DOUBTED - Duration::from_secs(1)), "nothing else is taken either");
        assert!(record.is_asked(&[1; 32], now + DOUBTED), "an hour later it may be another");
        for n in 0..GIVEN_MAX as u32 + 10 {
            record.gave(sha256(&n.to_be_bytes()));
        }
        assert_eq!((record.given.len(), record.known.len()), (GIVEN_MAX, GIVEN_MAX));
    }

    #[test]
    fn the_longer_silent_the_less_asked() {
        let (mut record, now) = (Record::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..8 {
            record.was_silent(now);
            waits.push((record.left_alone_until.unwrap() - now).as_secs());
        }
        assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
        record.gave([1; 32]);
        record.was_silent(now);
        assert_eq!((record.left_alone_until.unwrap() - now).as_secs(), 60);
    }

    #[test]
    fn what_can_change_or_be_missing_is_the_servers_to_say() {
        let delta = Request::Delta { feed: "E1".parse().unwrap(), epoch: 1, from: 0, to: 1 };
        for (beyond, deltas) in [(Beyond::Mirror, true), (Beyond::Station, false)] {
            assert!(is_near(&Request::Head([1; 32]), beyond));
            assert_eq!(is_near(&delta, beyond), deltas);
            for request in [Request::Grant, Request::Root(2), Request::Beat("all".parse().unwrap())] {
                assert!(!is_near(&request, beyond), "{request:?}");
            }
        }
    }
}
