//! The sync machine over what the agent has stored.
//! It must not verify less than what came over the wire: what is read from the disk is measured by the root in force.

use cpis_protocol::sync::pull::{Pull, Start};
use cpis_protocol::withdrawal::Withdrawal;

use super::Agent;

impl Agent {
    /// The sync machine over the present state; `None` once the device is erased: there is nothing to bring up to date.
    pub fn pull_machine(&self, with_grant: bool) -> Option<Pull> {
        let signed = self.signed_grant()?;
        let trust = self.trust();
        let withdrawn = {
            let keyslot = self.keys.keyslot();
            // R221: one that the root in force does not vouch for is no measure. It was verified when it was stored.
            Withdrawal::verify(&keyslot.contents().withdrawal, &self.device, &trust, 0).ok()
        };
        // Before the view is held: whoever builds holds these first and the view after.
        let (pinned, staged) = (self.replica.pinned(&trust, &signed.scope), self.replica.staged());
        let view = self.replica.view();
        Some(Pull::new(Start {
            trust,
            grant: (*signed).clone(),
            beat: view.beat.clone(),
            head: view.head.clone(),
            damaged: view.damaged.clone(),
            pinned,
            staged,
            with_grant,
            withdrawn,
        }))
    }
}
