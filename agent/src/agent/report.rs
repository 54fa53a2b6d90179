//! What the agent reports of itself: its status and its outbox.
//! It must not report anything of a person who was looked up.

use cpis_protocol::answer::{self, CopyState};
use cpis_protocol::grant::Grant;
use cpis_protocol::trust::Role;
use serde::Serialize;

use super::Agent;
use crate::journal::Fill;
use crate::port::Store as _;
use crate::status::{CopyStatus, OutboxStatus, SecretStatus, Status};

/// What waits in the outbox: positions and times, never content.
#[derive(Debug, Clone, Serialize)]
pub struct Outbox {
    /// How many wait.
    pub waiting: u64,
    /// The oldest of them.
    pub events: Vec<WaitingEvent>,
}

/// One waiting event.
#[derive(Debug, Clone, Serialize)]
pub struct WaitingEvent {
    /// Its position in the chain.
    pub seq: u64,
    /// When it happened.
    pub event_ms: i64,
}

impl Agent {
    /// What waits in the outbox.
    pub fn outbox(&self) -> Outbox {
        let waiting = self.journal.tip().seq.saturating_sub(self.journal.acknowledged().seq);
        let events = self.unacknowledged(100).map_or_else(Vec::new, |batch| {
            let links = (batch.after.seq + 1..).zip(batch.links);
            links.map(|(seq, link)| WaitingEvent { seq, event_ms: link.event_ms() }).collect()
        });
        Outbox { waiting, events }
    }

    /// Everything that the agent says of itself.
    pub fn status(&self) -> Status {
        let trust = self.trust();
        let grant = self.grant();
        let outbox = self.outbox();
        // As a statement of its own: no other lock is taken while the keyslot's is held.
        let server = self.keys.keyslot().contents().url.clone();
        let holder = self.vault.holder();
        let (break_glass_count, unrecorded_count) = self.exception_counts();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            device: self.device.to_string(),
            deployment: trust.root().deployment.to_string(),
            synthetic: trust.root().synthetic,
            root_version: trust.root().version,
            root_until_ms: self.root_until_ms(),
            certificate_until_ms: self.certificate_term().map(|term| term.until_ms),
            site: grant.site.to_string(),
            scope: grant.scope.to_string(),
            access_mode: grant.policy.access_mode,
            server,
            revoked: self.is_revoked(),
            device_secret: SecretStatus {
                provider: self.device_secret_kind().into(),
                since_ms: self.device_secret().since_ms(),
            },
            unlocked_by: holder.as_ref().map(|badge| badge.name.to_string()),
            allowance: holder.and_then(|badge| self.allowance(badge.practitioner)),
            break_glass_count,
            unrecorded_count,
            copy: self.copy_status(&grant),
            link: self.status.get(),
            outbox: OutboxStatus {
                waiting: outbox.waiting,
                through: self.journal.tip().seq,
                acknowledged: self.journal.acknowledged().seq,
                oldest_ms: outbox.events.first().map(|event| event.event_ms),
                space: match self.journal.fill() {
                    Fill::Normal => "normal".into(),
                    Fill::Warning => "warning".into(),
                    Fill::Full => "full".into(),
                },
            },
        }
    }

    /// When the trusted root, or the first of its roles, ends.
    pub fn root_until_ms(&self) -> i64 {
        let trust = self.trust();
        let roles = [Role::Publisher, Role::Beat, Role::DeviceAuthority, Role::Receipt];
        roles.iter().map(|role| trust.root().role_until_ms(*role)).min().unwrap_or(trust.root().expires_ms)
    }

    fn copy_status(&self, grant: &Grant) -> CopyStatus {
        let view = self.replica.view();
        let state = CopyState {
            as_at_ms: view.beat.as_ref().map(|beat| beat.issued_ms),
            verified: view.is_proved(),
            barred: self.barred(),
            lease_until_ms: grant.lease_until_ms,
            policy: &grant.policy,
        };
        let reading = self.clock.reading();
        let admitted = answer::admit(&state, &view.clock, reading);
        let now_ms = view.clock.now(reading);
        CopyStatus {
            as_at_ms: state.as_at_ms,
            age_s: now_ms.zip(state.as_at_ms).map(|(now, at)| (now - at).max(0) / 1000),
            freshness: admitted.ok().map(|(_, freshness)| freshness),
            cannot_answer: admitted.err().map(|reason| reason.code().into()),
            gseq: view.head.as_ref().map_or(0, |head| head.gseq),
            records: view.feeds.values().map(|copy| u64::from(copy.state().count)).sum(),
            feeds: view.feeds.len(),
            damaged: view.damaged.len(),
            covers: view.covers(),
            lease_until_ms: grant.lease_until_ms,
            store_bytes: self.replica.store().bytes(),
        }
    }
}
