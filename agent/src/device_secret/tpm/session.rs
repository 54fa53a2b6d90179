//! A salted HMAC session: commands and replies authenticated, their first parameter encrypted, as in part 1 of the TPM
//! 2.0 library (11.4, 19, 21). The agent's only home of `aws-lc-rs`; pure but for the ephemeral key.
//! It must not let a secret or an authorisation cross the bus in clear, nor take a reply that does not authenticate.

use aws_lc_rs::agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::cipher::{
    AES_128, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use cpis_protocol::digest::{prf, sha256};
use zeroize::Zeroizing;

use super::error::TpmError;
use super::wire::{Command, Writer};
use crate::random::OsRandom;

const NONCE_BYTES: usize = 32;
const CONTINUE: u8 = 0x01;
/// The first parameter of the command is encrypted ("the TPM decrypts").
pub(super) const DECRYPT: u8 = 0x20;
/// The first parameter of the reply is encrypted ("the TPM encrypts").
pub(super) const ENCRYPT: u8 = 0x40;

/// What goes to the TPM so that both sides know the salt, and the salt.
pub(super) struct Salt {
    /// A `TPMS_ECC_POINT`.
    pub(super) sent: Zeroizing<Vec<u8>>,
    secret: Zeroizing<[u8; 32]>,
}

impl Salt {
    /// To the point of the TPM's storage key: only the TPM with that key learns the salt.
    pub(super) fn to_key(point: &[[u8; 32]; 2]) -> Result<Self, TpmError> {
        let failed = |_| TpmError::Crypto;
        let own = PrivateKey::generate(&ECDH_P256).map_err(failed)?;
        let public = own.compute_public_key().map_err(failed)?;
        let (x, y) = public.as_ref().get(1..65).map(|xy| xy.split_at(32)).ok_or(TpmError::Crypto)?;
        let peer = [&[4][..], &point[0], &point[1]].concat();
        let peer = UnparsedPublicKey::new(&ECDH_P256, peer);
        let secret = agreement::agree(&own, peer, TpmError::Crypto, |z| {
            // KDFe, part 1, 11.4.10.3; one block is enough.
            let block = Zeroizing::new([&1u32.to_be_bytes()[..], z, b"SECRET\0", x, &point[0]].concat());
            Ok(Zeroizing::new(sha256(&block)))
        })?;
        Ok(Self { sent: Writer::new().sized(x).sized(y).done(), secret })
    }
}

/// KDFa, part 1, 11.4.10.2: one block of at most 256 bits.
fn kdf_a(key: &[u8], label: &str, u: &[u8], v: &[u8]) -> Zeroizing<[u8; 32]> {
    let input = [&1u32.to_be_bytes()[..], label.as_bytes(), &[0], u, v, &256u32.to_be_bytes()].concat();
    Zeroizing::new(prf(key, &input))
}

/// A session that is open in the TPM.
pub(super) struct Session {
    pub(super) handle: u32,
    key: Zeroizing<[u8; 32]>,
    nonce_tpm: Vec<u8>,
    nonce_own: [u8; NONCE_BYTES],
}

impl Session {
    /// A fresh nonce of our own, for starting a session.
    pub(super) fn nonce() -> Result<[u8; NONCE_BYTES], TpmError> {
        Ok(OsRandom::bytes()?)
    }

    /// After `TPM2_StartAuthSession`.
    pub(super) fn started(handle: u32, salt: &Salt, nonce_own: [u8; NONCE_BYTES], nonce_tpm: &[u8]) -> Self {
        let key = kdf_a(salt.secret.as_slice(), "ATH", nonce_tpm, &nonce_own);
        Self { handle, key, nonce_tpm: nonce_tpm.to_vec(), nonce_own }
    }

    /// The session key with the authorisation behind it. The TPM drops the zero bytes at an authorisation's end.
    fn value(&self, authorisation: &[u8]) -> Zeroizing<Vec<u8>> {
        let end = authorisation.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let (trimmed, _) = authorisation.split_at(end);
        let mut value = Zeroizing::new(Vec::with_capacity(self.key.len() + authorisation.len()));
        value.extend_from_slice(self.key.as_slice());
        value.extend_from_slice(trimmed);
        value
    }

    /// Encrypts a command's first parameter where `protect` says so, and gives the command's authorisation area.
    pub(super) fn authorise(
        &mut self,
        command: Command,
        names: &[&[u8]],
        authorisation: &[u8],
        parameters: &mut [u8],
        protect: u8,
    ) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        self.nonce_own = Self::nonce()?;
        let value = self.value(authorisation);
        if protect & DECRYPT != 0 {
            let first = first_parameter(parameters).ok_or(TpmError::Crypto)?;
            cfb(&kdf_a(&value, "CFB", &self.nonce_own, &self.nonce_tpm), first, Direction::Encrypt)?;
        }
        let attributes = CONTINUE | protect;
        let mut hashed = Zeroizing::new(command.0.to_be_bytes().to_vec());
        hashed.extend(names.iter().flat_map(|name| name.iter()));
        hashed.extend_from_slice(parameters);
        let mac = self.mac(&value, &sha256(&hashed), &self.nonce_own, &self.nonce_tpm, attributes);
        Ok(Writer::new().u32(self.handle).sized(&self.nonce_own).u8(attributes).sized(&mac).done())
    }

    /// Checks a reply's authorisation area and decrypts its first parameter where `protect` says so.
    pub(super) fn accept(
        &mut self,
        command: Command,
        authorisation: &[u8],
        parameters: &mut [u8],
        (nonce, attributes, mac): (&[u8], u8, &[u8]),
        protect: u8,
    ) -> Result<(), TpmError> {
        let value = self.value(authorisation);
        let hashed = Zeroizing::new([&0u32.to_be_bytes()[..], &command.0.to_be_bytes(), parameters].concat());
        let expected = self.mac(&value, &sha256(&hashed), nonce, &self.nonce_own, attributes);
        if aws_lc_rs::constant_time::verify_slices_are_equal(&expected, mac).is_err() {
            return Err(TpmError::NotAuthentic);
        }
        self.nonce_tpm = nonce.to_vec();
        if protect & ENCRYPT != 0 {
            // An unencrypted reply, though authentic, is not what was asked for.
            if attributes & ENCRYPT == 0 {
                return Err(TpmError::NotAuthentic);
            }
            let first = first_parameter(parameters).ok_or(TpmError::NotAuthentic)?;
            cfb(&kdf_a(&value, "CFB", nonce, &self.nonce_own), first, Direction::Decrypt)?;
        }
        Ok(())
    }

    fn mac(&self, value: &[u8], hash: &[u8; 32], newer: &[u8], older: &[u8], attributes: u8) -> [u8; 32] {
        prf(value, &[hash, newer, older, &[attributes]].concat())
    }
}

