//! The entry points of cells, audit and bundles, and of the machines that take the same bytes.
//! It must not know any expectation.

use cpis_protocol::Refusal;
use cpis_protocol::audit::{self, Batch, Link, Receipt, Tip};
use cpis_protocol::bundle::Index;
use cpis_protocol::catch_up::{CatchUp, CaughtUp};
use cpis_protocol::cell::{Cell, FeedKey, LookupPrf as _, Place};
use cpis_protocol::compare::{Bounds, by_range};
use cpis_protocol::flag::{RECORD_BYTES, Record};
use cpis_protocol::grant::Grant;
use cpis_protocol::head::Beat;
use cpis_protocol::id::{DeviceId, ScopeId, UnixMs};
use cpis_protocol::limits;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_protocol::query::{LookupParameters, Path, Query, Token};
use cpis_protocol::replica;
use cpis_protocol::seal::{Key, MemoryHard, OpeningKey};
use cpis_protocol::sign::{Kind, Verified};
use cpis_protocol::sync::{Now, pull, push};
use cpis_protocol::tree::{Manifest, TreeHasher};
use cpis_protocol::trust::{Role, Trust};
use cpis_protocol::withdrawal::WithdrawalAction;

use crate::common::world::{self, AUTHORITY, framed};
use crate::common::{array, ok};
use crate::run::Context;

pub(crate) fn record(bytes: &[u8]) -> Result<(), Refusal> {
    let fixed: [u8; RECORD_BYTES] = bytes.try_into().unwrap_or_else(|_| panic!("a record has {RECORD_BYTES} bytes"));
    let record = Record::unpack(&fixed)?;
    assert_eq!(record.pack(), Ok(fixed), "one form only");
    Ok(())
}

pub(crate) fn token(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let cost = MemoryHard { memory_kib: c.number("memory-kib"), passes: c.number("passes") };
    let cost = cost.check(c.number("synthetic"))?;
    let number: NhsNumber = c.number("number");
    let birth: Date = c.number("birth");
    let parameters = LookupParameters { salt_epoch: c.number("salt-epoch"), salt: c.array("salt"), cost };
    assert_eq!(Query::nhs_number(number, birth).token(&parameters)?.expose(), bytes);
    Ok(())
}

pub(crate) fn cell(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let cell = Cell::from_bytes(bytes)?;
    assert_eq!(cell.as_bytes().as_slice(), bytes);
    if c.get("key").is_none() {
        return Ok(());
    }
    let place = Place { feed: ok(c.need("feed").parse()), epoch: c.number("epoch") };
    let token = Token::from_cache(Path::NhsNumber, c.array("token"));
    let secret = FeedKey(Key::from_bytes(c.array("key"))).evaluate(&place, &token)?;
    let index = c.number("index");
    let found = cell.locators().iter().position(|locator| *locator == secret.locator(index));
    let slot = if c.get("slot").is_some() { Some(c.number("slot")) } else { found };
    let record = cell.open(&place, &secret, index, slot.ok_or(Refusal::DoesNotOpen)?)?;
    assert_eq!(ok(record.pack()).as_slice(), c.library.bytes(c.need("record")));
    Ok(())
}

pub(crate) fn cells(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    assert_eq!(Cell::read_all(bytes)?.len(), c.number("count"));
    Ok(())
}

pub(crate) fn manifest(c: &Context<'_>, bytes: &[u8]) -> Result<Manifest, Refusal> {
    let manifest = Manifest::verify(bytes, c.number("count"), &c.array("state-root"))?;
    assert_eq!(manifest.to_bytes(), bytes);
    Ok(manifest)
}

/// The bounds themselves, and which chunks of the state they show a device that has the live set `own`.
pub(crate) fn bounds(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let named = Context { library: c.library, name: c.need("manifest") };
    let manifest = ok(manifest(&named, &c.library.bytes(named.name)));
    let bounds = Bounds::read(bytes, manifest.chunks())?;
    assert_eq!(bounds.to_bytes(), bytes);
    let own = c.need("own").split(' ').flat_map(|name| ok(Cell::read_all(&c.library.bytes(name))));
    let mut own: Vec<Cell> = own.collect();
    for lost in c.get("lost").unwrap_or_default().split_whitespace().rev() {
        own.remove(lost.parse().unwrap_or_else(|_| panic!("{}: {lost}", c.name)));
    }
    let mut held = Vec::new();
    ok(by_range(own, &bounds, &manifest, |index, _| {
        held.push(index.to_string());
        Ok::<_, Refusal>(())
    }));
    assert_eq!(held.join(" "), c.get("held").unwrap_or_default(), "{}", c.name);
    Ok(())
}

