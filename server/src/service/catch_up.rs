//! The combined exchange: what a device has to say is taken in, and all that it would ask for next goes back at once.
//! It must not say anything that the separate requests would not: each part is made by what answers those.

use cpis_protocol::catch_up::{self, CatchUp, Part};
use cpis_protocol::digest::Hash;
use cpis_protocol::head::{Beat, FeedState, Head};
use cpis_protocol::id::{RegisterSeq, UnixMs};
use cpis_protocol::limits;
use cpis_protocol::message::Request;
use cpis_protocol::replica::{self, Road};
use cpis_protocol::sign::{self, Kind};

use super::{Admitted, Service, ServiceError, internal};
use crate::port::{Deployment as _, DeviceRow, Feeds as _, Store};

/// The reply on its way, and how many bytes of cells still go into it.
struct Reply {
    bytes: Vec<u8>,
    room: usize,
}

impl Reply {
    fn push(&mut self, part: &Part<'_>, body: &[u8]) -> Result<(), ServiceError> {
        catch_up::push(&mut self.bytes, part, body).map_err(internal)
    }

    /// Adds cells, if there is room for them.
    fn push_cells(&mut self, request: &Request, body: &[u8]) -> Result<bool, ServiceError> {
        let Some(room) = self.room.checked_sub(body.len()) else { return Ok(false) };
        self.push(&Part::Named(request), body)?;
        self.room = room;
        Ok(true)
    }
}

impl<S: Store> Service<S> {
    /// Answers the combined question. `expired` is a device whose certificate is past its end: it gets what leads to the
    /// next one. A part that cannot be made is left out: the device asks for it by its own name, and hears why.
    pub(super) fn catch_up(
        &self,
        admitted: &Admitted,
        expired: bool,
        body: &[u8],
        now_ms: UnixMs,
    ) -> Result<(Vec<u8>, Option<RegisterSeq>), ServiceError> {
        let ask = CatchUp::from_bytes(body).map_err(|refusal| ServiceError::Refused(refusal.code()))?;
        let mut reply = Reply { bytes: catch_up::begin(), room: limits::CATCH_UP_CELLS_BYTES };
        let (Admitted::Active(device) | Admitted::Withdrawn(device)) = admitted;
        // Audit first: it is evidence, and the rest may be long.
        if !ask.audit.is_empty()
            && let Some(receipt) = part(device, "audit", self.audit(device, &ask.audit, now_ms))
        {
            reply.push(&Part::Receipt, &receipt)?;
        }
        if !ask.report.is_empty()
            && let Some(answer) = part(device, "report", self.report(device, &ask.report, now_ms))
        {
            reply.push(&Part::Report, &answer)?;
        }
        let roots = self.store.read(|tx| tx.roots_after(ask.root_version))?;
        for (root, version) in roots.iter().zip(ask.root_version.saturating_add(1)..).take(limits::CATCH_UP_ROOTS) {
            reply.push(&Part::Named(&Request::Root(version)), root)?;
        }
        let mut gseq = None;
        match admitted {
            Admitted::Withdrawn(device) => {
                if let Some(withdrawal) = part(device, "withdrawal", self.withdrawal(device, now_ms)) {
                    reply.push(&Part::Grant, &withdrawal)?;
                }
            }
            Admitted::Active(device) => {
                let held = self.held(ask.head.as_ref())?;
                let moved = held.as_ref().is_some_and(|head| head.scope != device.scope);
                if (ask.grant || moved)
                    && let Some(grant) = part(device, "grant", self.grant(device, now_ms))
                {
                    reply.push(&Part::Grant, &grant)?;
                }
                if !expired {
                    gseq = self.news(device, &ask, held.as_ref(), now_ms, &mut reply)?;
                }
            }
        }
        catch_up::end(&mut reply.bytes);
        Ok((reply.bytes, gseq))
    }

    /// The head that a device says its copy equals.
    fn held(&self, hash: Option<&Hash>) -> Result<Option<Head>, ServiceError> {
        let Some(hash) = hash else { return Ok(None) };
        let row = self.store.read(|tx| tx.head(hash))?;
        row.map(|row| sign::peek_unverified(&row.bytes, Kind::Head, limits::HEAD_BYTES_MAX))
            .transpose()
            .map_err(internal)
    }

