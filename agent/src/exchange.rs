//! The combined exchange: adds what the device has to say, and deals with what answers that.
//! It must not look at what the sync machine asked for: that goes to it unread.

use std::sync::Arc;

use cpis_protocol::audit::Receipt;
use cpis_protocol::catch_up::{CatchUp, CaughtUp};
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::sign::Verified;
use cpis_protocol::sync::push;

use crate::agent::Agent;
use crate::driver::blocking;
use crate::port::Transport;

/// Links that ride along: about ten kilobytes, a third of a second on a link of 256 kbit/s. More go by themselves.
const RIDE_LINKS: usize = 32;

/// Asks for everything at once. The rest of an object in whose middle the reply was cut can be asked for.
pub(crate) async fn ask<T: Transport>(
    agent: &Arc<Agent>,
    transport: &Arc<T>,
    mut ask: CatchUp,
) -> Result<CaughtUp, Failure> {
    if ask.grant || agent.certificate_is_over() {
        ask.report = agent.report_in().unwrap_or_else(|error| {
            tracing::error!(%error, "the device's report could not be made");
            Vec::new()
        });
    }
    // Whoever has the turn uploads: the same links need not go twice. Never waited for.
    let turn = agent.upload_turn().try_lock().ok();
    if turn.is_some() && !agent.sync_status().is_upload_refused() {
        let batch = blocking(agent, |a| a.unacknowledged(RIDE_LINKS)).await.flatten();
        ask.audit = batch.and_then(|batch| batch.to_bytes().ok()).unwrap_or_default();
    }
    let body = ask.to_bytes().map_err(|refusal| {
        tracing::error!(reason = refusal.code(), "the combined question could not be made");
        Failure::Refused
    })?;
    let reply = transport.send(Request::CatchUp(body)).await?;
    let mut reply = CaughtUp::read(&reply).map_err(|refusal| {
        tracing::warn!(reason = refusal.code(), "the combined reply is not in its form");
        Failure::Refused
    })?;
    if let Some(receipt) = reply.receipt.take() {
        acknowledge(agent, &receipt).await;
    }
    drop(turn);
    if let Some(report) = reply.report.take() {
        take_report(agent, report).await;
    }
    if let Some((request, begun)) = reply.begun.take() {
        transport.take_up(&request, begun);
    }
    Ok(reply)
}

/// What is not acknowledged here goes up again with the next batch.
async fn acknowledge(agent: &Arc<Agent>, receipt: &[u8]) {
    let verified: Verified<Receipt> = match push::verify(&agent.trust(), receipt, agent.now()) {
        Ok(verified) => verified,
        Err(refusal) => return tracing::warn!(reason = refusal.code(), "a receipt was refused"),
    };
    // Why it was not accepted is in the log already.
    let _ = blocking(agent, move |a| a.acknowledge(&verified)).await;
}

/// Takes up the certificate that may come back for a report. What goes wrong is told in the log only: the sync goes on
/// with the certificate that is there.
pub(crate) async fn take_report(agent: &Arc<Agent>, reply: Vec<u8>) {
    match blocking(agent, move |a| a.take_reply(&reply)).await {
        Some(Ok(true)) => tracing::info!("the device has a new certificate"),
        Some(Ok(false)) => {}
        Some(Err(error)) => tracing::error!(%error, "the device keeps its certificate"),
        None => tracing::error!("the reply to the device's report was not dealt with"),
    }
}
