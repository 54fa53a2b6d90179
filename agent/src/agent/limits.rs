//! What a practitioner may still do on this device: the bucket of look-ups, the break-glass, and the count of answers that
//! could not be recorded.
//! It must not let a look-up through that is not counted on stable storage, nor forget an answer that nobody was told of.
//!
//! An answer that the journal does not take is told later, by [`Act::Unrecorded`]: see `telling.rs`.

use cpis_protocol::answer::CannotAnswer;
use cpis_protocol::audit::{Act, AuditEvent, Moment};
use cpis_protocol::clock::Reading;
use cpis_protocol::id::PractitionerId;
use cpis_protocol::quota::GlassRefused;
use cpis_protocol::text::Text;
use serde::{Deserialize, Serialize};

use super::{Agent, GlassError, telling};
use crate::journal::{JournalError, Priority};
use crate::keyslot::{Keyslot, KeyslotError, Unrecorded, Usage};
use crate::random::OsRandom;

/// The shortest reason for a break-glass, in characters.
pub const REASON_MIN: usize = 8;
/// Look-ups that are in no chain are numbered from here, so that none is taken for a position.
const UNRECORDED_FROM: u64 = 1 << 52;

/// What a practitioner may still do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// Look-ups left, without break-glass.
    pub look_ups: u16,
    /// Seconds until one is allowed; zero when some are left.
    pub wait_s: u32,
    /// The break-glass in force: look-ups left of it.
    pub break_glass_look_ups: Option<u16>,
    /// Its end.
    pub break_glass_until_ms: Option<i64>,
}

impl Agent {
    /// Counts one look-up, by whatever path, durably and before anything of it is computed. Hit and miss count alike.
    ///
    /// # Errors
    /// [`CannotAnswer::RateLimited`], [`CannotAnswer::AgeUnknown`], or [`CannotAnswer::AuditCannotBeWritten`] when it
    /// could not be counted.
    pub fn quota(&self, practitioner: PractitionerId) -> Result<(), CannotAnswer> {
        let policy = self.grant().policy;
        let now_ms = self.now().time_ms.ok_or(CannotAnswer::AgeUnknown)?;
        let not_counted = |error: KeyslotError| {
            tracing::error!(%error, "a look-up could not be counted");
            CannotAnswer::AuditCannotBeWritten
        };
        let mut keyslot = self.keys.keyslot();
        let mut usage = usage_at(&mut keyslot, practitioner, now_ms).map_err(not_counted)?;
        match usage.bucket.take(&policy, now_ms) {
            Ok(bucket) => usage.bucket = bucket,
            Err(_) => usage.glass = usage.glass.take(&policy, now_ms).ok_or(CannotAnswer::RateLimited)?, // R164
        }
        // R160
        keyslot.update(|contents| contents.set_usage(usage, |old| self.is_idle(old, now_ms))).map_err(not_counted)
    }

    /// Whether nothing is lost if this is forgotten.
    fn is_idle(&self, usage: &Usage, now_ms: i64) -> bool {
        let limits = usage.bucket.is_full(&self.grant().policy, now_ms) && usage.glass.is_forgotten(now_ms);
        limits && usage.unrecorded.count == 0 && usage.telling.is_none()
    }

    /// Whether a refused look-up is to be recorded: one in each refill interval, so that the outbox cannot be flooded.
    pub fn refusal_is_news(&self, practitioner: PractitionerId) -> bool {
        let Some(now_ms) = self.now().time_ms else { return true };
        let refill_ms = i64::from(self.grant().policy.look_up_refill_s) * 1000;
        let mut keyslot = self.keys.keyslot();
        let Ok(usage) = usage_at(&mut keyslot, practitioner, now_ms) else { return false };
        if now_ms < usage.refusal_told_ms.saturating_add(refill_ms) {
            return false;
        }
        let told = Usage { refusal_told_ms: now_ms, ..usage };
        keyslot.update(|contents| contents.set_usage(told, |old| self.is_idle(old, now_ms))).is_ok()
    }

