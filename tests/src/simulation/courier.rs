//! Bundles carried by hand: exported by the server, put in some time later, perhaps into a device that is further on.
//! It must not prefer the newest: what lies in a drawer is put in as well.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cpis_agent::agent::Agent;
use cpis_agent::bundle::BundleTransport;
use cpis_agent::driver;
use cpis_protocol::clock::Carrier;
use cpis_protocol::message::Failure;
use cpis_protocol::sync::pull::Outcome;
use tokio::time::sleep;

use super::World;
use super::device::Device;

const MINUTE_MS: u64 = 60_000;
/// Bundles in the drawer.
const KEPT: usize = 4;
/// As the agent's own import: a bundle holds snapshots, and a machine that asked for deltas takes the other road then.
const ATTEMPTS: usize = 8;

/// Puts bundles in while the device runs.
pub(super) async fn carry(world: Arc<World>, device: Arc<Device>, agent: Arc<Agent>) {
    let mut dice = device.dice("courier");
    loop {
        sleep(Duration::from_millis(dice.between(120 * MINUTE_MS, 1500 * MINUTE_MS))).await;
        if !world.is_faulty() {
            return std::future::pending().await;
        }
        let bundle = {
            let mut drawer = world.drawer.lock().unwrap_or_else(PoisonError::into_inner);
            match world.server.bundle(agent.grant().scope) {
                Ok(bytes) if drawer.len() < KEPT => drawer.push(bytes),
                Ok(bytes) => {
                    let place = dice.place(KEPT);
                    if let Some(old) = drawer.get_mut(place) {
                        *old = bytes;
                    }
                }
                Err(error) => world.broken(format!("a bundle: {error:#}")),
            }
            dice.pick(&drawer).cloned().unwrap_or_default()
        };
        let outcome = put_in(&device, &agent, &bundle).await;
        world.say(&device.name, format!("a bundle: {outcome}"));
        device.examine(&world, "takes a bundle in");
    }
}

/// What the agent's import does, without its thread for reading the file.
async fn put_in(device: &Device, agent: &Arc<Agent>, bundle: &[u8]) -> String {
    let path = device.scratch("bundle");
    let opened = std::fs::write(&path, bundle).map_err(Into::into).and_then(|()| BundleTransport::open(&path));
    let transport = match opened {
        Ok(transport) => Arc::new(transport),
        Err(error) => return error.to_string(),
    };
    let _turn = agent.turn().lock().await;
    let Some(mut machine) = agent.pull_machine(false) else { return "erased".into() };
    let mut outcome = Outcome::UpToDate;
    for _ in 0..ATTEMPTS {
        outcome = driver::pull_once(agent, &mut machine, &transport, Carrier::Stored, false).await.0;
        if outcome != Outcome::Failed(Failure::NotFound) {
            break;
        }
    }
    agent.mark_moved();
    format!("{outcome:?}")
}
