//! Takes connections on one port of loopback and passes them to another, counting, with the weather's delay and rate.
//! It must not pretend to lose packets: it cannot.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::air::{Air, Lane, Weather};
use crate::site::Place;

/// The relay.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub port: u16,
    /// Where it passes to.
    pub to: u16,
    /// Bytes to the agent.
    pub down: Arc<AtomicU64>,
    /// Bytes to the server.
    pub up: Arc<AtomicU64>,
    /// Connections taken.
    pub connections: Arc<AtomicU64>,
    /// The weather.
    pub air: Arc<Air>,
}

impl Relay {
    /// Listens on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let to = Place::loopback()?.listen.port();
        let [down, up, connections] = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
        let air = Air::new();
        let relay = Self { port, to, down, up, connections, air };
        let counters = (Arc::clone(&relay.down), Arc::clone(&relay.up), Arc::clone(&relay.connections));
        let air = Arc::clone(&relay.air);
        // Ends with the process: it holds nothing but sockets.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                counters.2.fetch_add(1, Ordering::Relaxed);
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let (Ok(from), Ok(back)) = (client.try_clone(), server.try_clone()) else { continue };
                let (down, up) = (Arc::clone(&counters.0), Arc::clone(&counters.1));
                let lanes = (Lane::new(&air, 0), Lane::new(&air, 0));
                let airs = (Arc::clone(&air), Arc::clone(&air));
                std::thread::spawn(move || pass(from, server, &up, lanes.0, &airs.0));
                std::thread::spawn(move || pass(back, client, &down, lanes.1, &airs.1));
            }
        });
        Ok(relay)
    }
}

fn pass(mut from: TcpStream, to: TcpStream, counter: &AtomicU64, mut lane: Lane, air: &Air) {
    let _ = to.set_nodelay(true);
    // Looked at between reads: a stream cannot be without signal, so it is cut instead.
    let _ = from.set_read_timeout(Some(Duration::from_millis(100)));
    let (sender, receiver) = channel();
    let Ok(end) = to.try_clone() else { return };
    std::thread::spawn(move || give_out(to, &receiver));
    let mut buffer = [0; 1400];
    while air.weather() != Weather::GONE {
        match from.read(&mut buffer) {
            Ok(read @ 1..) => {
                counter.fetch_add(read as u64, Ordering::Relaxed);
                let bytes = buffer.get(..read).unwrap_or_default().to_vec();
                if sender.send((lane.part(read), bytes)).is_err() {
                    return;
                }
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Ok(0) | Err(_) => return,
        }
    }
    let _ = (from.shutdown(Shutdown::Both), end.shutdown(Shutdown::Both));
}

fn give_out(mut to: TcpStream, receiver: &Receiver<(Instant, Vec<u8>)>) {
    for (due, bytes) in receiver {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
