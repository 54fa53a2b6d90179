//! The way between a device and the server: what gets lost, late, twice, out of order, or into the wrong hands.
//! It must not know what a request means, so that whatever the protocol adds goes the same way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use cpis_agent::agent::Agent;
use cpis_agent::port::Transport;
use cpis_protocol::message::{Failure, Request};
use cpis_server::service::Peer;
use tokio::time::sleep;

use super::World;
use super::device::Device;
use super::dice::Dice;
use super::liar::Lie;

/// How long the agent's client waits for a connection, and for a reply.
const CONNECT_MS: u64 = 15_000;
const READ_MS: u64 = 60_000;

/// What the way is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// As it should be.
    Clear,
    /// So many of a thousand requests, and of replies, are lost.
    Lossy(u64),
    /// Nothing gets through.
    Out,
    /// Requests do not reach the server.
    DeafUp,
    /// Requests do, and their replies do not come back.
    DeafDown,
    /// Everything takes long, and overtakes.
    Slow,
    /// A portal answers instead.
    Portal,
    /// The server has no time.
    Busy,
    /// Somebody on the way lies about so many of a thousand replies.
    Liar(u64),
}

/// One device's way to the server.
#[derive(Debug)]
pub struct Link(Mutex<(Weather, Dice)>);

/// What becomes of one exchange, drawn before it begins.
struct Fate {
    up_ms: u64,
    down_ms: u64,
    lost_up: bool,
    lost_down: bool,
    /// Another copy of the request reaches the server so much later.
    again_ms: Option<u64>,
    instead: Option<Failure>,
    lied: bool,
    tampered: bool,
}

impl Link {
    /// In clear weather.
    #[must_use]
    pub const fn new(dice: Dice) -> Self {
        Self(Mutex::new((Weather::Clear, dice)))
    }

    fn state(&self) -> MutexGuard<'_, (Weather, Dice)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The weather changes.
    pub fn set(&self, weather: Weather) {
        self.state().0 = weather;
    }

    fn fate(&self) -> Fate {
        let (weather, dice) = &mut *self.state();
        let mut fate = Fate {
            up_ms: dice.between(10, 200),
            down_ms: dice.between(10, 200),
            lost_up: false,
            lost_down: false,
            again_ms: dice.chance(30).then(|| dice.between(1, 600_000)),
            instead: None,
            lied: false,
            tampered: false,
        };
        match weather {
            Weather::Clear => {}
            Weather::Lossy(loss) => {
                (fate.lost_up, fate.lost_down) = (dice.chance(*loss), dice.chance(*loss));
            }
            Weather::Out | Weather::DeafUp => fate.lost_up = true,
            Weather::DeafDown => fate.lost_down = true,
            Weather::Slow => {
                (fate.up_ms, fate.down_ms) = (dice.between(100, 40_000), dice.between(100, 40_000));
            }
            Weather::Portal => fate.instead = Some(Failure::NotTheServer),
            Weather::Busy => {
                let said = [Failure::Retry(None), Failure::Retry(Some(120)), Failure::TooLarge, Failure::NotFound];
                fate.instead = dice.pick(&said).copied().filter(|_| dice.chance(700));
            }
            Weather::Liar(lies) => {
                fate.lied = dice.chance(*lies);
                fate.tampered = fate.lied && dice.chance(100);
            }
        }
        fate
    }
}

/// The transport of one run of a device's agent.
#[derive(Debug)]
pub struct SimulatedTransport {
    world: Arc<World>,
    device: Arc<Device>,
    agent: Weak<Agent>,
}

impl SimulatedTransport {
    /// For an agent that runs.
    #[must_use]
    pub fn new(world: Arc<World>, device: Arc<Device>, agent: &Arc<Agent>) -> Self {
        Self { world, device, agent: Arc::downgrade(agent) }
    }

    /// Nothing is sent or received by a device whose power is gone.
    async fn powered(&self) {
        if self.device.machine.power.is_off().is_some() {
            std::future::pending().await
        }
    }

    fn peer(&self) -> Peer {
        let term = self.agent.upgrade().and_then(|agent| agent.certificate_term());
        let expired = term.is_none_or(|term| term.until_ms <= self.world.time.now_ms());
        Peer { device: Some(self.device.id), expired }
    }

