//! The operators: they take extracts in, change keys and roots, move and withdraw devices, and stop and start the server.
//! It must not do anything that its commands do not allow.

use std::sync::Arc;
use std::time::Duration;

use cpis_server::keys::file::Purpose;
use cpis_server::port::DeviceState;
use cpis_server::rekey::{self, Rekey};
use tokio::time::sleep;

use super::World;
use super::device::Device;
use super::dice::Dice;
use super::server::SCOPES;

const MINUTE_MS: u64 = 60_000;

/// The server's own clockwork.
pub(super) async fn clockwork(world: Arc<World>) {
    loop {
        sleep(Duration::from_millis(10 * MINUTE_MS)).await;
        if world.server_is_down() {
            continue;
        }
        if let Err(error) = world.server.tick() {
            world.broken(format!("the server's clockwork: {error:#}"));
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Extract,
    Rekey,
    Root,
    Outage,
    Move,
    Suspend,
    Withdraw,
    Rules,
}

/// Acts until the faults are over.
pub(super) async fn act(world: Arc<World>, devices: Vec<Arc<Device>>) {
    let mut dice = Dice::of(world.seed, "operator");
    let mut next_key = None;
    while world.is_faulty() {
        sleep(Duration::from_millis(dice.between(10 * MINUTE_MS, 240 * MINUTE_MS))).await;
        if !world.is_faulty() {
            return;
        }
        let acts = [
            (55, Act::Extract),
            (12, Act::Rekey),
            (8, Act::Root),
            (8, Act::Outage),
            (5, Act::Move),
            (4, Act::Suspend),
            (2, Act::Withdraw),
            (3, Act::Rules),
        ];
        let done = match dice.weighed(&acts).unwrap_or(Act::Extract) {
            Act::Extract => extract(&world, &mut dice),
            Act::Rekey => keys(&world, &mut dice),
            Act::Root => root(&world, &mut dice, &mut next_key),
            Act::Outage => {
                outage(&world, &mut dice).await;
                Ok(())
            }
            Act::Move => move_one(&world, &mut dice, &devices),
            Act::Suspend => suspend(&world, &mut dice, &devices),
            Act::Withdraw => withdraw(&world, &mut dice, &devices),
            Act::Rules => world.server.put_site(&mut dice),
        };
        if let Err(error) = done {
            world.broken(format!("the operator: {error:#}"));
        }
    }
}

fn extract(world: &World, dice: &mut Dice) -> anyhow::Result<()> {
    let extracts = world.server.truth().change(dice, world.time.now_ms())?;
    let gseq = world.server.ingest(&extracts)?;
    // Else the clockwork does it.
    let at_once = dice.chance(600);
    if at_once {
        world.server.publish()?;
    }
    world.say("operator", format!("takes in {} extracts, up to {gseq}, published {at_once}", extracts.len()));
    Ok(())
}

fn keys(world: &World, dice: &mut Dice) -> anyhow::Result<()> {
    let mut plan = Rekey::default();
    for feed in world.server.feeds()? {
        match dice.below(3) {
            0 => plan.rotate.insert(feed),
            1 => plan.reseal.insert(feed),
            _ => false,
        };
    }
    let service = world.server.service();
    rekey::run(&**service.store(), service.keys(), &plan, world.time.now_ms(), &mut |_| ())?;
    world.say("operator", format!("rotates {} feeds, re-seals {}", plan.rotate.len(), plan.reseal.len()));
    Ok(())
}

/// A new key of a role beside the old one; the next time the old one goes.
fn root(world: &World, dice: &mut Dice, next_key: &mut Option<Purpose>) -> anyhow::Result<()> {
    let roles = [Purpose::Publisher, Purpose::Beat, Purpose::Authority, Purpose::Receipt, Purpose::Audit];
    let (purpose, withdraw) = match next_key.take() {
        Some(purpose) => (purpose, true),
        None => (*dice.pick(&roles).unwrap_or(&Purpose::Beat), false),
    };
    let version = world.server.next_root(purpose, withdraw)?;
    *next_key = (!withdraw).then_some(purpose);
    world.say("operator", format!("root {version}: {} key, withdraw {withdraw}", purpose.name()));
    // The other process takes it up with its clockwork, or now.
    if dice.chance(500) { world.server.tick() } else { Ok(()) }
}

async fn outage(world: &World, dice: &mut Dice) {
    let minutes = dice.between(0, 90);
    world.set_server_down(true);
    world.say("operator", format!("stops the server for {minutes} minutes"));
    sleep(Duration::from_millis(minutes * MINUTE_MS)).await;
    if let Err(error) = world.server.restart() {
        world.broken(format!("the server does not start: {error:#}"));
    }
    world.set_server_down(false);
    world.say("operator", "starts the server");
}

fn move_one(world: &World, dice: &mut Dice, devices: &[Arc<Device>]) -> anyhow::Result<()> {
    let (Some(device), Some(scope)) = (dice.pick(devices), dice.pick(&SCOPES)) else { return Ok(()) };
    world.server.change_device(device.id, None, Some(scope))?;
    world.say("operator", format!("moves {} to {scope}", device.name));
    Ok(())
}

fn suspend(world: &World, dice: &mut Dice, devices: &[Arc<Device>]) -> anyhow::Result<()> {
    let Some(device) = dice.pick(devices) else { return Ok(()) };
    let state = match world.server.device(device.id)?.state {
        DeviceState::Active => DeviceState::Suspended,
        DeviceState::Suspended => DeviceState::Active,
        DeviceState::Revoked | DeviceState::Lost | DeviceState::Retired => return Ok(()),
    };
    device.watch().suspended = true;
    world.server.change_device(device.id, Some(state), None)?;
    world.say("operator", format!("{} is {}", device.name, state.name()));
    Ok(())
}

/// For good: reported lost, so that its feeds get new keys, or revoked.
fn withdraw(world: &World, dice: &mut Dice, devices: &[Arc<Device>]) -> anyhow::Result<()> {
    let Some(device) = dice.pick(devices) else { return Ok(()) };
    let state = if dice.chance(500) { DeviceState::Lost } else { DeviceState::Revoked };
    world.server.change_device(device.id, Some(state), None)?;
    if state == DeviceState::Lost {
        let service = world.server.service();
        rekey::rotate_for_loss(&**service.store(), service.keys(), device.id, world.time.now_ms())?;
    }
    world.say("operator", format!("{} is {}", device.name, state.name()));
    Ok(())
}

/// Whoever is suspended may work again: the faults are over.
///
/// # Errors
/// Those of the store.
pub(super) fn resume(world: &World, devices: &[Arc<Device>]) -> anyhow::Result<()> {
    for device in devices {
        if world.server.device(device.id)?.state == DeviceState::Suspended {
            world.server.change_device(device.id, Some(DeviceState::Active), None)?;
        }
    }
    Ok(())
}
