//! TLS between devices: each shows its device certificate, and believes nothing of the other but that it is a device of
//! the deployment.
//!
//! A device certificate is for TLS clients only, and stays so: no device can ever pass for the server, whose certificate
//! is held to server use and to its name. A station shows the same certificate, and a device that asks one holds it to
//! *client* use by the device authority: it is a device, which is all that a station need be. Its name does not count.
//! It must not let a certificate pass that no device authority of the trusted root issued, or that is over.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

use crate::transport::{FlooredTime, Identity, TransportError, provider};

fn devices(authorities: &[Vec<u8>]) -> Result<Arc<dyn ClientCertVerifier>, TransportError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(CertificateDer::from(authority.clone()))?;
    }
    // No hint of whose devices are meant: somebody without a certificate learns that from the station's own only.
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).clear_root_hint_subjects();
    builder.build().map_err(|error| TransportError::Tls(rustls::Error::General(error.to_string())))
}

/// A station's side: its own device certificate, and a certificate by the device authority from everybody.
pub(crate) fn server(
    authorities: &[Vec<u8>],
    identity: &Identity<'_>,
    time: FlooredTime,
) -> Result<ServerConfig, TransportError> {
    let chain = vec![CertificateDer::from(identity.certificate.to_vec())];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.signer.pkcs8().to_vec()));
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(time))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(devices(authorities)?)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // No session outlives a connection: nothing is kept for a client that is gone.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

/// The other side's: whoever answers is a device of the deployment.
#[derive(Debug)]
pub(crate) struct DeviceAtTheOtherEnd(Arc<dyn ClientCertVerifier>);

impl DeviceAtTheOtherEnd {
    pub(crate) fn new(authorities: &[Vec<u8>]) -> Result<Self, TransportError> {
        devices(authorities).map(Self)
    }
}

impl ServerCertVerifier for DeviceAtTheOtherEnd {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.verify_client_cert(end_entity, intermediates, now)?; // R277
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
