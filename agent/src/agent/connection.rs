//! The way to the server as root and certificate change: which authorities are believed, who the device is.
//! It must not need a restart, nor leave a device that no stored root can speak for.

use std::sync::{Arc, PoisonError};

use cpis_protocol::Refusal;
use cpis_protocol::grant::Grant;
use cpis_protocol::id::DeviceId;
use cpis_protocol::sign::{Kind, Verified};
use cpis_protocol::trust::{Role, Trust};

use rustls::ServerConfig;

use super::Agent;
use crate::config::Config;
use crate::keyslot::{Contents, KeyslotError};
use crate::station::{self, Beside};
use crate::transport::{Beyond, FlooredTime, HttpTransport, Identity, TransportError};

/// A station's TLS, with the root's version and the certificate that it was made for.
pub(crate) type StationTls = (u32, Vec<u8>, Arc<ServerConfig>);

impl Agent {
    /// A transport to the server. It is kept up to date: see [`Self::renew_transports`].
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn transport(&self) -> Result<Arc<HttpTransport>, TransportError> {
        let url = self.keys.keyslot().contents().url.clone();
        self.way_to(Beyond::Server, &url)
    }

    /// The server with the mirrors and stations of the configuration beside it; and the stations.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn way(&self, config: &Config) -> Result<(Arc<Beside>, Vec<Arc<HttpTransport>>), TransportError> {
        let to = |beyond: Beyond, urls: &[String]| {
            urls.iter().map(|url| self.way_to(beyond, url)).collect::<Result<Vec<_>, _>>()
        };
        let (mirrors, stations) = (to(Beyond::Mirror, &config.mirrors)?, to(Beyond::Station, &config.stations)?);
        let neighbours = mirrors.into_iter().chain(stations.iter().cloned());
        Ok((Arc::new(Beside::new(self.transport()?, neighbours)), stations))
    }

    /// The TLS side of a station, made anew when root or certificate changed.
    ///
    /// # Errors
    /// [`TransportError`].
    pub(crate) fn station_tls(&self, kept: &mut Option<StationTls>) -> Result<Arc<ServerConfig>, TransportError> {
        let trust = self.trust();
        let keyslot = self.keys.keyslot();
        let certificate = &keyslot.contents().certificate;
        if let Some((version, of, config)) = kept
            && (*version, &*of) == (trust.root().version, certificate)
        {
            return Ok(Arc::clone(config));
        }
        let time = FlooredTime { clock: Arc::clone(&self.clock), floor_ms: trust.root().issued_ms };
        let identity = Identity { signer: &self.signer, certificate };
        let config = Arc::new(station::tls::server(&trust.root().authority_certificates, &identity, time)?);
        *kept = Some((trust.root().version, certificate.clone(), Arc::clone(&config)));
        Ok(config)
    }

    /// A transport to whoever is at this address, by the device's own certificate. It is kept up to date.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn way_to(&self, beyond: Beyond, url: &str) -> Result<Arc<HttpTransport>, TransportError> {
        let trust = self.trust();
        let floor_ms = self.grant().issued_ms;
        let transport = {
            let keyslot = self.keys.keyslot();
            let contents = keyslot.contents();
            let identity = Identity { signer: &self.signer, certificate: &contents.certificate };
            let authorities = &trust.root().authority_certificates;
            HttpTransport::to(beyond, url, authorities, Some(&identity), Arc::clone(&self.clock), floor_ms)?
        };
        let transport = Arc::new(transport);
        let mut transports = self.transports.lock().unwrap_or_else(PoisonError::into_inner);
        transports.retain(|known| known.strong_count() > 0);
        transports.push(Arc::downgrade(&transport));
        Ok(transport)
    }

    /// Lets every transport in use take up the present root and certificate. To be called after either was stored.
    pub fn renew_transports(&self) {
        let trust = self.trust();
        let floor_ms = self.grant().issued_ms.max(trust.root().issued_ms);
        let transports = self.transports.lock().unwrap_or_else(PoisonError::into_inner);
        let keyslot = self.keys.keyslot();
        let contents = keyslot.contents();
        let identity = Identity { signer: &self.signer, certificate: &contents.certificate };
        for transport in transports.iter().filter_map(std::sync::Weak::upgrade) {
            if let Err(error) = transport.renew(&trust.root().authority_certificates, Some(&identity), floor_ms) {
                tracing::error!(%error, "the connection keeps its old root and certificate");
            }
        }
    }

    /// Stores a newer root. What a key signed that it does not name is let go of (R187), and the connection follows.
    ///
    /// # Errors
    /// [`KeyslotError`]; the old root stays in force.
    pub fn store_root(&self, trust: Trust) -> Result<(), KeyslotError> {
        let grant = self.signed_grant();
        let before = self.trust();
        // An erased device has none that could speak for anything.
        let grant_stands = grant.as_ref().is_none_or(|grant| trust.stands(Role::DeviceAuthority, Kind::Grant, grant));
        let issued_ms = grant.filter(|_| grant_stands).map_or(0, |grant| grant.issued_ms);
        let let_go_ms = self.replica.lets_go_of(&trust, issued_ms, grant_stands, self.clock.reading());
        self.keys.keyslot().update(|contents| {
            contents.root = trust.root().bytes().to_vec();
            // R167: what was counted by a time that goes with this root is marked before it goes.
            for usage in &mut contents.usage {
                usage.let_go_ms = usage.let_go_ms.max(let_go_ms.unwrap_or_default());
            }
            // The grant was accepted under the root before and stands until its lease ends or the next one comes; a
            // device that stops in between must be able to start again.
            if !grant_stands && contents.grant_root.is_empty() {
                contents.grant_root = before.root().bytes().to_vec();
            }
            Ok(())
        })?;
        self.replica.follow(&trust, issued_ms, grant_stands);
        if let Err(error) = self.replica.keep_root(&before) {
            tracing::warn!(%error, "the root before is not kept for devices that are further behind");
        }
        *self.trust.write().unwrap_or_else(PoisonError::into_inner) = trust;
        self.renew_transports();
        Ok(())
    }

    /// The stored grant, under the root in force or the one under which it was accepted.
    pub(super) fn open_grant(
        contents: &Contents,
        device: &DeviceId,
        trust: &Trust,
    ) -> Result<Verified<Grant>, Refusal> {
        match Grant::verify(&contents.grant, device, trust, None) {
            Err(Refusal::UnknownKey) if !contents.grant_root.is_empty() => {
                Grant::verify(&contents.grant, device, &Trust::pin(&contents.grant_root)?, None)
            }
            result => result,
        }
    }
}
