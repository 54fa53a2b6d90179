//! A station hands its copy to the devices of its site, which believe it no more than a bundle; liars cost bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cpis_agent::agent::{Agent, KEYSLOT};
use cpis_agent::config::Config;
use cpis_agent::device_secret::DeviceSecret;
use cpis_agent::driver::pull_once;
use cpis_agent::keyslot::Keyslot;
use cpis_agent::port::Transport as _;
use cpis_agent::station::{Source, pull_from, serve_from};
use cpis_agent::transport::{Beyond, HttpTransport, install_provider};
use cpis_agent::{export, holdings};
use cpis_protocol::Refusal;
use cpis_protocol::clock::{Carrier, TrustedClock};
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::sync::pull::Outcome;
use cpis_server::register::PersonRow;
use cpis_tests::process::{Running, run};
use cpis_tests::relay::Relay;
use cpis_tests::scene::{COLUMNS, count, text};
use cpis_tests::site::{AgentSite, Place, Site, SiteRules};
use tokio::sync::watch;

/// A deployment behind a line that can be cut.
struct Stage {
    work: tempfile::TempDir,
    line: Relay,
    site: Site,
}

fn stage(records: u32) -> Stage {
    install_provider();
    let work = tempfile::tempdir().unwrap();
    let listen = Place::loopback().unwrap().listen;
    let line = Relay::to(listen).unwrap();
    let place = Place { url: format!("https://localhost:{}", line.address().port()), listen };
    let site = Site::make_at(&work.path().join("central"), place, &["Leeds", "Rutland"], records, &[]).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    Stage { work, line, site }
}

impl Stage {
    fn enrol(&self, name: &str) -> AgentSite {
        self.site.enrol(&self.work.path().join(name), "crew").unwrap()
    }

    fn take_out(&self, at: usize) {
        let line = format!("{},,,,,,,,,,,delete", self.site.people()[at].number.digits());
        self.site.ingest(&format!("gone-{at}.csv"), COLUMNS, &[line]).unwrap();
    }
}

fn configure(agent: &AgentSite, more: &str) {
    std::fs::write(agent.directory().join("agent.toml"), format!("device_secret = \"file\"\n{more}\n")).unwrap();
}

fn free_address() -> SocketAddr {
    Place::loopback().unwrap().listen
}

fn open(agent: &AgentSite) -> Arc<Agent> {
    Arc::new(Agent::open(agent.directory(), &Config::load(agent.directory()).unwrap()).unwrap())
}

fn gseq(agent: &Agent) -> u64 {
    agent.replica().view().head.as_ref().map_or(0, |head| head.gseq)
}

#[test]
fn a_site_whose_line_is_cut_gets_on_by_its_station() {
    let stage = stage(400);
    let _server = stage.site.serve().unwrap();
    let [station, crew] = ["station", "crew"].map(|name| stage.enrol(name));
    let address = free_address();
    configure(&station, &format!("[station]\nlisten = \"{address}\""));
    configure(&crew, &format!("stations = [\"https://{address}\"]"));
    let serving = station.start().unwrap();
    station.sync().unwrap();
    stage.line.cut(true);
    let mut running = crew.start().unwrap();
    crew.unlock().unwrap();
    let of = |agent: &AgentSite, pointer: &str| count(&agent.status().unwrap(), pointer);
    let there = |running: &mut Running| {
        running.wait_until("the station's copy", || of(&crew, "/copy/gseq") == of(&station, "/copy/gseq")).unwrap();
    };
    there(&mut running);
    assert_eq!(of(&crew, "/copy/as_at_ms"), of(&station, "/copy/as_at_ms"), "as old as the station's");
    for person in stage.site.people().iter().take(10) {
        let (code, reply) = crew.ask(&person.number.digits(), &person.birth.iso(), &[]).unwrap();
        assert_eq!((code, text(&reply, "/answer")), (0, "flagged"), "{reply}");
    }
    // The server is tried all the same, and is believed at once when it is back.
    let tried = stage.line.connections();
    running.wait_until("another try of the server", || stage.line.connections() > tried).unwrap();
    stage.line.cut(false);
    stage.take_out(0);
    crew.sync().unwrap();
    assert!(of(&crew, "/copy/gseq") > of(&station, "/copy/gseq"));
    assert!(running.stop().unwrap().success());
    assert!(serving.stop().unwrap().success());
}

