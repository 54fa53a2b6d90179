//! Enrolment with the real service, without sockets and undisturbed: simulations begin after it.
//! It must not leave out anything that the agent's own enrolment writes.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use cpis_agent::agent::{JOURNAL, KEYSLOT};
use cpis_agent::device_secret::{Chosen, DeviceSecret};
use cpis_agent::journal::{Journal, Options};
use cpis_agent::keyslot::{Contents, Keyslot, NewSlot};
use cpis_agent::port::Clock as _;
use cpis_agent::random::OsRandom;
use cpis_protocol::clock::Carrier;
use cpis_protocol::enrol::{EnrolReply, EnrolRequest};
use cpis_protocol::grant::Grant;
use cpis_protocol::id::{ChainId, DeviceId, PractitionerId, ScopeId, SiteId};
use cpis_protocol::message::Request;
use cpis_protocol::seal::OpeningKey;
use cpis_protocol::sign::Signer;
use cpis_protocol::trust::Trust;
use cpis_protocol::{codec, limits};
use cpis_server::service::{Peer, invite};

use super::World;
use super::server::{PRACTITIONER, SITE};
use super::time::DeviceClock;

/// The passphrase of everybody.
pub(super) const PASSPHRASE: &str = "correct horse battery staple";

/// Enrols a device in a directory that must not exist.
///
/// # Errors
/// When a step fails.
pub(super) fn enrol(world: &World, clock: &DeviceClock, scope: &str, directory: &Path) -> anyhow::Result<DeviceId> {
    let (service, now_ms) = (world.server.service(), world.time.now_ms());
    let trust = service.trust();
    let scope = scope.parse().unwrap_or(ScopeId::EMPTY);
    let site = SITE.parse().unwrap_or(SiteId::EMPTY);
    let url = "https://simulated.example:8443";
    let invitation = invite(&**service.store(), url, trust.root(), scope, site, now_ms, now_ms + 86_400_000)?;
    let practitioner = PRACTITIONER.parse().unwrap_or(PractitionerId::EMPTY);
    let signer = Signer::from_seed(OsRandom::bytes()?);
    let vault = OpeningKey::from_seed(OsRandom::bytes()?);
    let request = EnrolRequest {
        code: invitation.code,
        device_key: signer.public_key(),
        vault_key: vault.sealing_key(),
        practitioner,
    };
    let asked = clock.reading();
    let reply = world.server.answer(Peer::default(), Request::Enrol(request.sign(&signer)?))?;
    let reply = reply.map_err(|failure| anyhow!("enrolment failed: {failure:?}"))?;
    let reply: EnrolReply = codec::decode(&reply, limits::ENROL_BYTES_MAX)?;
    let trust = Trust::pin(&invitation.root)?;
    let device = DeviceId::of(&signer.public_key());
    let grant = Grant::verify(&reply.grant, &device, &trust, None)?;
    grant.badge(&practitioner, grant.issued_ms).context("no badge")?;
    let mut contents = Contents::new(signer, vault.sealing_key());
    contents.certificate = reply.certificate;
    contents.grant = grant.bytes().to_vec();
    contents.root = trust.root().bytes().to_vec();
    contents.url = url.to_owned();
    contents.clock.set_rule(grant.policy.clock_after_restart);
    contents.clock.observe(grant.issued_ms, Carrier::Live, asked);
    cpis_agent::durable::create_dir(directory)?;
    let secret = DeviceSecret::create(directory, Chosen::File, now_ms, &mut OsRandom)?;
    drop(Journal::create(&directory.join(JOURNAL), device, ChainId(OsRandom::bytes()?), Options::default())?);
    let slot = NewSlot { practitioner, cost: grant.policy.passphrase_cost, synthetic: true, created_ms: now_ms };
    Keyslot::create(&directory.join(KEYSLOT), &secret, &contents)?.add_vault_slot(slot, PASSPHRASE, &vault)?;
    Ok(device)
}
