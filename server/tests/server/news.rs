//! Waiting for news on a real socket: told within about a second of any process's publication, and nothing held for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cpis_protocol::digest::Hash;
use cpis_protocol::message::Request;
use cpis_server::port::{DeviceEvent, DeviceRow, DeviceState, Feeds as _, Fleet as _, Store as _, StoreError};
use cpis_server::service::Look;
use cpis_server::{home::Home, publish};

use crate::rig::{Device, NOW, Rig, authority, person, plan, text};
use crate::transport::{Running, rt, start};

/// Long after an answer should have come.
const PATIENCE: Duration = Duration::from_secs(20);

fn newest(rig: &Rig) -> Hash {
    rig.store().read::<_, StoreError>(|tx| tx.newest_head(text("all"))).unwrap().unwrap().hash
}

fn with(rig: Rig, change: impl FnOnce(&mut cpis_server::config::Config)) -> Rig {
    let path = rig.dir.path().join("server").join(cpis_server::config::FILE);
    let mut config = cpis_server::config::Config::read(&path).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_text()).unwrap();
    rig.restart()
}

/// A question under way.
fn ask(
    running: &Arc<Running>,
    device: &Arc<(Device, Vec<u8>)>,
    named: &Hash,
) -> tokio::task::JoinHandle<(u16, String, Vec<u8>)> {
    let (running, device, path) = (Arc::clone(running), Arc::clone(device), Request::News(*named).path());
    tokio::spawn(async move {
        let asked = running.get(Some((&device.1, &device.0.signer)), &path);
        let reply = tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap();
        (reply.status, reply.headers, reply.body)
    })
}

async fn enrolled(running: &Running, seed: u8) -> Arc<(Device, Vec<u8>)> {
    let device = Device::new(seed);
    let certificate = running.enrol(&device).await.certificate;
    Arc::new((device, certificate))
}

