//! Enrolment over a network that loses the reply: the server has taken the code, and the device does not know it. Between
//! the real programs is a carrier that passes everything on but, while it is told so, what the server says after the
//! handshake.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cpis_agent::agent::KEYSLOT;
use cpis_tests::process::{output, run};
use cpis_tests::scene::text;
use cpis_tests::site::{AgentSite, Place, Site, SiteRules};

#[derive(Default)]
struct Carrier {
    loses: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Carrier {
    /// Carries between this machine's `port` and the server for as long as the test runs.
    fn start(listener: TcpListener, server: SocketAddr) -> Arc<Self> {
        let this = Arc::new(Self::default());
        let carrier = Arc::clone(&this);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(server) else { continue };
                carrier.carry(&client, &server);
            }
        });
        this
    }

    fn carry(self: &Arc<Self>, client: &TcpStream, server: &TcpStream) {
        let both = || (client.try_clone().unwrap(), server.try_clone().unwrap());
        self.open.lock().unwrap().extend([both().0, both().1]);
        let server_spoke = Arc::new(AtomicBool::new(false));
        let handshake_over = Arc::new(AtomicBool::new(false));
        let (spoke, over) = (Arc::clone(&server_spoke), Arc::clone(&handshake_over));
        let ((mut from, mut to), (mut back, mut answer)) = (both(), both());
        std::thread::spawn(move || {
            copy(&mut from, &mut to, || {
                // What a client says after the server has spoken ends the handshake, and carries the request.
                over.fetch_or(spoke.load(Ordering::Acquire), Ordering::AcqRel);
                true
            });
        });
        let this = Arc::clone(self);
        std::thread::spawn(move || {
            copy(&mut answer, &mut back, || {
                server_spoke.store(true, Ordering::Release);
                !(this.loses.load(Ordering::Acquire) && handshake_over.load(Ordering::Acquire))
            });
        });
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn copy(from: &mut TcpStream, to: &mut TcpStream, passes: impl Fn() -> bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if passes() && to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn devices(site: &Site) -> Vec<String> {
    let list = site.json(&["device", "list"]).unwrap();
    let devices = list["devices"].as_array().or_else(|| list.as_array()).unwrap();
    devices.iter().map(|device| text(device, "/device").to_owned()).collect()
}

/// Asks once, with every reply lost, until the server has enrolled `count` devices; the agent ends without.
fn loses_the_reply(site: &Site, carrier: &Carrier, agent: &AgentSite, count: usize, repeat: bool) {
    carrier.loses.store(true, Ordering::Release);
    let grants = || site.json(&["device", "list"]).unwrap();
    let before = grants();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| output(&mut agent.enrolment().unwrap()).unwrap());
        let started = Instant::now();
        while devices(site).len() < count || (repeat && grants() == before) {
            assert!(started.elapsed() < Duration::from_secs(60), "the request did not arrive");
            assert!(!asking.is_finished(), "{:?}", asking.join());
            std::thread::sleep(Duration::from_millis(20));
        }
        carrier.cut();
        let ended = asking.join().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains("same invitation"), "{said}");
    });
    carrier.loses.store(false, Ordering::Release);
    assert!(!agent.directory().join(KEYSLOT).exists(), "it is not enrolled");
}

fn deployment(work: &Path) -> (Site, Arc<Carrier>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let listen = Place::loopback().unwrap().listen;
    let carrier = Carrier::start(listener, listen);
    let place = Place { url: format!("https://localhost:{port}"), listen };
    let site = Site::make_at(&work.join("central"), place, &["Leeds"], 40, &[]).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    (site, carrier)
}

fn left(agent: &AgentSite) -> Vec<String> {
    let entries = std::fs::read_dir(agent.directory()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("keyslot") && name != KEYSLOT);
    names
}

#[test]
fn a_lost_reply_is_asked_for_again_with_the_same_invitation() {
    let work = tempfile::tempdir().unwrap();
    let (site, carrier) = deployment(work.path());
    let server = site.serve().unwrap();
    let agent = site.invite("all", &work.path().join("crew"), "crew").unwrap();
    loses_the_reply(&site, &carrier, &agent, 1, false);
    let [device] = &devices(&site)[..] else { panic!("one device") };
    let certificate = |at: &str| site.json(&["device", "show", device]).unwrap().pointer(at).cloned();
    let before = certificate("/certificate_until");
    // As often as it takes, and more often than a code may be guessed at.
    for _ in 0..6 {
        loses_the_reply(&site, &carrier, &agent, 1, true);
    }
    assert_eq!(left(&agent), ["keyslot.staged"]);
    run(&mut agent.enrolment().unwrap()).unwrap();
    assert_eq!(devices(&site), std::slice::from_ref(device), "no second device came of it");
    assert_eq!(certificate("/certificate_until"), before);
    assert_eq!(left(&agent), Vec::<String>::new());
    let running = agent.start().unwrap();
    agent.sync().unwrap();
    agent.unlock().unwrap();
    assert_eq!(text(&agent.status().unwrap(), "/device"), device);
    let person = site.flagged().unwrap();
    assert_eq!(text(&agent.look_up(person.number, person.birth).unwrap(), "/answer"), "flagged");
    assert!(running.stop().unwrap().success());
    // The code is used up for everybody else, and what the server refuses is given up.
    let other = site.invite("all", &work.path().join("other"), "crew").unwrap();
    let invitation = |of: &str| work.path().join(of).join("invitation.txt");
    std::fs::copy(invitation("crew"), invitation("other")).unwrap();
    let refused = output(&mut other.enrolment().unwrap()).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("used or too old"), "{said}");
    assert_eq!(left(&other), Vec::<String>::new());
    assert!(!other.directory().join("device-secret").exists());
    server.stop().unwrap();
}
