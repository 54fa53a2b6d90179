//! Telephone numbers: what one looks like, and those that ring nobody.
//! It must not change a number beyond leaving spaces out of the comparison.

/// Ofcom keeps these free for drama: nobody is rung by accident. Region of the authority, place, first digits; three
/// digits follow. Regions without a range of their own take the one that belongs to no area.
const BY_REGION: [(&str, &str); 10] = [
    ("Inner London", "020 7946 0"),
    ("Outer London", "020 7946 0"),
    ("North East", "0191 498 0"),
    ("North West", "0161 496 0"),
    ("Yorkshire and The Humber", "0113 496 0"),
    ("East Midlands", "0116 496 0"),
    ("West Midlands", "0121 496 0"),
    ("East of England", "01632 960"),
    ("South East", "0118 496 0"),
    ("South West", "0117 496 0"),
];

/// All ranges kept for drama, without spaces, by their first eight digits or as many as say it.
const DRAMA: [&str; 19] = [
    "01134960", "01144960", "01154960", "01164960", "01174960", "01184960", "01214960", "01314960", "01414960",
    "01514960", "01614960", "01914980", "02079460", "02896496", "02890180", "02920180", "01632960", "07700900",
    "03069990",
];

/// The numbers of the authority at `place` in a synthetic register: office hours, emergency duty team. `place` is
/// below 500, so no number is given out twice.
pub(super) fn invented(region: &str, place: usize) -> (String, String) {
    let prefix = BY_REGION.iter().find(|(name, _)| *name == region).map_or("01632 960", |(_, prefix)| *prefix);
    (format!("{prefix}{:03}", place * 2), format!("{prefix}{:03}", place * 2 + 1))
}

/// Whether the number is one that Ofcom keeps free for drama.
pub(super) fn is_drama(phone: &str) -> bool {
    let digits: String = phone.chars().filter(char::is_ascii_digit).collect();
    DRAMA.iter().any(|prefix| digits.starts_with(prefix))
}

/// A number as it is dialled in the United Kingdom: a leading zero, ten or eleven digits, single spaces.
pub(super) fn is_phone(phone: &str) -> bool {
    let digits = phone.bytes().filter(u8::is_ascii_digit).count();
    phone.starts_with('0')
        && !phone.ends_with(' ')
        && !phone.contains("  ")
        && phone.bytes().all(|b| b.is_ascii_digit() || b == b' ')
        && (10..=11).contains(&digits)
        && phone.len() <= 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invented_numbers_ring_nobody() {
        for (region, _) in BY_REGION {
            let (office, duty) = invented(region, 152);
            assert!(is_phone(&office) && is_phone(&duty) && office != duty);
            assert!(is_drama(&office) && is_drama(&duty));
        }
        assert!(!is_drama("0114 273 4567"));
        for wrong in ["", "0", "+441144960001", "0114 496  0001", "0114 496 000x", "01144960001 "] {
            assert!(!is_phone(wrong), "{wrong}");
        }
    }
}
