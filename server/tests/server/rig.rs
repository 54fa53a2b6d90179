//! A whole server in a temporary directory with a clock that stands still, and devices that talk to it.
//! It must not assert anything.

use std::path::Path;
use std::sync::Arc;

use cpis_protocol::audit::{Act, AuditEvent, Batch, Link, Moment, Outcome, Receipt, Tip};
use cpis_protocol::enrol::{EnrolReply, EnrolRequest, Invitation};
use cpis_protocol::flag::FlagKind;
use cpis_protocol::grant::{Badge, Grant};
use cpis_protocol::id::{AuthorityCode, ChainId, DeviceId, PractitionerId};
use cpis_protocol::message::Request;
use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_protocol::policy::Policy;
use cpis_protocol::seal::{MemoryHard, OpeningKey};
use cpis_protocol::sign::{Kind, Signer};
use cpis_protocol::text::Text;
use cpis_protocol::trust::Role;
use cpis_protocol::{codec, limits};
use cpis_server::ceremony::{self, Setup};
use cpis_server::clock::{Clock as _, ManualClock};
use cpis_server::config::Config;
use cpis_server::home::Home;
use cpis_server::ingest::{self, Applied, Source};
use cpis_server::keys::root_key;
use cpis_server::port::{Feeds as _, Fleet as _, PractitionerRow, ScopeRow, SiteRow, Store as _, StoreError};
use cpis_server::publish::{self, Published};
use cpis_server::register::{AuthorityRow, Change, Extract, PersonRow, PlanRow};
use cpis_server::service::{Service, ServiceError, invite};
use cpis_server::store::SqliteStore;
use tempfile::TempDir;

/// 2026-11-22.
pub(crate) const NOW: i64 = 1_795_305_600_000;
pub(crate) const DAY: i64 = 86_400_000;

pub(crate) struct Rig {
    pub(crate) dir: Arc<TempDir>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) service: Arc<Service<SqliteStore>>,
}

pub(crate) fn text<const N: usize>(text: &str) -> Text<N> {
    Text::new(text).unwrap()
}

/// The authorities A, B, C ...
pub(crate) fn authority(index: u8) -> AuthorityCode {
    text(&format!("E0800000{index}"))
}

/// The `n`th test number.
pub(crate) fn number(n: u64) -> NhsNumber {
    let nine = (999_000_000..).filter_map(|nine| Some(nine * 10 + NhsNumber::check_digit(nine)?));
    NhsNumber::new(nine.clone().nth(usize::try_from(n).unwrap()).unwrap()).unwrap()
}

pub(crate) fn birth(n: u64) -> Date {
    Date::new(2015, 1, 1).unwrap().plus_days(i32::try_from(n).unwrap())
}

pub(crate) fn plan(authority: AuthorityCode) -> PlanRow {
    let start = Some(Date::new(2025, 1, 1).unwrap());
    PlanRow { kind: FlagKind::Cpp, authority, start, end: None, due: None }
}

pub(crate) fn person(n: u64, plans: Vec<PlanRow>) -> Change {
    Change::Put(PersonRow {
        number: number(n),
        birth: birth(n),
        surname: format!("Sorenson{n}"),
        given: "Ada".into(),
        postcode: "ZA1 1AA".into(),
        restricted: false,
        plans,
    })
}

/// Opens what `path` holds.
pub(crate) fn open(path: &Path, clock: Arc<ManualClock>) -> Arc<Service<SqliteStore>> {
    let home = Home::open(path).unwrap();
    let trust = home.trust().unwrap();
    let Home { config, keys, store, .. } = home;
    Arc::new(Service::new(Arc::new(store), Arc::new(keys), trust, clock, config))
}

