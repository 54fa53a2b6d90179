//! Runs one case through the entry points that its object has.
//! It must not know any expectation.

use cpis_protocol::Refusal;
use cpis_protocol::digest::sha256;
use cpis_protocol::enrol::{EnrolReply, EnrolRequest, Invitation};
use cpis_protocol::grant::Grant;
use cpis_protocol::head::{Beat, Head, Reference};
use cpis_protocol::id::{DeviceId, UnixMs};
use cpis_protocol::message::{DeviceReply, DeviceReport};
use cpis_protocol::seal::OpeningKey;
use cpis_protocol::sign::{self, Kind, PublicKey};
use cpis_protocol::trust::{Role, Trust};
use cpis_protocol::withdrawal::Withdrawal;
use cpis_protocol::{codec, limits, replica};

use crate::common::{array, ok};
use crate::text::Library;
use crate::{run_more, run_names};

/// Every object that a case may name.
pub(crate) const OBJECTS: [&str; 30] = [
    "audit-batch",
    "audit-link",
    "beat",
    "bounds",
    "bundle",
    "catch-up",
    "caught-up",
    "cell",
    "cells",
    "chunk",
    "delta",
    "device-reply",
    "device-report",
    "enrol-reply",
    "enrol-request",
    "event",
    "grant",
    "head",
    "invitation",
    "lookup-token",
    "manifest",
    "name-asked",
    "name-filed",
    "receipt",
    "record",
    "reference",
    "root",
    "root-rotation",
    "signed",
    "withdrawal",
];

/// The context of one case.
pub(crate) struct Context<'a> {
    pub(crate) library: &'a Library,
    pub(crate) name: &'a str,
}

impl Context<'_> {
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.library.field(self.name, key)
    }

    pub(crate) fn need(&self, key: &str) -> &str {
        self.get(key).unwrap_or_else(|| panic!("{} has no {key}", self.name))
    }

    pub(crate) fn number<T: core::str::FromStr>(&self, key: &str) -> T {
        self.need(key).parse().unwrap_or_else(|_| panic!("{}: {key} is not a number", self.name))
    }

    pub(crate) fn array<const N: usize>(&self, key: &str) -> [u8; N] {
        array(self.need(key))
    }

    pub(crate) fn trust(&self) -> Trust {
        ok(Trust::pin(&self.library.bytes(self.need("trusted"))))
    }

    fn now(&self) -> Option<UnixMs> {
        self.get("now").map(|_| self.number("now"))
    }

    fn named(&self, bytes: &[u8]) -> [u8; 32] {
        if self.need("named") == "presented" { sha256(bytes) } else { self.array("named") }
    }

    fn text<const N: usize>(&self, key: &str) -> cpis_protocol::text::Text<N> {
        ok(self.need(key).parse())
    }

    /// A verified object of the same kind, from another case with the same context.
    fn earlier(&self, key: &str) -> Option<Vec<u8>> {
        self.get(key).map(|name| self.library.bytes(name))
    }
}

/// Runs `bytes` as the object of case `name`.
pub(crate) fn run(library: &Library, name: &str, object: &str, bytes: &[u8]) -> Result<(), Refusal> {
    let c = Context { library, name };
    match object {
        "signed" => signed(&c, bytes),
        "root" => root(&c, bytes),
        "root-rotation" => rotation(&c, bytes),
        "beat" => beat(&c, bytes),
        "head" => head(&c, bytes),
        "grant" => grant(&c, bytes),
        "withdrawal" => withdrawal(&c, bytes),
        "device-report" => codec::decode::<DeviceReport>(bytes, limits::REPORT_BYTES_MAX).map(drop),
        "device-reply" => codec::decode::<DeviceReply>(bytes, limits::REPORT_BYTES_MAX).map(drop),
        "enrol-request" => enrol_request(bytes),
        "enrol-reply" => codec::decode::<EnrolReply>(bytes, limits::ENROL_BYTES_MAX).map(drop),
        "invitation" => invitation(bytes),
        "reference" => reference(&c, bytes),
        "record" => run_more::record(bytes),
        "lookup-token" => run_more::token(&c, bytes),
        "cell" => run_more::cell(&c, bytes),
        "cells" => run_more::cells(&c, bytes),
        "name-asked" | "name-filed" => run_names::run(&c, object, bytes),
        "manifest" => run_more::manifest(&c, bytes).map(drop),
        "bounds" => run_more::bounds(&c, bytes),
        "chunk" => run_more::chunk(&c, bytes),
        "delta" => run_more::delta(&c, bytes),
        "audit-link" => run_more::link(&c, bytes),
        "audit-batch" => run_more::batch(&c, bytes),
        "event" => run_more::event(&c, bytes),
        "receipt" => run_more::receipt(&c, bytes),
        "bundle" => run_more::bundle(&c, bytes),
        "catch-up" => run_more::catch_up(bytes),
        "caught-up" => run_more::caught_up(&c, bytes),
        _ => panic!("{name}: unknown object {object}"),
    }
}

