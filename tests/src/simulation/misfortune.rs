//! What goes wrong around a device from hour to hour: its way to the server, its disk, its wall clock.
//! It must not outlast the time that is given to faults.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::World;
use super::device::Device;
use super::network::Weather;

const MINUTE_MS: u64 = 60_000;

/// The weather on one device's way.
pub(super) async fn weather(world: Arc<World>, device: Arc<Device>) {
    let mut dice = device.dice("weather");
    while world.is_faulty() {
        let lie = dice.between(50, 700);
        let kinds = [
            (35, Weather::Clear),
            (15, Weather::Lossy(dice.between(20, 400))),
            (12, Weather::Out),
            (5, Weather::DeafUp),
            (6, Weather::DeafDown),
            (6, Weather::Slow),
            (4, Weather::Portal),
            (5, Weather::Busy),
            (12, Weather::Liar(lie)),
        ];
        let weather = dice.weighed(&kinds).unwrap_or(Weather::Clear);
        device.link.set(weather);
        world.say(&device.name, format!("weather: {weather:?}"));
        sleep(Duration::from_millis(dice.between(5 * MINUTE_MS, 300 * MINUTE_MS))).await;
    }
}

/// The device's disk and wall clock.
pub(super) async fn hardware(world: Arc<World>, device: Arc<Device>) {
    let mut dice = device.dice("hardware");
    loop {
        sleep(Duration::from_millis(dice.between(60 * MINUTE_MS, 900 * MINUTE_MS))).await;
        if !world.is_faulty() {
            return;
        }
        if dice.chance(300) {
            let hours = i64::try_from(dice.below(100_000)).unwrap_or(0) - 50_000;
            device.machine.clock.set_wall(hours * 3_600_000);
            world.say(&device.name, format!("somebody sets the clock {hours} hours ahead"));
            continue;
        }
        let (failing, full) = if dice.chance(500) { (dice.between(10, 300), false) } else { (0, true) };
        device.machine.power.spoil(failing, full);
        world.say(&device.name, format!("the disk fails {failing} of 1000 steps, full {full}"));
        sleep(Duration::from_millis(dice.between(MINUTE_MS, 120 * MINUTE_MS))).await;
        device.machine.power.spoil(0, false);
    }
}
