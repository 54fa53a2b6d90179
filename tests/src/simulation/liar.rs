//! Whoever sits on the way and lies: replays, swaps, cuts, turns bits, forges, and says that nothing is there.
//! It must not hold a key of the deployment that it would need for a good lie; a key of another role it may have.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cpis_protocol::audit::Receipt;
use cpis_protocol::catch_up::{self, CaughtUp, Part};
use cpis_protocol::grant::Grant;
use cpis_protocol::head::{Beat, Head};
use cpis_protocol::id::{DeviceId, ScopeId, UnixMs};
use cpis_protocol::limits;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::sign::{self, Kind, Signer};
use cpis_protocol::trust::{Role, Root};
use cpis_protocol::withdrawal::{Withdrawal, WithdrawalAction};
use cpis_server::keys::ServerKeys;
use serde::Serialize;

use super::dice::Dice;

/// Replies that are remembered.
const KEPT: usize = 300;

/// A reply as it once was.
#[derive(Debug, Clone)]
pub struct Kept {
    path: String,
    body: Vec<u8>,
    /// When the server gave it.
    pub served_ms: UnixMs,
}

/// What a liar makes of a reply.
#[derive(Debug, Clone)]
pub enum Lie {
    /// Bytes, and when the server gave them, if it ever did.
    Body(Vec<u8>, Option<UnixMs>),
    /// No bytes.
    Failure(Failure),
}

/// Remembers what went by, of every device.
#[derive(Debug)]
pub struct Liar {
    kept: Mutex<Vec<Kept>>,
    forger: Signer,
}

