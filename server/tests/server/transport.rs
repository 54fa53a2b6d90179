//! TLS and HTTP on a real socket: who is let in, with what, and what they are told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cpis_protocol::enrol::EnrolReply;
use cpis_protocol::message::{REASON_HEADER, Request};
use cpis_protocol::sign::Signer;
use cpis_protocol::{codec, limits};
use cpis_server::ceremony::Plan;
use cpis_server::keys::file::Purpose;
use cpis_server::port::{DeviceRow, DeviceState, Fleet as _, Store as _, StoreError};
use cpis_server::{certificate, serve};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::rig::{DAY, Device, NOW, Rig, text};
use crate::roots;

pub(crate) struct Running {
    pub(crate) rig: Rig,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

pub(crate) async fn start(rig: Rig) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let service = Arc::clone(&rig.service);
    let shutdown = async { stopped.await.unwrap_or(()) };
    let server = tokio::spawn(async move { serve::run(service, listener, shutdown).await.unwrap() });
    Running { rig, address, stop, server }
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: Vec<u8>,
}

pub(crate) type Identity<'a> = Option<(&'a [u8], &'a Signer)>;

impl Running {
    fn client(&self, identity: Identity<'_>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let authority = self.rig.service.trust().root().authority_certificate().to_vec();
        roots.add(CertificateDer::from(authority)).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, signer)) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signer.pkcs8().to_vec()));
                let chain = vec![CertificateDer::from(certificate.to_vec())];
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        }
    }

    /// One HTTP/1.1 exchange on a connection of its own.
    async fn ask(&self, config: ClientConfig, method: &str, path: &str, body: &[u8]) -> std::io::Result<Reply> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let headers = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let status = headers.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        Ok(Reply { status, headers, body: bytes[end + 4..].to_vec() })
    }

    /// The first bytes of the answer to a ClientHello of TLS 1.2; this build of rustls cannot even make one.
    async fn hello_tls12(&self) -> Vec<u8> {
        let extensions: &[&[u8]] = &[
            &[0, 10, 0, 4, 0, 2, 0, 29],                  // supported_groups: x25519
            &[0, 11, 0, 2, 1, 0],                         // ec_point_formats: uncompressed
            &[0, 13, 0, 6, 0, 4, 0x08, 0x07, 0x04, 0x03], // signature_algorithms: Ed25519, ECDSA P-256
        ];
        let extensions = extensions.concat();
        // Version 1.2, random, no session, ECDHE-ECDSA-AES128-GCM-SHA256, no compression.
        let mut hello = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2b, 1, 0]].concat();
        hello.extend_from_slice(&u16::try_from(extensions.len()).unwrap().to_be_bytes());
        hello.extend_from_slice(&extensions);
        let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
        let handshake = [&[1, 0][..], &length(&hello), &hello].concat();
        let record = [&[0x16, 3, 1][..], &length(&handshake), &handshake].concat();
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(&record).await.unwrap();
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply).await;
        reply
    }

    pub(crate) async fn get(&self, identity: Identity<'_>, path: &str) -> std::io::Result<Reply> {
        self.ask(self.client(identity), "GET", path, b"").await
    }

    pub(crate) async fn enrol(&self, device: &Device) -> EnrolReply {
        let body = device.request(self.rig.invite(1).code);
        let config = self.client(None);
        let reply = self.ask(config, "POST", "/v1/enrol", &body).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.headers);
        assert!(reply.headers.contains("cache-control: no-store"));
        codec::decode(&reply.body, limits::ENROL_BYTES_MAX).unwrap()
    }
}

pub(crate) fn rt() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn without_a_certificate_one_can_only_enrol() {
    rt().block_on(async {
        let running = start(Rig::new()).await;
        assert_eq!(running.get(None, "/healthz").await.unwrap().status, 200);
        for path in ["/v1/grant", "/v1/scope/all/beat", "/v1/root/1"] {
            assert_eq!(running.get(None, path).await.unwrap().status, 403, "{path}");
        }
        let config = running.client(None);
        assert_eq!(running.ask(config, "POST", "/v1/audit", b"x").await.unwrap().status, 403);
        assert_eq!(running.get(None, "/v1/unknown").await.unwrap().status, 404);
        let device = Device::new(1);
        let certificate = running.enrol(&device).await.certificate;
        let identity = Some((certificate.as_slice(), &device.signer));
        let grant = running.get(identity, "/v1/grant").await.unwrap();
        assert_eq!(grant.status, 200);
        assert!(grant.headers.contains("cache-control: no-store"), "{}", grant.headers);
        let beat = running.get(identity, "/v1/scope/all/beat").await.unwrap();
        assert!(beat.headers.contains("cache-control: no-store"), "{}", beat.headers);
        let root = running.get(identity, &Request::Root(1).path()).await.unwrap();
        assert!(root.headers.contains("immutable") && root.body == running.rig.service.trust().root().bytes());
        let missing = running.get(identity, "/v1/root/2").await.unwrap();
        assert_eq!(missing.status, 404);
        assert!(missing.headers.contains("cache-control: no-store"), "what is not there yet must not be kept");
        let config = running.client(identity);
        assert_eq!(running.ask(config, "POST", "/v1/audit", &vec![1; 70_000]).await.unwrap().status, 413);
    });
}

