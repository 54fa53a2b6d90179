//! What a combined reply brought ahead of the questions: answers, kept by the question that they are an answer to.
//! It must not judge an answer, nor give one to a question that it was not named for.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::catch_up::CaughtUp;
use crate::limits;
use crate::message::{Failure, Request};

/// Answers at hand. At most what one combined reply holds.
#[derive(Debug, Default)]
pub(super) struct AtHand {
    grant: Option<Vec<u8>>,
    beat: Option<Vec<u8>>,
    /// Immutable objects by path.
    objects: BTreeMap<String, Vec<u8>>,
    /// Whether the reply held every root there is: one that is not at hand is then not there.
    all_roots: bool,
}

impl AtHand {
    /// An attempt begins: signed times are not kept for it, and objects only while a target needs them.
    pub(super) fn begin(&mut self, has_target: bool) {
        self.forget_signed_times();
        self.all_roots = false;
        if !has_target {
            self.objects.clear();
        }
    }

    /// Nothing is at hand.
    pub(super) fn clear(&mut self) {
        self.begin(false);
    }

    /// Takes in a reply.
    pub(super) fn fill(&mut self, reply: CaughtUp) {
        let roots = reply.objects.iter().filter(|(request, _)| matches!(request, Request::Root(_))).count();
        self.all_roots = reply.is_whole && roots < limits::CATCH_UP_ROOTS; // R236
        (self.grant, self.beat) = (reply.grant, reply.beat);
        self.objects.extend(reply.objects.into_iter().map(|(request, body)| (request.path(), body)));
    }

    /// Lets go of what tells a time: grant and beat.
    pub(super) fn forget_signed_times(&mut self) {
        self.grant = None;
        self.beat = None;
    }

    /// Whether a grant, or a withdrawal in its place, is at hand.
    pub(super) const fn has_grant(&self) -> bool {
        self.grant.is_some()
    }

    /// Whether the answer is at hand.
    pub(super) fn holds(&self, request: &Request) -> bool {
        match request {
            Request::Grant => self.grant.is_some(),
            Request::Beat(_) => self.beat.is_some(),
            request => self.objects.contains_key(&request.path()),
        }
    }

    /// The answers, each given once; `None` unless all are at hand.
    pub(super) fn answer(&mut self, requests: &[Request]) -> Option<Vec<Result<Vec<u8>, Failure>>> {
        if let [Request::Root(_)] = requests
            && self.all_roots
            && !requests.iter().any(|request| self.holds(request))
        {
            return Some(Vec::from([Err(Failure::NotFound)]));
        }
        if !requests.iter().all(|request| self.holds(request)) {
            return None;
        }
        let take = |request: &Request| match request {
            Request::Grant => self.grant.take(),
            Request::Beat(_) => self.beat.take(),
            request => self.objects.remove(&request.path()),
        };
        Some(requests.iter().map(take).map(|body| body.ok_or(Failure::NotFound)).collect())
    }
}
