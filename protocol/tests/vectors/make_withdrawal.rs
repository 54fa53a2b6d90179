//! The cases of withdrawals and of a device's report of itself.
//! It must not decide an expectation by running the code under test: each is written by hand.

use cpis_protocol::message::{DeviceReply, DeviceReport};
use cpis_protocol::sign::Kind;
use cpis_protocol::text::Text;
use cpis_protocol::withdrawal::{Withdrawal, WithdrawalAction};
use cpis_protocol::{codec, limits};

use crate::common::ok;
use crate::common::world::{self, AUTHORITY, PUBLISHER, T0, framed};
use crate::signed::Signed;
use crate::text::File;

pub(crate) fn withdrawal() -> File {
    let mut file = File::new("withdrawal", "Withdrawals (R180 to R183), reports and replies (R184, R185).");
    let erase = Withdrawal { device: world::device(), number: 4, action: WithdrawalAction::Erase, issued_ms: T0 };
    let payload = ok(codec::encode(&erase));
    file.case("erase", "the word to destroy every key; the pull machine is asked too")
        .with("object", "withdrawal")
        .with("trusted", "root/valid")
        .with("device", &world::device().to_string())
        .with("last-number", "3")
        .hex(&framed(Kind::Withdrawal, &payload, &[AUTHORITY]))
        .expect("ok");
    let common = Signed {
        base: "withdrawal/erase",
        kind: Kind::Withdrawal,
        payload: &payload,
        by: &[AUTHORITY],
        limit: limits::BEAT_BYTES_MAX,
        names_own_keys: false,
        prefix: "",
    };
    common.refusals(&mut file);
    let suspend = ok(codec::encode(&Withdrawal { action: WithdrawalAction::Suspend, ..erase.clone() }));
    let suspend = framed(Kind::Withdrawal, &suspend, &[AUTHORITY]);
    file.replaced("suspend", "withdrawal/erase", &suspend, "ok", "the word to lock and wait");
    let by_publisher = framed(Kind::Withdrawal, &payload, &[PUBLISHER]);
    file.replaced(
        "wrong-role",
        "withdrawal/erase",
        &by_publisher,
        "unknown-key",
        "a stolen publisher key erases nothing",
    );
    file.moved("wrong-device", "withdrawal/erase", "wrong-device", "another device's withdrawal")
        .with("device", &"00".repeat(16));
    file.moved("again", "withdrawal/erase", "ok", "the same number again").with("last-number", "4");
    file.moved("rollback", "withdrawal/erase", "rollback", "replayed after a later grant").with("last-number", "5");
    let mut unknown = payload.clone();
    if let Some(byte) = unknown.get_mut(24) {
        *byte = 2;
    }
    let unknown = framed(Kind::Withdrawal, &unknown, &[AUTHORITY]);
    file.replaced("unknown-action", "withdrawal/erase", &unknown, "malformed", "an action that is not known");
    report(&mut file);
    file
}

fn report(file: &mut File) {
    let report = DeviceReport {
        version: Text::lossy("0.1.0"),
        secret: Text::lossy("file"),
        root_version: 1,
        certificate_until_ms: T0,
        break_glass: 2,
        unrecorded: 3,
    };
    let bytes = ok(codec::encode(&report));
    file.case("report", "what a device says of itself").with("object", "device-report").hex(&bytes).expect("ok");
    let cut = format!("truncate {}", bytes.len() - 1);
    file.mutated("report-truncated", "withdrawal/report", &cut, "truncated", "a byte short");
    file.mutated("report-trailing", "withdrawal/report", "append 00", "trailing-bytes", "a byte more");
    let grow = format!("grow {}", limits::REPORT_BYTES_MAX + 1);
    file.mutated("report-too-large", "withdrawal/report", &grow, "too-large", "one byte over the limit");
    file.mutated("report-control", "withdrawal/report", "set 0 0a", "malformed", "a line break in the version");
    let bytes = ok(codec::encode(&DeviceReply { certificate: vec![0x30, 0x00] }));
    file.case("reply", "a new certificate").with("object", "device-reply").hex(&bytes).expect("ok");
    file.mutated("reply-trailing", "withdrawal/reply", "append 00", "trailing-bytes", "a byte more");
    file.mutated("reply-truncated", "withdrawal/reply", "truncate 9", "truncated", "a byte short");
    let note = "claims a certificate of 2^63 bytes";
    file.mutated("reply-hostile-length", "withdrawal/reply", "set 0 0000000000000080", "truncated", note);
    let none = ok(codec::encode(&DeviceReply { certificate: Vec::new() }));
    file.replaced("reply-none", "withdrawal/reply", &none, "ok", "the present certificate is good for long enough");
}