pub(crate) fn chunk(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let named = Context { library: c.library, name: c.need("manifest") };
    let manifest = ok(manifest(&named, &c.library.bytes(named.name)));
    let cells = Cell::read_all(bytes)?;
    manifest.check_chunk(c.number("index"), &replica::leaves(&cells))?;
    replica::check_live(&cells, None, c.number("seq"))
}

pub(crate) fn delta(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let cells = Cell::read_all(bytes)?;
    replica::check_delta(&cells, c.number("from"), c.number("to"))?;
    let live = ok(Cell::read_all(&c.library.bytes(c.need("live"))));
    ok(replica::check_live(&live, None, c.number("from")));
    let mut tree = TreeHasher::default();
    for cell in replica::merge(live.into_iter().map(Ok::<_, Refusal>), replica::changes(&cells)) {
        tree.push(cell?.leaf());
    }
    let want = cpis_protocol::head::FeedState {
        feed: cpis_protocol::text::Text::EMPTY,
        epoch: 0,
        seq: c.number("to"),
        count: c.number("count"),
        state_root: c.array("state-root"),
        key_id: 0,
        oldest_key_id: 0,
    };
    replica::check_state(&tree, &want)
}

fn device(c: &Context<'_>) -> DeviceId {
    ok(c.need("device").parse())
}

pub(crate) fn link(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let tip = Tip { chain: ok(c.need("chain").parse()), seq: c.number("seq"), hash: c.array("previous") };
    let link = Link::from_bytes(bytes)?;
    let next = tip.verify(&device(c), &c.array("key"), &link)?;
    assert_eq!((next.seq, next), (tip.seq + 1, tip.follow(&device(c), &link)));
    Ok(())
}

pub(crate) fn batch(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let batch = Batch::from_bytes(bytes)?;
    assert_eq!(batch.to_bytes().as_deref(), Ok(bytes), "one form only");
    let key = c.array("key");
    batch.links.iter().try_fold(batch.after, |tip, link| tip.verify(&batch.device, &key, link))?;
    assert_eq!(batch.links.len(), c.number("count"));
    Ok(())
}

pub(crate) fn event(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let link = Link::from_bytes(bytes)?;
    let key = OpeningKey::from_seed(c.array("opening"));
    let event = audit::open(&link, &device(c), &ok(c.need("chain").parse()), c.number("seq"), &key)?;
    assert_eq!(event.act.name(), c.need("act"));
    Ok(())
}

pub(crate) fn receipt(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let trust = c.trust();
    let receipt: Result<Verified<Receipt>, _> =
        trust.verify(Role::Receipt, Kind::Receipt, bytes, limits::RECEIPT_BYTES_MAX);
    // The machine that takes receipts agrees with the function.
    let mut machine = push::Push::new(device(c), trust);
    let now = Now { tick_ms: 0, time_ms: None };
    match (machine.step(push::Input::Replied(Ok(bytes.to_vec())), now), &receipt) {
        (push::Effect::Acknowledge(taken), Ok(receipt)) => assert_eq!(&taken, receipt),
        (push::Effect::Wait { problem: Some(push::Problem::Refused(why)), .. }, Err(refusal)) => {
            assert_eq!(why, *refusal);
        }
        (effect, receipt) => panic!("{effect:?} for {receipt:?}"),
    }
    let own: Vec<[u8; 32]> = c.need("own").split(' ').map(array).collect();
    let own_hash = |seq: u64| own.get(usize::try_from(seq).unwrap_or(usize::MAX)).copied();
    receipt?.check(&device(c), ok(c.need("chain").parse()), own_hash)
}

pub(crate) fn bundle(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let index = Index::read(bytes)?;
    let paths: Vec<String> = index.requests().iter().map(Request::path).collect();
    assert_eq!(paths.join(" "), c.get("paths").unwrap_or_default());
    for request in index.requests() {
        assert!(index.find(&request).and_then(|range| bytes.get(range)).is_some());
    }
    Ok(())
}

