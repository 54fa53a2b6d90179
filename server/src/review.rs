//! What people look at before they sign a root: its fingerprint, who has signed, and what changes against the root before.
//! It must not decide whether it is to be signed.

use cpis_protocol::digest;
use cpis_protocol::id::hex;
use cpis_protocol::limits;
use cpis_protocol::sign::{self, Kind, PublicKey, key_id};
use cpis_protocol::trust::Root;

use crate::clock::iso;
use crate::keys::ROLES;

/// A fingerprint of what the root says, the same before and after signing; in groups for reading aloud.
#[must_use]
pub fn fingerprint(root: &Root) -> String {
    let payload = cpis_protocol::codec::encode(root).unwrap_or_default();
    let text = hex(&digest::sha256(&payload));
    let groups: Vec<&str> = (0..8).filter_map(|at| text.get(at * 4..at * 4 + 4)).collect();
    groups.join(" ")
}

/// Which of these keys have signed the file, validly.
#[must_use]
pub fn signers(bytes: &[u8], keys: &[PublicKey]) -> Vec<PublicKey> {
    let signed =
        |key: &&PublicKey| sign::verify::<Root>(bytes, Kind::Root, &[**key], 1, limits::ROOT_BYTES_MAX).is_ok();
    keys.iter().filter(signed).copied().collect()
}

/// What the next root changes, a line each; empty when it only moves dates.
#[must_use]
pub fn changes(before: &Root, next: &Root) -> Vec<String> {
    let mut out = Vec::new();
    if before.threshold != next.threshold {
        out.push(format!("how many root keys must sign: {} becomes {}", before.threshold, next.threshold));
    }
    keys(&mut out, "root", &before.root_keys, &next.root_keys);
    for (role, name) in ROLES {
        keys(&mut out, name, before.keys(role), next.keys(role));
    }
    keys(&mut out, "audit recipient", &before.audit_recipients, &next.audit_recipients);
    if before.audit_recipients.first() != next.audit_recipients.first() {
        let first = next.audit_recipients.first().map(|key| hex(&key_id(key))).unwrap_or_default();
        out.push(format!("audit events will be sealed to {first}"));
    }
    for (role, name) in ROLES {
        if next.role_until_ms(role) != next.expires_ms {
            out.push(format!("{name} keys end before the root: {}", iso(next.role_until_ms(role))));
        }
    }
    if next.expires_ms < before.expires_ms {
        out.push(format!("the root ends EARLIER than the one before: {}", iso(next.expires_ms)));
    }
    if next.deployment != before.deployment || next.synthetic != before.synthetic {
        out.push("ANOTHER DEPLOYMENT: do not sign".into());
    }
    if next.version != before.version.saturating_add(1) {
        out.push(format!("NOT THE SUCCESSOR: version {} after {}: do not sign", next.version, before.version));
    }
    out
}

fn keys(out: &mut Vec<String>, name: &str, before: &[[u8; 32]], next: &[[u8; 32]]) {
    for key in next.iter().filter(|key| !before.contains(key)) {
        out.push(format!("{name} key ADDED: {}", hex(&key_id(key))));
    }
    for key in before.iter().filter(|key| !next.contains(key)) {
        out.push(format!("{name} key WITHDRAWN: {}", hex(&key_id(key))));
    }
}
