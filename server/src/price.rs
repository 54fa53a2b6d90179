//! What a guess costs, and what follows from it: the price of a look-up, of indexing a register, and of listing one.
//! It must not make a price look better than it is: the guess spaces are the attacker's best ones that we know of, and
//! every assumption is a named constant in [`space`] or here.

pub mod space;
pub mod table;

use cpis_protocol::Refusal;
use cpis_protocol::seal::MemoryHard;
use rustix::time::{ClockId, clock_gettime};

/// Memory-hard steps of a look-up by NHS number and date of birth.
pub const STEPS_BY_NUMBER: u32 = 1;
/// Memory-hard steps of a look-up by name, at most: the ways of asking that are tried (names exchanged, day and month
/// exchanged, parts of a double-barrelled name, with a postcode).
pub const STEPS_BY_NAME: u32 = 7;
/// Persons in a register of the whole of England, rounded up generously: 131,190 plans and looked-after children on
/// 31 March 2025 (`data/SOURCES.md`), those whose plan ended within a year, and those of the health register.
pub const INDEXED_PERSONS: u32 = 250_000;
/// Slots of a cell, so look-up tokens of a person, at most.
pub const INDEXED_SLOTS: u32 = 4;
/// Records of the scope whose dump is priced. It only says what is reached: the sweep costs the same for any number.
pub const DUMPED_RECORDS: u32 = 20_000;

/// Memory traffic of one step: every pass reads two blocks and writes one, the first pass reads no old block. In units
/// of the step's memory.
const fn traffic(passes: u32) -> u32 {
    3 * passes - 1
}
/// Bytes a second of a rented graphics card's memory that a step can use: 1 TB/s. Measured rates that others have
/// published (16 MiB, three passes: RTX 5090 about 10,000 a second, H100 about 20,000) are three quarters of what their
/// cards' full bandwidth would give by this model.
pub const GPU_BYTES_PER_S: f64 = 1e12;
/// Rent of such a card, US dollars an hour; a market price of 2026, which falls.
pub const GPU_USD_PER_HOUR: f64 = 0.35;

const YEAR_S: f64 = 365.25 * 86_400.0;

/// The parameter sets of the published table: the floor, the default, and twice the default's memory.
pub const PUBLISHED: [MemoryHard; 3] =
    [MemoryHard::FLOOR, MemoryHard::DEFAULT, MemoryHard { memory_kib: 128 * 1024, passes: 3 }];

/// The price of one guess at one set of parameters on one machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// The parameters.
    pub cost: MemoryHard,
    /// CPU seconds of one core for one step.
    pub guess_s: f64,
}

impl Price {
    /// Measures the real step in this thread: CPU time and not wall time, so that other work on the machine does not
    /// count, and the median of `runs` (at least one) after one that is not counted.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] when the memory cannot be had.
    pub fn measure(cost: MemoryHard, runs: u16) -> Result<Self, Refusal> {
        let step = || cost.derive(b"cpis-edge/1/price", b"0123456789abcdef", b"price");
        step()?;
        let mut samples = Vec::new();
        for _ in 0..runs.max(1) {
            let started = thread_cpu_s();
            step()?;
            samples.push(thread_cpu_s() - started);
        }
        samples.sort_by(f64::total_cmp);
        let guess_s = samples.get(samples.len() / 2).copied().unwrap_or_default();
        Ok(Self { cost, guess_s })
    }

    /// CPU seconds of one core for a number of guesses.
    #[must_use]
    pub fn cpu_s(&self, guesses: u64) -> f64 {
        float(guesses) * self.guess_s
    }

    /// The same in years of one core.
    #[must_use]
    pub fn core_years(&self, guesses: u64) -> f64 {
        self.cpu_s(guesses) / YEAR_S
    }

    /// US dollars of rented graphics cards for a number of guesses, by the model of the constants above.
    #[must_use]
    pub fn gpu_usd(&self, guesses: u64) -> f64 {
        let bytes = f64::from(self.cost.memory_kib) * 1024.0 * f64::from(traffic(self.cost.passes));
        float(guesses) * bytes / GPU_BYTES_PER_S / 3600.0 * GPU_USD_PER_HOUR
    }

    /// CPU seconds to index a register: every person, every slot.
    #[must_use]
    pub fn index_s(&self, persons: u32, slots: u32) -> f64 {
        self.cpu_s(u64::from(persons) * u64::from(slots))
    }
}

/// Far below 2^53 guesses in every space; a larger number would only lose digits that nobody reads.
#[allow(clippy::cast_precision_loss)]
fn float(number: u64) -> f64 {
    number as f64
}

fn thread_cpu_s() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    #[allow(clippy::cast_precision_loss)]
    let (seconds, nanoseconds) = (now.tv_sec as f64, now.tv_nsec as f64);
    seconds + nanoseconds / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_step_is_the_real_one() {
        let small = Price::measure(MemoryHard { memory_kib: 256, passes: 1 }, 9).unwrap();
        let large = Price::measure(MemoryHard { memory_kib: 4096, passes: 4 }, 9).unwrap();
        // Sixty-four times the work. A step that was cut short, or a clock that stands, would not show it.
        assert!(small.guess_s > 0.0 && large.guess_s > 8.0 * small.guess_s, "{small:?} {large:?}");
        assert!(Price::measure(MemoryHard { memory_kib: 0, passes: 1 }, 1).is_err());
    }

    #[test]
    fn sums_are_right() {
        let price = Price { cost: MemoryHard::DEFAULT, guess_s: 0.25 };
        assert!((price.core_years(126_230_400) - 1.0).abs() < 1e-9);
        assert!((price.index_s(250_000, 4) - 250_000.0).abs() < 1e-6);
        // 64 MiB, three passes: eight times the memory goes over the bus, so 1,862 guesses a second and 35 cents an hour.
        let hour = (GPU_BYTES_PER_S * 3600.0 / (8.0 * 64.0 * 1024.0 * 1024.0)).round();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let usd = price.gpu_usd(hour as u64);
        assert!((usd - 0.35).abs() < 1e-6, "{usd}");
    }
}