    /// The newest beat; and where the copy is behind it, head, reference data and the way there.
    fn news(
        &self,
        device: &DeviceRow,
        ask: &CatchUp,
        held: Option<&Head>,
        now_ms: UnixMs,
        reply: &mut Reply,
    ) -> Result<Option<RegisterSeq>, ServiceError> {
        let Some((beat, gseq)) = part(device, "beat", self.beat(device.scope, now_ms)) else { return Ok(None) };
        reply.push(&Part::Beat, &beat)?;
        // What the beat names, not what is newest by now: another process may just have published.
        let beat: Beat = sign::peek_unverified(&beat, Kind::Beat, limits::BEAT_BYTES_MAX).map_err(internal)?;
        if !ask.cells || ask.head == Some(beat.head) {
            return Ok(Some(gseq));
        }
        let Some(bytes) = part(device, "head", self.head(device, &beat.head)) else { return Ok(Some(gseq)) };
        let head: Head = sign::peek_unverified(&bytes, Kind::Head, limits::HEAD_BYTES_MAX).map_err(internal)?;
        reply.push(&Part::Head, &bytes)?;
        let held = held.filter(|held| held.scope == head.scope);
        if held.is_none_or(|held| held.reference != head.reference)
            && let Some(reference) = part(device, "reference", self.reference(&head.reference))
        {
            reply.push(&Part::Reference, &reference)?;
        }
        for state in &head.feeds {
            if !self.way(device, held.and_then(|held| held.feed(&state.feed)), state, reply)? {
                break;
            }
        }
        Ok(Some(gseq))
    }

    /// The objects on the road to a feed's state; says whether there is room for more.
    fn way(
        &self,
        device: &DeviceRow,
        have: Option<&FeedState>,
        state: &FeedState,
        reply: &mut Reply,
    ) -> Result<bool, ServiceError> {
        let (feed, epoch, seq) = (state.feed, state.epoch, state.seq);
        // A copy ahead of the register: the device will see that itself, and say so.
        let Ok(road) = replica::road(have, state) else { return Ok(true) };
        match road {
            Road::Unchanged => Ok(true),
            Road::Delta { from, to } => {
                for (from, to) in replica::stretches(from, to) {
                    let Some(cells) = part(device, "delta", self.delta(device, feed, epoch, from, to)) else {
                        return Ok(true);
                    };
                    if !reply.push_cells(&Request::Delta { feed, epoch, from, to }, &cells)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Road::Snapshot => {
                // R251: one chunk needs none.
                if state.count > limits::CHUNK_CELLS {
                    let Some(manifest) = part(device, "manifest", self.manifest(device, feed, epoch, seq)) else {
                        return Ok(true);
                    };
                    if !reply.push_cells(&Request::Manifest { feed, epoch, seq }, &manifest)? {
                        return Ok(false);
                    }
                }
                // A copy of the same log holds most of it: it compares first, and asks for what differs.
                if have.is_some_and(|have| have.epoch == epoch) {
                    let Some(bounds) = part(device, "bounds", self.bounds(device, feed, epoch, seq)) else {
                        return Ok(true);
                    };
                    return reply.push_cells(&Request::Bounds { feed, epoch, seq }, &bounds);
                }
                for index in 0..state.count.div_ceil(limits::CHUNK_CELLS) {
                    let Some(cells) = part(device, "chunk", self.chunk(device, feed, epoch, seq, index)) else {
                        return Ok(true);
                    };
                    if !reply.push_cells(&Request::Chunk { feed, epoch, seq, index }, &cells)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }
}

/// A part, or the note that it was left out.
fn part<T>(device: &DeviceRow, what: &'static str, made: Result<T, ServiceError>) -> Option<T> {
    match made {
        Ok(made) => return Some(made),
        Err(ServiceError::Internal(error)) => {
            tracing::error!(device = %device.device, what, %error, "left out of a combined reply");
        }
        Err(error) => tracing::debug!(device = %device.device, what, %error, "left out of a combined reply"),
    }
    None
}
