//! The fleet's tables: sites, practitioners, invitations and devices.
//! It must not hold a code or a private key: of an invitation only the hash is here.

use cpis_protocol::digest::Hash;
use cpis_protocol::grant::Badge;
use cpis_protocol::id::{DeviceId, PractitionerId, RegisterSeq, ScopeId, SiteId, UnixMs};
use cpis_protocol::policy::Policy;
use cpis_protocol::seal::SealingKey;
use cpis_protocol::sign::PublicKey;
use cpis_protocol::text::Text;

use super::StoreError;

/// Where devices are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteRow {
    /// The site.
    pub site: SiteId,
    /// Its policy, as signed into grants.
    pub policy: Policy,
    /// How long a grant is good.
    pub lease_s: u32,
}

/// A practitioner's badge and the sites where it is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PractitionerRow {
    /// What the device is told.
    pub badge: Badge,
    /// Where.
    pub sites: Vec<SiteId>,
}

/// An invitation, without its code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvitationRow {
    /// SHA-256 of the code.
    pub code_hash: Hash,
    /// The scope that the device will get.
    pub scope: ScopeId,
    /// The site.
    pub site: SiteId,
    /// The version of the root that it carries.
    pub root_version: u32,
    /// When it was made.
    pub made_ms: UnixMs,
    /// When it ends.
    pub expires_ms: UnixMs,
    /// Attempts left.
    pub attempts_left: u8,
    /// Who used it.
    pub used_by: Option<DeviceId>,
}

/// Whether a device may ask for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceState {
    /// It may.
    Active,
    /// It may not, and is told to erase.
    Revoked,
    /// It may not for now, and is told to lock.
    Suspended,
    /// As revoked; whoever has it may have its keys.
    Lost,
    /// As revoked; handed in.
    Retired,
}

impl DeviceState {
    /// All, by stored number.
    pub const ALL: [Self; 5] = [Self::Active, Self::Revoked, Self::Suspended, Self::Lost, Self::Retired];

    /// The name for people and programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
            Self::Suspended => "suspended",
            Self::Lost => "lost",
            Self::Retired => "retired",
        }
    }

    /// Whether there is no way back but a new enrolment.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Revoked | Self::Lost | Self::Retired)
    }
}

/// Something that an operator did to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceEvent {
    /// The device.
    pub device: DeviceId,
    /// When.
    pub at_ms: UnixMs,
    /// Who.
    pub by: String,
    /// What: the new state, or `moved to SCOPE at SITE`.
    pub what: String,
    /// Why.
    pub reason: String,
}

/// What a device said of itself. Nobody but the device vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// When.
    pub at_ms: UnixMs,
    /// The agent's version.
    pub version: Text<24>,
    /// What keeps its device secret.
    pub secret: Text<24>,
    /// The version of its trusted root.
    pub root_version: u32,
    /// How often the glass was broken since enrolment.
    pub break_glass: u32,
    /// Look-ups that could not be recorded when they were answered, since enrolment.
    pub unrecorded: u32,
}

/// One enrolled device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRow {
    /// The device.
    pub device: DeviceId,
    /// Its signing key.
    pub device_key: PublicKey,
    /// Its vault's key.
    pub vault_key: SealingKey,
    /// Its site.
    pub site: SiteId,
    /// Its scope.
    pub scope: ScopeId,
    /// Who set it up.
    pub practitioner: PractitionerId,
    /// Whether it may ask.
    pub state: DeviceState,
    /// Serial number of its newest certificate.
    pub serial: Vec<u8>,
    /// End of its newest certificate.
    pub certificate_until_ms: UnixMs,
    /// The authority that issued it; `None` is not known.
    pub certificate_by: Option<PublicKey>,
    /// When it was enrolled.
    pub enrolled_at_ms: UnixMs,
    /// When it last asked for anything.
    pub last_seen_ms: Option<UnixMs>,
    /// The register sequence of the beat that it was last given.
    pub last_gseq: RegisterSeq,
    /// The number of its newest grant.
    pub grant_number: u64,
    /// The end of its newest lease.
    pub lease_until_ms: UnixMs,
    /// What it last said of itself; `None` before it did.
    pub reported: Option<Reported>,
}

/// Sites, practitioners, invitations, devices.
pub trait Fleet {
    /// All sites, sorted.
    ///
    /// # Errors
    /// [`StoreError`].
    fn sites(&self) -> Result<Vec<SiteRow>, StoreError>;

    /// One site.
    ///
    /// # Errors
    /// [`StoreError`].
    fn site(&self, site: SiteId) -> Result<Option<SiteRow>, StoreError>;

    /// Adds a site.
    ///
    /// # Errors
    /// [`StoreError::Constraint`] when the name is taken.
    fn add_site(&self, row: &SiteRow) -> Result<(), StoreError>;

    /// Changes the policy and the lease of a site that is there.
    ///
    /// # Errors
    /// [`StoreError`].
    fn change_site(&self, row: &SiteRow) -> Result<(), StoreError>;

    /// All practitioners, sorted.
    ///
    /// # Errors
    /// [`StoreError`].
    fn practitioners(&self) -> Result<Vec<PractitionerRow>, StoreError>;

    /// The badges that are good at a site, sorted by practitioner.
    ///
    /// # Errors
    /// [`StoreError`].
    fn badges(&self, site: SiteId) -> Result<Vec<Badge>, StoreError>;

    /// Adds a practitioner, or replaces the badge and adds the sites.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_practitioner(&self, row: &PractitionerRow) -> Result<(), StoreError>;

    /// Takes a practitioner's badge away at one site, or everywhere. Says from how many sites it went.
    ///
    /// # Errors
    /// [`StoreError`].
    fn remove_practitioner(&self, id: PractitionerId, site: Option<SiteId>) -> Result<usize, StoreError>;

    /// Adds an invitation.
    ///
    /// # Errors
    /// [`StoreError`].
    fn add_invitation(&self, row: &InvitationRow) -> Result<(), StoreError>;

    /// Invitations that have not ended by `now_ms`, used or not.
    ///
    /// # Errors
    /// [`StoreError`].
    fn invitations(&self, now_ms: UnixMs) -> Result<Vec<InvitationRow>, StoreError>;

    /// Changes attempts and user of the invitation with this hash.
    ///
    /// # Errors
    /// [`StoreError`].
    fn update_invitation(&self, row: &InvitationRow) -> Result<(), StoreError>;

    /// All devices, by identity.
    ///
    /// # Errors
    /// [`StoreError`].
    fn devices(&self) -> Result<Vec<DeviceRow>, StoreError>;

    /// One device.
    ///
    /// # Errors
    /// [`StoreError`].
    fn device(&self, device: DeviceId) -> Result<Option<DeviceRow>, StoreError>;

    /// Adds or replaces a device.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_device(&self, row: &DeviceRow) -> Result<(), StoreError>;

    /// Keeps what an operator did.
    ///
    /// # Errors
    /// [`StoreError`].
    fn add_device_event(&self, event: &DeviceEvent) -> Result<(), StoreError>;

    /// The number of the last thing that an operator did to any device; 0 when there was none.
    ///
    /// # Errors
    /// [`StoreError`].
    fn last_device_event(&self) -> Result<u64, StoreError>;

    /// What operators did to a device, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn device_events(&self, device: DeviceId) -> Result<Vec<DeviceEvent>, StoreError>;

    /// Notes that a device was there, and which beat it was given, if any.
    ///
    /// # Errors
    /// [`StoreError`].
    fn seen(&self, device: DeviceId, at_ms: UnixMs, gseq: Option<RegisterSeq>) -> Result<(), StoreError>;
}
