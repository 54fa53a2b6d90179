//! What goes into the pull machine and what comes out of it.
//! It must not hold state: that is the machine's.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::target::{Comparison, Plan, StagedChunk};
use crate::Refusal;
use crate::catch_up::{CatchUp, CaughtUp};
use crate::grant::Grant;
use crate::head::{Beat, FeedState, Head};
use crate::id::FeedId;
use crate::message::{Failure, Request};
use crate::sign::Verified;
use crate::trust::Trust;
use crate::withdrawal::Withdrawal;

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The wait is over.
    Wake,
    /// Somebody asked for a sync: the grant is fetched too.
    WakeNow,
    /// The reply to the combined question, or why there is none. One that could not be taken apart is `Refused`.
    CaughtUp(Result<CaughtUp, Failure>),
    /// The replies to the last requests, in their order.
    Fetched(Vec<Result<Vec<u8>, Failure>>),
    /// The last effect (store, confirm, pin, stage) was carried out durably.
    Stored,
    /// It could not be stored: the disk, not the content.
    StoreFailed,
    /// For each feed that was to be compared, the chunks that are staged for its state now.
    Compared(Vec<(FeedId, Vec<u32>)>),
    /// The plan was applied, or these feeds did not come out as signed.
    Applied(Result<(), Vec<FeedId>>),
}

/// What the driver must do next.
#[derive(Debug)]
pub enum Effect {
    /// Ask for everything at once. The driver adds what the device has to say, deals with what answers that, and brings
    /// the rest.
    CatchUp(CatchUp),
    /// Send these requests, at once if it can, and bring the replies in order.
    Fetch(Vec<Request>),
    /// Store a newer root.
    StoreRoot(Trust),
    /// Store a newer grant, asked for at this tick.
    StoreGrant {
        /// The grant.
        grant: Verified<Grant>,
        /// When it was asked for: its signed time is not older than the answer to that.
        asked_ms: u64,
    },
    /// The head is unchanged: store the beat, so that the copy's age moves.
    Confirm {
        /// The beat.
        beat: Verified<Beat>,
        /// When it was asked for.
        asked_ms: u64,
    },
    /// Remember what is on its way in, so that a restart goes on with it.
    Pin(Box<Pinned>),
    /// Stage what the device holds of these states already: of the present copy, damaged or not, and of what was staged.
    Compare(Vec<Comparison>),
    /// Store verified snapshot chunks aside, where no look-up sees them.
    Stage(Vec<StagedChunk>),
    /// Build the next generation, compare every state root, and flip all feeds at once.
    Apply(Box<Plan>),
    /// A verified withdrawal: lock, answer nothing, keep everything, until the next grant.
    /// To be stored as it was signed: what its number is worth hangs on its key (R221).
    Suspend(Verified<Withdrawal>),
    /// A verified withdrawal: destroy every key and write the receipt. Nothing follows.
    Erase,
    /// Do nothing until the tick, or until woken.
    Wait {
        /// Monotonic milliseconds.
        until_ms: u64,
        /// How the attempt ended.
        outcome: Outcome,
    },
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The copy equals the newest head.
    UpToDate,
    /// No reply.
    Failed(Failure),
    /// Something was not accepted.
    Refused(Refusal),
    /// The disk would not take it.
    StoreFailed,
    /// The grant lacks a key that the newest head needs: the present copy stays until it has come.
    KeyMissing,
}

/// A head on its way in, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// The beat that named it.
    pub beat: Verified<Beat>,
    /// The head.
    pub head: Verified<Head>,
    /// Its reference data, when that is another than the copy's.
    pub reference: Option<Vec<u8>>,
}

/// What the machine starts from: the stored state of the agent.
#[derive(Debug)]
pub struct Start {
    /// The trusted root.
    pub trust: Trust,
    /// The newest grant.
    pub grant: Verified<Grant>,
    /// The newest beat accepted.
    pub beat: Option<Verified<Beat>>,
    /// The head that the replica equals.
    pub head: Option<Verified<Head>>,
    /// Feeds whose stored cells do not match the head.
    pub damaged: BTreeSet<FeedId>,
    /// The head that was on its way in when the agent stopped.
    pub pinned: Option<Pinned>,
    /// The states for which chunks are staged.
    pub staged: BTreeMap<FeedId, FeedState>,
    /// Whether the carrier has grants: the server does, a bundle does not.
    pub with_grant: bool,
    /// The newest withdrawal accepted, if there was one.
    pub withdrawn: Option<Verified<Withdrawal>>,
}

/// Where the machine is in an attempt.
#[derive(Debug)]
pub(super) enum Phase {
    Idle,
    /// Asking for everything at once; whether a grant was wanted.
    CatchUp(bool),
    Grant,
    GrantStored(Box<Verified<Grant>>),
    Suspending,
    Beat,
    /// Asking for the next root, because of this refusal or as a matter of routine.
    Root(Option<Refusal>),
    RootStored(Trust),
    Head(Verified<Beat>),
    Confirming,
    Reference,
    Pinning,
    Comparing(Vec<FeedId>),
    Cells,
    /// Keeping what arrived, before an attempt that has failed so ends.
    Staging(Option<Outcome>),
    Applying,
}
