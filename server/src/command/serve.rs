//! `serve`: the running server.
//! It must not serve anything itself: the library does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use cpis_server::clock::SystemClock;
use cpis_server::home::Home;
use cpis_server::keys::file;
use cpis_server::service::Service;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::{Context, now_ms};

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cpis-server --dir /var/lib/cpis-server serve --listen 0.0.0.0:8443

Stops on SIGTERM or SIGINT; open requests get 1.5 seconds. RUST_LOG=debug logs more; no person is ever logged.")]
pub(crate) struct Serve {
    /// Where to listen, instead of what server.toml says; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Write the address to this file once connections are accepted
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

pub(crate) fn run(context: &Context<'_>, args: &Serve) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour && std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    cpis_server::dumps::forbid().context("cannot forbid core dumps of this process")?;
    let home = context.home()?;
    let trust = home.trust()?;
    if trust.check_expiry(Some(now_ms())).is_err() {
        // Not a reason to stop: audit must still get in. Devices answer from what they have and install nothing.
        tracing::error!("the trust root has expired: devices install nothing until a new one is put in force");
    }
    let listen = args.listen.unwrap_or(home.config.listen);
    let Home { config, keys, store, deployment, .. } = home;
    let service = Service::new(Arc::new(store), Arc::new(keys), trust, Arc::new(SystemClock), config);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        let address = listener.local_addr()?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = async move {
            tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
            tracing::info!("stopping");
        };
        tracing::info!(%address, deployment, "serving");
        if let Some(path) = &args.ready_file {
            file::replace(path, format!("{address}\n").as_bytes())?;
        }
        let text = format!("Serving {deployment} on https://{address}; stop with Ctrl-C.");
        context.out.result(&json!({"address": address.to_string(), "deployment": deployment}), &text);
        cpis_server::serve::run(Arc::new(service), listener, shutdown).await?;
        anyhow::Ok(())
    });
    // Work that was given away must not keep the process from ending: what matters is committed or undone.
    runtime.shutdown_timeout(std::time::Duration::from_millis(300));
    result
}