/// The content of the sized buffer that parameters begin with.
fn first_parameter(parameters: &mut [u8]) -> Option<&mut [u8]> {
    let (length, rest) = parameters.split_first_chunk_mut::<2>()?;
    rest.get_mut(..usize::from(u16::from_be_bytes(*length)))
}

#[derive(Clone, Copy)]
enum Direction {
    Encrypt,
    Decrypt,
}

/// AES-128 in CFB mode, in place; the key material is the key and then the initial value.
fn cfb(material: &[u8; 32], bytes: &mut [u8], direction: Direction) -> Result<(), TpmError> {
    let failed = |_| TpmError::Crypto;
    let (key, iv) = material.split_first_chunk::<16>().ok_or(TpmError::Crypto)?;
    let iv = FixedLength::<16>::from(*iv.first_chunk::<16>().ok_or(TpmError::Crypto)?);
    let key = UnboundCipherKey::new(&AES_128, key).map_err(failed)?;
    match direction {
        Direction::Encrypt => {
            let key = EncryptingKey::cfb128(key).map_err(failed)?;
            key.less_safe_encrypt(bytes, EncryptionContext::Iv128(iv)).map_err(failed)?;
        }
        Direction::Decrypt => {
            let key = DecryptingKey::cfb128(key).map_err(failed)?;
            key.decrypt(bytes, DecryptionContext::Iv128(iv)).map_err(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cpis_protocol::id::hex;

    use super::*;

    /// NIST SP 800-38A, F.3.13 and F.3.14: CFB128-AES128.
    #[test]
    fn cfb_is_nist() {
        let mut material = [0; 32];
        material[..16].copy_from_slice(&0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3cu128.to_be_bytes());
        material[16..].copy_from_slice(&0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0fu128.to_be_bytes());
        let mut text = Vec::new();
        text.extend_from_slice(&0x6bc1_bee2_2e40_9f96_e93d_7e11_7393_172au128.to_be_bytes());
        text.extend_from_slice(&0xae2d_8a57_1e03_ac9c_9eb7_6fac_45af_8e51u128.to_be_bytes());
        let plain = text.clone();
        cfb(&material, &mut text, Direction::Encrypt).unwrap();
        assert_eq!(hex(&text), "3b3fd92eb72dad20333449f8e83cfb4ac8a64537a0b3a93fcde3cdad9f1ce58b");
        cfb(&material, &mut text, Direction::Decrypt).unwrap();
        assert_eq!(text, plain);
    }

    fn session() -> Session {
        Session { handle: 7, key: Zeroizing::new([1; 32]), nonce_tpm: vec![2; 32], nonce_own: [3; 32] }
    }

    #[test]
    fn a_reply_that_was_touched_is_refused() {
        let mac = |session: &Session, parameters: &[u8], attributes: u8| {
            let hashed = [&0u32.to_be_bytes()[..], &0x15eu32.to_be_bytes(), parameters].concat();
            session.mac(&session.value(b"pin"), &sha256(&hashed), &[4; 32], &session.nonce_own, attributes)
        };
        let accept = |parameters: &mut [u8], attributes: u8, mac: &[u8], authorisation: &[u8]| {
            let area = (&[4; 32][..], attributes, mac);
            session().accept(super::super::wire::UNSEAL, authorisation, parameters, area, ENCRYPT)
        };
        let good = mac(&session(), &[0, 1, 9], CONTINUE | ENCRYPT);
        let mut parameters = [0, 1, 9];
        accept(&mut parameters, CONTINUE | ENCRYPT, &good, b"pin").unwrap();
        assert_ne!(parameters[2], 9, "it was decrypted");
        for (mut parameters, attributes, authorisation) in [
            ([0, 1, 8], CONTINUE | ENCRYPT, &b"pin"[..]),
            ([0, 1, 9], CONTINUE, b"pin"),
            ([0, 1, 9], CONTINUE | ENCRYPT, b"pim"),
        ] {
            let refused = accept(&mut parameters, attributes, &good, authorisation);
            assert!(matches!(refused, Err(TpmError::NotAuthentic)));
        }
        let in_clear = mac(&session(), &[0, 1, 9], CONTINUE);
        assert!(matches!(accept(&mut [0, 1, 9], CONTINUE, &in_clear, b"pin"), Err(TpmError::NotAuthentic)));
    }

    #[test]
    fn zero_bytes_at_an_authorisations_end_do_not_count() {
        assert_eq!(*session().value(&[5, 0, 6, 0, 0]), *session().value(&[5, 0, 6]));
        assert_eq!(session().value(&[0, 0]).len(), 32);
    }
}
