//! The price of a guess at the three published sets of parameters, and so of a look-up, an index and a dump.
//! It must not have a model of its own: `cpis-server price` prints the same table for the parameters of a deployment.

use cpis_server::price::{PUBLISHED, Price, table};

use super::Scale;
use super::report::Report;

/// Measures and prints the table of `docs/enumeration.md`.
///
/// # Errors
/// When the memory cannot be had.
pub fn prices(scale: Scale, report: &Report) -> anyhow::Result<()> {
    let prices: Vec<Price> =
        PUBLISHED.iter().map(|cost| Price::measure(*cost, scale.of(15, 1))).collect::<Result<_, _>>()?;
    report.remark("### The price of guessing (Argon2id, one lane)");
    report.remark(table::markdown(&prices).trim_end());
    Ok(())
}
