//! Debian's nginx, with the sample configuration, in front of a fleet: the server gives each object once, and no cache, however
//! wrong, makes a wrong answer. It must not pass where it did not run: without nginx it says so aloud, and tests/run ends non-zero.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test stops where something is not as it must be"
)]

use std::path::PathBuf;
use std::sync::Arc;

use cpis_agent::agent::Agent;
use cpis_agent::config::Config;
use cpis_agent::port::Transport as _;
use cpis_agent::transport::{Beyond, HttpTransport, install_provider};
use cpis_protocol::message::{Failure, Request};
use cpis_tests::nginx::{Nginx, available, filled_in};
use cpis_tests::process::run;
use cpis_tests::relay::Relay;
use cpis_tests::scene::{COLUMNS, Said, count, text};
use cpis_tests::site::{AgentSite, Place, Site, SiteRules};

fn missing() -> bool {
    if !available() {
        eprintln!("NOT RUN: mirrors: there is no program nginx here (Debian: apt-get install nginx)");
    }
    !available()
}

/// A server, the line that devices reach it by, and the one that the mirror does.
struct Stage {
    work: tempfile::TempDir,
    site: Site,
    devices: Relay,
    origin: Relay,
}

fn stage(records: u32) -> Stage {
    install_provider();
    let work = tempfile::tempdir().unwrap();
    let listen = Place::loopback().unwrap().listen;
    let (devices, origin) = (Relay::to(listen).unwrap(), Relay::to(listen).unwrap());
    let place = Place { url: format!("https://localhost:{}", devices.address().port()), listen };
    let site = Site::make_at(&work.path().join("central"), place, &["Leeds", "Rutland"], records, &[]).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    Stage { work, site, devices, origin }
}

impl Stage {
    /// What `mirror add` gives.
    fn files(&self) -> PathBuf {
        let files = self.work.path().join("mirror-files");
        let mut command = self.site.command().unwrap();
        command.args(["mirror", "add", "north", "--host", "127.0.0.2", "--scope", "all", "--out"]).arg(&files);
        run(&mut command).unwrap();
        files
    }

    fn nginx(&self, name: &str, files: &std::path::Path, change: impl Fn(String) -> String) -> Nginx {
        let directory = self.work.path().join(name);
        let port = std::net::TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap().port();
        let listen = format!("127.0.0.2:{port}");
        let server = format!("localhost:{}", self.origin.address().port());
        let site = filled_in(&directory, files, &listen, &server).unwrap();
        Nginx::start(&directory, &listen, &change(site)).unwrap()
    }

    fn crew(&self, name: &str, mirror: &Nginx) -> AgentSite {
        let agent = self.site.enrol(&self.work.path().join(name), "crew").unwrap();
        let config = format!("device_secret = \"file\"\nmirrors = [\"{}\"]\n", mirror.url());
        std::fs::write(agent.directory().join("agent.toml"), config).unwrap();
        agent
    }

    fn take_out(&self, at: usize) {
        let line = format!("{},,,,,,,,,,,delete", self.site.people()[at].number.digits());
        self.site.ingest(&format!("gone-{at}.csv"), COLUMNS, &[line]).unwrap();
    }
}

fn gseq(agent: &AgentSite) -> u64 {
    count(&agent.status().unwrap(), "/copy/gseq")
}

fn open(agent: &AgentSite) -> Arc<Agent> {
    Arc::new(Agent::open(agent.directory(), &Config::load(agent.directory()).unwrap()).unwrap())
}

