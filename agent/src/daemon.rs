//! `cpis-agent run`: puts driver, API, watcher and timers together, and takes them down in order.
//! It must not answer anything itself, nor let one task's end pass unnoticed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt, reload};

use crate::agent::Agent;
use crate::config::Config;
use crate::{api, driver, memory, scrub, station, watch as watcher};

/// How often the idle lock and the floor of trusted time are looked at.
const TICK: Duration = Duration::from_secs(5);
/// The floor is written to disk this often: one small commit.
const FLOOR_TICKS: u32 = 60;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When the agent is not enrolled, already runs here, or its API cannot listen.
pub async fn run(directory: &Path, config: Config, log_json: bool) -> anyhow::Result<()> {
    let (filter, handle) = reload::Layer::new(filter(&config.log));
    let layer = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let layer =
        if log_json { tracing_subscriber::Layer::boxed(layer.json()) } else { tracing_subscriber::Layer::boxed(layer) };
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();

    let opened = {
        let (directory, config) = (directory.to_path_buf(), config.clone());
        tokio::task::spawn_blocking(move || Agent::open(&directory, &config)).await?
    };
    let agent = Arc::new(opened?);
    let (transport, stations) = agent.way(&config).context("set up TLS")?;
    let (stop, shutdown) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(api::serve(Arc::clone(&agent), config.api, shutdown.clone()));
    tasks.spawn(finished(driver::pull(Arc::clone(&agent), Arc::clone(&transport), shutdown.clone())));
    tasks.spawn(finished(driver::push(Arc::clone(&agent), transport, shutdown.clone())));
    if let Some(place) = &config.station {
        tasks.spawn(station::serve(Arc::clone(&agent), place.listen, shutdown.clone()));
    }
    if !stations.is_empty() {
        tasks.spawn(finished(station::follow(Arc::clone(&agent), stations, shutdown.clone())));
    }
    tasks.spawn(finished(scrub::run(Arc::clone(&agent), shutdown.clone())));
    tasks.spawn(finished(timers(Arc::clone(&agent), shutdown.clone())));
    let told = Arc::clone(&agent);
    let reload = move |config: &Config| {
        told.set_news(config.news);
        let _ = handle.reload(self::filter(&config.log));
    };
    tasks.spawn(finished(watcher::run(Arc::clone(&agent), config, reload, shutdown)));
    tracing::info!(device = %agent.device(), "the agent runs");

    // Any task that ends on its own ends the agent: half an agent is worse than a restart.
    let result = tokio::select! {
        signal = signal() => signal,
        Some(ended) = tasks.join_next() => ended.unwrap_or_else(|error| Err(error.into())),
    };
    tracing::info!("stopping");
    let _ = stop.send(true);
    let _ =
        tokio::time::timeout(Duration::from_millis(1500), async { while tasks.join_next().await.is_some() {} }).await;
    tokio::task::spawn_blocking(move || agent.close()).await?;
    result
}

async fn finished(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    Ok(())
}

fn filter(text: &str) -> EnvFilter {
    EnvFilter::try_new(text).unwrap_or_else(|_| EnvFilter::new("info"))
}

async fn signal() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupt = tokio::signal::ctrl_c() => interrupt?,
    }
    Ok(())
}

/// Ends sessions that are over, tells of what could not be recorded, and keeps the floor of trusted time moving.
async fn timers(agent: Arc<Agent>, mut shutdown: watch::Receiver<bool>) {
    let mut ticks = 0u32;
    loop {
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            _ = shutdown.changed() => return,
        }
        ticks = ticks.wrapping_add(1);
        let (agent, floor) = (Arc::clone(&agent), ticks.is_multiple_of(FLOOR_TICKS));
        let done = tokio::task::spawn_blocking(move || {
            memory::wiping(|| {
                agent.attend();
                agent.tell_unrecorded();
            });
            if let Err(error) = agent.erase_if_expired() {
                tracing::error!(%error, "the erasure is not complete");
            }
            if floor && let Err(error) = agent.replica().raise_floor(agent.clock().reading()) {
                tracing::warn!(%error, "the floor of trusted time could not be stored");
            }
        });
        let _ = done.await;
    }
}
