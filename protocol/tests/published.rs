//! Published test vectors of the primitives, through our own functions as far as the public interface reaches.
//! Where it does not reach, the same dependency is called directly and the comment says so.

mod common;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use common::{SeedRng, array, bytes, ok};
use core::convert::Infallible;
use cpis_protocol::codec;
use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_protocol::query::{LookupParameters, Query};
use cpis_protocol::seal::{Key, MemoryHard, OpeningKey, seal_to};
use cpis_protocol::sign::{self, Kind, Signer};
use ed25519_dalek::{Signer as _, SigningKey};

/// RFC 8032 7.1: name, seed, public key, message, signature.
const RFC8032: [[&str; 5]; 4] = [
    [
        "TEST 1",
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ],
    [
        "TEST 2",
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ],
    [
        "TEST 3",
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ],
    [
        "TEST SHA(abc)",
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ],
];

/// RFC 8032 7.1. Our interface signs a frame or a 32-byte hash and never free bytes, so the published signature is
/// checked on the dependency, and then each of our two ways of signing against that same key of the dependency.
#[test]
fn rfc8032_ed25519() {
    for [name, seed, public_key, message, signature] in RFC8032 {
        let ours = Signer::from_seed(array(seed));
        assert_eq!(ours.public_key(), array(public_key), "{name}");
        let theirs = SigningKey::from_bytes(&array(seed));
        assert_eq!(theirs.sign(&bytes(message)).to_bytes(), array::<64>(signature), "{name}");

        let hash = cpis_protocol::digest::sha256(&bytes(message));
        assert_eq!(ours.sign_hash(&hash), theirs.sign(&hash).to_bytes(), "{name}");
        assert_eq!(sign::verify_hash(&ours.public_key(), &hash, &ours.sign_hash(&hash)), Ok(()));

        let frame = ok(ours.sign(Kind::Beat, &7u32));
        let covered = [&b"cpis-edge/1/signed\0"[..], &[2, 1], &ok(codec::encode(&7u32))].concat();
        assert_eq!(frame[11..75], theirs.sign(&covered).to_bytes(), "{name}");
    }
}

/// Gives out prepared bytes once.
struct FixedRng(Vec<u8>);
impl rand_core::TryRng for FixedRng {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        panic!("HPKE asks for bytes only")
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        panic!("HPKE asks for bytes only")
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        let rest = self.0.split_off(out.len());
        out.copy_from_slice(&self.0);
        self.0 = rest;
        Ok(())
    }
}
impl rand_core::TryCryptoRng for FixedRng {}

/// RFC 9180 A.2.1, sequence number 0, both ways: `ikmE` through the generator makes the published ciphertext.
/// Later sequence numbers cannot be reached: every sealing has its own context, on purpose.
#[test]
fn rfc9180_a2_both_ways() {
    let ikm_r = array("1ac01f181fdf9f352797655161c58b75c656a6cc2716dcb66372da835542e1df");
    let ikm_e = bytes("909a9b35d3dc4713a5e72a4da274b55d3d3821a37e5d099e74a647db583a904b");
    let public_key = array("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a");
    let info = bytes("4f6465206f6e2061204772656369616e2055726e");
    let plain = bytes("4265617574792069732074727574682c20747275746820626561757479");
    let sealed = bytes(concat!(
        "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a",
        "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28",
    ));
    let opening = OpeningKey::from_seed(ikm_r);
    assert_eq!(opening.sealing_key(), public_key);
    assert_eq!(ok(opening.open(&info, b"Count-0", &sealed)).as_slice(), plain);
    assert!(opening.open(&info, b"Count-1", &sealed).is_err());
    assert_eq!(ok(seal_to(&public_key, &info, b"Count-0", &plain, &mut FixedRng(ikm_e))), sealed);
}

const SUNSCREEN: &[u8] =
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
sunscreen would be it.";

/// RFC 8439 2.8.2 has a nonce that is not zero; ours is always zero under a key that seals once (inside a cell) or 24
/// bytes (local sealing), so the vector is checked on the dependency. The cell vectors freeze our use of it.
#[test]
fn rfc8439_2_8_2_of_the_dependency() {
    let key: [u8; 32] = array("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f");
    let nonce: [u8; 12] = array("070000004041424344454647");
    let aad = bytes("50515253c0c1c2c3c4c5c6c7");
    let sealed = chacha20poly1305::ChaCha20Poly1305::new(&key.into())
        .encrypt(&nonce.into(), Payload { msg: SUNSCREEN, aad: &aad })
        .unwrap_or_default();
    let expected = bytes(concat!(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6",
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36",
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc",
        "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691",
    ));
    assert_eq!(sealed, expected);
}