impl Liar {
    /// With a key of its own that nobody trusts.
    #[must_use]
    pub fn new(dice: &mut Dice) -> Self {
        Self { kept: Mutex::default(), forger: Signer::from_seed(super::bytes(dice)) }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens.
    pub fn remember(&self, dice: &mut Dice, path: &str, body: &[u8], served_ms: UnixMs) {
        let one = Kept { path: path.to_owned(), body: body.to_vec(), served_ms };
        let mut kept = self.kept();
        if kept.len() < KEPT {
            return kept.push(one);
        }
        let place = dice.place(KEPT);
        if let Some(old) = kept.get_mut(place) {
            *old = one;
        }
    }

    /// Lies about a reply that the server gave.
    pub fn lie(
        &self,
        dice: &mut Dice,
        request: &Request,
        device: DeviceId,
        honest: &[u8],
        now_ms: UnixMs,
        keys: &ServerKeys,
    ) -> Lie {
        match dice.below(10) {
            0 | 1 => self.replayed(dice, |kept| kept.path == request.path(), honest, now_ms),
            2 => self.replayed(dice, |kept| kept.path != request.path(), honest, now_ms),
            3 => {
                let mut body = honest.to_vec();
                let place = dice.place(body.len());
                if let Some(byte) = body.get_mut(place) {
                    *byte ^= 1 << dice.below(8);
                }
                Lie::Body(body, None)
            }
            4 => Lie::Body(honest.get(..dice.place(honest.len())).unwrap_or_default().to_vec(), None),
            5 if dice.chance(500) => Lie::Failure(Failure::EndlessReply),
            5 => {
                let mut body = honest.to_vec();
                body.resize(body.len() + dice.place(300), 7);
                Lie::Body(body, None)
            }
            6 | 7 => {
                let forged = self.forged(dice, request, device, honest, now_ms, keys);
                Lie::Body(forged.unwrap_or_default(), None)
            }
            _ => {
                let said = [
                    Failure::NotFound,
                    Failure::NotTheServer,
                    Failure::Unauthorised,
                    Failure::Revoked,
                    Failure::Suspended,
                    Failure::TooLarge,
                    Failure::Refused,
                    Failure::Retry(Some(20)),
                ];
                Lie::Failure(*dice.pick(&said).unwrap_or(&Failure::NotFound))
            }
        }
    }

    fn replayed(&self, dice: &mut Dice, of: impl Fn(&Kept) -> bool, honest: &[u8], now_ms: UnixMs) -> Lie {
        let kept = self.kept();
        let matching: Vec<&Kept> = kept.iter().filter(|kept| of(kept)).collect();
        dice.pick(&matching).map_or_else(
            || Lie::Body(honest.to_vec(), Some(now_ms)),
            |kept| Lie::Body(kept.body.clone(), Some(kept.served_ms)),
        )
    }

    /// A combined reply with one part forged.
    fn recombined(
        &self,
        dice: &mut Dice,
        device: DeviceId,
        honest: &[u8],
        now_ms: UnixMs,
        keys: &ServerKeys,
    ) -> Option<Vec<u8>> {
        let reply = CaughtUp::read(honest).ok()?;
        let single = [
            (Part::Receipt, Request::Audit(Vec::new()), reply.receipt),
            (Part::Grant, Request::Grant, reply.grant),
            (Part::Beat, Request::Beat(ScopeId::EMPTY), reply.beat),
        ];
        let single = single.into_iter().filter_map(|(part, request, body)| Some((part, request, body?)));
        let objects = reply.objects.iter().map(|(request, body)| (Part::Named(request), request.clone(), body.clone()));
        let mut parts: Vec<_> = single.chain(objects).collect();
        let place = dice.place(parts.len());
        let (_, request, body) = parts.get_mut(place)?;
        *body = self.forged(dice, request, device, body, now_ms, keys)?;
        let mut out = catch_up::begin();
        for (part, _, body) in &parts {
            catch_up::push(&mut out, part, body).ok()?;
        }
        catch_up::end(&mut out);
        Some(out)
    }

    fn signed<T: Serialize>(&self, by: Option<&Signer>, kind: Kind, payload: &T) -> Option<Vec<u8>> {
        by.unwrap_or(&self.forger).sign(kind, payload).ok()
    }

    /// Something tempting by a key that has no say in it: the liar's own, or one of the server's for another role.
    fn forged(
        &self,
        dice: &mut Dice,
        request: &Request,
        device: DeviceId,
        honest: &[u8],
        now_ms: UnixMs,
        keys: &ServerKeys,
    ) -> Option<Vec<u8>> {
        let own = dice.chance(500);
        let by = |role| if own { None } else { Some(keys.of(other(role)).signer()) };
        match request {
            Request::CatchUp(_) => self.recombined(dice, device, honest, now_ms, keys),
            Request::Beat(_) => {
                let beat: Beat = sign::peek_unverified(honest, Kind::Beat, limits::BEAT_BYTES_MAX).ok()?;
                let forged = Beat { gseq: beat.gseq + 1000, issued_ms: now_ms + 86_400_000, ..beat };
                self.signed(by(Role::Beat).as_deref(), Kind::Beat, &forged)
            }
            Request::Head(_) => {
                let head: Head = sign::peek_unverified(honest, Kind::Head, limits::HEAD_BYTES_MAX).ok()?;
                let forged = Head { gseq: head.gseq + 1000, feeds: Vec::new(), ..head };
                self.signed(by(Role::Publisher).as_deref(), Kind::Head, &forged)
            }
            Request::Grant if dice.chance(500) => {
                let (number, action) = (1 << 40, WithdrawalAction::Erase);
                let forged = Withdrawal { device, number, action, issued_ms: now_ms };
                self.signed(by(Role::DeviceAuthority).as_deref(), Kind::Withdrawal, &forged)
            }
            Request::Grant => {
                let grant: Grant = sign::peek_unverified(honest, Kind::Grant, limits::GRANT_BYTES_MAX).ok()?;
                let forged = Grant { number: grant.number + 1000, lease_until_ms: i64::MAX, ..grant };
                self.signed(by(Role::DeviceAuthority).as_deref(), Kind::Grant, &forged)
            }
            Request::Root(_) => {
                let root: Root = sign::peek_unverified(honest, Kind::Root, limits::ROOT_BYTES_MAX).ok()?;
                let forged = Root { root_keys: vec![self.forger.public_key()], threshold: 1, ..root };
                self.forger.sign(Kind::Root, &forged).ok()
            }
            Request::Audit(_) => {
                let receipt: Receipt = sign::peek_unverified(honest, Kind::Receipt, limits::RECEIPT_BYTES_MAX).ok()?;
                let mut forged = receipt;
                forged.through.seq += 1;
                self.signed(by(Role::Receipt).as_deref(), Kind::Receipt, &forged)
            }
            _ => {
                let mut body = honest.to_vec();
                dice.fill(&mut body);
                Some(body)
            }
        }
    }
}

/// Another role than this one.
const fn other(role: Role) -> Role {
    match role {
        Role::Publisher => Role::Beat,
        Role::Beat => Role::Receipt,
        Role::DeviceAuthority => Role::Publisher,
        Role::Receipt => Role::DeviceAuthority,
    }
}