#[test]
fn the_second_device_costs_the_server_no_object() {
    if missing() {
        return;
    }
    let stage = stage(3000);
    let _server = stage.site.serve().unwrap();
    let files = stage.files();
    let nginx = stage.nginx("nginx", &files, |site| site);
    let [first, second] = ["first", "second"].map(|name| stage.crew(name, &nginx));
    first.sync().unwrap();
    let filled = stage.origin.back();
    assert!(filled > 480_000, "{filled} bytes from the server to the mirror: {}", nginx.log());
    let (asked, direct) = (nginx.asked().unwrap().len(), stage.devices.back());
    second.sync().unwrap();
    assert_eq!(gseq(&second), gseq(&first));
    let of_second = nginx.asked().unwrap().split_off(asked);
    assert!(
        of_second.len() > 12 && of_second.iter().all(|(status, cached, _)| (*status, cached.as_str()) == (200, "HIT")),
        "{of_second:?}"
    );
    assert_eq!(stage.origin.back(), filled, "the server gave the mirror nothing more");
    let direct = stage.devices.back() - direct;
    assert!(direct < 30_000, "{direct} bytes from the server itself: what can change, and no cells");
    // A change: the same again, by the cells of the change alone.
    stage.take_out(0);
    first.sync().unwrap();
    let filled = stage.origin.back();
    second.sync().unwrap();
    assert_eq!(gseq(&second), gseq(&first));
    assert_eq!(stage.origin.back(), filled, "nor of the change");
    let asked = nginx.asked().unwrap();
    assert!(asked.iter().any(|(_, cached, path)| cached == "HIT" && path.contains("/delta/")), "{asked:?}");
    assert!(
        asked.iter().all(|(_, _, path)| !["beat", "grant", "root", "sync", "audit"].iter().any(|w| path.contains(w)))
    );
}

#[test]
fn it_answers_devices_only_and_keeps_no_error() {
    if missing() {
        return;
    }
    let stage = stage(60);
    let _server = stage.site.serve().unwrap();
    let files = stage.files();
    let nginx = stage.nginx("nginx", &files, |site| site);
    let crew = stage.crew("crew", &nginx);
    crew.sync().unwrap();
    let agent = open(&crew);
    let authorities = agent.trust().root().authority_certificates.clone();
    let clock = || agent.environment().clock().unwrap();
    let nobody = HttpTransport::to(Beyond::Mirror, nginx.url(), &authorities, None, clock(), 0).unwrap();
    let config = Config { mirrors: vec![nginx.url().to_owned()], ..Config::default() };
    let through = agent.way(&config).unwrap().0;
    let state = agent.replica().view().feeds.values().next().unwrap().state().clone();
    let beyond = Request::Manifest { feed: state.feed, epoch: state.epoch, seq: state.seq + 100 };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        assert!(nobody.send(Request::Head([1; 32])).await.is_err(), "no device, no object");
        // Not there yet: said by the server each time, and kept by nobody.
        for _ in 0..2 {
            assert_eq!(through.send(beyond.clone()).await, Err(Failure::NotFound));
        }
    });
    let missed: Vec<_> = nginx.asked().unwrap().into_iter().filter(|(status, _, _)| *status == 404).collect();
    assert_eq!(missed.iter().map(|(_, cached, _)| cached.as_str()).collect::<Vec<_>>(), ["MISS", "MISS"], "{missed:?}");
    // Whoever marks a reply as stored is not the server, whatever the certificate says.
    let marked = stage.nginx("marked", &files, |site| {
        let at = site.find("    # Immutable objects").unwrap();
        format!("{}location / {{ add_header cpis-carrier stored always; return 200 'beat'; }}\n}}\n", &site[..at])
    });
    let identity = stage.crew("other", &marked);
    let other = open(&identity);
    let as_server = other.way_to(Beyond::Server, marked.url()).unwrap();
    let beat = Request::Beat(agent.grant().scope);
    let said = tokio::runtime::Runtime::new().unwrap().block_on(as_server.send(beat));
    assert_eq!(said, Err(Failure::NotTheServer));
    // A mirror that was taken out gets nothing more; what can change it never got.
    run(stage.site.command().unwrap().args(["mirror", "remove", "north"])).unwrap();
    let before = nginx.asked().unwrap().len();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let _ = through.send(Request::Reference([9; 32])).await;
    });
    let after = nginx.asked().unwrap().split_off(before);
    assert_eq!(after.iter().map(|(status, cached, _)| (*status, cached.as_str())).collect::<Vec<_>>(), [(403, "MISS")]);
}

