//! What the bad link itself gives: the bytes of a first sync as one plain stream of TCP, with nobody's protocol on it.
//! It must not be quicker than any sync could be, nor slower: it is what every sync is measured against.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::Scale;
use super::air::Weather;
use super::net::Line;
use super::report::{Report, grouped, time};

/// The cells of a first sync of 20,000 records.
const BYTES: usize = 3_220_480;

/// One stream down, in bad weather.
///
/// # Errors
/// When it breaks.
pub fn floor(scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let line = Line::lay_in_air()?;
    report.section("The bad link itself: one plain stream of TCP");
    report.figure("counted at", line.describe());
    let bytes = scale.of(BYTES, 64 * 1024);
    let listen = line.place()?.listen;
    let listener = line.at_server(|| Ok(TcpListener::bind(listen)?))?;
    let sender = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        // The question, so that a round trip goes by as before any reply.
        stream.read_exact(&mut [0])?;
        stream.write_all(&vec![7; bytes])
    });
    line.at_agent(|| {
        let air = line.air().context("a cable has no weather")?;
        air.set(Weather::BAD);
        let before = line.count()?;
        let port = line.place()?.url.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(listen.port());
        let started = Instant::now();
        let mut stream = TcpStream::connect((listen.ip(), port))?;
        stream.write_all(&[1])?;
        let read = std::io::copy(&mut stream, &mut std::io::sink())?;
        let took = started.elapsed();
        let count = line.wait_quiet(Duration::from_secs(1))?.since(&before);
        let bare = Weather::BAD.transfer(read);
        report.figure(&format!("{} bytes", grouped(read)), count.describe());
        let over = took.as_secs_f64() / bare.as_secs_f64();
        report.figure(
            "from the first packet to the last byte",
            format!("{} ({over:.3} of the bare transfer time)", time(took)),
        );
        report.figure("packets lost in the air", air.lost());
        Ok(())
    })?;
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    Ok(())
}