    /// What a practitioner may still do; `None` when the time is not known.
    pub fn allowance(&self, practitioner: PractitionerId) -> Option<Allowance> {
        let (policy, now_ms) = (self.grant().policy, self.now().time_ms?);
        let usage = {
            let mut keyslot = self.keys.keyslot();
            let stored = usage_at(&mut keyslot, practitioner, now_ms);
            stored.unwrap_or_else(|_| keyslot.contents().usage(practitioner).settled(now_ms))
        };
        let glass = usage.glass.is_in_force(&policy, now_ms).then_some(usage.glass);
        Some(Allowance {
            look_ups: usage.bucket.left(&policy, now_ms),
            wait_s: usage.bucket.take(&policy, now_ms).map_or_else(|empty| empty.wait_s, |_| 0),
            break_glass_look_ups: glass.map(|glass| glass.left()),
            break_glass_until_ms: glass.map(|glass| glass.until_ms()),
        })
    }

    /// How often the glass was broken, and how many answers were not recorded at once, on this device, ever.
    pub fn exception_counts(&self) -> (u32, u32) {
        let keyslot = self.keys.keyslot();
        (keyslot.contents().glasses, keyslot.contents().unrecorded_total)
    }

    /// Whether a break-glass of this practitioner is in force.
    pub fn glass_is_broken(&self, practitioner: PractitionerId) -> bool {
        self.allowance(practitioner).is_some_and(|allowance| allowance.break_glass_until_ms.is_some())
    }

    /// Breaks the glass for whoever has the vault open: recorded first, then in force.
    ///
    /// # Errors
    /// [`GlassError`]; nothing changed.
    pub fn break_glass(&self, reason: &str, confirmed: bool) -> Result<Allowance, GlassError> {
        self.attend();
        let reading = self.clock.reading();
        let badge = self.vault.with(reading.boot_ms, |session| session.badge.clone()).ok_or(GlassError::Locked)?;
        let reason = reason.trim();
        if reason.chars().count() < REASON_MIN {
            return Err(GlassError::ReasonTooShort);
        }
        let reason = Text::new(reason).map_err(|_| GlassError::ReasonTooLong)?;
        let not_stored = |error: KeyslotError| {
            tracing::error!(%error, "a break-glass could not be stored");
            GlassError::NotRecorded
        };
        let (policy, _turn) = (self.grant().policy, self.people());
        let now_ms = self.now().time_ms.ok_or(GlassError::AgeUnknown)?;
        let usage = usage_at(&mut self.keys.keyslot(), badge.practitioner, now_ms).map_err(not_stored)?;
        let glass = usage.glass.broken(&policy, reason, now_ms).map_err(|refused| match refused {
            GlassRefused::NotAllowed => GlassError::NotAllowed,
            GlassRefused::TooSoon { wait_s } => GlassError::TooSoon { wait_s },
        })?;
        if !confirmed {
            return Err(GlassError::NotConfirmed);
        }
        let event = AuditEvent {
            practitioner: badge.practitioner,
            role: badge.role,
            incident: Text::EMPTY,
            break_glass: true,
            act: Act::BreakGlass { reason, look_ups: glass.left() },
        };
        // R163: recorded, then in force; it may use the last of the journal's space.
        self.append(Priority::Emergency, &self.moment(reading), &event).map_err(|error| {
            tracing::error!(%error, "a break-glass could not be recorded");
            GlassError::NotRecorded
        })?;
        let stored = self.keys.keyslot().update(|contents| {
            contents.glasses = contents.glasses.saturating_add(1);
            let usage = Usage { glass, ..contents.usage(badge.practitioner) };
            contents.set_usage(usage, |old| self.is_idle(old, now_ms))
        });
        stored.map_err(not_stored)?;
        self.allowance(badge.practitioner).ok_or(GlassError::AgeUnknown)
    }

