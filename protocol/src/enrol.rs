//! Enrolment: how a device and a server first learn of each other.
//! It must not trust the network: the invitation carries the root, the request proves the device key.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::id::{DeviceId, PractitionerId};
use crate::seal::SealingKey;
use crate::sign::{self, Kind, PublicKey, Signer, Verified};
use crate::{FORMAT, Refusal, codec, limits};

const PREFIX: &str = "cpis-invitation-1.";
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789"; // R81

/// What an operator hands to the person who sets a device up, out of band.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    // R80
    /// The format version.
    pub format: u8,
    /// Where the server is, e.g. `https://cpis.example.nhs.uk:8443`.
    pub url: String,
    /// The one-time code; the server keeps only its hash.
    pub code: [u8; 16],
    /// The signed root to pin.
    pub root: Vec<u8>, // R83
}

impl core::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Invitation(to {}, [secret])", self.url)
    }
}

impl Invitation {
    /// The text form: a prefix and 32 letters and digits that are hard to confuse, safe in files, mails and QR codes.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn to_text(&self) -> Result<String, Refusal> {
        let bytes = codec::encode(self)?;
        let mut text = String::with_capacity(PREFIX.len() + bytes.len() * 8 / 5 + 1);
        text.push_str(PREFIX);
        let (mut buffer, mut bits) = (0u32, 0);
        for byte in bytes {
            buffer = buffer << 8 | u32::from(byte);
            bits += 8;
            while bits >= 5 {
                bits -= 5;
                push_digit(&mut text, buffer >> bits);
            }
            buffer &= (1 << bits) - 1;
        }
        if bits > 0 {
            push_digit(&mut text, buffer << (5 - bits));
        }
        Ok(text)
    }

    /// Reads the text form; white space is ignored.
    ///
    /// # Errors
    /// [`Refusal::WrongKind`] without the prefix, [`Refusal::Malformed`], [`Refusal::TooLarge`].
    pub fn from_text(text: &str) -> Result<Self, Refusal> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(Refusal::WrongKind)?; // R82
        if digits.len() > limits::INVITATION_BYTES_MAX * 2 {
            return Err(Refusal::TooLarge);
        }
        let mut bytes = Vec::with_capacity(digits.len() * 5 / 8);
        let (mut buffer, mut bits) = (0u32, 0);
        for c in digits.bytes().filter(|b| !b.is_ascii_whitespace()) {
            let digit = ALPHABET.iter().position(|a| *a == c).ok_or(Refusal::Malformed)?;
            buffer = buffer << 5 | u32::try_from(digit).map_err(|_| Refusal::Malformed)?;
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes.push((buffer >> bits & 0xff) as u8);
                buffer &= (1 << bits) - 1;
            }
        }
        let invitation: Self = codec::decode(&bytes, limits::INVITATION_BYTES_MAX)?;
        if invitation.format == FORMAT { Ok(invitation) } else { Err(Refusal::UnsupportedFormat) }
    }
}

fn push_digit(text: &mut String, value: u32) {
    if let Some(digit) = ALPHABET.get((value & 31) as usize) {
        text.push(char::from(*digit));
    }
}

/// A device's request, signed by the device key that it names.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The one-time code.
    pub code: [u8; 16],
    /// The device's Ed25519 key: TLS client identity and audit signatures.
    pub device_key: PublicKey,
    /// The vault's X25519 key: feed keys are sealed to it.
    pub vault_key: SealingKey,
    /// Who sets the device up and will unlock it.
    pub practitioner: PractitionerId,
}

impl core::fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "EnrolRequest({})", DeviceId::of(&self.device_key))
    }
}

impl EnrolRequest {
    /// Signs the request.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn sign(&self, signer: &Signer) -> Result<Vec<u8>, Refusal> {
        signer.sign(Kind::Enrol, self)
    }

    /// Verifies that whoever sent the request holds the device key in it.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn verify(bytes: &[u8]) -> Result<Verified<Self>, Refusal> {
        let claimed: Self = sign::peek_unverified(bytes, Kind::Enrol, limits::BEAT_BYTES_MAX)?; // R84
        sign::verify(bytes, Kind::Enrol, &[claimed.device_key], 1, limits::BEAT_BYTES_MAX)
    }
}

/// The server's reply: everything that the device needs to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolReply {
    // R85
    /// The device's TLS certificate (DER), by the device authority.
    pub certificate: Vec<u8>,
    /// Signed roots after the one in the invitation, in order.
    pub roots: Vec<Vec<u8>>,
    /// The signed grant.
    pub grant: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invitation_round_trip_and_refusals() {
        let invitation =
            Invitation { format: FORMAT, url: "https://localhost:1".into(), code: [7; 16], root: alloc::vec![1, 2, 3] };
        let text = invitation.to_text().unwrap_or_default();
        assert_eq!(Invitation::from_text(&text), Ok(invitation.clone()));
        let (start, end) = text.split_at(40);
        assert_eq!(Invitation::from_text(&alloc::format!(" {start}\n  {end}\n")), Ok(invitation.clone()));
        assert_eq!(Invitation::from_text("hello"), Err(Refusal::WrongKind));
        assert_eq!(Invitation::from_text(&alloc::format!("{start}!")), Err(Refusal::Malformed));
        assert!(Invitation::from_text(start).is_err());
        let newer = Invitation { format: 2, ..invitation }.to_text().unwrap_or_default();
        assert_eq!(Invitation::from_text(&newer), Err(Refusal::UnsupportedFormat));
    }

    #[test]
    fn a_request_proves_its_key() {
        let signer = Signer::from_seed([1; 32]);
        let request = EnrolRequest {
            code: [2; 16],
            device_key: signer.public_key(),
            vault_key: [3; 32],
            practitioner: PractitionerId::EMPTY,
        };
        assert!(request.sign(&signer).and_then(|b| EnrolRequest::verify(&b)).is_ok());
        let stolen = request.sign(&Signer::from_seed([9; 32])).unwrap_or_default();
        assert_eq!(EnrolRequest::verify(&stolen).err(), Some(Refusal::UnknownKey));
    }
}
