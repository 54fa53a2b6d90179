//! A TCP relay in front of a server: counts what comes back, and can be cut like a line.
//! It must not understand what it carries.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A relay on a free port of loopback. It ends with the process.
#[derive(Debug, Clone)]
pub struct Relay {
    address: SocketAddr,
    line: Arc<Line>,
}

#[derive(Debug, Default)]
struct Line {
    cut: AtomicBool,
    back: AtomicU64,
    connections: AtomicU64,
}

impl Relay {
    /// Relays to an address.
    ///
    /// # Errors
    /// When no port is free.
    pub fn to(server: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, line) = (listener.local_addr()?, Arc::new(Line::default()));
        let shared = Arc::clone(&line);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                if shared.cut.load(Ordering::Acquire) {
                    continue;
                }
                if let Ok(beyond) = TcpStream::connect(server) {
                    carry(&shared, &stream, &beyond);
                }
            }
        });
        Ok(Self { address, line })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts the line, or mends it. A cut ends every connection at its next byte and refuses new ones.
    pub fn cut(&self, cut: bool) {
        self.line.cut.store(cut, Ordering::Release);
    }

    /// Bytes that came back from the server so far.
    #[must_use]
    pub fn back(&self) -> u64 {
        self.line.back.load(Ordering::Relaxed)
    }

    /// Attempts to connect so far, on a cut line too.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.line.connections.load(Ordering::Relaxed)
    }
}

fn carry(line: &Arc<Line>, here: &TcpStream, there: &TcpStream) {
    let pairs = [(here.try_clone(), there.try_clone(), false), (there.try_clone(), here.try_clone(), true)];
    for (from, to, is_back) in pairs {
        let (Ok(mut from), Ok(mut to)) = (from, to) else { return };
        let line = Arc::clone(line);
        std::thread::spawn(move || {
            let _ = from.set_read_timeout(Some(Duration::from_millis(100)));
            let mut buffer = vec![0; 64 * 1024];
            while !line.cut.load(Ordering::Acquire) {
                match from.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => {
                        if is_back {
                            line.back.fetch_add(read as u64, Ordering::Relaxed);
                        }
                        if to.write_all(&buffer[..read]).is_err() {
                            break;
                        }
                    }
                    Err(error)
                        if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                    Err(_) => break,
                }
            }
            let _ = from.shutdown(std::net::Shutdown::Both);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    }
}
