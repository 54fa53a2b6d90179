//! The trust root: which keys may sign what, checked by the TUF client workflow (TUF 1.0.33, 5.3).
//! It must not accept any root but the exact successor, signed by the thresholds of both.

use alloc::vec::Vec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id::UnixMs;
use crate::seal::SealingKey;
use crate::sign::{self, Kind, PublicKey, Verified};
use crate::text::Text;
use crate::{Refusal, limits};

/// What a key may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Heads.
    Publisher,
    /// Beats.
    Beat,
    /// Grants, and as an X.509 authority the TLS certificates of devices and servers.
    DeviceAuthority,
    /// Audit receipts.
    Receipt,
}

/// The keys of one role; any one of them suffices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleKeys {
    /// The role.
    pub role: Role,
    /// Its public keys, the current one first.
    pub keys: Vec<PublicKey>,
    /// From when on nothing that they sign is installed any more.
    pub expires_ms: UnixMs,
}

/// The payload of a signed root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Exactly one more than the root before.
    pub version: u32,
    /// Who runs this deployment.
    pub deployment: Text<32>,
    /// Only test numbers (999 range) live here, and memory-hard parameters may go below the floor.
    pub synthetic: bool,
    /// When it was made.
    pub issued_ms: UnixMs,
    /// When it must have been replaced.
    pub expires_ms: UnixMs,
    /// How many distinct root keys must sign.
    pub threshold: u8,
    /// The root keys.
    pub root_keys: Vec<PublicKey>,
    /// The keys of the other roles.
    pub roles: Vec<RoleKeys>,
    /// Where audit events are sealed to, the current key first.
    pub audit_recipients: Vec<SealingKey>,
    /// X.509 certificates (DER) of the device authority, the current one first: a peer's certificate by any is accepted.
    pub authority_certificates: Vec<Vec<u8>>,
}

impl Root {
    fn check(&self) -> Result<(), Refusal> {
        let distinct =
            self.root_keys.iter().enumerate().all(|(i, key)| !self.root_keys.iter().skip(i + 1).any(|k| k == key));
        let threshold = usize::from(self.threshold); // R22
        let roles = self.roles.iter().enumerate().all(|(i, role)| {
            role.keys.len() <= limits::ROLE_KEYS_MAX
                && role.expires_ms > self.issued_ms
                && !self.roles.iter().skip(i + 1).any(|other| other.role == role.role)
        });
        let sane = self.version > 0
            && threshold > 0
            && threshold <= self.root_keys.len()
            && self.root_keys.len() <= limits::SIGNATURES_MAX
            && distinct
            && roles
            && self.expires_ms > self.issued_ms
            && !self.audit_recipients.is_empty()
            && self.audit_recipients.len() <= limits::ROLE_KEYS_MAX
            && !self.authority_certificates.is_empty()
            && self.authority_certificates.len() <= limits::AUTHORITY_CERTIFICATES_MAX
            && self.authority_certificates.iter().all(|der| der.len() <= limits::CERTIFICATE_BYTES_MAX);
        if sane { Ok(()) } else { Err(Refusal::Malformed) }
    }

    /// The certificate of the present device authority.
    #[must_use]
    pub fn authority_certificate(&self) -> &[u8] {
        self.authority_certificates.first().map_or(&[], Vec::as_slice)
    }

    /// When the keys of a role end: with the root at the latest.
    #[must_use]
    pub fn role_until_ms(&self, role: Role) -> UnixMs {
        let own = self.roles.iter().find(|keys| keys.role == role).map_or(self.expires_ms, |keys| keys.expires_ms);
        own.min(self.expires_ms)
    }

    /// The keys of a role.
    #[must_use]
    pub fn keys(&self, role: Role) -> &[PublicKey] {
        self.roles.iter().find(|keys| keys.role == role).map_or(&[], |keys| keys.keys.as_slice())
    }
}

/// A root that the device trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    root: Verified<Root>,
}