    fn at_the_server(&self, request: Request) -> Result<Vec<u8>, Failure> {
        if self.world.server_is_down() {
            return Err(Failure::Offline);
        }
        match self.world.server.answer(self.peer(), request) {
            Ok(answer) => answer,
            Err(error) => {
                self.world.broken(format!("{error:#}"));
                Err(Failure::Retry(None))
            }
        }
    }

    /// The same request once more, some time later: its reply goes nowhere.
    fn again(&self, request: Request, after_ms: u64) {
        let (world, peer) = (Arc::clone(&self.world), self.peer());
        self.world.spawn(async move {
            sleep(Duration::from_millis(after_ms)).await;
            if let Err(error) = world.server.answer(peer, request) {
                world.broken(format!("{error:#}"));
            }
        });
    }

    async fn exchange(&self, request: Request, fate: Fate) -> Result<Vec<u8>, Failure> {
        let asked_ms = self.world.time.now_ms();
        sleep(Duration::from_millis(fate.up_ms)).await;
        if let Some(failure) = fate.instead {
            return Err(failure);
        }
        if fate.lost_up {
            sleep(Duration::from_millis(CONNECT_MS)).await;
            return Err(Failure::Offline);
        }
        if let Some(after_ms) = fate.again_ms {
            self.again(request.clone(), after_ms);
        }
        let sent = if fate.tampered { self.tampered(&request) } else { request.clone() };
        let served_ms = self.world.time.now_ms();
        let reply = self.at_the_server(sent);
        if fate.lost_down || fate.up_ms + fate.down_ms > READ_MS {
            sleep(Duration::from_millis(READ_MS.saturating_sub(fate.up_ms))).await;
            return Err(Failure::Offline);
        }
        sleep(Duration::from_millis(fate.down_ms)).await;
        let body = reply?;
        let mut dice = self.device.dice("liar");
        self.world.liar.remember(&mut dice, &request.path(), &body, served_ms);
        if !fate.lied {
            return Ok(body);
        }
        let (service, now_ms) = (self.world.server.service(), self.world.time.now_ms());
        match self.world.liar.lie(&mut dice, &request, self.device.id, &body, now_ms, service.keys()) {
            Lie::Failure(failure) => Err(failure),
            Lie::Body(body, _) if body.len() > request.reply_bytes_max() => Err(Failure::EndlessReply),
            Lie::Body(body, given_ms) => {
                if let Some(given_ms) = given_ms.filter(|_| !request.is_immutable()) {
                    self.device.watch().was_replayed(asked_ms - given_ms);
                }
                Ok(body)
            }
        }
    }

    fn tampered(&self, request: &Request) -> Request {
        let mut dice = self.device.dice("tamper");
        let turned = |body: &[u8], dice: &mut Dice| {
            let mut body = body.to_vec();
            let place = dice.place(body.len());
            if let Some(byte) = body.get_mut(place) {
                *byte ^= 1 << dice.below(8);
            }
            body
        };
        match request {
            Request::Audit(body) => {
                self.device.watch().was_tampered_with();
                Request::Audit(turned(body, &mut dice))
            }
            Request::CatchUp(body) => {
                self.device.watch().was_tampered_with();
                Request::CatchUp(turned(body, &mut dice))
            }
            Request::Report(body) => Request::Report(turned(body, &mut dice)),
            other => other.clone(),
        }
    }
}

fn told(reply: &Result<Vec<u8>, Failure>) -> String {
    reply.as_ref().map_or_else(|failure| format!("{failure:?}"), |body| format!("{} bytes", body.len()))
}

impl Transport for SimulatedTransport {
    async fn send(&self, request: Request) -> Result<Vec<u8>, Failure> {
        self.powered().await;
        self.device.examine(&self.world, "asks");
        let fate = self.device.link.fate();
        let (path, lied, asked_ms) = (request.path(), fate.lied, self.world.time.now_ms());
        let reply = self.exchange(request, fate).await;
        self.powered().await;
        let after_ms = self.world.time.now_ms() - asked_ms;
        let word = if lied { " by a liar" } else { "" };
        self.world.say(&self.device.name, format!("{path}: {}{word} after {after_ms} ms", told(&reply)));
        self.device.examine(&self.world, "is answered");
        reply
    }
}