#[test]
fn a_poisoned_cache_makes_no_wrong_answer_and_all_converge_by_the_server() {
    if missing() {
        return;
    }
    let stage = stage(900);
    let _server = stage.site.serve().unwrap();
    let files = stage.files();
    let good = stage.nginx("good", &files, |site| site);
    stage.crew("filler", &good).sync().unwrap();
    assert!(good.poison().unwrap() > 5);
    // One that has every page there is, for ever: an old beat, a sign-in page in place of objects, and a 404 that is kept.
    let old = |site: String, answer: &str| {
        let at = site.find("    # Immutable objects").unwrap();
        let kept = "add_header Cache-Control 'public, max-age=31536000, immutable' always;";
        format!("{}location / {{ {kept} {answer} }}\n}}\n", &site[..at])
    };
    let page = stage.nginx("page", &files, |site| old(site, "return 200 'yesterday';"));
    let gone = stage.nginx("gone", &files, |site| old(site, "return 404;"));
    let away = stage.nginx("away", &files, |site| old(site, "return 302 https://portal.example/;"));
    for (name, mirror) in [("poisoned", &good), ("page", &page), ("gone", &gone), ("away", &away)] {
        let crew = stage.crew(name, mirror);
        let mut running = crew.start().unwrap();
        crew.unlock().unwrap();
        let mut answers = 0;
        let person = stage.site.flagged().unwrap();
        let unknown = stage.site.unknown().unwrap().digits();
        running
            .wait_until("the copy", || {
                let (_, reply) = crew.ask(&unknown, "2015-03-04", &[]).unwrap();
                answers += usize::from(text(&reply, "/answer") != "cannot-answer");
                gseq(&crew) > 0
            })
            .unwrap();
        assert!(answers <= 1, "{name}: answered before there was a proved copy");
        let (code, reply) = crew.ask(&person.number.digits(), &person.birth.iso(), &[]).unwrap();
        assert_eq!((code, text(&reply, "/answer")), (0, "flagged"), "{name}: {reply}");
        assert!(!mirror.asked().unwrap().is_empty(), "{name} was not asked");
        assert!(running.stop().unwrap().success());
    }
}

#[test]
fn mirrors_are_kept_apart_from_devices_and_server() {
    let stage = stage(30);
    let say = |arguments: &[&str]| Said::by(stage.site.command().unwrap().args(arguments)).unwrap();
    let out = |name: &str| stage.work.path().join(name).to_str().unwrap().to_owned();
    let add = |name: &str, host: &str, scope: &str| {
        say(&["mirror", "add", name, "--host", host, "--scope", scope, "--out", &out(&format!("{name}-{host}"))])
    };
    for own in ["localhost", "127.0.0.1", "LOCALHOST"] {
        let said = add("pretender", own, "all");
        assert!(said.code != 0 && said.err.contains("could pass for it"), "{said:?}");
        assert!(!stage.work.path().join(format!("pretender-{own}")).exists());
    }
    let unknown = add("lost", "m.example", "nowhere");
    assert!(unknown.code != 0 && unknown.err.contains("no scope nowhere"), "{unknown:?}");
    assert_eq!(add("north", "m.example", "all").code, 0);
    let twice = add("north", "other.example", "all");
    assert!(twice.code != 0 && twice.err.contains("already"), "{twice:?}");
    let over = say(&["mirror", "renew", "north", "--out", &out("north-m.example")]);
    assert!(over.code != 0 && over.err.contains("is there already"), "{over:?}");
    assert_eq!(say(&["mirror", "renew", "north", "--out", &out("again")]).code, 0);
    let key = |name: &str| std::fs::read(stage.work.path().join(name).join("mirror.key")).unwrap();
    assert_ne!(key("again"), key("north-m.example"));
    let listed = say(&["--json", "mirror", "list"]).json();
    assert_eq!(
        (listed.as_array().unwrap().len(), text(&listed, "/0/name"), text(&listed, "/0/scopes/0")),
        (1, "north", "all")
    );
    assert_eq!(say(&["mirror", "remove", "north"]).code, 0);
    assert!(say(&["mirror", "remove", "north"]).err.contains("no mirror north"));
}
