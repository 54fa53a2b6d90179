//! The push machine over a bad network: every event arrives exactly once, in order, and leaves only on a receipt.
//! The device's journal here is a vector; what is pruned is gone.

use cpis_protocol::audit::{Batch, Link, Tip};
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::sync::Now;
use cpis_protocol::sync::push::{Effect, Input, Problem, Push};
use cpis_protocol::{Refusal, limits};

use crate::common::SeedRng;
use crate::common::world::{device, links, trust};
use crate::publisher::Ledger;

struct Outbox {
    push: Push,
    tips: Vec<Tip>,
    links: Vec<Link>,
    /// A batch of more links than this is answered with 413.
    most: usize,
    /// How many links have been pruned.
    pruned: usize,
}

impl Outbox {
    fn load(&self, most: usize) -> Option<Batch> {
        let links: Vec<_> = self.links[self.pruned..].iter().take(most).cloned().collect();
        (!links.is_empty()).then(|| Batch { device: device(), after: self.tips[self.pruned], links })
    }

    fn too_large(&self, request: &Request) -> bool {
        Batch::from_bytes(request.body().unwrap_or_default()).is_ok_and(|batch| batch.links.len() > self.most)
    }

    /// One attempt: until the machine waits.
    fn attempt(
        &mut self,
        ledger: &mut Ledger,
        chance: u32,
        rng: &mut SeedRng,
        old: &mut Vec<Vec<u8>>,
    ) -> Option<Problem> {
        let mut input = Input::Wake;
        for _ in 0..1000 {
            input = match self.push.step(input, Now { tick_ms: 0, time_ms: None }) {
                Effect::Load(most) => Input::Loaded(self.load(most)),
                Effect::Send(request) if self.too_large(&request) => Input::Replied(Err(Failure::TooLarge)),
                Effect::Send(request) => Input::Replied(carry(&request, ledger, chance, rng, old)),
                Effect::Acknowledge(receipt) => {
                    let own = |seq: u64| self.tips.get(usize::try_from(seq).ok()?).map(|tip| tip.hash);
                    let checked = receipt.check(&device(), self.tips[0].chain, own);
                    let through = receipt.through.seq as usize;
                    assert!(through <= ledger.tip.seq as usize, "a receipt for what the server does not hold");
                    let covered = through.saturating_sub(self.pruned);
                    if checked.is_ok() {
                        self.pruned += covered;
                    }
                    Input::Acknowledged(checked.map(|()| covered as u64))
                }
                Effect::Wait { problem, until_ms } => {
                    assert_eq!(until_ms.is_none(), problem.is_none());
                    return problem;
                }
            };
        }
        panic!("an attempt without an end")
    }
}

fn carry(
    request: &Request,
    ledger: &mut Ledger,
    chance: u32,
    rng: &mut SeedRng,
    old: &mut Vec<Vec<u8>>,
) -> Result<Vec<u8>, Failure> {
    let body = request.body().unwrap_or_default();
    assert!(body.len() <= limits::AUDIT_BATCH_BYTES_MAX);
    if rng.below(100) >= chance {
        let receipt = ledger.take(body);
        old.push(receipt.clone());
        return Ok(receipt);
    }
    match rng.below(5) {
        0 => Err(Failure::TooLarge),
        1 => Err(Failure::Offline),
        // The batch arrived, the receipt did not.
        2 => {
            ledger.take(body);
            Err(Failure::Offline)
        }
        3 if !old.is_empty() => Ok(old[rng.below(old.len() as u32) as usize].clone()),
        _ => {
            let mut receipt = ledger.take(body);
            let at = rng.below(receipt.len() as u32) as usize;
            receipt[at] ^= 1;
            Ok(receipt)
        }
    }
}

#[test]
fn everything_arrives_once_and_in_order() {
    let (tips, links) = links(450);
    let mut problems = 0;
    for seed in 0..30 {
        let mut rng = SeedRng::new(seed);
        let mut ledger = Ledger::new();
        let mut outbox = Outbox {
            push: Push::new(device(), trust()),
            tips: tips.clone(),
            links: links.clone(),
            most: 200,
            pruned: 0,
        };
        let mut old = Vec::new();
        for _ in 0..15 {
            problems += u32::from(outbox.attempt(&mut ledger, 60, &mut rng, &mut old).is_some());
            assert!(outbox.pruned as u64 <= ledger.tip.seq, "pruned before it was held");
        }
        assert_eq!(outbox.attempt(&mut ledger, 0, &mut rng, &mut old), None, "seed {seed}");
        assert_eq!(outbox.pruned, 450, "seed {seed}");
        assert_eq!(ledger.inserted, (1..=450).collect::<Vec<_>>(), "seed {seed}");
    }
    assert!(problems > 60, "the weather was too fair to prove anything: {problems} problems");
}

/// A proxy that lets only small bodies through: the batch is halved until it fits, and everything arrives.
#[test]
fn a_small_door_is_passed_in_small_batches() {
    let (tips, links) = links(50);
    let mut outbox = Outbox { push: Push::new(device(), trust()), tips, links, most: 3, pruned: 0 };
    let mut ledger = Ledger::new();
    assert_eq!(outbox.attempt(&mut ledger, 0, &mut SeedRng::new(1), &mut Vec::new()), None);
    assert_eq!((outbox.pruned, ledger.inserted.len()), (50, 50));
}

/// A server that lost its memory answers with a receipt that covers nothing: the device waits, and drops nothing.
#[test]
fn a_receipt_that_covers_nothing_prunes_nothing() {
    let (tips, links) = links(5);
    let mut outbox = Outbox { push: Push::new(device(), trust()), tips, links, most: 200, pruned: 3 };
    let mut ledger = Ledger::new();
    let problem = outbox.attempt(&mut ledger, 0, &mut SeedRng::new(1), &mut Vec::new());
    assert_eq!(problem, Some(Problem::Refused(Refusal::Gap)));
    assert_eq!(outbox.pruned, 3);
}
