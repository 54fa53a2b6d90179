//! The TPM's bytes: big-endian integers, sized buffers, and the fixed templates that this program asks for.
//! It must not leave a copy of a secret behind: what is written or read here lies in buffers that are wiped.

use zeroize::Zeroizing;

/// The most that a command or a reply may take; TPMs promise as much.
pub(super) const BYTES_MAX: usize = 4096;
/// Tag, length, code.
pub(super) const HEADER_BYTES: usize = 10;

pub(super) const TAG_PLAIN: u16 = 0x8001;
pub(super) const TAG_SESSIONS: u16 = 0x8002;

/// A command: its code and the name under which an error speaks of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command(pub(super) u32, pub(super) &'static str);

pub(super) const CREATE_PRIMARY: Command = Command(0x131, "TPM2_CreatePrimary");
pub(super) const CREATE: Command = Command(0x153, "TPM2_Create");
pub(super) const LOAD: Command = Command(0x157, "TPM2_Load");
pub(super) const UNSEAL: Command = Command(0x15e, "TPM2_Unseal");
pub(super) const FLUSH_CONTEXT: Command = Command(0x165, "TPM2_FlushContext");
pub(super) const START_AUTH_SESSION: Command = Command(0x176, "TPM2_StartAuthSession");
pub(super) const GET_CAPABILITY: Command = Command(0x17a, "TPM2_GetCapability");

pub(super) const OWNER: u32 = 0x4000_0001;
pub(super) const NO_HANDLE: u32 = 0x4000_0007;
pub(super) const PASSWORD_SESSION: u32 = 0x4000_0009;

pub(super) const SHA256: u16 = 0x000b;
pub(super) const AES: u16 = 0x0006;
pub(super) const CFB: u16 = 0x0043;
const NULL: u16 = 0x0010;
const ECC: u16 = 0x0023;
const KEYED_HASH: u16 = 0x0008;
const P256: u16 = 0x0003;

/// Object attributes, part 2, 8.3.
const FIXED_TPM: u32 = 1 << 1;
const FIXED_PARENT: u32 = 1 << 4;
const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
const USER_WITH_AUTH: u32 = 1 << 6;
const NO_DICTIONARY_ATTACK: u32 = 1 << 10;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;

/// Bytes being put together. Their capacity is final, so that they never move and leave a copy behind.
pub(super) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    pub(super) fn new() -> Self {
        Self(Zeroizing::new(Vec::with_capacity(BYTES_MAX)))
    }
    pub(super) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }
    pub(super) fn u16(self, value: u16) -> Self {
        self.raw(&value.to_be_bytes())
    }
    pub(super) fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }
    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    /// With its length in front: a `TPM2B`.
    pub(super) fn sized(self, bytes: &[u8]) -> Self {
        // All that is written here is far below 64 KiB.
        self.u16(bytes.len() as u16).raw(bytes)
    }
    pub(super) fn done(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

/// Bytes being taken apart; `None` where they end too early.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.raw::<1>().map(|[byte]| byte)
    }
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.raw().map(u16::from_be_bytes)
    }
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.raw().map(u32::from_be_bytes)
    }
    fn raw<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
    pub(super) fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

/// The storage key: ECC P-256, restricted to decryption, the same each time from the TPM's owner seed (the storage root
/// key of the TCG's provisioning guidance).
pub(super) fn storage_key() -> Zeroizing<Vec<u8>> {
    let attributes =
        FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | USER_WITH_AUTH | NO_DICTIONARY_ATTACK | RESTRICTED | DECRYPT;
    let key = Writer::new().u16(ECC).u16(SHA256).u32(attributes).sized(&[]);
    let key = key.u16(AES).u16(128).u16(CFB).u16(NULL).u16(P256).u16(NULL);
    key.sized(&[0; 32]).sized(&[0; 32]).done()
}

/// A sealed object. `counted`: wrong authorisations count towards the TPM's lockout.
pub(super) fn sealed_object(counted: bool) -> Zeroizing<Vec<u8>> {
    let attributes = FIXED_TPM | FIXED_PARENT | USER_WITH_AUTH | if counted { 0 } else { NO_DICTIONARY_ATTACK };
    Writer::new().u16(KEYED_HASH).u16(SHA256).u32(attributes).sized(&[]).u16(NULL).sized(&[]).done()
}

/// Whether a sealed object's public area says that its wrong authorisations count.
pub(super) fn is_counted(public: &[u8]) -> bool {
    let mut public = Reader(public);
    let kinds = (public.u16(), public.u16());
    kinds == (Some(KEYED_HASH), Some(SHA256)) && public.u32().is_some_and(|bits| bits & NO_DICTIONARY_ATTACK == 0)
}

/// The point of a storage key's public area, x and y, each 32 bytes; `None` when it is not such a key.
pub(super) fn storage_point(public: &[u8]) -> Option<[[u8; 32]; 2]> {
    let template = storage_key();
    let fixed = template.len().checked_sub(2 * 34)?;
    let (head, point) = public.split_at_checked(fixed)?;
    if *head != *template.get(..fixed)? {
        return None;
    }
    let mut point = Reader(point);
    let mut coordinate = || {
        let bytes = point.sized()?;
        let mut padded = [0; 32];
        padded.get_mut(32usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
        Some(padded)
    };
    let xy = [coordinate()?, coordinate()?];
    point.0.is_empty().then_some(xy)
}

#[cfg(test)]
mod tests {
    use cpis_protocol::id::hex;

    use super::*;

    #[test]
    fn frozen_templates() {
        let zeros = "00".repeat(32);
        let expected = format!("0023000b000304720000000600800043001000030010{}", format!("0020{zeros}").repeat(2));
        assert_eq!(hex(&storage_key()), expected);
        assert_eq!(hex(&sealed_object(false)), "0008000b00000452000000100000");
        assert_eq!(hex(&sealed_object(true)), "0008000b00000052000000100000");
        assert_eq!([true, false].map(|counted| is_counted(&sealed_object(counted))), [true, false]);
        assert!(!is_counted(&storage_key()) && !is_counted(&[]));
    }

    #[test]
    fn a_point_only_from_the_template_that_was_asked_for() {
        let mut key = storage_key().to_vec();
        assert_eq!(storage_point(&key), Some([[0; 32]; 2]));
        assert_eq!(storage_point(&key[1..]), None);
        key.push(0);
        assert_eq!(storage_point(&key), None);
        key.pop();
        key[7] ^= 1;
        assert_eq!(storage_point(&key), None, "another attribute is another key");
        // A coordinate that begins with a zero byte may come one byte shorter.
        let head = storage_key()[..22].to_vec();
        let short = [head, vec![0, 31], vec![7; 31], vec![0, 32], vec![9; 32]].concat();
        assert_eq!(storage_point(&short).unwrap()[0][..2], [0, 7]);
    }
}
