//! The generator of the synthetic register: SplitMix64 (Steele, Lea, Flood 2014).
//! It must not be used for anything that has to be secret.
//!
//! It is written out here, ten lines, so that the same seed gives the same register for ever: a crate's generator may
//! change its stream or its ranges with a version. There is no floating point, for the same reason.

/// The state of the generator.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; zero when the limit is zero. The bias of the multiplication is below 2^-32 here.
    pub(super) const fn below(&mut self, limit: u32) -> u32 {
        (((self.next() >> 32) * limit as u64) >> 32) as u32
    }

    /// A number from `low` to `high`, both included; `low` when there is no such number.
    pub(super) fn between(&mut self, low: i32, high: i32) -> i32 {
        let span = u32::try_from(i64::from(high) - i64::from(low) + 1).unwrap_or(0);
        low.saturating_add(i32::try_from(self.below(span)).unwrap_or(0))
    }

    /// True `per_mille` times in a thousand.
    pub(super) const fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1_000) < per_mille
    }

    /// One of the items.
    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(u32::try_from(items.len()).unwrap_or(u32::MAX)) as usize)
    }

    /// One of the items, the earlier the likelier: the first of `draws` draws.
    pub(super) fn pick_early<'a, T>(&mut self, items: &'a [T], draws: u32) -> Option<&'a T> {
        let limit = u32::try_from(items.len()).unwrap_or(u32::MAX);
        let place = (0..draws).map(|_| self.below(limit)).min().unwrap_or(0);
        items.get(place as usize)
    }

    /// The place of one of the weights, each as likely as it is heavy; 0 when they weigh nothing.
    pub(super) fn weighted(&mut self, weights: &[u32]) -> usize {
        let mut at = self.below(weights.iter().sum());
        for (place, weight) in weights.iter().enumerate() {
            if at < *weight {
                return place;
            }
            at -= weight;
        }
        0
    }

    /// Puts the items in another order (Fisher and Yates).
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(u32::try_from(last + 1).unwrap_or(u32::MAX)) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference values of the published generator for seed 1234567.
    #[test]
    fn the_published_stream() {
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
        assert_eq!(random.next(), 9_817_491_932_198_370_423);
    }

    #[test]
    fn ranges_hold() {
        let mut random = Random::new(7);
        for _ in 0..2_000 {
            assert!((-3..=4).contains(&random.between(-3, 4)));
            assert_ne!(random.weighted(&[1, 0, 2]), 1);
        }
        assert_eq!(random.between(5, 4), 5);
        assert_eq!(random.below(0), 0);
    }
}