impl Trust {
    /// Takes the first root on the word of whoever handed it over (an invitation, an installation).
    /// Its own signatures are still checked.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn pin(bytes: &[u8]) -> Result<Self, Refusal> {
        let claimed: Root = sign::peek_unverified(bytes, Kind::Root, limits::ROOT_BYTES_MAX)?; // R20
        claimed.check()?;
        // R21
        let root = sign::verify::<Root>(
            bytes,
            Kind::Root,
            &claimed.root_keys,
            claimed.threshold.into(),
            limits::ROOT_BYTES_MAX,
        )?;
        Ok(Self { root })
    }

    /// Follows one step of rotation: signed by the threshold of this root *and* by its own (TUF 5.3.4),
    /// version exactly one more (TUF 5.3.5, CVE-2025-2885), same deployment, never from real to synthetic.
    ///
    /// # Errors
    /// [`Refusal`]; this root stays in force.
    pub fn rotate(&self, bytes: &[u8]) -> Result<Self, Refusal> {
        // R23
        let by_old = sign::verify::<Root>(
            bytes,
            Kind::Root,
            &self.root.root_keys,
            self.root.threshold.into(),
            limits::ROOT_BYTES_MAX,
        )?;
        let next = Self::pin(bytes)?;
        if by_old.version <= self.root.version {
            // R24
            return Err(Refusal::Rollback);
        }
        if by_old.version != self.root.version + 1 {
            return Err(Refusal::Gap);
        }
        if next.root.deployment != self.root.deployment || next.root.synthetic != self.root.synthetic {
            // R25
            return Err(Refusal::Malformed);
        }
        Ok(next)
    }

    /// The trusted root.
    #[must_use]
    pub fn root(&self) -> &Verified<Root> {
        &self.root
    }

    /// Checks that the root has not expired (TUF 5.3.10). An expired root stops installing, not answering.
    ///
    /// # Errors
    /// [`Refusal::Expired`].
    pub fn check_expiry(&self, now_ms: Option<UnixMs>) -> Result<(), Refusal> {
        if now_ms.is_some_and(|now| now >= self.root.expires_ms) { Err(Refusal::Expired) } else { Ok(()) } // R26
    }

    /// Checks that the keys of a role have not expired. Like an expired root they stop installing, not answering.
    ///
    /// # Errors
    /// [`Refusal::Expired`]; never where the time is not known.
    pub fn check_role(&self, role: Role, now_ms: Option<UnixMs>) -> Result<(), Refusal> {
        if now_ms.is_some_and(|now| now >= self.root.role_until_ms(role)) { Err(Refusal::Expired) } else { Ok(()) } // R29
    }

    /// Whether an object that was verified under an earlier root is still signed by a key that this one names.
    #[must_use]
    pub fn stands<T: DeserializeOwned>(&self, role: Role, kind: Kind, object: &Verified<T>) -> bool {
        self.verify::<T>(role, kind, object.bytes(), object.bytes().len()).is_ok()
    }

    /// Verifies an object of a role.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn verify<T: DeserializeOwned>(
        &self,
        role: Role,
        kind: Kind,
        bytes: &[u8],
        limit: usize,
    ) -> Result<Verified<T>, Refusal> {
        sign::verify(bytes, kind, self.root.keys(role), 1, limit)
    }

    /// Where audit events are sealed to now.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] never in a checked root.
    pub fn audit_recipient(&self) -> Result<&SealingKey, Refusal> {
        self.root.audit_recipients.first().ok_or(Refusal::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::Signer;

    fn root(version: u32, keys: &[u8], threshold: u8) -> Root {
        Root {
            version,
            deployment: Text::lossy("test"),
            synthetic: true,
            issued_ms: 1,
            expires_ms: 1_000,
            threshold,
            root_keys: keys.iter().map(|k| Signer::from_seed([*k; 32]).public_key()).collect(),
            roles: Vec::new(),
            audit_recipients: alloc::vec![[1; 32]],
            authority_certificates: alloc::vec![Vec::new()],
        }
    }

    fn signed(root: &Root, by: &[u8]) -> Vec<u8> {
        let frame = sign::frame(Kind::Root, &crate::codec::encode(root).unwrap_or_default());
        by.iter().fold(frame, |frame, k| Signer::from_seed([*k; 32]).endorse(&frame).unwrap_or_default())
    }

    #[test]
    fn rotation_wants_both_thresholds_and_the_exact_successor() {
        let old = Trust::pin(&signed(&root(1, &[1, 2, 3], 2), &[1, 2])).unwrap_or_else(|e| panic!("{e}"));
        let step = |version, keys: &[u8], by: &[u8]| {
            old.rotate(&signed(&root(version, keys, 2), by)).map(|t| t.root().version)
        };
        assert_eq!(step(2, &[3, 4, 5], &[1, 2, 4, 5]), Ok(2));
        assert_eq!(step(2, &[3, 4, 5], &[4, 5]), Err(Refusal::UnknownKey), "not signed by the old");
        assert_eq!(step(2, &[3, 4, 5], &[1, 4, 5]), Err(Refusal::BelowThreshold), "one of two old");
        assert_eq!(step(2, &[4, 5, 6], &[1, 2, 4]), Err(Refusal::BelowThreshold), "one of two new");
        assert_eq!(step(3, &[3, 4, 5], &[1, 2, 4, 5]), Err(Refusal::Gap));
        assert_eq!(step(1, &[1, 2, 3], &[1, 2]), Err(Refusal::Rollback));
        let real = Root { synthetic: false, ..root(2, &[1, 2, 3], 2) };
        assert_eq!(old.rotate(&signed(&real, &[1, 2])).err(), Some(Refusal::Malformed));
    }

    #[test]
    fn a_root_that_cannot_be_met_or_repeats_a_key_is_refused() {
        assert_eq!(Trust::pin(&signed(&root(1, &[1], 2), &[1])).err(), Some(Refusal::Malformed));
        assert_eq!(Trust::pin(&signed(&root(1, &[1, 1], 2), &[1])).err(), Some(Refusal::Malformed));
        assert_eq!(Trust::pin(&signed(&root(0, &[1], 1), &[1])).err(), Some(Refusal::Malformed));
    }

    #[test]
    fn a_role_ends_by_itself_or_with_the_root() {
        let keys = |expires_ms| RoleKeys { role: Role::Beat, keys: Vec::new(), expires_ms };
        let with = |roles: Vec<RoleKeys>| Trust::pin(&signed(&Root { roles, ..root(1, &[1], 1) }, &[1]));
        let trust = with(alloc::vec![keys(500)]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(trust.check_role(Role::Beat, Some(499)), Ok(()));
        assert_eq!(trust.check_role(Role::Beat, Some(500)), Err(Refusal::Expired));
        assert_eq!(trust.check_role(Role::Beat, None), Ok(()), "who does not know the time cannot refuse so");
        assert_eq!(trust.check_role(Role::Publisher, Some(999)), Ok(()));
        assert_eq!(trust.check_role(Role::Publisher, Some(1_000)), Err(Refusal::Expired));
        let longer = with(alloc::vec![keys(5_000)]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(longer.check_role(Role::Beat, Some(1_000)), Err(Refusal::Expired), "with the root at the latest");
        assert_eq!(with(alloc::vec![keys(1)]).err(), Some(Refusal::Malformed), "over when it begins");
        assert_eq!(with(alloc::vec![keys(500), keys(600)]).err(), Some(Refusal::Malformed), "one role twice");
    }

    #[test]
    fn what_a_withdrawn_key_signed_does_not_stand() {
        let named = |seeds: &[u8]| {
            let keys = seeds.iter().map(|k| Signer::from_seed([*k; 32]).public_key()).collect();
            let roles = alloc::vec![RoleKeys { role: Role::Beat, keys, expires_ms: 500 }];
            Trust::pin(&signed(&Root { roles, ..root(1, &[1], 1) }, &[1])).unwrap_or_else(|e| panic!("{e}"))
        };
        let bytes = Signer::from_seed([7; 32]).sign(Kind::Beat, &5u32).unwrap_or_default();
        let object = named(&[7]).verify::<u32>(Role::Beat, Kind::Beat, &bytes, 1024).unwrap_or_else(|e| panic!("{e}"));
        assert!(named(&[8, 7]).stands(Role::Beat, Kind::Beat, &object));
        assert!(!named(&[8]).stands(Role::Beat, Kind::Beat, &object));
    }

    #[test]
    fn expiry_is_by_trusted_time() {
        let trust = Trust::pin(&signed(&root(1, &[1], 1), &[1])).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(trust.check_expiry(Some(999)), Ok(()));
        assert_eq!(trust.check_expiry(Some(1_000)), Err(Refusal::Expired));
    }
}
