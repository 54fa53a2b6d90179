//! The loop that carries out what the sync machines ask for: the only place where a path turns around.
//! It must not decide anything: roads, order, waits and refusals are the machines'.

use std::sync::Arc;
use std::time::Duration;

use cpis_protocol::audit::ErasureCause;
use cpis_protocol::clock::{Carrier, Reading};
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::sync::pull::{self, Pull};
use cpis_protocol::sync::push::{self, Push};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::agent::Agent;
use crate::news::Question;
use crate::port::Transport;
use crate::status::Progress;
use crate::{builder, exchange, hurry, memory};

/// How long an upload waits for links that are on their way in a combined exchange.
const RIDE: Duration = Duration::from_secs(10);

/// Runs blocking work of the agent off the async threads; a panic in it counts as a failed store.
pub(crate) async fn blocking<R: Send + 'static>(
    agent: &Arc<Agent>,
    work: impl FnOnce(&Agent) -> R + Send + 'static,
) -> Option<R> {
    if agent.environment().is_single_threaded() {
        return Some(memory::wiping(|| work(agent)));
    }
    let agent = Arc::clone(agent);
    tokio::task::spawn_blocking(move || memory::wiping(|| work(&agent))).await.ok()
}

/// The same on the builder's one thread: for what needs megabytes of memory for a moment.
async fn building<R: Send + 'static>(agent: &Arc<Agent>, work: impl FnOnce(&Agent) -> R + Send + 'static) -> Option<R> {
    if agent.environment().is_single_threaded() {
        return Some(work(agent));
    }
    let agent = Arc::clone(agent);
    builder::run(move || work(&agent)).await
}

/// Sends requests at once and brings the replies in order.
async fn fetch<T: Transport>(
    agent: &Arc<Agent>,
    transport: &Arc<T>,
    requests: Vec<Request>,
) -> Vec<Result<Vec<u8>, Failure>> {
    let mut replies: Vec<_> = requests.iter().map(|_| Err(Failure::Offline)).collect();
    let mut tasks = JoinSet::new();
    for (at, request) in requests.into_iter().enumerate() {
        let transport = Arc::clone(transport);
        tasks.spawn(async move { (at, transport.send(request).await) });
    }
    let hangs = hurry::hangs(agent, transport.as_ref());
    tokio::pin!(hangs);
    loop {
        // What has arrived is kept, and the rest counts as lost.
        let done = tokio::select! {
            done = tasks.join_next() => done,
            () = &mut hangs => return replies,
        };
        match done {
            Some(Ok((at, reply))) => {
                if let Some(slot) = replies.get_mut(at) {
                    *slot = reply;
                }
            }
            Some(Err(_)) => {}
            None => return replies,
        }
    }
}

/// Before each grant; and before a beat that the server would refuse, because the certificate is past its end.
fn is_time_to_report(agent: &Agent, requests: &[Request]) -> bool {
    requests.iter().any(|request| match request {
        Request::Grant => true,
        Request::Beat(_) => agent.certificate_is_over(),
        _ => false,
    })
}

/// Says to the server how the device is, and takes up the certificate that may come back. What goes wrong is told in
/// the log only: the sync goes on with the certificate that is there.
async fn report_in<T: Transport>(agent: &Arc<Agent>, transport: &Arc<T>) {
    let body = match agent.report_in() {
        Ok(body) => body,
        Err(error) => return tracing::error!(%error, "the device's report could not be made"),
    };
    match transport.send(Request::Report(body)).await {
        Err(failure) => tracing::debug!(?failure, "the device's report did not go through"),
        Ok(reply) => exchange::take_report(agent, reply).await,
    }
}

