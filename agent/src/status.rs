//! What the agent says of itself: copy, link, outbox, vault. One shape for the API, the CLI and the page.
//! It must not hold anything about a person who was looked up.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cpis_protocol::message::Failure;
use cpis_protocol::policy::{AccessMode, Freshness};
use cpis_protocol::sync::{pull, push};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::agent::Allowance;
use crate::trouble::{Trouble, TroubleStatus};

/// How far a download is, in cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Fetched and verified.
    pub done: u64,
    /// In all.
    pub total: u64,
}

/// The link to the server.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LinkStatus {
    /// An attempt is under way.
    pub syncing: bool,
    /// The download under way.
    pub progress: Option<Progress>,
    /// When the copy was last known to equal the newest head, by trusted time.
    pub last_success_ms: Option<i64>,
    /// How the last attempt ended; absent before the first.
    pub last_outcome: Option<String>,
    /// What stood in the way of it, and what to do about that.
    #[serde(default)]
    pub trouble: Option<TroubleStatus>,
    /// Why the last upload did not go through.
    pub upload_problem: Option<String>,
    /// Whether that was a receipt that was not accepted.
    #[serde(skip)]
    pub upload_refused: bool,
    /// Attempts since the start.
    pub attempts: u64,
}

/// The copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CopyStatus {
    /// The signed instant that it is of.
    pub as_at_ms: Option<i64>,
    /// Its age.
    pub age_s: Option<i64>,
    /// Its band; absent when it cannot answer at all.
    pub freshness: Option<Freshness>,
    /// Why it cannot answer.
    pub cannot_answer: Option<String>,
    /// Register sequence.
    pub gseq: u64,
    /// Sealed records held.
    pub records: u64,
    /// Feeds held.
    pub feeds: usize,
    /// Feeds whose content does not match the head.
    pub damaged: usize,
    /// Names of the authorities covered.
    pub covers: Vec<String>,
    /// When the lease ends.
    pub lease_until_ms: i64,
    /// Bytes on disk.
    pub store_bytes: u64,
}

/// The outbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OutboxStatus {
    /// Events not acknowledged yet.
    pub waiting: u64,
    /// The position of the last event.
    pub through: u64,
    /// The position of the last acknowledged event.
    pub acknowledged: u64,
    /// When the oldest waiting event happened.
    pub oldest_ms: Option<i64>,
    /// `normal`, `warning` or `full`.
    pub space: String,
}

/// Who keeps the device secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SecretStatus {
    /// `tpm`, `credential` or `file`.
    pub provider: String,
    /// Since when, by this device's clock when it asked to be enrolled.
    pub since_ms: Option<i64>,
}

/// Everything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// The device's identity.
    pub device: String,
    /// The deployment, from the trusted root.
    pub deployment: String,
    /// Whether only test numbers live here.
    pub synthetic: bool,
    /// The version of the trusted root.
    pub root_version: u32,
    /// When it, or the first of its roles, ends: from then on nothing new is installed.
    pub root_until_ms: i64,
    /// When the TLS certificate ends; the server renews it by itself.
    pub certificate_until_ms: Option<i64>,
    /// Its site.
    pub site: String,
    /// Its scope.
    pub scope: String,
    /// Whether showing details notifies the authority here.
    pub access_mode: AccessMode,
    /// The server's address.
    pub server: String,
    /// The server withdrew this device.
    pub revoked: bool,
    /// Who keeps the device secret.
    pub device_secret: SecretStatus,
    /// Who has the vault open.
    pub unlocked_by: Option<String>,
    /// What they may still do.
    pub allowance: Option<Allowance>,
    /// How often the glass was broken on this device, ever.
    pub break_glass_count: u32,
    /// How many answers could not be recorded when they were given, ever; each is told later.
    pub unrecorded_count: u32,
    /// The copy.
    pub copy: CopyStatus,
    /// The link.
    pub link: LinkStatus,
    /// The outbox.
    pub outbox: OutboxStatus,
}

