//! Argon2id: the vector of RFC 9106, those of the reference code, and the look-up token.

use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_protocol::query::{LookupParameters, Query};
use cpis_protocol::seal::MemoryHard;

use crate::common::{array, ok};

fn argon(memory_kib: u32, passes: u32, lanes: u32) -> argon2::Argon2<'static> {
    let params = argon2::Params::new(memory_kib, passes, lanes, None).unwrap_or_else(|e| panic!("{e}"));
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
}

/// The tests of the Argon2 authors (`src/test.c` of phc-winner-argon2) for Argon2id version 0x13 with one lane, as ours
/// always has: memory in KiB, passes, password, tag. Their salt has eight bytes and ours must have sixteen, so they are
/// checked on the dependency. The case of 256 MiB is left out: it takes more memory than it tells.
const AUTHORS: [(u32, u32, &str, &str, &str); 6] = [
    (65_536, 2, "password", "somesalt", "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7"),
    (256, 2, "password", "somesalt", "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe"),
    (65_536, 1, "password", "somesalt", "f6a5adc1ba723dddef9b5ac1d464e180fcd9dffc9d1cbf76cca2fed795d9ca98"),
    (65_536, 4, "password", "somesalt", "9025d48e68ef7395cca9079da4c4ec3affb3c8911fe4f86d1a2520856f63172c"),
    (65_536, 2, "differentpassword", "somesalt", "0b84d652cf6b0c4beaef0dfe278ba6a80df6696281d7e0d2891b817d8c458fde"),
    (65_536, 2, "password", "diffsalt", "bdf32b05ccc42eb15d58fd19b1f856b113da1e9a5874fdcc544308565aa8141c"),
];

#[test]
fn the_authors_one_lane_vectors_of_the_dependency() {
    for (memory_kib, passes, password, salt, expected) in AUTHORS {
        let mut tag = [0; 32];
        argon(memory_kib, passes, 1)
            .hash_password_into(password.as_bytes(), salt.as_bytes(), &mut tag)
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(tag, array(expected), "{memory_kib} KiB, {passes} passes");
    }
}

/// Our step is that of the dependency with one lane and, when it is empty, no associated data: so the authors' vectors
/// above speak for it too.
#[test]
fn our_step_is_the_dependency_with_one_lane() {
    let (salt, mut tag) = (b"sixteen byte sal", [0; 32]);
    argon(256, 2, 1).hash_password_into(b"password", salt, &mut tag).unwrap_or_else(|e| panic!("{e}"));
    let ours = ok(MemoryHard { memory_kib: 256, passes: 2 }.derive(b"password", salt, b""));
    assert_eq!(*ours, tag);
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