/// One attempt to reach the newest head by one carrier: ends with the machine's first wait.
pub async fn pull_once<T: Transport>(
    agent: &Arc<Agent>,
    machine: &mut Pull,
    transport: &Arc<T>,
    carrier: Carrier,
    with_grant: bool,
) -> (pull::Outcome, u64) {
    let first = if with_grant { pull::Input::WakeNow } else { pull::Input::Wake };
    let mut effect = machine.step(first, agent.now_for(carrier));
    loop {
        if carrier == Carrier::Live {
            agent.sync_status().set_progress(machine.progress().map(|(done, total)| Progress { done, total }));
        }
        let input = match effect {
            pull::Effect::CatchUp(ask) => pull::Input::CaughtUp(tokio::select! {
                reply = exchange::ask(agent, transport, ask) => reply,
                () = hurry::hangs(agent, transport.as_ref()) => Err(Failure::Offline),
            }),
            pull::Effect::Fetch(requests) => {
                if carrier == Carrier::Live && is_time_to_report(agent, &requests) {
                    report_in(agent, transport).await;
                }
                pull::Input::Fetched(fetch(agent, transport, requests).await)
            }
            pull::Effect::StoreRoot(trust) => stored(blocking(agent, move |a| a.store_root(trust)).await),
            pull::Effect::StoreGrant { grant, asked_ms } => {
                stored(blocking(agent, move |a| a.store_grant(grant, asked(a, asked_ms))).await)
            }
            pull::Effect::Confirm { beat, asked_ms } => {
                stored(blocking(agent, move |a| a.replica().confirm(&beat, carrier, asked(a, asked_ms))).await)
            }
            pull::Effect::Pin(pinned) => stored(building(agent, move |a| a.replica().pin(&pinned)).await),
            pull::Effect::Compare(wanted) => match building(agent, move |a| a.replica().take_over(&wanted)).await {
                Some(Ok(held)) => pull::Input::Compared(held),
                Some(Err(error)) => {
                    tracing::error!(%error, "what is here already could not be taken over");
                    pull::Input::StoreFailed
                }
                None => pull::Input::StoreFailed,
            },
            pull::Effect::Stage(chunks) => stored(building(agent, move |a| a.replica().stage(chunks)).await),
            pull::Effect::Apply(plan) => {
                // A beat from the disk dates nothing (R255).
                let (carrier, asked_ms) =
                    plan.asked_ms.map_or((Carrier::Stored, u64::MAX), |asked_ms| (carrier, asked_ms));
                match building(agent, move |a| a.apply(*plan, carrier, asked(a, asked_ms))).await {
                    Some(Ok(result)) => {
                        let _ = blocking(agent, Agent::receipt_for_update).await;
                        pull::Input::Applied(result)
                    }
                    Some(Err(error)) => {
                        tracing::error!(%error, "the new copy could not be stored");
                        pull::Input::StoreFailed
                    }
                    None => pull::Input::StoreFailed,
                }
            }
            pull::Effect::Suspend(word) => stored(blocking(agent, move |a| a.suspend(&word)).await),
            pull::Effect::Erase => {
                if let Some(Err(error)) = blocking(agent, |a| a.erase(ErasureCause::Withdrawn)).await {
                    tracing::error!(%error, "the erasure is not complete");
                }
                return (pull::Outcome::Failed(Failure::Revoked), agent.now().tick_ms + 300_000);
            }
            pull::Effect::Wait { until_ms, outcome } => return (outcome, until_ms),
        };
        effect = machine.step(input, agent.now_for(carrier));
    }
}

/// What the clocks said when the signed time that is about to be stored was asked for. The server signed it at most a
/// beat's life before that, however long the reply was held back or the cells took.
fn asked(agent: &Agent, asked_ms: u64) -> Reading {
    let reading = agent.clock().reading();
    Reading { boot_ms: asked_ms.min(reading.boot_ms), ..reading }
}

fn stored<E: core::fmt::Display>(result: Option<Result<(), E>>) -> pull::Input {
    match result {
        Some(Ok(())) => pull::Input::Stored,
        Some(Err(error)) => {
            tracing::error!(%error, "sync could not store");
            pull::Input::StoreFailed
        }
        None => pull::Input::StoreFailed,
    }
}

