//! One file's bytes, twice: what the running system reads, and what a power cut would leave behind.
//!
//! Pure bookkeeping in memory; it must not touch the disk. The mirror in `tree` writes `patch()` to the backing file
//! before `commit()` is called.

use std::ops::Range;

use fuser::Errno;

/// Largest file held. Both copies live in memory, so this is a guard against a runaway test, not a feature.
const MAX_LEN: u64 = 1 << 30;

/// Contents of one regular file.
#[derive(Debug, Default)]
pub(super) struct Content {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Ranges that may differ between the two, pairwise apart, in no order. May reach past the end after a truncation.
    dirty: Vec<Range<usize>>,
}

impl Content {
    /// Contents read from the backing file: durable already.
    pub(super) fn stored(bytes: Vec<u8>) -> Self {
        Self { current: bytes.clone(), durable: bytes, dirty: Vec::new() }
    }

    /// Length the running system sees.
    pub(super) fn len(&self) -> usize {
        self.current.len()
    }

    /// The bytes a power cut would leave.
    pub(super) fn durable(&self) -> &[u8] {
        &self.durable
    }

    /// True if a sync would have something to do.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || self.current.len() != self.durable.len()
    }

    /// At most `len` current bytes from `offset`; short at the end of the file.
    pub(super) fn read(&self, offset: u64, len: usize) -> &[u8] {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.current.len());
        let end = start.saturating_add(len).min(self.current.len());
        self.current.get(start..end).unwrap_or_default()
    }

    /// Overwrites or extends; a gap before `offset` becomes zeros.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let range = range(offset, data.len() as u64)?;
        if range.end > self.len() {
            self.set_len(range.end as u64)?;
        }
        self.current[range.clone()].copy_from_slice(data);
        self.mark(range);
        Ok(())
    }

    /// Writes zeros over the part of the range that lies inside the file.
    pub(super) fn zero(&mut self, offset: u64, len: u64) -> Result<(), Errno> {
        let range = range(offset, len)?;
        let range = range.start.min(self.len())..range.end.min(self.len());
        self.current[range.clone()].fill(0);
        self.mark(range);
        Ok(())
    }

    /// Truncates or extends with zeros.
    pub(super) fn set_len(&mut self, len: u64) -> Result<(), Errno> {
        let (old, new) = (self.len(), range(len, 0)?.end);
        self.current.resize(new, 0);
        self.mark(old.min(new)..old.max(new));
        Ok(())
    }

    /// What a sync has to write over the durable bytes (after giving them the current length).
    pub(super) fn patch(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.dirty.iter().map(|r| (r.start as u64, self.read(r.start as u64, r.len())))
    }

    /// A sync has succeeded: applies the patch to the durable copy.
    pub(super) fn commit(&mut self) {
        self.durable.resize(self.current.len(), 0);
        for range in std::mem::take(&mut self.dirty) {
            let range = range.start.min(self.len())..range.end.min(self.len());
            self.durable[range.clone()].copy_from_slice(&self.current[range]);
        }
    }

    /// A sync has failed the way Linux fails it: the pages count as clean although they never reached the disk, so a
    /// later sync reports success without writing them.
    pub(super) fn drop_dirty(&mut self) {
        self.dirty.clear();
    }

    /// Power cut: back to the durable bytes and the durable length.
    pub(super) fn revert(&mut self) {
        self.current.clone_from(&self.durable);
        self.dirty.clear();
    }

    fn mark(&mut self, new: Range<usize>) {
        if new.is_empty() {
            return;
        }
        let mut merged = new;
        self.dirty.retain(|old| {
            let apart = old.end < merged.start || merged.end < old.start;
            if !apart {
                merged = merged.start.min(old.start)..merged.end.max(old.end);
            }
            apart
        });
        self.dirty.push(merged);
    }
}

fn range(offset: u64, len: u64) -> Result<Range<usize>, Errno> {
    let end = offset.checked_add(len).filter(|end| *end <= MAX_LEN).ok_or(Errno::EFBIG)?;
    let index = |n: u64| usize::try_from(n).map_err(|_| Errno::EFBIG);
    Ok(index(offset)?..index(end)?)
}

#[cfg(test)]
mod tests {
    use super::Content;

    /// A fixed pseudo-random sequence of operations against the plain meaning of "durable": a copy taken at each sync.
    #[test]
    fn durable_copy_equals_a_snapshot_taken_at_the_last_sync() -> Result<(), fuser::Errno> {
        let (mut content, mut snapshot, mut seed) = (Content::default(), Vec::new(), 7_u64);
        for step in 0..20_000_u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (offset, len) = ((seed >> 33) % 500, (seed >> 45) % 60);
            match (seed >> 60) % 8 {
                0..=3 => content.write(offset, &vec![step as u8 | 1; len as usize])?,
                4 => content.set_len(offset)?,
                5 => content.zero(offset, len)?,
                6 => {
                    content.commit();
                    snapshot = content.read(0, usize::MAX).to_vec();
                    assert!(!content.is_dirty());
                }
                _ => content.revert(),
            }
            assert_eq!(content.durable(), snapshot, "step {step}");
        }
        content.revert();
        assert_eq!(content.read(0, usize::MAX), snapshot);
        Ok(())
    }

    #[test]
    fn dropped_pages_stay_lost_although_the_next_sync_succeeds() -> Result<(), fuser::Errno> {
        let mut content = Content::stored(b"aaaa".to_vec());
        content.write(0, b"BB")?;
        content.drop_dirty();
        content.write(3, b"D")?;
        content.commit();
        content.revert();
        assert_eq!(content.read(0, 10), b"aaaD");
        Ok(())
    }
}
