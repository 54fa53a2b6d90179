//! An attempt to enrol, on the disk before it is on the network: the reply may be lost on the way back, and the code works
//! again only for the same device.
//! It must not keep the vault's private half, nor outlive a refusal by the server.

use std::path::Path;

use cpis_protocol::enrol::Invitation;
use cpis_protocol::seal::OpeningKey;
use cpis_protocol::sign::Signer;

use super::EnrolError;
use crate::agent::KEYSLOT;
use crate::device_secret::{Chosen, DeviceSecret, Sources};
use crate::durable;
use crate::keyslot::{Contents, Keyslot, KeyslotError, NewSlot};
use crate::random::OsRandom;

/// The keyslot file of an attempt: sealed under the device secret as the complete one is.
const STAGED: &str = "keyslot.staged";
/// The complete one, until every slot is in it.
const WHOLE: &str = "keyslot.whole";

/// A device that asks to be enrolled: its secret and its key. While it is there no other attempt uses the directory.
pub(super) struct Attempt {
    secret: DeviceSecret,
    signer: Signer,
    staged: Keyslot,
}

impl Attempt {
    /// Goes on with an earlier attempt by the same invitation, or begins one. Blocks for the disk and the TPM.
    ///
    /// # Errors
    /// [`EnrolError`].
    pub(super) fn begin(
        directory: &Path,
        chosen: Chosen,
        sources: &Sources,
        invitation: &Invitation,
        since_ms: i64,
    ) -> Result<Self, EnrolError> {
        durable::create_dir(directory)?;
        if let Some(earlier) = Self::again(directory, &chosen, sources, invitation)? {
            return Ok(earlier);
        }
        // What lies there belongs to a device that nobody knows, or that cannot be opened any more.
        Self::discard(directory)?;
        let secret = DeviceSecret::create(directory, chosen, since_ms, &mut OsRandom)?;
        // No vault yet: each attempt makes its own, and its private half is never here.
        let mut contents = Contents::new(Signer::from_seed(OsRandom::bytes()?), [0; 32]);
        contents.url.clone_from(&invitation.url);
        contents.root.clone_from(&invitation.root);
        let staged = Keyslot::create(&directory.join(STAGED), &secret, &contents)?;
        Ok(Self { secret, signer: contents.signer, staged })
    }

    fn again(
        directory: &Path,
        chosen: &Chosen,
        sources: &Sources,
        invitation: &Invitation,
    ) -> Result<Option<Self>, EnrolError> {
        let path = directory.join(STAGED);
        if !path.exists() {
            return Ok(None);
        }
        let Ok(secret) = DeviceSecret::open(directory, sources) else { return Ok(None) };
        let staged = match Keyslot::open(&path, &secret) {
            Ok(staged) => staged,
            Err(error @ KeyslotError::InUse(_)) => return Err(error.into()),
            Err(_) => return Ok(None),
        };
        let contents = staged.contents();
        let same = contents.url == invitation.url && contents.root == invitation.root;
        if !same || secret.provider() != chosen.provider() {
            return Ok(None);
        }
        let signer = Signer::from_seed(*contents.signer.seed());
        Ok(Some(Self { secret, signer, staged }))
    }

    /// The device's key.
    pub(super) const fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Writes the complete keyslot file in place of the attempt. A crash on the way leaves the attempt to go on with.
    ///
    /// # Errors
    /// [`EnrolError`].
    pub(super) fn complete(
        self,
        directory: &Path,
        contents: &Contents,
        slot: NewSlot,
        passphrase: &str,
        vault: &OpeningKey,
    ) -> Result<(), EnrolError> {
        let whole = directory.join(WHOLE);
        discard(&whole)?;
        Keyslot::create(&whole, &self.secret, contents)?.add_vault_slot(slot, passphrase, vault)?;
        std::fs::rename(whole, directory.join(KEYSLOT))?;
        durable::sync_dir(directory)?;
        drop(self.staged);
        Ok(discard(&directory.join(STAGED))?)
    }

    /// Gives up whatever attempt lies in the directory, where there is no complete keyslot file.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn discard(directory: &Path) -> std::io::Result<()> {
        discard(&directory.join(WHOLE))?;
        discard(&directory.join(STAGED))?;
        DeviceSecret::discard(directory)
    }
}

fn discard(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