#[test]
fn devices_of_the_deployment_only_and_nothing_of_one_alone() {
    let stage = stage(60);
    let _server = stage.site.serve().unwrap();
    let [station, crew] = ["station", "crew"].map(|name| stage.enrol(name));
    let address = free_address();
    configure(&station, &format!("[station]\nlisten = \"{address}\""));
    configure(&crew, &format!("stations = [\"https://{address}\"]"));
    let serving = station.start().unwrap();
    station.sync().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = Site::make(&elsewhere.path().join("central"), &["Leeds"], 30).unwrap();
    foreign.add_site("crew", &SiteRules::default()).unwrap();
    foreign.add_practitioner(&["crew"]).unwrap();
    let foreign_server = foreign.serve().unwrap();
    let stranger = foreign.enrol(&elsewhere.path().join("crew"), "crew").unwrap();
    foreign_server.stop().unwrap();
    configure(&stranger, &format!("stations = [\"https://{address}\"]"));
    let (crew, stranger) = (open(&crew), open(&stranger));
    let near = |agent: &Agent| agent.way(&Config::load(agent.directory()).unwrap()).unwrap().1.remove(0);
    let authorities = crew.trust().root().authority_certificates.clone();
    let url = format!("https://localhost:{}", address.port());
    let nobody = HttpTransport::to(Beyond::Station, &url, &authorities, None, crew.environment().clock().unwrap(), 0);
    let as_server = HttpTransport::new(&url, &authorities, None, crew.environment().clock().unwrap(), 0);
    let scope = crew.grant().scope;
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let known = near(&crew);
        let beat = known.send(Request::Beat(scope)).await.unwrap();
        assert!(!beat.is_empty());
        for request in
            [Request::Grant, Request::Beat("other".parse().unwrap()), Request::Root(2), Request::Head([7; 32])]
        {
            assert_eq!(known.send(request.clone()).await, Err(Failure::NotFound), "{request:?}");
        }
        for request in [Request::Audit(vec![1]), Request::CatchUp(vec![1]), Request::Report(vec![1])] {
            assert_eq!(known.send(request.clone()).await, Err(Failure::Refused), "{request:?}");
        }
        // Without a certificate, or with one of another deployment: nothing. A device never passes for the server.
        assert!(nobody.unwrap().send(Request::Beat(scope)).await.is_err());
        assert_eq!(near(&stranger).send(Request::Beat(scope)).await, Err(Failure::NotTheServer));
        assert_eq!(as_server.unwrap().send(Request::Beat(scope)).await, Err(Failure::NotTheServer));
    });
    // Silent connections take the places of one address, and give them back.
    let silent: Vec<_> = (0..40).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(300));
    let ask = || tokio::runtime::Runtime::new().unwrap().block_on(near(&crew).send(Request::Beat(scope)));
    assert_eq!(ask(), Err(Failure::Offline), "full");
    drop(silent);
    let given_back = Instant::now();
    while ask().is_err() {
        assert!(given_back.elapsed() < Duration::from_secs(10), "places are not given back");
    }
    // Withdrawn, it hands nothing on.
    let device = text(&station.status().unwrap(), "/device").to_owned();
    run(stage.site.command().unwrap().args(["device", "suspend", &device, "--by", "Test", "--reason", "unclear"]))
        .unwrap();
    assert!(station.sync().is_err());
    let after = tokio::runtime::Runtime::new().unwrap().block_on(near(&crew).send(Request::Beat(scope)));
    assert_eq!(after, Err(Failure::NotFound));
    assert!(serving.stop().unwrap().success());
}

/// A station that answers in its own way.
struct Liar {
    address: SocketAddr,
    way: Arc<Mutex<Arc<Source>>>,
    asked: Arc<AtomicU64>,
    _stop: watch::Sender<bool>,
}