/// Keeps the copy up to date until shutdown. Waits for nothing that the upload does.
pub async fn pull<T: Transport>(agent: Arc<Agent>, transport: Arc<T>, mut shutdown: watch::Receiver<bool>) {
    let mut held = agent.pull_machine(true);
    let mut question = Question::new(agent.device());
    let mut now = false;
    loop {
        if agent.erasure().is_some() {
            held = None;
        }
        let Some(machine) = held.as_mut() else {
            // Erased: what is left to do is the upload.
            agent.sync_status().finish(pull::Outcome::Failed(Failure::Revoked), None);
            agent.wake_push().notify_one();
            let _ = shutdown.changed().await;
            return;
        };
        agent.sync_status().begin();
        agent.hurry().begin(now);
        let before = agent.replica().view().head.as_ref().map(|head| head.hash());
        let attempt = async {
            let _turn = agent.turn().lock().await;
            // A bundle or a repair may have moved the copy since the machine last looked.
            if agent.copy_moved()
                && let Some(fresh) = agent.pull_machine(true)
            {
                *machine = fresh;
            }
            pull_once(&agent, machine, &transport, Carrier::Live, now).await
        };
        let (outcome, until_ms) = tokio::select! {
            biased;
            done = attempt => done,
            _ = shutdown.changed() => return,
        };
        if agent.hurry().gave_up() {
            question.let_go();
            now = true;
            continue;
        }
        agent.sync_status().set_trouble(transport.trouble());
        agent.sync_status().finish(outcome, agent.replica().clock().now(agent.clock().reading()));
        let spread_s = machine.spread_s();
        let after = agent.replica().view().head.as_ref().map(|head| head.hash());
        let online = outcome == pull::Outcome::UpToDate;
        question.synced(&agent, before != after, online);
        if online {
            tracing::info!("the copy is up to date");
            // The link is there: what waits in the outbox goes now.
            agent.wake_push().notify_one();
        } else {
            tracing::warn!(?outcome, "sync ended");
        }
        let wait = Duration::from_millis(until_ms.saturating_sub(agent.now().tick_ms));
        now = tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => false,
            () = agent.wake_pull().notified() => true,
            () = question.answered(&agent, &transport, spread_s), if online => false,
            _ = shutdown.changed() => return,
        };
    }
}

/// Uploads the outbox until shutdown. Waits for nothing that the download does.
pub async fn push<T: Transport>(agent: Arc<Agent>, transport: Arc<T>, mut shutdown: watch::Receiver<bool>) {
    let mut machine = Push::new(agent.device(), agent.trust());
    loop {
        let until_ms = tokio::select! {
            biased;
            until = push_once(&agent, &mut machine, &transport) => until.0,
            _ = shutdown.changed() => return,
        };
        let wait = until_ms.map_or(Duration::from_secs(3600), |until_ms| {
            Duration::from_millis(until_ms.saturating_sub(agent.now().tick_ms))
        });
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => {}
            () = agent.wake_push().notified() => {}
            _ = shutdown.changed() => return,
        }
        machine.set_trust(agent.trust());
    }
}

/// Uploads until nothing is left or an attempt fails.
pub async fn push_once<T: Transport>(
    agent: &Arc<Agent>,
    machine: &mut Push,
    transport: &Arc<T>,
) -> (Option<u64>, Option<push::Problem>) {
    // What rides along in a combined exchange need not go twice; it is not waited for longer than that may take.
    let _turn = tokio::time::timeout(RIDE, agent.upload_turn().lock()).await.ok();
    let mut effect = machine.step(push::Input::Wake, agent.now());
    loop {
        let input = match effect {
            push::Effect::Load(max) => {
                push::Input::Loaded(blocking(agent, move |a| a.unacknowledged(max)).await.flatten())
            }
            push::Effect::Send(request) => push::Input::Replied(transport.send(request).await),
            push::Effect::Acknowledge(receipt) => {
                let result = blocking(agent, move |a| a.acknowledge(&receipt)).await;
                push::Input::Acknowledged(result.unwrap_or(Err(cpis_protocol::Refusal::Malformed)))
            }
            push::Effect::Wait { until_ms, problem } => {
                agent.sync_status().set_upload(problem);
                return (until_ms, problem);
            }
        };
        effect = machine.step(input, agent.now());
    }
}
