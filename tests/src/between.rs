//! Whoever is between a device and its server: a slow link, a link that hangs, a sign-in page, a proxy.
//! It must not look into what it carries.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::site::Place;

/// What it does with connections and with what comes over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Carries everything.
    Open,
    /// Carries so many bytes to the device in a second.
    Slow(u64),
    /// Takes everything and carries nothing, on old connections as on new ones.
    Hangs,
    /// New connections are carried, those that were there hang: as after a change of networks.
    OldOnesHang,
    /// Answers without encryption, as a sign-in page does that is asked for anything.
    Page,
    /// Is a proxy that is asked to connect, and does.
    Proxy,
    /// Is a proxy that wants a name and a password.
    ProxySignIn,
    /// Is a proxy that lets nobody through.
    ProxyRefuses,
}

#[derive(Debug)]
struct Shared {
    way: Mutex<Way>,
    to: Mutex<SocketAddr>,
    /// Connections up to this number hang.
    old: AtomicU64,
    connections: AtomicU64,
    carried: AtomicU64,
    ended: AtomicBool,
}

/// The one between. It ends with its owner.
#[derive(Debug)]
pub struct Between {
    /// Where devices find it.
    pub port: u16,
    shared: Arc<Shared>,
}

impl Between {
    /// Starts it before a server that is to listen at the place that [`Self::place`] gives.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let to = Place::loopback()?.listen;
        let shared = Arc::new(Shared {
            way: Mutex::new(Way::Open),
            to: Mutex::new(to),
            old: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            carried: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let here = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if here.ended.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&here);
                std::thread::spawn(move || shared.connection(client));
            }
        });
        Ok(Self { port, shared })
    }

    /// Where the server listens, and where devices believe that it does.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { url: format!("https://localhost:{}", self.port), listen: self.shared.to() }
    }

    /// From now on.
    pub fn set(&self, way: Way) {
        if way == Way::OldOnesHang {
            self.shared.old.store(self.shared.connections.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        *self.shared.way.lock().unwrap_or_else(PoisonError::into_inner) = way;
    }

    /// Carries to somebody else from now on.
    pub fn lead_to(&self, to: SocketAddr) {
        *self.shared.to.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Bytes carried so far, both ways.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.shared.carried.load(Ordering::SeqCst)
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn way(&self) -> Way {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn to(&self) -> SocketAddr {
        *self.to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(self: Arc<Self>, mut client: TcpStream) {
        let number = self.connections.fetch_add(1, Ordering::SeqCst) + 1;
        match self.way() {
            Way::Page => {
                let _ = client.read(&mut [0; 2048]);
                let _ = client.write_all(
                    b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/login\r\nContent-Length: 0\r\n\r\n",
                );
                return;
            }
            Way::Proxy => {
                let _ = client.read(&mut [0; 2048]);
                let _ = client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
            }
            Way::ProxySignIn => {
                let _ = client.read(&mut [0; 2048]);
                let _ = client.write_all(
                    b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
                );
                return;
            }
            Way::ProxyRefuses => {
                let _ = client.read(&mut [0; 2048]);
                let _ = client.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
                return;
            }
            Way::Open | Way::Slow(_) | Way::Hangs | Way::OldOnesHang => {}
        }
        let Ok(server) = TcpStream::connect(self.to()) else { return };
        let (Ok(from), Ok(back)) = (client.try_clone(), server.try_clone()) else { return };
        let up = Arc::clone(&self);
        std::thread::spawn(move || up.pass(from, server, number, false));
        self.pass(back, client, number, true);
    }

    fn hangs(&self, number: u64) -> bool {
        match self.way() {
            Way::Hangs => true,
            Way::OldOnesHang => number <= self.old.load(Ordering::SeqCst),
            _ => false,
        }
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream, number: u64, down: bool) {
        let mut buffer = [0; 2048];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            while self.hangs(number) && !self.ended.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let begun = Instant::now();
            let Some(part) = buffer.get(..count) else { break };
            if to.write_all(part).is_err() {
                break;
            }
            self.carried.fetch_add(count as u64, Ordering::SeqCst);
            if let (Way::Slow(bytes_per_s), true) = (self.way(), down) {
                let takes = Duration::from_millis(count as u64 * 1000 / bytes_per_s.max(1));
                std::thread::sleep(takes.saturating_sub(begun.elapsed()));
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}
