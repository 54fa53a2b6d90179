//! Telling the audit chain of answers that it could not take: once each, whatever fails or crashes in between.
//! It must not lower the count before the chain holds the link, nor tell what a link of the chain tells already.
//!
//! Before the link is appended, its position and hash are stored in the keyslot file (the *telling*); the count goes down
//! once the journal holds exactly that link. A telling is cleared when its append fails, and no receipt is taken in for its
//! position before it is noted. So of one that is found later:
//!
//! | its position | |
//! |---|---|
//! | below what a receipt covers | the link was appended: only the note of it is missing |
//! | in the journal, with its hash | the same |
//! | otherwise | a crash, or a journal that failed for good, came before the link: it is told anew |

use cpis_protocol::Refusal;
use cpis_protocol::audit::{Link, Tip};
use cpis_protocol::id::PractitionerId;

use crate::journal::{Journal, JournalError, Priority};
use crate::keyslot::{Contents, KeyslotError, Telling, Unrecorded, Usage};
use crate::local_keys::LocalKeys;

/// Where the use is kept; a trait, so that tests can fail each write.
pub(super) trait UsageFile: Sync {
    /// Changes a practitioner's use, durably; an error leaves it as it was.
    fn change(&self, practitioner: PractitionerId, change: &dyn Fn(&mut Usage)) -> Result<(), KeyslotError>;
}

impl UsageFile for LocalKeys {
    fn change(&self, practitioner: PractitionerId, change: &dyn Fn(&mut Usage)) -> Result<(), KeyslotError> {
        self.keyslot().update(|contents: &mut Contents| {
            let mut usage = contents.usage(practitioner);
            change(&mut usage);
            contents.set_usage(usage, |_| false)
        })
    }
}

/// Whether anything of this use is to be told, or to be noted as told.
pub(super) const fn is_due(usage: &Usage) -> bool {
    usage.unrecorded.count > 0 || usage.telling.is_some()
}

/// Whether a receipt up to this position must wait: below it nothing says any more whether the chain holds the link.
pub(super) fn holds_back(usage: &Usage, through: u64) -> bool {
    usage.telling.is_some_and(|telling| telling.seq <= through)
}

fn not_noted(error: &KeyslotError) -> JournalError {
    tracing::error!(%error, "the keyslot file cannot be written");
    JournalError::Refused(Refusal::Malformed)
}

/// The chain holds the link: the count goes down by what it tells.
fn told(file: &impl UsageFile, practitioner: PractitionerId, telling: Telling) -> Result<(), JournalError> {
    let note = |usage: &mut Usage| {
        usage.unrecorded.count = usage.unrecorded.count.saturating_sub(telling.count);
        usage.telling = None;
    };
    file.change(practitioner, &note).map_err(|error| not_noted(&error))
}

/// Appends one link for what this use has not told yet, made by `make`; says whether it did.
///
/// # Errors
/// [`JournalError`]; what was not told stays counted, and is told at the next call.
pub(super) fn tell(
    journal: &Journal,
    file: &impl UsageFile,
    usage: &Usage,
    make: impl FnOnce(&Tip, &Unrecorded) -> Result<(Link, Tip), Refusal> + Send,
) -> Result<bool, JournalError> {
    let (practitioner, mut left) = (usage.practitioner, usage.unrecorded);
    if let Some(telling) = usage.telling
        && (telling.seq < journal.acknowledged().seq || journal.hash_at(telling.seq) == Some(telling.hash))
    {
        // An earlier attempt went through, and was not noted any more.
        told(file, practitioner, telling)?;
        left.count = left.count.saturating_sub(telling.count);
    }
    if left.count == 0 {
        return Ok(false);
    }
    let mut telling = None;
    let appended = journal.append(Priority::Emergency, |tip| {
        let (link, next) = make(tip, &left)?;
        let about = Telling { seq: next.seq, hash: next.hash, count: left.count };
        // R166: which link it is going to be is durable before the link is. The journal's lock is held here, and
        // nobody who holds the keyslot's waits for it.
        file.change(practitioner, &|usage| usage.telling = Some(about)).map_err(|error| {
            tracing::error!(%error, "the keyslot file cannot be written");
            Refusal::Malformed
        })?;
        telling = Some(about);
        Ok((link, next))
    });
    match (appended, telling) {
        (Ok(_), Some(telling)) => told(file, practitioner, telling).map(|()| true),
        (Ok(_), None) => Ok(true),
        // The link may be on the disk although its sync failed: the journal says so when it is opened anew.
        (Err(error), _) if error.is_poisoned() => Err(error),
        (Err(error), _) => {
            // Another link takes that position, and a receipt may cover it before this is tried again.
            file.change(practitioner, &|usage| usage.telling = None).map_err(|error| not_noted(&error))?;
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests;
