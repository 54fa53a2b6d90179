//! While the server cannot be reached: the newest copy that a station of the site has, by the same machine as a bundle.
//! It must not ask a station while the server answers, nor hold the turn when the server's own pull wants it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cpis_protocol::clock::Carrier;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::sync::pull::Outcome;
use tokio::sync::watch;

use crate::agent::Agent;
use crate::driver;
use crate::port::Transport;
use crate::transport::HttpTransport;

/// The longest that one station is listened to in one attempt.
const ATTEMPT: Duration = Duration::from_secs(300);
/// Between two rounds over the stations, at least; and at most while the server stays away.
const ROUND_MIN: Duration = Duration::from_secs(10);
const ROUND: Duration = Duration::from_secs(60);
/// A station has snapshots only: a copy that asks for deltas takes the other road at the next attempt.
const ATTEMPTS: usize = 3;

/// A station that is left at once when somebody else wants to move the copy, or when it takes too long.
struct GivingWay {
    agent: Arc<Agent>,
    station: Arc<HttpTransport>,
    until: Instant,
}

impl Transport for GivingWay {
    async fn send(&self, request: Request) -> Result<Vec<u8>, Failure> {
        let left = self.until.saturating_duration_since(Instant::now());
        tokio::select! {
            biased;
            () = self.agent.turn().wanted() => Err(Failure::Offline), // R280
            () = tokio::time::sleep(left) => Err(Failure::Offline),
            reply = self.station.send(request) => reply,
        }
    }

    fn heard(&self) -> u64 {
        self.station.heard()
    }
}

/// Pulls from the stations whenever the server was just not reached, until shutdown.
pub async fn follow(agent: Arc<Agent>, stations: Vec<Arc<HttpTransport>>, mut shutdown: watch::Receiver<bool>) {
    let mut lost = agent.sync_status().lost();
    let mut first = 0;
    loop {
        let away = async {
            // The sender lives in the agent.
            let _ = lost.wait_for(|lost| *lost).await;
        };
        tokio::select! {
            () = away => {}
            _ = shutdown.changed() => return,
        }
        let began = Instant::now();
        for at in 0..stations.len() {
            let at = (first + at) % stations.len();
            let Some(station) = stations.get(at) else { break };
            let outcome = tokio::select! {
                outcome = pull_from(&agent, station) => outcome,
                _ = shutdown.changed() => return,
            };
            if outcome == Outcome::UpToDate {
                tracing::info!(station = ?station, "the copy is as new as the station's");
                first = at;
                break;
            }
            tracing::debug!(station = ?station, ?outcome, "a station was no use");
        }
        // Again when the server was missed once more, but not sooner; and at the latest after a minute.
        tokio::select! {
            () = tokio::time::sleep(ROUND_MIN.saturating_sub(began.elapsed())) => {}
            _ = shutdown.changed() => return,
        }
        lost.mark_unchanged();
        tokio::select! {
            _ = lost.changed() => {}
            () = tokio::time::sleep(ROUND) => {}
            _ = shutdown.changed() => return,
        }
    }
}

/// One attempt with one station, whether the server can be reached or not.
pub async fn pull_from(agent: &Arc<Agent>, station: &Arc<HttpTransport>) -> Outcome {
    let _turn = agent.turn().lock_giving_way().await;
    let Some(mut machine) = agent.pull_machine(false) else { return Outcome::Failed(Failure::Revoked) };
    let before = position(agent);
    let until = Instant::now() + ATTEMPT;
    let transport = Arc::new(GivingWay { agent: Arc::clone(agent), station: Arc::clone(station), until });
    let mut outcome = Outcome::Failed(Failure::NotFound);
    for _ in 0..ATTEMPTS {
        // R279: its time is stored, never live.
        outcome = driver::pull_once(agent, &mut machine, &transport, Carrier::Stored, false).await.0;
        if outcome != Outcome::Failed(Failure::NotFound) {
            break;
        }
    }
    // A newer beat alone is nothing that the server's machine must know of: its waits go on as they were.
    if position(agent) != before {
        agent.mark_moved();
    }
    outcome
}

fn position(agent: &Agent) -> (Option<[u8; 32]>, u32) {
    let head = agent.replica().view().head.as_ref().map(|head| head.hash());
    (head, agent.trust().root().version)
}