    /// The state of the copy and the clock, for an audit event.
    pub(crate) fn moment(&self, reading: Reading) -> Moment {
        let view = self.replica.view();
        Moment {
            // An event is worth more with a doubtful time than not at all; the anchor beside it is signed.
            event_ms: view.clock.now(reading).unwrap_or(reading.wall_ms),
            anchor_ms: view.beat.as_ref().map_or(0, |beat| beat.issued_ms),
            gseq: view.head.as_ref().map_or(0, |head| head.gseq),
            head: view.head.as_ref().map_or([0; 32], cpis_protocol::sign::Verified::hash),
        }
    }

    /// Counts an answer that the journal did not take, durably; only under a break-glass. Gives it a number that is no
    /// position in the chain.
    pub(crate) fn count_unrecorded(&self, practitioner: PractitionerId) -> Result<u64, CannotAnswer> {
        let refused = CannotAnswer::AuditCannotBeWritten;
        let (policy, now_ms) = (self.grant().policy, self.now().time_ms.ok_or(refused)?);
        let mut keyslot = self.keys.keyslot();
        let usage = usage_at(&mut keyslot, practitioner, now_ms).map_err(|_| refused)?;
        if !usage.glass.is_in_force(&policy, now_ms) {
            return Err(refused);
        }
        // R165
        let counted = keyslot.update(|contents| {
            let before = usage.unrecorded;
            let count = before.count.checked_add(1).ok_or(KeyslotError::Full)?;
            let first_ms = if before.count == 0 { now_ms } else { before.first_ms };
            let unrecorded = Unrecorded { count, first_ms, reason: usage.glass.reason() };
            contents.unrecorded_total = contents.unrecorded_total.saturating_add(1);
            contents.set_usage(Usage { unrecorded, ..usage }, |_| false)?;
            Ok(contents.unrecorded_total)
        });
        counted.map(|total| UNRECORDED_FROM + u64::from(total)).map_err(|error| {
            tracing::error!(%error, "an answer could be neither recorded nor counted");
            refused
        })
    }

    /// Tells the audit chain of the answers that it could not take before, if it does now.
    pub fn tell_unrecorded(&self) {
        if !self.keys.keyslot().contents().usage.iter().any(telling::is_due) {
            return;
        }
        let _turn = self.people();
        let usages: Vec<_> = self.keys.keyslot().contents().usage.iter().copied().filter(telling::is_due).collect();
        for usage in usages {
            if let Err(error) = self.tell_one(&usage) {
                tracing::warn!(%error, "answers under break-glass are not recorded yet; they stay counted");
            }
        }
    }

    fn tell_one(&self, usage: &Usage) -> Result<(), JournalError> {
        let (grant, trust) = (self.grant(), self.trust());
        let badge = grant.badges.iter().find(|badge| badge.practitioner == usage.practitioner);
        let recipient = *trust.audit_recipient().map_err(JournalError::Refused)?;
        let moment = self.moment(self.clock.reading());
        let appended = telling::tell(&self.journal, &self.keys, usage, |tip, left| {
            let event = AuditEvent {
                practitioner: usage.practitioner,
                role: badge.map_or(Text::EMPTY, |badge| badge.role),
                incident: Text::EMPTY,
                break_glass: true,
                act: Act::Unrecorded { count: left.count, first_ms: left.first_ms, reason: left.reason },
            };
            tip.append(&self.device, &self.signer, &recipient, &moment, &event, &mut OsRandom)
        });
        if appended? {
            self.wake_push.notify_one();
        }
        Ok(())
    }
}

/// A practitioner's use. Where the clock was rebased, everybody's is settled first, durably and once: by a later time the
/// refill would begin later. R167
fn usage_at(keyslot: &mut Keyslot, practitioner: PractitionerId, now_ms: i64) -> Result<Usage, KeyslotError> {
    if keyslot.contents().usage.iter().any(|usage| usage.settled(now_ms) != *usage) {
        keyslot.update(|contents| {
            contents.usage.iter_mut().for_each(|usage| *usage = usage.settled(now_ms));
            Ok(())
        })?;
    }
    Ok(keyslot.contents().usage(practitioner))
}