#[test]
fn certificates_of_others_and_older_tls_are_refused() {
    rt().block_on(async {
        let running = start(Rig::new()).await;
        let device = Device::new(1);
        running.enrol(&device).await;
        let other_authority = Arc::new(Signer::from_seed([77; 32]));
        let forged = certificate::device(&other_authority, "test", &device.signer.public_key(), NOW, 90).unwrap();
        let forged = running.get(Some((&forged.der, &device.signer)), "/v1/grant").await;
        assert!(forged.is_err(), "a certificate by another authority");
        let (server, key) =
            certificate::server(&running.rig.service.keys().authority, "test", &["localhost".into()], NOW, 9).unwrap();
        let seed: [u8; 32] = key[16..].try_into().unwrap();
        let server_as_client = running.get(Some((&server.der, &Signer::from_seed(seed))), "/v1/grant").await;
        assert!(server_as_client.is_err(), "a server certificate is no device");
        assert_eq!(running.hello_tls12().await[..2], [0x15, 0x03], "an alert, no handshake");
        assert_eq!(running.get(None, "/healthz").await.unwrap().status, 200, "and the server lives on");
        // A certificate by the right authority for a device that was never enrolled.
        let stranger = Device::new(3);
        let keys = running.rig.service.keys();
        let issued = certificate::device(&keys.authority, "test", &stranger.signer.public_key(), NOW, 90).unwrap();
        assert_eq!(running.get(Some((&issued.der, &stranger.signer)), "/v1/grant").await.unwrap().status, 403);
    });
}

#[test]
fn a_revoked_device_is_told_so() {
    rt().block_on(async {
        let running = start(Rig::new()).await;
        let device = Device::new(1);
        let certificate = running.enrol(&device).await.certificate;
        running
            .rig
            .store()
            .write(|tx| -> Result<(), StoreError> {
                let row = tx.device(device.id())?.unwrap();
                tx.put_device(&DeviceRow { state: DeviceState::Revoked, ..row })
            })
            .unwrap();
        let reply = running.get(Some((&certificate, &device.signer)), "/v1/grant").await.unwrap();
        assert_eq!(reply.status, 200, "the signed withdrawal");
        let reply = running.get(Some((&certificate, &device.signer)), "/v1/scope/all/beat").await.unwrap();
        assert_eq!(reply.status, 403);
        assert!(reply.headers.contains(&format!("{REASON_HEADER}: revoked")), "{}", reply.headers);
    });
}

#[test]
fn stops_in_time_with_a_connection_open_and_a_handshake_hanging() {
    rt().block_on(async {
        let running = start(Rig::new()).await;
        let _silent = TcpStream::connect(running.address).await.unwrap();
        assert_eq!(running.get(None, "/healthz").await.unwrap().status, 200);
        let begun = Instant::now();
        running.stop.send(()).unwrap();
        running.server.await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2));
        assert!(TcpStream::connect(running.address).await.is_err());
        assert_eq!(text::<4>("done").as_str(), "done");
    });
}

fn replace_authority(rig: &Rig) {
    roots::home(rig).keys.make_next(Purpose::Authority, "test", NOW).unwrap();
    roots::install(rig, Plan { withdraw: vec![Purpose::Authority], ..Plan::default() }).unwrap();
}

impl Running {
    fn client_of(&self, authorities: &[Vec<u8>], identity: (&[u8], &Signer)) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(CertificateDer::from(authority.clone())).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.1.pkcs8().to_vec()));
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![CertificateDer::from(identity.0.to_vec())], key)
            .unwrap()
    }
}

/// The authority replaced three times while the device was away: it knows the first, and comes in; so does one that
/// knows only the last. An authority that never was stays outside.
#[test]
fn a_device_that_knows_only_an_older_authority_comes_in() {
    rt().block_on(async {
        let rig = Rig::new();
        let device = Device::new(1);
        let certificate = device.enrol(&rig, rig.invite(1).code).unwrap().certificate;
        let first = rig.service.trust().root().authority_certificates.clone();
        for _ in 0..3 {
            replace_authority(&rig);
            rig.service.refresh_trust().unwrap();
        }
        let last = rig.service.trust().root().authority_certificates.clone();
        assert!(last.len() == 1 && last != first);
        let running = start(rig).await;
        for known in [&first, &last] {
            let config = running.client_of(known, (&certificate, &device.signer));
            assert_eq!(running.ask(config, "GET", "/v1/grant", b"").await.unwrap().status, 200);
        }
        let stranger = certificate::authority(&Signer::from_seed([77; 32]), "test", NOW).unwrap();
        let config = running.client_of(&[stranger], (&certificate, &device.signer));
        assert!(running.ask(config, "GET", "/v1/grant", b"").await.is_err());
    });
}

/// A certificate past its end leads to a grant and to roots and takes audit, and to nothing else; forged it leads nowhere.
#[test]
fn a_certificate_past_its_end_is_marked() {
    rt().block_on(async {
        let running = start(Rig::new()).await;
        let device = Device::new(1);
        running.enrol(&device).await;
        let key = device.signer.public_key();
        let by = |issuer: &Arc<Signer>| certificate::device(issuer, "test", &key, NOW - 200 * DAY, 90).unwrap().der;
        let over = by(&running.rig.service.keys().authority.signer());
        let identity = Some((over.as_slice(), &device.signer));
        assert_eq!(running.get(identity, "/v1/grant").await.unwrap().status, 200);
        assert_eq!(running.get(identity, "/v1/root/1").await.unwrap().status, 200);
        assert_eq!(running.get(identity, "/v1/scope/all/beat").await.unwrap().status, 403);
        let forged = by(&Arc::new(Signer::from_seed([77; 32])));
        assert!(running.get(Some((&forged, &device.signer)), "/v1/grant").await.is_err());
    });
}