impl Rig {
    /// A deployment with authorities A to C, scope `all`, site `site`, practitioner `PARA001`.
    pub(crate) fn new() -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let path = dir.path().join("server");
        let config = Config { tick_s: 3600, ..Config::default() };
        let setup =
            Setup { deployment: text("test"), synthetic: true, cost: MemoryHard { memory_kib: 8, passes: 1 }, config };
        let home = ceremony::set_up(&path, &setup).unwrap();
        let made = ceremony::make_root_keys(&dir.path().join("root"), 1, None).unwrap();
        let draft = ceremony::draft(&home, Some((vec![made[0].1], 1)), 400, NOW).unwrap();
        let signer = root_key::open(&made[0].0, || unreachable!()).unwrap();
        ceremony::install(&home, &ceremony::endorse(&draft, &signer).unwrap(), NOW).unwrap();
        drop(home);
        let clock = Arc::new(ManualClock::at(NOW));
        let rig = Self { service: open(&path, Arc::clone(&clock)), dir, clock };
        rig.apply(Vec::new());
        rig.publish();
        rig.fleet();
        rig.publish();
        rig
    }

    fn fleet(&self) {
        let feeds = (0..3).map(authority).collect();
        let policy = Policy { passphrase_cost: MemoryHard::SYNTHETIC, ..Policy::default() };
        let badge = Badge {
            activity: cpis_protocol::policy::AccessMode::Unscheduled,
            practitioner: text("PARA001"),
            name: text("A. Crew"),
            role: text("R1070"),
            valid_until_ms: NOW + 365 * DAY,
        };
        self.store()
            .write(|tx| -> Result<(), StoreError> {
                tx.add_scope(&ScopeRow { scope: text("all"), feeds })?;
                tx.add_scope(&ScopeRow { scope: text("only-a"), feeds: vec![authority(0)] })?;
                tx.add_site(&SiteRow { site: text("site"), policy, lease_s: 7 * 86_400 })?;
                tx.put_practitioner(&PractitionerRow { badge, sites: vec![text("site")] })
            })
            .unwrap();
    }

    pub(crate) fn store(&self) -> &SqliteStore {
        self.service.store()
    }

    /// Stops and starts the server.
    pub(crate) fn restart(self) -> Self {
        let Self { dir, clock, service } = self;
        drop(service);
        Self { service: open(&dir.path().join("server"), Arc::clone(&clock)), dir, clock }
    }

    /// Takes changes in, each call as a file of its own.
    pub(crate) fn apply(&self, changes: Vec<Change>) -> Applied {
        let hash = cpis_server::entropy::bytes();
        self.apply_as(hash, changes)
    }

    pub(crate) fn apply_as(&self, hash: [u8; 32], changes: Vec<Change>) -> Applied {
        let names = (0..3).map(|index| AuthorityRow {
            code: authority(index),
            name: format!("Authority {index}"),
            office_phone: "0114 496 0000".into(),
            duty_phone: "0114 496 0001".into(),
        });
        let extract = Extract { authorities: names.collect(), changes };
        let source = Source { kind: "csv", hash, again: false, rehearse: false, keep_others: false };
        ingest::apply(self.store(), &extract, &source, true, self.clock.now_ms(), &mut |_| ()).unwrap()
    }

    pub(crate) fn publish(&self) -> Published {
        publish::publish(self.store(), self.service.keys(), self.clock.now_ms(), &mut |_| ()).unwrap()
    }

    pub(crate) fn invite(&self, hours: i64) -> Invitation {
        self.invite_to("all", hours)
    }

    pub(crate) fn invite_to(&self, scope: &str, hours: i64) -> Invitation {
        let now = self.clock.now_ms();
        let trust = self.service.trust();
        let until = now + hours * 3_600_000;
        invite(self.store(), "https://localhost:1", trust.root(), text(scope), text("site"), now, until).unwrap()
    }

    /// A device that is enrolled in scope `all`.
    pub(crate) fn device(&self, seed: u8) -> Device {
        let device = Device::new(seed);
        device.enrol(self, self.invite(1).code).unwrap();
        device
    }
}

pub(crate) struct Device {
    pub(crate) signer: Signer,
    pub(crate) vault: OpeningKey,
    pub(crate) practitioner: PractitionerId,
}

impl Device {
    pub(crate) fn new(seed: u8) -> Self {
        Self {
            signer: Signer::from_seed([seed; 32]),
            vault: OpeningKey::from_seed([seed; 32]),
            practitioner: text("PARA001"),
        }
    }

    pub(crate) fn id(&self) -> DeviceId {
        DeviceId::of(&self.signer.public_key())
    }

    pub(crate) fn request(&self, code: [u8; 16]) -> Vec<u8> {
        let request = EnrolRequest {
            code,
            device_key: self.signer.public_key(),
            vault_key: self.vault.sealing_key(),
            practitioner: self.practitioner,
        };
        request.sign(&self.signer).unwrap()
    }

    pub(crate) fn enrol(&self, rig: &Rig, code: [u8; 16]) -> Result<EnrolReply, ServiceError> {
        let reply = rig.service.handle(None, Request::Enrol(self.request(code)))?;
        Ok(codec::decode(&reply, limits::ENROL_BYTES_MAX).unwrap())
    }

    pub(crate) fn ask(&self, rig: &Rig, request: Request) -> Result<Vec<u8>, ServiceError> {
        rig.service.handle(Some(self.id()), request)
    }

    pub(crate) fn grant(&self, rig: &Rig) -> Grant {
        let bytes = self.ask(rig, Request::Grant).unwrap();
        (*Grant::verify(&bytes, &self.id(), &rig.service.trust(), None).unwrap()).clone()
    }

    pub(crate) fn chain(&self, chain: u8) -> Tip {
        Tip::start(&self.id(), ChainId([chain; 16]))
    }

    /// Links after `tip`, and the tip after them.
    pub(crate) fn links(&self, rig: &Rig, tip: Tip, count: usize) -> (Vec<Link>, Tip) {
        let trust = rig.service.trust();
        let recipient = trust.audit_recipient().unwrap();
        let mut tip = tip;
        let links = (0..count).map(|_| {
            let event = AuditEvent {
                break_glass: false,
                practitioner: self.practitioner,
                role: text("R1070"),
                incident: Text::EMPTY,
                act: Act::LookUp { number: number(1), birth: birth(1), outcome: Outcome::Flagged, reason: Text::EMPTY },
            };
            let moment = Moment { event_ms: rig.clock.now_ms() - 5000, anchor_ms: NOW, gseq: 1, head: [1; 32] };
            let mut rng = cpis_server::entropy::system();
            let (link, next) = tip.append(&self.id(), &self.signer, recipient, &moment, &event, &mut rng).unwrap();
            tip = next;
            link
        });
        let links = links.collect();
        (links, tip)
    }

    /// Sends links and gives the verified receipt's tip.
    pub(crate) fn send(&self, rig: &Rig, after: Tip, links: Vec<Link>) -> Result<Tip, ServiceError> {
        let batch = Batch { device: self.id(), after, links }.to_bytes().unwrap();
        let reply = self.ask(rig, Request::Audit(batch))?;
        let trust = rig.service.trust();
        let receipt = trust.verify::<Receipt>(Role::Receipt, Kind::Receipt, &reply, limits::RECEIPT_BYTES_MAX).unwrap();
        assert_eq!(receipt.device, self.id());
        Ok(receipt.through)
    }
}