impl Liar {
    /// With the certificate of a device of the deployment.
    async fn start(agent: Arc<Agent>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let honest: Arc<Source> = Arc::new(holdings::answer);
        let (way, asked) = (Arc::new(Mutex::new(honest)), Arc::new(AtomicU64::new(0)));
        let (present, counted) = (Arc::clone(&way), Arc::clone(&asked));
        let source: Arc<Source> = Arc::new(move |agent, request| {
            counted.fetch_add(1, Ordering::Relaxed);
            let way = Arc::clone(&present.lock().unwrap());
            way(agent, request)
        });
        let (stop, shutdown) = watch::channel(false);
        tokio::spawn(serve_from(agent, listener, source, shutdown));
        Self { address, way, asked, _stop: stop }
    }

    fn behaves(&self, way: impl Fn(&Agent, &Request) -> Option<Vec<u8>> + Send + Sync + 'static) {
        *self.way.lock().unwrap() = Arc::new(way);
    }

    fn near(&self, agent: &Agent) -> Arc<HttpTransport> {
        let config = Config { stations: vec![format!("https://{}", self.address)], ..Config::default() };
        agent.way(&config).unwrap().1.remove(0)
    }
}

fn changed(
    agent: &Agent,
    request: &Request,
    which: impl Fn(&Request) -> bool,
    change: impl Fn(Vec<u8>) -> Vec<u8>,
) -> Option<Vec<u8>> {
    let body = holdings::answer(agent, request)?;
    Some(if which(request) { change(body) } else { body })
}

fn flip(mut body: Vec<u8>) -> Vec<u8> {
    let at = (body.len() / 2 + 20).min(body.len() - 1);
    body[at] ^= 1;
    body
}

/// Every lie once: the copy stands as it was, and the truth is taken in afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn liars_cost_bytes_and_never_a_wrong_answer() {
    let stage = stage(700);
    let server = stage.site.serve().unwrap();
    let [older, newer, crew] = ["older", "newer", "crew"].map(|name| stage.enrol(name));
    older.sync().unwrap();
    // Of the larger feed, which has several chunks.
    let leeds = |person: &PersonRow| person.plans.iter().all(|plan| plan.authority.as_str() == "E08000035");
    stage.take_out(stage.site.people().iter().position(leeds).unwrap());
    newer.sync().unwrap();
    let held = crew.directory().to_path_buf();
    let [older, newer, crew] = [older, newer, crew].map(|agent| open(&agent));
    let liar = Liar::start(Arc::clone(&newer)).await;
    let near = liar.near(&crew);
    let yesterday = Arc::clone(&older);
    liar.behaves(move |_, request| holdings::answer(&yesterday, request));
    assert_eq!(pull_from(&crew, &near).await, Outcome::UpToDate);
    let first = gseq(&crew);
    assert!(first > 0 && first < gseq(&newer));
    drop((near, crew));
    for (at, (what, refused)) in lies(&liar, &older).enumerate() {
        // Each to a device that has met no lie before: what came right stays, and is not asked for again.
        let copied = stage.work.path().join(format!("crew-{at}"));
        run(std::process::Command::new("cp").arg("-a").arg(&held).arg(&copied)).unwrap();
        let crew = Arc::new(Agent::open(&copied, &Config::load(&copied).unwrap()).unwrap());
        let near = liar.near(&crew);
        let asked = liar.asked.load(Ordering::Relaxed);
        assert_eq!(pull_from(&crew, &near).await, refused, "{what}");
        assert!(liar.asked.load(Ordering::Relaxed) > asked, "{what}: nothing was asked");
        assert_eq!(gseq(&crew), first, "{what}");
        assert!(crew.replica().view().is_proved(), "{what}");
        liar.behaves(holdings::answer);
        assert_eq!(pull_from(&crew, &near).await, Outcome::UpToDate, "after {what}");
        assert_eq!(gseq(&crew), gseq(&newer), "after {what}");
    }
    let crew = Arc::new(Agent::open(&held, &Config::load(&held).unwrap()).unwrap());
    let near = liar.near(&crew);
    liar.behaves(holdings::answer);
    assert_eq!(pull_from(&crew, &near).await, Outcome::UpToDate);
    assert_eq!(gseq(&crew), gseq(&newer));
    // What is older than the copy now is refused for that.
    let yesterday = Arc::clone(&older);
    liar.behaves(move |_, request| holdings::answer(&yesterday, request));
    assert_eq!(pull_from(&crew, &near).await, Outcome::Refused(Refusal::Rollback));
    gives_way(&liar, &crew, &near).await;
    server.stop().unwrap();
}

