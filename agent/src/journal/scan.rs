//! Reading one segment from its first byte to its tail, and telling a torn tail from damage. Pure.
//! It must not skip a bad record: what stands behind one is only looked at to decide which of the two it is.

use super::format::{BadHeader, Framed, HEADER_BYTES, Header, Record};

/// What stands behind the last whole record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing but reserved zeros.
    Clean,
    /// So many bytes of a group that was never acknowledged to anybody.
    Torn(u64),
    /// A bad record that had been on stable storage: a later group was written.
    Damaged,
}

/// The result of reading one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scan {
    /// Where the last whole record ends.
    pub(super) end: usize,
    /// What is behind it.
    pub(super) tail: Tail,
}

/// Reads the records in order and gives each to `each`, which says whether it follows. `Err` is where one does not.
pub(super) fn scan(file: &[u8], mut each: impl FnMut(usize, Record) -> bool) -> Result<Scan, usize> {
    let (mut at, mut group) = (HEADER_BYTES, None);
    while let Some(framed) = framed_at(file, at) {
        // A whole record in another's place was moved there: no write does that.
        let begins = usize::try_from(framed.group) == Ok(at);
        if !begins && group != Some(framed.group) {
            return Err(at);
        }
        group = Some(framed.group);
        if !framed.record().is_some_and(|record| each(at, record)) {
            return Err(at);
        }
        at += framed.length;
    }
    Ok(Scan { end: at, tail: tail(file, at) })
}

/// The header of a segment.
pub(super) fn header(file: &[u8]) -> Result<Header, BadHeader> {
    Header::read(file)
}

fn framed_at(file: &[u8], at: usize) -> Option<Framed<'_>> {
    Framed::read(file.get(at..)?)
}

/// Looks behind the last whole record, at every byte, because the bad record's length cannot be believed.
fn tail(file: &[u8], end: usize) -> Tail {
    let rest = file.get(end..).unwrap_or_default();
    let Some(last) = rest.iter().rposition(|b| *b != 0) else { return Tail::Clean };
    let later = (end + 1..=end + last)
        .filter_map(|at| framed_at(file, at))
        .any(|framed| usize::try_from(framed.group).is_ok_and(|group| group > end));
    if later { Tail::Damaged } else { Tail::Torn(last as u64 + 1) }
}

#[cfg(test)]
mod tests {
    use cpis_protocol::audit::Tip;
    use cpis_protocol::id::ChainId;

    use super::*;

    fn receipt(seq: u64) -> Record {
        Record::Receipt(Tip { chain: ChainId([2; 16]), seq, hash: [3; 32] }, vec![0xaa; 40])
    }

    /// Two groups of two records; every record is 109 bytes.
    fn segment() -> Vec<u8> {
        let mut file = vec![0xee; HEADER_BYTES];
        for group in 0..2 {
            let begins = u32::try_from(file.len()).unwrap();
            receipt(group * 2 + 1).write(begins, &mut file).unwrap();
            receipt(group * 2 + 2).write(begins, &mut file).unwrap();
        }
        file
    }

    fn read(file: &[u8]) -> (Vec<u64>, Result<Scan, usize>) {
        let mut seen = Vec::new();
        let scan = scan(file, |_, record| {
            if let Record::Receipt(tip, _) = record {
                seen.push(tip.seq);
            }
            true
        });
        (seen, scan)
    }

    #[test]
    fn zeros_are_clean_and_rubbish_is_torn() {
        let mut file = segment();
        let end = file.len();
        assert_eq!(read(&file), (vec![1, 2, 3, 4], Ok(Scan { end, tail: Tail::Clean })));
        file.resize(end + 5000, 0);
        assert_eq!(read(&file).1, Ok(Scan { end, tail: Tail::Clean }));
        file[end + 9] = 1;
        assert_eq!(read(&file).1, Ok(Scan { end, tail: Tail::Torn(10) }));
    }

    /// The second record of the last group reached the disk and the first did not: nobody was told that either had.
    #[test]
    fn a_hole_in_the_last_group_is_torn_and_one_before_it_is_damage() {
        let whole = segment();
        let group = HEADER_BYTES + 2 * 109;
        let mut torn = whole.clone();
        torn[group..group + 109].fill(0);
        assert_eq!(read(&torn), (vec![1, 2], Ok(Scan { end: group, tail: Tail::Torn(218) })));
        for at in HEADER_BYTES..group {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            let (seen, scan) = read(&damaged);
            assert!(seen.len() < 2 && matches!(scan, Ok(Scan { tail: Tail::Damaged, .. }) | Err(_)), "byte {at}");
        }
        for at in group..whole.len() {
            let mut torn = whole.clone();
            torn[at] ^= 0x40;
            let (seen, scan) = read(&torn);
            assert!(seen.len() < 4 && matches!(scan, Ok(Scan { tail: Tail::Torn(_), .. })), "byte {at}");
        }
    }
}
