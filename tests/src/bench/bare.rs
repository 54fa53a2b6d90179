//! TLS and nothing else: the server's own TLS settings without anything behind them, on one thread of one core.
//! It must not do less in the handshake than the server does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use cpis_server::clock::{Clock as _, SystemClock};
use cpis_server::home::Home;
use cpis_server::tls::{DeviceVerifier, ServerCertificate, server_config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::cores::{SERVER_CORE, pin, thread_time};

/// A server that shakes hands and hangs up.
#[derive(Debug)]
pub struct Bare {
    /// Where it listens.
    pub port: u16,
    used_ns: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Bare {
    /// Starts it on the server's core.
    ///
    /// # Errors
    /// When the server's directory does not open, or no port is free.
    pub fn start(directory: &std::path::Path) -> anyhow::Result<Self> {
        let home = Home::open(directory)?;
        let trust = home.trust()?;
        let names = home.config.names();
        let certificate = ServerCertificate::new(&home.keys, &home.deployment, names, SystemClock.now_ms())?;
        let devices = DeviceVerifier::new(&trust.root().authority_certificates)?;
        let acceptor = TlsAcceptor::from(server_config(Arc::new(devices), Arc::new(certificate))?);
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let bare = Self { port, used_ns: Arc::default(), stop: Arc::default() };
        let (used_ns, stop) = (Arc::clone(&bare.used_ns), Arc::clone(&bare.stop));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) =
                runtime.map_err(drop).and_then(|runtime| pin(SERVER_CORE).map_err(drop).map(|()| runtime))
            else {
                return;
            };
            runtime.block_on(async {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                while !stop.load(Ordering::Relaxed) {
                    let accepted = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
                    // Handshakes run on this thread, so that its time is theirs.
                    used_ns.store(u64::try_from(thread_time().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
                    if let Ok(Ok((stream, _))) = accepted {
                        tokio::spawn(shake(acceptor.clone(), stream));
                    }
                }
            });
        });
        Ok(bare)
    }

    /// Processor time used so far. To be read after a rest of 100 ms.
    #[must_use]
    pub fn used(&self) -> Duration {
        Duration::from_nanos(self.used_ns.load(Ordering::Relaxed))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn shake(acceptor: TlsAcceptor, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    if let Ok(mut stream) = acceptor.accept(stream).await {
        let _ = stream.shutdown().await;
    }
}

/// One handshake from the other end, and what it leaves for the next. Says whether it resumed one before.
///
/// # Errors
/// When it fails.
pub async fn handshake(port: u16, tls: &rustls::ClientConfig) -> anyhow::Result<bool> {
    let name = rustls::pki_types::ServerName::try_from("localhost").map_err(|_| anyhow!("no name"))?;
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let mut stream = TlsConnector::from(Arc::new(tls.clone())).connect(name, stream).await?;
    // The ticket comes before the end.
    let mut nothing = Vec::new();
    let _ = stream.read_to_end(&mut nothing).await;
    Ok(stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed))
}