/// Each lie in turn, and what becomes of it.
fn lies<'a>(liar: &'a Liar, older: &Arc<Agent>) -> impl Iterator<Item = (&'static str, Outcome)> + 'a {
    let older = Arc::clone(older);
    let is_chunk = |r: &Request| matches!(r, Request::Chunk { .. });
    let tell = move |at: usize| match at {
        0 => {
            liar.behaves(move |a, r| changed(a, r, is_chunk, flip));
            ("a flipped bit in a chunk", Outcome::Refused(Refusal::WrongHash))
        }
        1 => {
            liar.behaves(move |a, r| changed(a, r, |r| matches!(r, Request::Manifest { .. }), flip));
            ("a flipped bit in a manifest", Outcome::Refused(Refusal::WrongStateRoot))
        }
        2 => {
            liar.behaves(move |a, r| changed(a, r, |r| matches!(r, Request::Beat(_)), flip));
            ("a flipped bit in a beat", Outcome::Refused(Refusal::BadSignature))
        }
        3 => {
            let older = Arc::clone(&older);
            liar.behaves(move |a, r| match r {
                Request::Head(_) => older.replica().view().head.as_ref().map(|head| head.bytes().to_vec()),
                r => holdings::answer(a, r),
            });
            ("yesterday's head under today's name", Outcome::Refused(Refusal::WrongHash))
        }
        4 => {
            let is_cut = |r: &Request| matches!(r, Request::Chunk { .. });
            liar.behaves(move |a, r| changed(a, r, is_cut, |body| body[..body.len() / 2 + 7].to_vec()));
            ("half a chunk", Outcome::Refused(Refusal::Truncated))
        }
        5 => {
            liar.behaves(move |a, r| changed(a, r, is_chunk, |body| body[160..].to_vec()));
            ("a chunk without its first cell", Outcome::Refused(Refusal::WrongCount))
        }
        6 => {
            let of_one = |a: &Agent| {
                let view = a.replica().view();
                let state = view.feeds.values().last()?.state().clone();
                drop(view);
                holdings::answer(a, &Request::Chunk { feed: state.feed, epoch: state.epoch, seq: state.seq, index: 0 })
            };
            liar.behaves(move |a, r| match r {
                Request::Chunk { .. } => of_one(a),
                r => holdings::answer(a, r),
            });
            ("one feed's chunk for all", Outcome::Refused(Refusal::WrongCount))
        }
        7 => {
            liar.behaves(move |a, r| changed(a, r, |r| matches!(r, Request::Beat(_)), |_| vec![7; 8 * 1024 * 1024]));
            ("an endless beat", Outcome::Failed(Failure::EndlessReply))
        }
        _ => {
            liar.behaves(move |a, r| if is_chunk(r) { None } else { holdings::answer(a, r) });
            ("no chunk at all", Outcome::Failed(Failure::NotFound))
        }
    };
    (0..9).map(tell)
}

/// Whoever waits for the turn gets it at once, however slow the station is.
async fn gives_way(liar: &Liar, crew: &Arc<Agent>, near: &Arc<HttpTransport>) {
    liar.behaves(|_, _| {
        std::thread::sleep(Duration::from_secs(5));
        None
    });
    let slow = tokio::spawn({
        let (crew, near) = (Arc::clone(crew), Arc::clone(near));
        async move { pull_from(&crew, &near).await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let waited = Instant::now();
    drop(crew.turn().lock().await);
    assert!(waited.elapsed() < Duration::from_secs(2), "the server waited {:?} for a station", waited.elapsed());
    assert_eq!(slow.await.unwrap(), Outcome::Failed(Failure::Offline));
}

/// With the server there: a first copy comes from the station, and from the server where the station's is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_line_carries_a_first_copy_once() {
    let stage = stage(3000);
    let server = stage.site.serve().unwrap();
    let [station, crew, doubting] = ["station", "crew", "doubting"].map(|name| stage.enrol(name));
    let before = stage.line.back();
    station.sync().unwrap();
    let whole = stage.line.back() - before;
    let [station, crew, doubting] = [station, crew, doubting].map(|agent| open(&agent));
    let liar = Liar::start(Arc::clone(&station)).await;
    let config = Config { stations: vec![format!("https://{}", liar.address)], ..Config::default() };
    let sync = async |agent: &Arc<Agent>| {
        let way = agent.way(&config).unwrap().0;
        let mut machine = agent.pull_machine(true).unwrap();
        let mut outcomes = Vec::new();
        while outcomes.last() != Some(&Outcome::UpToDate) && outcomes.len() < 5 {
            outcomes.push(pull_once(agent, &mut machine, &way, Carrier::Live, true).await.0);
        }
        outcomes
    };
    let before = stage.line.back();
    assert_eq!(sync(&crew).await, [Outcome::UpToDate]);
    let little = stage.line.back() - before;
    assert!(whole > 480_000 && little < 30_000, "{whole} bytes without a station, {little} with one");
    let is_chunk = |r: &Request| matches!(r, Request::Chunk { .. });
    liar.behaves(move |a, r| changed(a, r, is_chunk, flip));
    assert_eq!(sync(&doubting).await, [Outcome::Refused(Refusal::WrongHash), Outcome::UpToDate], "by the server");
    assert_eq!(gseq(&doubting), gseq(&station));
    // What came from a station is handed on like what came from the server.
    let file = stage.work.path().join("on.cpisbundle");
    let exported = tokio::task::spawn_blocking(move || export::write(&crew, &file)).await.unwrap().unwrap();
    assert!(exported.cells >= 3000);
    server.stop().unwrap();
}

/// R279: after a restart the time is unknown, and no station can tell it: only the server does.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_station_tells_no_live_time() {
    let stage = stage(60);
    let server = stage.site.serve().unwrap();
    let [station, crew] = ["station", "crew"].map(|name| stage.enrol(name));
    station.sync().unwrap();
    {
        let secret = DeviceSecret::open(crew.directory(), &Config::default().sources()).unwrap();
        let mut keyslot = Keyslot::open(&crew.directory().join(KEYSLOT), &secret).unwrap();
        let update = keyslot.update(|contents| {
            contents.clock = TrustedClock::default();
            Ok(())
        });
        update.unwrap();
    }
    let [station, crew] = [station, crew].map(|agent| open(&agent));
    assert_eq!(crew.now().time_ms, None);
    let liar = Liar::start(Arc::clone(&station)).await;
    assert_eq!(pull_from(&crew, &liar.near(&crew)).await, Outcome::UpToDate);
    assert_eq!((gseq(&crew), crew.now().time_ms), (gseq(&station), None), "a copy, of an age that is not known");
    let mut machine = crew.pull_machine(true).unwrap();
    let live = pull_once(&crew, &mut machine, &crew.transport().unwrap(), Carrier::Live, true).await.0;
    assert_eq!((live, crew.now().time_ms.is_some()), (Outcome::UpToDate, true));
    server.stop().unwrap();
}

#[test]
fn a_station_is_off_unless_configured() {
    let stage = stage(30);
    let _server = stage.site.serve().unwrap();
    let crew = stage.enrol("crew");
    assert_eq!(Config::load(Path::new(crew.directory())).unwrap().station, None);
    configure(&crew, "[station]\nlisten = \"256.0.0.1:1\"");
    let said = crew.says(&["run"]).unwrap();
    assert!(said.code == 78 && said.err.contains("listen"), "{said:?}");
    configure(&crew, "stations = [\"10.0.0.7:8790\"]");
    let said = crew.says(&["run"]).unwrap();
    assert!(said.code == 78 && said.err.contains("https://host:port"), "{said:?}");
}
