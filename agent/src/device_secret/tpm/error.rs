//! Why a TPM does not do what was asked, each with what to do about it.
//! It must not carry a secret, a PIN or a name of a person.

use std::io;
use std::path::PathBuf;

use super::address::Address;

/// A TPM did not do what was asked. Nothing was changed, on the disk or in the TPM.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// Nothing answers there.
    #[error(
        "there is no TPM at {0}: switch it on in the firmware's settings, or put `tpm = ...` in agent.toml right; \
         nothing was changed"
    )]
    Absent(Address),
    /// The running user may not use it.
    #[error("this user may not use the TPM at {0}: run as root, or add the agent's user to the group `tss`")]
    NotAllowed(Address),
    /// The connection to it failed.
    #[error("the TPM at {0} cannot be reached: {1}; try again, and restart the machine if it stays so")]
    Io(Address, io::Error),
    /// Its storage key is not the one that this device was enrolled with.
    #[error(
        "this is not the TPM that this device was enrolled with, or it has been cleared: what it kept cannot be had \
         back. Put the disk back into its own machine; if the TPM was cleared, enrol this device anew. Nothing was \
         changed"
    )]
    Another,
    /// The file beside the keyslot file is gone.
    #[error("there is no {}: put it back from where it went, or enrol this device anew", .0.display())]
    BlobMissing(PathBuf),
    /// The file beside the keyslot file is not whole.
    #[error("{} is damaged: put it back from a copy of this device's directory, or enrol this device anew", .0.display())]
    BlobDamaged(PathBuf),
    /// Written by another version of this program.
    #[error("{path} has format {format}, and this build reads format 1: install the version that wrote it", path = .0.display(), format = .1)]
    BlobFormat(PathBuf, u8),
    /// The TPM finds a sealed object damaged, though its storage key is the right one.
    #[error("the TPM finds the sealed secret damaged: put device.tpm back from a copy, or enrol this device anew")]
    ObjectDamaged,
    /// The authorisation of an object was wrong; where attempts count, this one has been counted.
    #[error("the TPM refuses the authorisation")]
    WrongAuthorisation,
    /// Too many wrong attempts: nothing was tried.
    #[error("the TPM is locked after too many wrong attempts: wait, it forgets one of them at a time")]
    LockedOut,
    /// The owner hierarchy has a password.
    #[error(
        "the TPM's owner hierarchy has a password, so that no storage key can be made in it: clear that password \
         (tpm2_changeauth -c owner -p ...), or choose `device_secret = \"credential\"` in agent.toml"
    )]
    OwnerPassword,
    /// The firmware has not started it.
    #[error("the TPM has not been started by the firmware: restart the machine, or give swtpm `startup-clear`")]
    NotStarted,
    /// There is no room for a key or a session.
    #[error("the TPM has no room for another key: use /dev/tpmrm0 rather than /dev/tpm0, or restart the machine")]
    NoRoom,
    /// A reply does not authenticate.
    #[error("a reply of the TPM does not authenticate: something stands between this program and the TPM")]
    NotAuthentic,
    /// A reply is not one.
    #[error("what answers at {0} does not speak the TPM 2.0 protocol: put `tpm = ...` in agent.toml right")]
    Malformed(Address),
    /// Any other refusal.
    #[error("the TPM refuses {0} with response code 0x{1:03x}: see `tpm2_rc_decode 0x{1:x}`")]
    Refused(&'static str, u32),
    /// A cryptographic step of our own failed.
    #[error("a cryptographic step for the TPM failed")]
    Crypto,
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] crate::random::RandomError),
}

/// What a response code says of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Success,
    /// The same bytes may be sent again: nothing was done.
    TryAgain,
    WrongAuthorisation,
    LockedOut,
    Integrity,
    NotStarted,
    NoRoom,
    Other,
}

/// Part 2 of the TPM 2.0 library, 6.6: format-one codes carry the parameter, handle or session in bits 6 and 8 to 11.
pub(super) const fn meaning(code: u32) -> Meaning {
    if code & 0x80 != 0 {
        return match code & 0xbf {
            // TPM_RC_AUTH_FAIL (counted) and TPM_RC_BAD_AUTH (not counted).
            0x08e | 0x0a2 => Meaning::WrongAuthorisation,
            // TPM_RC_INTEGRITY.
            0x09f => Meaning::Integrity,
            _ => Meaning::Other,
        };
    }
    match code {
        0 => Meaning::Success,
        0x100 => Meaning::NotStarted,
        // TPM_RC_OBJECT_MEMORY, SESSION_MEMORY, OBJECT_HANDLES, SESSION_HANDLES.
        0x902 | 0x903 | 0x905 | 0x906 => Meaning::NoRoom,
        // TPM_RC_YIELDED, TESTING, NV_RATE, RETRY.
        0x908 | 0x90a | 0x920 | 0x922 => Meaning::TryAgain,
        0x921 => Meaning::LockedOut,
        _ => Meaning::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        let cases = [
            (0, Meaning::Success),
            (0x98e, Meaning::WrongAuthorisation),
            (0x9a2, Meaning::WrongAuthorisation),
            (0x1df, Meaning::Integrity),
            (0x921, Meaning::LockedOut),
            (0x922, Meaning::TryAgain),
            (0x902, Meaning::NoRoom),
            (0x100, Meaning::NotStarted),
            (0x2c4, Meaning::Other),
            (0x101, Meaning::Other),
        ];
        for (code, expected) in cases {
            assert_eq!(meaning(code), expected, "0x{code:x}");
        }
    }
}
