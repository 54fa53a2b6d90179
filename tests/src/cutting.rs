//! A relay that cuts every connection after so many bytes from the server, as a link in a tunnel does.
//! It must not look into what it carries, nor tell either side why it ended.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::site::Place;

/// The relay; it ends with the process, since it holds nothing but sockets.
#[derive(Debug)]
pub struct Cutting {
    port: u16,
    to: u16,
    limit: Arc<AtomicU64>,
    cuts: Arc<AtomicU64>,
}

impl Cutting {
    /// Starts it before a server that is to listen on a port of its own.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let to = Place::loopback()?.listen.port();
        let (limit, cuts) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(AtomicU64::new(0)));
        let shared = (Arc::clone(&limit), Arc::clone(&cuts));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let (Ok(from), Ok(back)) = (client.try_clone(), server.try_clone()) else { continue };
                let (limit, cuts) = (shared.0.load(Ordering::SeqCst), Arc::clone(&shared.1));
                std::thread::spawn(move || pass(from, server, u64::MAX));
                std::thread::spawn(move || {
                    if pass(back, client, limit) {
                        cuts.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Ok(Self { port, to, limit, cuts })
    }

    /// Where devices reach the server, and where it listens.
    ///
    /// # Errors
    /// Never: the address is a constant form.
    pub fn place(&self) -> anyhow::Result<Place> {
        let listen = format!("127.0.0.1:{}", self.to).parse()?;
        Ok(Place { url: format!("https://localhost:{}", self.port), listen })
    }

    /// Connections from now on bring so many bytes from the server.
    pub fn cut_after(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::SeqCst);
    }

    /// How many connections were cut.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }
}

/// Passes bytes on until one side ends, or at most `limit` of them; then whether it was the limit.
fn pass(mut from: TcpStream, mut to: TcpStream, mut limit: u64) -> bool {
    let _ = to.set_nodelay(true);
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let through = usize::try_from(limit).unwrap_or(usize::MAX).min(read);
        limit -= through as u64;
        if buffer.get(..through).is_none_or(|bytes| to.write_all(bytes).is_err()) {
            break;
        }
        if limit == 0 {
            let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
            return true;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    false
}
