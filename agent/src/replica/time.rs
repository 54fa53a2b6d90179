//! How the copy ages: confirmed by a beat, dated by the trusted clock, let go of when a root withdraws what dates it.
//! It must not make a copy younger: only a verified beat moves its age, and only forward.

use std::sync::PoisonError;

use cpis_protocol::clock::{Carrier, ClockRule, Reading, TrustedClock};
use cpis_protocol::head::Beat;
use cpis_protocol::id::UnixMs;
use cpis_protocol::sign::{Kind, Verified};
use cpis_protocol::trust::{Role, Trust};

use super::Replica;
use super::view::{StoredBeat, View};
use crate::port::{GenerationKeys, Store, StoreError};

impl<S: Store, K: GenerationKeys> Replica<S, K> {
    /// Takes in a beat that confirms the present head: only the age moves.
    ///
    /// # Errors
    /// [`StoreError`]; the age then stays as it was.
    pub fn confirm(&self, beat: &Verified<Beat>, carrier: Carrier, reading: Reading) -> Result<(), StoreError> {
        let mut building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let mut clock = {
            let view = self.view();
            // Another carrier may have moved the copy since the machine looked: a beat never speaks of another head.
            let of_this_head = view.head.as_ref().is_some_and(|head| head.hash() == beat.head);
            let newest = view.beat.as_ref().is_none_or(|last| beat.issued_ms >= last.issued_ms);
            if !of_this_head || !newest {
                return Err(StoreError::Overtaken);
            }
            view.clock
        };
        clock.observe(beat.issued_ms, carrier, reading);
        self.store_age(&mut building, &StoredBeat { beat: beat.bytes().to_vec(), clock })?;
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        view.beat = Some(beat.clone());
        view.clock = clock;
        Ok(())
    }

    /// Keeps the floor of trusted time moving while nothing arrives.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn raise_floor(&self, reading: Reading) -> Result<(), StoreError> {
        let mut building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let (beat, mut clock) = {
            let view = self.view();
            if view.unreadable || (view.beat.is_none() && view.head.is_some()) {
                // The stored beat stays: it may verify again, and without it the head would not be found.
                return Ok(());
            }
            (view.beat.as_ref().map(|beat| beat.bytes().to_vec()), view.clock)
        };
        clock.raise_floor(reading);
        self.store_age(&mut building, &StoredBeat { beat: beat.unwrap_or_default(), clock })?;
        self.view.write().unwrap_or_else(PoisonError::into_inner).clock = clock;
        Ok(())
    }

    /// Takes the clock that enrolment set, where no copy ever brought one.
    pub fn begin_clock(&self, enrolled: TrustedClock) {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        if view.clock.floor_ms() == 0 {
            view.clock = enrolled;
        }
    }

    /// Lets go of what keys signed that the root in force does not name (R187): the beat as the copy's age, the head as
    /// the copy itself, and with either, or the grant, a time that they may have pushed ahead. `grant_issued_ms` is zero
    /// where the grant does not stand. The copy cannot answer then until the next sync.
    pub fn follow(&self, trust: &Trust, grant_issued_ms: i64, grant_stands: bool) {
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let beat_stands = view.beat.as_ref().is_none_or(|beat| trust.stands(Role::Beat, Kind::Beat, beat));
        let head_stands = view.head.as_ref().is_none_or(|head| trust.stands(Role::Publisher, Kind::Head, head));
        if !grant_stands {
            // The rule too may be the thief's: the next grant says it again.
            view.clock.set_rule(ClockRule::Refuse);
        }
        if let Some(proved_ms) = proved_ms(&view, trust, grant_issued_ms, grant_stands) {
            view.clock.rebase(proved_ms);
        }
        if !beat_stands {
            tracing::warn!("a new root withdraws the key that dates the copy: it cannot answer until the next sync");
            view.beat = None;
        }
        if !head_stands {
            tracing::warn!("a new root withdraws the key that signed the copy: it cannot answer until the next sync");
            view.head = None;
            view.unreadable = true;
        }
    }

    /// The time that [`Self::follow`] would let go of with the same arguments, if any: what was stored by it may be ahead of
    /// the time that is known next.
    pub fn lets_go_of(
        &self,
        trust: &Trust,
        grant_issued_ms: i64,
        grant_stands: bool,
        reading: Reading,
    ) -> Option<UnixMs> {
        let view = self.view();
        let (floor_ms, proved_ms) = (view.clock.floor_ms(), proved_ms(&view, trust, grant_issued_ms, grant_stands)?);
        (proved_ms < floor_ms).then(|| view.clock.now(reading).unwrap_or_default().max(floor_ms))
    }

    /// What signed policy lets the clock believe after a restart.
    pub fn set_clock_rule(&self, rule: ClockRule) {
        self.view.write().unwrap_or_else(PoisonError::into_inner).clock.set_rule(rule);
    }

    /// Takes in a signed time that came without a beat (a grant, a receipt).
    pub fn observe(&self, signed_ms: i64, carrier: Carrier, reading: Reading) {
        self.view.write().unwrap_or_else(PoisonError::into_inner).clock.observe(signed_ms, carrier, reading);
    }

    /// The trusted clock.
    pub fn clock(&self) -> TrustedClock {
        self.view().clock
    }
}

/// The latest time that keys prove which are still trusted, where something that may have dated the clock is withdrawn.
fn proved_ms(view: &View, trust: &Trust, grant_issued_ms: i64, grant_stands: bool) -> Option<UnixMs> {
    let beat = view.beat.as_ref().map(|beat| (trust.stands(Role::Beat, Kind::Beat, beat), beat.issued_ms));
    if grant_stands && beat.is_none_or(|(stands, _)| stands) {
        return None;
    }
    let head = view.head.as_ref().filter(|head| trust.stands(Role::Publisher, Kind::Head, head));
    let beat_ms = beat.filter(|(stands, _)| *stands).map_or(0, |(_, issued_ms)| issued_ms);
    Some(trust.root().issued_ms.max(grant_issued_ms).max(head.map_or(0, |head| head.issued_ms)).max(beat_ms))
}
