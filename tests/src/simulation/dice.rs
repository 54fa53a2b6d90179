//! Everything that is left to chance in a simulation, drawn from its seed.
//! It must not draw from anything else: the same seed is the same run.

/// A stream of numbers (SplitMix64): quick, even, and no secret.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The stream of one actor: what one draws moves nobody else's.
    #[must_use]
    pub fn of(seed: u64, actor: &str) -> Self {
        let mut dice = Self(seed ^ 0x5851_f42d_4c95_7f2d);
        for byte in actor.bytes() {
            dice.0 = dice.next() ^ u64::from(byte);
        }
        dice
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `below`; zero when there is none.
    pub const fn below(&mut self, below: u64) -> u64 {
        let number = self.next();
        if below == 0 { 0 } else { number % below }
    }

    /// A number from `least` to `most`.
    pub const fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// Whether something happens that does so this often in a thousand.
    pub const fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// A place in a list of this length.
    pub fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// One of a list; `None` when it is empty.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.place(from.len()))
    }

    /// One of a list by weight; the last when the weights say nothing.
    pub fn weighed<T: Copy>(&mut self, from: &[(u64, T)]) -> Option<T> {
        let mut at = self.below(from.iter().map(|(weight, _)| weight).sum());
        for (weight, what) in from {
            match at.checked_sub(*weight) {
                None => return Some(*what),
                Some(rest) => at = rest,
            }
        }
        from.last().map(|(_, what)| *what)
    }

    /// Fills a buffer, for what draws bytes: keys and nonces of the programs under test.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            let number = self.next().to_le_bytes();
            part.copy_from_slice(number.get(..part.len()).unwrap_or_default());
        }
    }
}