fn signed(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let keys: Vec<PublicKey> = c.need("keys").split(' ').map(array).collect();
    assert_eq!(c.number::<u8>("kind"), Kind::Beat as u8);
    let verified = sign::verify::<u32>(bytes, Kind::Beat, &keys, c.number("threshold"), c.number("limit"))?;
    assert_eq!((*verified, verified.bytes()), (7, bytes));
    Ok(())
}

fn root(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let trust = Trust::pin(bytes)?;
    trust.check_expiry(c.now())?;
    let role = match c.get("role") {
        None => return Ok(()),
        Some("publisher") => Role::Publisher,
        Some("beat") => Role::Beat,
        Some("device-authority") => Role::DeviceAuthority,
        Some("receipt") => Role::Receipt,
        Some(role) => panic!("{} has an unknown role {role}", c.name),
    };
    trust.check_role(role, c.now())
}

fn rotation(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let old = c.trust();
    let next = old.rotate(bytes)?;
    assert_eq!(next.root().version, old.root().version + 1);
    // What rotates is also a root that could be pinned.
    assert_eq!(Trust::pin(bytes).as_ref(), Ok(&next));
    next.check_expiry(c.now())
}

fn beat(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let (trust, scope) = (c.trust(), c.text("scope"));
    let last = c.earlier("last").map(|bytes| ok(Beat::verify(&bytes, &scope, &trust, None, None)));
    let result = Beat::verify(bytes, &scope, &trust, last.as_deref(), c.now());
    run_more::beat_by_pull(bytes, &scope, &trust, last.as_ref(), c.now(), result.as_ref().err().copied());
    result.map(|beat| assert_eq!(beat.bytes(), bytes))
}

fn head(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let (trust, scope) = (c.trust(), c.text("scope"));
    let head = Head::verify(bytes, &c.named(bytes), &scope, &trust)?;
    assert_eq!(head.hash(), sha256(bytes));
    let Some(have) = c.earlier("have") else { return Ok(()) };
    let have = ok(Head::verify(&have, &sha256(&have), &scope, &trust));
    head.feeds.iter().try_for_each(|want| replica::road(have.feed(&want.feed), want).map(drop))
}

fn grant(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let (trust, device): (_, DeviceId) = (c.trust(), ok(c.need("device").parse()));
    let last = c.earlier("last").map(|bytes| ok(Grant::verify(&bytes, &device, &trust, None)));
    let grant = Grant::verify(bytes, &device, &trust, last.as_deref())?;
    grant.check_new(&trust, c.now())?;
    let keys = grant.open_keys(&OpeningKey::from_seed(c.array("vault")))?;
    let holds: Vec<&str> = c.need("holds").split(' ').collect();
    let number = |at: usize| holds[at].parse::<u64>().unwrap_or_else(|e| panic!("{e}"));
    let (feed, epoch, key_id) = (ok(holds[0].parse()), number(1), number(2) as u32);
    assert!(keys.holds(feed, epoch, key_id) && grant.grants(feed, epoch, key_id));
    assert_eq!(keys.of(feed, epoch).count(), 1);
    Ok(())
}

/// By itself, and as the reply to the question for a grant in the pull machine: both must say the same.
fn withdrawal(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let (trust, device): (_, DeviceId) = (c.trust(), ok(c.need("device").parse()));
    let result = Withdrawal::verify(bytes, &device, &trust, c.number("last-number"));
    if Withdrawal::is_claimed_by(bytes) && device == crate::common::world::device() {
        let effect = run_more::withdrawal_by_pull(bytes, &trust, c.number("last-number"));
        let action = result.as_ref().ok().map(|w| w.action);
        assert_eq!(effect, action, "the pull machine decides otherwise");
    }
    result.map(|withdrawal| assert_eq!(withdrawal.bytes(), bytes))
}

fn enrol_request(bytes: &[u8]) -> Result<(), Refusal> {
    let request = EnrolRequest::verify(bytes)?;
    // The key inside is one of the signers of the frame.
    let key = request.device_key;
    sign::verify::<EnrolRequest>(bytes, Kind::Enrol, &[key], 1, limits::BEAT_BYTES_MAX).map(drop)
}

fn invitation(bytes: &[u8]) -> Result<(), Refusal> {
    let text = core::str::from_utf8(bytes).map_err(|_| Refusal::Malformed)?;
    let invitation = Invitation::from_text(text)?;
    let trust = Trust::pin(&invitation.root)?;
    assert_eq!(invitation.to_text().as_deref().map(str::trim), Ok(text.replace(' ', "").as_str()));
    trust.check_expiry(None)
}

fn reference(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let reference = Reference::verify(bytes, &c.named(bytes))?;
    assert_eq!(ok(reference.encode()), bytes, "one form only");
    Ok(())
}