async fn until_waiting(running: &Running, count: usize) {
    for _ in 0..500 {
        if running.rig.service.waiting() == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(running.rig.service.waiting(), count, "in five seconds");
}

/// As `cpis-server ingest` does it: another process, with the database to itself.
fn publish_elsewhere(rig: &Rig, n: u64, and_publish: bool) {
    rig.apply(vec![person(n, vec![plan(authority(0))])]);
    if and_publish {
        let elsewhere = Home::open(&rig.dir.path().join("server")).unwrap();
        publish::publish(&elsewhere.store, &elsewhere.keys, NOW + 1, &mut |_| ()).unwrap();
    }
}

#[test]
fn who_waits_is_told_within_a_second_of_what_another_process_published() {
    rt().block_on(async {
        let running = Arc::new(start(Rig::new()).await);
        let device = enrolled(&running, 1).await;
        let named = newest(&running.rig);
        let waiting = ask(&running, &device, &named);
        until_waiting(&running, 1).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(!waiting.is_finished(), "nothing has happened yet");
        publish_elsewhere(&running.rig, 1, true);
        let begun = Instant::now();
        let (status, headers, body) = waiting.await.unwrap();
        assert!(begun.elapsed() < Duration::from_millis(1_500), "{:?}", begun.elapsed());
        assert_eq!((status, body), (200, vec![1]));
        assert!(headers.contains("cache-control: no-store"), "{headers}");
        until_waiting(&running, 0).await;
        // An old position hears at once.
        let (status, _, body) = ask(&running, &device, &named).await.unwrap();
        assert_eq!((status, body), (200, vec![1]));
    });
}

/// What somebody took in and did not live to publish goes out within seconds, not at the next minute's look.
#[test]
fn what_was_taken_in_and_left_lying_is_published_and_told() {
    rt().block_on(async {
        let running = Arc::new(start(Rig::new()).await);
        assert_eq!(running.rig.service.config().tick_s, 3600, "the ordinary look does not help here");
        let device = enrolled(&running, 1).await;
        let waiting = ask(&running, &device, &newest(&running.rig));
        until_waiting(&running, 1).await;
        publish_elsewhere(&running.rig, 1, false);
        let begun = Instant::now();
        let (status, _, body) = waiting.await.unwrap();
        assert_eq!((status, body), (200, vec![1]));
        assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_wait_ends_with_nothing_and_holds_no_place_meanwhile() {
    rt().block_on(async {
        let running = Arc::new(start(with(Rig::new(), |config| config.news_hold_s = 10)).await);
        let named = newest(&running.rig);
        // More than there are workers: were a place held, the grant below would not come.
        let mut waiting = Vec::new();
        for seed in 1..=40 {
            waiting.push(ask(&running, &enrolled(&running, seed).await, &named));
        }
        until_waiting(&running, 40).await;
        let device = enrolled(&running, 41).await;
        let begun = Instant::now();
        let grant = running.get(Some((&device.1, &device.0.signer)), "/v1/grant").await.unwrap();
        assert_eq!(grant.status, 200);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        for wait in waiting {
            let (status, _, body) = wait.await.unwrap();
            assert_eq!((status, body), (200, Vec::new()));
        }
        assert_eq!(running.rig.service.waiting(), 0);
    });
}

#[test]
fn one_wait_of_a_device_and_not_more_than_may() {
    rt().block_on(async {
        let running = Arc::new(start(with(Rig::new(), |config| config.news_max = 2)).await);
        let named = newest(&running.rig);
        let [first, second, third] =
            [enrolled(&running, 1).await, enrolled(&running, 2).await, enrolled(&running, 3).await];
        let older = ask(&running, &first, &named);
        until_waiting(&running, 1).await;
        let newer = ask(&running, &first, &named);
        let (status, _, body) = older.await.unwrap();
        assert_eq!((status, body), (200, Vec::new()), "the newer question took its place");
        let other = ask(&running, &second, &named);
        until_waiting(&running, 2).await;
        let (status, headers, _) = ask(&running, &third, &named).await.unwrap();
        assert_eq!(status, 503);
        assert!(headers.contains("retry-after: 300") && headers.contains("no-store"), "{headers}");
        // Who goes away leaves its place, without a word.
        newer.abort();
        until_waiting(&running, 1).await;
        let third = ask(&running, &third, &named);
        until_waiting(&running, 2).await;
        publish_elsewhere(&running.rig, 1, true);
        assert_eq!((other.await.unwrap().2, third.await.unwrap().2), (vec![1], vec![1]));
    });
}

/// Each comes with a question of its own as soon as it is told: the server sets how many do so in a second.
#[test]
fn many_are_told_one_after_the_other() {
    rt().block_on(async {
        let running = Arc::new(start(with(Rig::new(), |config| config.news_per_s = 10)).await);
        let named = newest(&running.rig);
        let mut waiting = Vec::new();
        for seed in 1..=30 {
            let (running, device) = (Arc::clone(&running), enrolled(&running, seed).await);
            waiting.push(tokio::spawn(async move {
                let (_, _, body) = ask(&running, &device, &named).await.unwrap();
                assert_eq!(body, [1]);
                Instant::now()
            }));
        }
        until_waiting(&running, 30).await;
        publish_elsewhere(&running.rig, 1, true);
        let mut told = Vec::new();
        for wait in waiting {
            told.push(wait.await.unwrap());
        }
        told.sort_unstable();
        let took = told[29] - told[0];
        assert!(took > Duration::from_millis(1_500) && took < Duration::from_millis(4_500), "{took:?}");
    });
}

/// Every request has a time limit, a minute as a rule and a second here; this one is outside it.
#[test]
fn a_wait_is_not_cut_by_the_time_limit_of_requests() {
    rt().block_on(async {
        let rig = with(Rig::new(), |config| config.news_hold_s = 10);
        let (device, named) = (rig.device(1), newest(&rig));
        let router = cpis_server::http::router_within(Arc::clone(&rig.service), Duration::from_secs(1));
        let mut request = axum::http::Request::new(axum::body::Body::empty());
        *request.uri_mut() = Request::News(named).path().parse().unwrap();
        request.extensions_mut().insert(cpis_server::service::Peer::from(Some(device.id())));
        let begun = Instant::now();
        let response = tower::ServiceExt::oneshot(router, request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(begun.elapsed() >= Duration::from_secs(10), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_device_that_is_withdrawn_while_it_waits_is_told_to_ask() {
    rt().block_on(async {
        let running = Arc::new(start(Rig::new()).await);
        let (device, other) = (enrolled(&running, 1).await, enrolled(&running, 2).await);
        let named = newest(&running.rig);
        let (waiting, stays) = (ask(&running, &device, &named), ask(&running, &other, &named));
        until_waiting(&running, 2).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        let lost = |tx: &cpis_server::store::SqliteTx<'_>| -> Result<(), StoreError> {
            let row = tx.device(device.0.id())?.unwrap();
            tx.put_device(&DeviceRow { state: DeviceState::Lost, ..row })?;
            let (by, what, reason) = ("op".into(), "lost".into(), "stolen".into());
            tx.add_device_event(&DeviceEvent { device: device.0.id(), at_ms: NOW, by, what, reason })
        };
        running.rig.store().write(lost).unwrap();
        let (status, _, body) = waiting.await.unwrap();
        assert_eq!((status, body), (200, vec![1]));
        assert!(!stays.is_finished(), "the other was not touched");
        let (status, headers, _) = ask(&running, &device, &named).await.unwrap();
        assert!(status == 403 && headers.contains("revoked"), "{status} {headers}");
        stays.abort();
    });
}

#[test]
fn nobody_else_may_wait_and_the_server_stops_in_time() {
    rt().block_on(async {
        let running = start(Rig::new()).await;
        let path = Request::News(newest(&running.rig)).path();
        assert_eq!(running.get(None, &path).await.unwrap().status, 403);
        let device = enrolled(&running, 1).await;
        let identity = Some((device.1.as_slice(), &device.0.signer));
        assert_eq!(running.get(identity, "/v1/news/07").await.unwrap().status, 404);
        let running = Arc::new(running);
        let waiting = ask(&running, &device, &newest(&running.rig));
        until_waiting(&running, 1).await;
        let begun = Instant::now();
        running.rig.service.end_waits();
        let (status, headers, _) = waiting.await.unwrap();
        assert!(status == 503 && !headers.contains("retry-after"), "{headers}");
        assert!(begun.elapsed() < Duration::from_secs(1));
    });
    rt().block_on(async {
        let running = start(with(Rig::new(), |config| config.news_hold_s = 0)).await;
        let device = enrolled(&running, 1).await;
        let path = Request::News(newest(&running.rig)).path();
        assert_eq!(running.get(Some((&device.1, &device.0.signer)), &path).await.unwrap().status, 404);
    });
}

/// A look at a database in which nobody has written costs one statement; presence and audit make no news.
#[test]
fn a_look_sees_what_others_wrote_and_nothing_else() {
    let rig = Rig::new();
    let mut look = Look::default();
    assert!(!rig.service.look_for_news(&mut look).unwrap());
    let version = rig.store().version().unwrap();
    assert!(version.is_some());
    assert!(!rig.service.look_for_news(&mut look).unwrap());
    assert_eq!(rig.store().version().unwrap(), version);
    rig.apply(vec![person(1, vec![plan(authority(0))])]);
    assert_ne!(rig.store().version().unwrap(), version, "the writer is another connection");
    assert!(!rig.service.look_for_news(&mut look).unwrap(), "whoever took it in publishes it");
    assert!(rig.service.look_for_news(&mut look).unwrap(), "nobody did");
    assert!(!rig.service.look_for_news(&mut look).unwrap(), "tried once");
    rig.publish();
    assert!(!rig.service.look_for_news(&mut look).unwrap());
}