/// draft-irtf-cfrg-xchacha-03 A.3.1 through `Key::open` and, with the nonce from the generator, `Key::seal`.
#[test]
fn xchacha20_poly1305_a_3_1() {
    let key = Key::from_bytes(array("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"));
    let nonce = bytes("404142434445464748494a4b4c4d4e4f5051525354555657");
    let aad = bytes("50515253c0c1c2c3c4c5c6c7");
    let expected = bytes(concat!(
        "404142434445464748494a4b4c4d4e4f5051525354555657",
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb",
        "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452",
        "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9",
        "21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49",
    ));
    assert_eq!(ok(key.open(&aad, &expected)).as_slice(), SUNSCREEN);
    assert_eq!(ok(key.seal(&aad, SUNSCREEN, &mut FixedRng(nonce))), expected);
    assert!(key.open(b"", &expected).is_err());
}

/// RFC 9106 5.3 has four lanes and a secret; ours has one lane and none, so it is checked on the dependency.
#[test]
fn rfc9106_5_3_of_the_dependency() {
    let params = argon2::ParamsBuilder::new()
        .m_cost(32)
        .t_cost(3)
        .p_cost(4)
        .data(argon2::AssociatedData::new(&[4; 12]).unwrap_or_else(|e| panic!("{e}")))
        .build()
        .unwrap_or_else(|e| panic!("{e}"));
    let argon = argon2::Argon2::new_with_secret(&[3; 8], argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut tag = [0; 32];
    argon
        .unwrap_or_else(|e| panic!("{e}"))
        .hash_password_into(&[1; 32], &[2; 16], &mut tag)
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(tag, array("0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"));
}

/// Our own vectors for one lane. The values come from another implementation, the C reference code of the Argon2
/// authors: `argon2-cffi-bindings` 26.2.0 (Python), function `argon2_ctx` called through cffi with the fields `ad` and
/// `adlen` set, `lanes` = 1, version 0x13, type `Argon2_id`; the same call gave the tag of RFC 9106 5.3 above.
#[test]
fn argon2id_one_lane_equals_the_reference_code() {
    let derive = |memory_kib, passes, associated: &[u8]| {
        *ok(MemoryHard { memory_kib, passes }.derive(&[1; 32], &[2; 16], associated))
    };
    let with = array("d8675e9c6971fb92c8ca2a3ff573e58803494df0b02772e6de75f15093e2a10a");
    assert_eq!(derive(32, 3, &[4; 12]), with);
    let without = array("30e0b44b7e23423b7282859ea36f02825b5828dde3c25f124d59d42d7235e132");
    assert_eq!(derive(32, 3, &[]), without);
    let floor = array("06e34e0b88728fbe9833714aab2a7d542ba1b66d4dfe1bb45f01e3f68f5ce994");
    assert_eq!(derive(MemoryHard::FLOOR.memory_kib, MemoryHard::FLOOR.passes, &[4; 12]), floor);
}

/// The whole look-up token: canonical question, salt, associated data. Value obtained as above, with the canonical bytes
/// and the associated data written out by hand in Python from docs/protocol.md R60 and R61.
#[test]
fn look_up_token_equals_the_reference_code() {
    let number = NhsNumber::new(9_990_000_018).unwrap_or_else(|e| panic!("{e}"));
    let birth = Date::new(2015, 3, 4).unwrap_or_else(|e| panic!("{e}"));
    let cost = MemoryHard { memory_kib: 64, passes: 3 };
    let parameters = LookupParameters { salt_epoch: 7, salt: *b"0123456789abcdef", cost };
    let token = ok(Query::nhs_number(number, birth).token(&parameters));
    assert_eq!(*token.expose(), array("8a6f863e42dcb6525038cb9cb7a6b29a6f39fdb44514355627b920eceedd6fd8"));
}

/// The generator of these tests is what its comment says, so that another implementation can repeat the vectors.
#[test]
fn the_generator_is_as_documented() {
    let mut first = [0; 40];
    rand_core::Rng::fill_bytes(&mut SeedRng::new(5), &mut first);
    let block = |n: u64| cpis_protocol::digest::hash("cpis-edge/test/rng", &[&5u64.to_be_bytes(), &n.to_be_bytes()]);
    assert_eq!(first[..32], block(0));
    assert_eq!(first[32..], block(1)[..8]);
}