pub(crate) fn catch_up(bytes: &[u8]) -> Result<(), Refusal> {
    let ask = CatchUp::from_bytes(bytes)?;
    assert_eq!(ask.to_bytes().as_deref(), Ok(bytes));
    Ok(())
}

pub(crate) fn caught_up(c: &Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let reply = CaughtUp::read(bytes)?;
    let paths: Vec<String> = reply.objects.iter().map(|(request, _)| request.path()).collect();
    assert_eq!(paths.join(" "), c.get("paths").unwrap_or_default());
    assert_eq!(reply.is_whole.to_string(), c.need("whole"));
    assert_eq!(reply.begun.map(|(request, _)| request.path()).as_deref(), c.get("begun"));
    Ok(())
}

/// The machine that takes beats agrees with the function.
pub(crate) fn beat_by_pull(
    bytes: &[u8],
    scope: &ScopeId,
    trust: &Trust,
    last: Option<&Verified<Beat>>,
    now: Option<UnixMs>,
    expected: Option<Refusal>,
) {
    let mut grant = world::grant(1, &[]);
    grant.scope = *scope;
    let grant = framed(Kind::Grant, &ok(cpis_protocol::codec::encode(&grant)), &[AUTHORITY]);
    let mut machine = pull::Pull::new(pull::Start {
        trust: trust.clone(),
        grant: ok(Grant::verify(&grant, &world::device(), trust, None)),
        beat: last.cloned(),
        head: None,
        damaged: Default::default(),
        pinned: None,
        staged: std::collections::BTreeMap::new(),
        with_grant: false,
        withdrawn: None,
    });
    let now = Now { tick_ms: 0, time_ms: now };
    machine.step(pull::Input::Wake, now);
    let effect = machine.step(pull::Input::Fetched(vec![Ok(bytes.to_vec())]), now);
    let asked = match &effect {
        pull::Effect::Fetch(requests) => requests.first().cloned(),
        _ => None,
    };
    match (expected, asked) {
        (None, Some(Request::Head(_))) => {}
        // A later root may know the key, or have a later expiry.
        (Some(Refusal::UnknownKey | Refusal::Expired), Some(Request::Root(2))) => {}
        (Some(refusal), None) => match effect {
            pull::Effect::Wait { outcome: pull::Outcome::Refused(why), .. } => assert_eq!(why, refusal),
            effect => panic!("{effect:?} for {refusal}"),
        },
        (expected, _) => panic!("{effect:?} for {expected:?}"),
    }
}

/// What the pull machine does with the bytes in a grant's place, by itself and in a combined reply.
pub(crate) fn withdrawal_by_pull(bytes: &[u8], trust: &Trust, last: u64) -> Option<WithdrawalAction> {
    let decide = |reply: Result<CaughtUp, Failure>| {
        let grant = world::grant(last, &[("E09000033", 42)]);
        let grant = framed(Kind::Grant, &ok(cpis_protocol::codec::encode(&grant)), &[AUTHORITY]);
        let grant = ok(Grant::verify(&grant, &world::device(), trust, None));
        let mut machine = pull::Pull::new(pull::Start {
            trust: trust.clone(),
            grant,
            beat: None,
            head: None,
            damaged: std::collections::BTreeSet::new(),
            pinned: None,
            staged: std::collections::BTreeMap::new(),
            with_grant: true,
            withdrawn: None,
        });
        let now = Now { tick_ms: 0, time_ms: None };
        assert!(matches!(machine.step(pull::Input::Wake, now), pull::Effect::CatchUp(_)));
        let mut effect = machine.step(pull::Input::CaughtUp(reply), now);
        if matches!(&effect, pull::Effect::Fetch(requests) if requests[..] == [Request::Grant]) {
            effect = machine.step(pull::Input::Fetched(vec![Ok(bytes.to_vec())]), now);
        }
        match effect {
            pull::Effect::Erase => Some(WithdrawalAction::Erase),
            pull::Effect::Suspend(_) => Some(WithdrawalAction::Suspend),
            _ => None,
        }
    };
    let combined = CaughtUp { grant: Some(bytes.to_vec()), is_whole: true, ..CaughtUp::default() };
    let by_itself = decide(Err(Failure::NotFound));
    assert_eq!(decide(Ok(combined)), by_itself, "whatever it came with");
    by_itself
}