/// The link's state, shared by the driver and the API.
#[derive(Debug, Default)]
pub struct SyncStatus {
    link: Mutex<LinkStatus>,
    lost: watch::Sender<bool>,
}

impl SyncStatus {
    fn lock(&self) -> MutexGuard<'_, LinkStatus> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt begins.
    pub fn begin(&self) {
        let mut status = self.lock();
        status.syncing = true;
        status.attempts += 1;
    }

    /// Whether the last attempt did not reach the server; sent after every attempt.
    pub fn lost(&self) -> watch::Receiver<bool> {
        self.lost.subscribe()
    }

    /// An attempt ended.
    pub fn finish(&self, outcome: pull::Outcome, now_ms: Option<i64>) {
        let lost = pull::Outcome::Failed(Failure::Offline);
        let busy = matches!(outcome, pull::Outcome::Failed(Failure::NotTheServer | Failure::Retry(_)));
        self.lost.send_replace(outcome == lost || busy);
        let mut status = self.lock();
        status.syncing = false;
        status.progress = None;
        if outcome == pull::Outcome::UpToDate {
            status.last_success_ms = now_ms;
        }
        let unreached = matches!(outcome, pull::Outcome::Failed(Failure::Offline | Failure::NotTheServer));
        if !unreached {
            status.trouble = None;
        }
        // What is known of the way says more than that there was no reply.
        let why = status.trouble.as_ref().map(|trouble| trouble.finding.clone());
        status.last_outcome = Some(why.unwrap_or_else(|| describe(outcome)));
    }

    /// What stood in the way of the attempt that is about to be finished.
    pub fn set_trouble(&self, trouble: Option<Trouble>) {
        self.lock().trouble = trouble.map(|trouble| trouble.status());
    }

    /// How far the download is.
    pub fn set_progress(&self, progress: Option<Progress>) {
        self.lock().progress = progress;
    }

    /// How the last upload ended.
    pub fn set_upload(&self, problem: Option<push::Problem>) {
        let mut status = self.lock();
        status.upload_refused = matches!(problem, Some(push::Problem::Refused(_)));
        status.upload_problem = problem.map(|problem| match problem {
            push::Problem::Failed(failure) => describe_failure(failure).into(),
            push::Problem::Refused(refusal) => format!("the receipt was refused: {refusal}"),
        });
    }

    /// Whether the last upload ended with a receipt that was not accepted.
    pub fn is_upload_refused(&self) -> bool {
        self.lock().upload_refused
    }

    /// A copy of the state.
    pub fn get(&self) -> LinkStatus {
        self.lock().clone()
    }
}

/// How an attempt ended, in words.
#[must_use]
pub fn describe(outcome: pull::Outcome) -> String {
    match outcome {
        pull::Outcome::UpToDate => "up to date".into(),
        pull::Outcome::Failed(failure) => describe_failure(failure).into(),
        pull::Outcome::Refused(refusal) => format!("refused ({}): {refusal}", refusal.code()),
        pull::Outcome::StoreFailed => "the new copy could not be stored: is the disk full?".into(),
        pull::Outcome::KeyMissing => {
            "the newest copy needs keys that this device has not been granted yet: connect to the server; the present copy stands".into()
        }
    }
}

/// A failure in words.
#[must_use]
pub const fn describe_failure(failure: Failure) -> &'static str {
    match failure {
        Failure::Offline => "no connection to the server",
        Failure::NotTheServer => {
            "something between here and the server answers in its place: a sign-in page or a proxy"
        }
        Failure::Retry(_) => "the server asks to come back later",
        Failure::NotFound => "the server does not have that yet",
        Failure::TooLarge => "the server finds the request too large",
        Failure::EndlessReply => "the reply is longer than an honest one can be",
        Failure::Unauthorised => "the server does not accept this device",
        Failure::Revoked => "this device has been withdrawn from use",
        Failure::Suspended => "this device has been suspended",
        Failure::Refused => "the server refuses the request",
    }
}
