//! The deployment's own authorities, and a note of whoever showed a certificate by another.
//! It must not accept anything that the authorities do not: it only remembers why something was refused.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::trouble::Trouble;

/// The most of a name that is shown: it is whatever a stranger wrote into a certificate.
const NAME_MAX: usize = 64;

/// What the verifier last refused.
pub(super) type Seen = Arc<Mutex<Option<Trouble>>>;

/// Judges as the authorities do.
#[derive(Debug)]
pub(super) struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    authorities: Vec<Vec<u8>>,
    seen: Seen,
}

impl Verifier {
    pub(super) fn new(
        roots: RootCertStore,
        authorities: &[Vec<u8>],
        provider: Arc<rustls::crypto::CryptoProvider>,
        seen: Seen,
    ) -> Result<Self, Error> {
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let inner = inner.map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { inner, authorities: authorities.to_vec(), seen })
    }

    fn is_ours(&self, certificate: &X509Certificate<'_>) -> bool {
        self.authorities.iter().any(|authority| {
            X509Certificate::from_der(authority)
                .is_ok_and(|(_, authority)| authority.subject().as_raw() == certificate.issuer().as_raw())
        })
    }

    fn note(&self, end: &CertificateDer<'_>, error: &Error, now: UnixTime) {
        let parsed = X509Certificate::from_der(end).ok().map(|(_, certificate)| certificate);
        let untimely = matches!(
            error,
            Error::InvalidCertificate(
                CertificateError::Expired
                    | CertificateError::ExpiredContext { .. }
                    | CertificateError::NotValidYet
                    | CertificateError::NotValidYetContext { .. }
            )
        );
        let trouble = if untimely && parsed.as_ref().is_some_and(|certificate| self.is_ours(certificate)) {
            Trouble::WrongClock { now_ms: i64::try_from(now.as_secs()).unwrap_or(i64::MAX / 1000).saturating_mul(1000) }
        } else {
            Trouble::Opened { issuer: parsed.as_ref().map(issuer).unwrap_or_default() }
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
    }
}

/// The common name of whoever issued it, or the organisation: letters, digits and plain marks only.
fn issuer(certificate: &X509Certificate<'_>) -> String {
    let issuer = certificate.issuer();
    let name = issuer.iter_common_name().chain(issuer.iter_organization()).find_map(|name| name.as_str().ok());
    let plain = |c: &char| c.is_alphanumeric() || " -_.,:()/&'@*+".contains(*c);
    name.unwrap_or_default().chars().filter(plain).take(NAME_MAX).collect()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if let Err(error) = &judged {
            self.note(end_entity, error, now);
        }
        judged
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.inner.root_hint_subjects()
    }
}
