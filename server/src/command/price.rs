//! `price`: what a guess costs at the parameters in force, and so what a look-up, an index and a dump cost.
//! It must not change a parameter, nor show a price without the rows that look bad.

use clap::Args;
use cpis_protocol::head::Head;
use cpis_protocol::seal::MemoryHard;
use cpis_server::clock::iso;
use cpis_server::home::Home;
use cpis_server::port::{Feeds as _, HeadRow, Store as _, StoreError};
use cpis_server::price::{PUBLISHED, Price, table};
use cpis_server::publish;
use serde_json::json;

use super::Context;
use super::failure::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cpis-server price
  cpis-server price --compare --json

Measures the real memory-hard step on this machine, CPU time of one core, with the parameters of the newest signed head:
those that every device and every attacker has to pay. Takes the memory of one step and a few seconds.")]
pub(crate) struct PriceArgs {
    /// Steps to measure at each set of parameters; the median counts
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Beside them the three sets of the published table (docs/enumeration.md)
    #[arg(long)]
    compare: bool,
}

pub(crate) fn run(context: &Context<'_>, args: &PriceArgs) -> anyhow::Result<()> {
    let home = context.home()?;
    let (cost, signed) = in_force(&home)?;
    let mut sets = vec![cost];
    if args.compare {
        sets.extend(PUBLISHED.into_iter().filter(|set| *set != cost));
    }
    let measure = |set: &MemoryHard| {
        Price::measure(*set, args.runs).map_err(|_| {
            let hint = "free some memory, or run it on a larger machine";
            Failure::failed(format!("the memory for {} cannot be had", table::named(*set)), hint)
        })
    };
    let prices = sets.iter().map(measure).collect::<Result<Vec<_>, _>>()?;
    let source = match &signed {
        Some(head) => format!("signed in the head of scope {} on {}", head.scope, iso(head.issued_ms)),
        None => "kept for the first head: no head has been signed yet".to_owned(),
    };
    let synthetic = if home.synthetic { "\nSynthetic: made for speed, no protection at all." } else { "" };
    let text = format!(
        "Deployment {}: {}, {source}.{synthetic}\n\n{}",
        home.deployment,
        table::named(cost),
        table::markdown(&prices)
    );
    let value = json!({
        "deployment": home.deployment, "synthetic": home.synthetic,
        "memory_kib": cost.memory_kib, "passes": cost.passes,
        "head": signed.map(|head| json!({"scope": head.scope.as_str(), "gseq": head.gseq, "issued": iso(head.issued_ms)})),
        "prices": table::json(&prices),
    });
    context.out.result(&value, &text);
    Ok(())
}

/// The parameters of the newest head, verified as a device would; before there is one, those that the first will carry.
fn in_force(home: &Home) -> anyhow::Result<(MemoryHard, Option<HeadRow>)> {
    let newest = home.store.read(|tx| -> Result<Option<HeadRow>, StoreError> {
        let mut newest: Option<HeadRow> = None;
        for scope in tx.scopes()? {
            let head = tx.newest_head(scope.scope)?;
            newest = newest.into_iter().chain(head).max_by_key(|head| (head.gseq, head.issued_ms));
        }
        Ok(newest)
    })?;
    match newest {
        Some(row) => {
            let head = Head::verify(&row.bytes, &row.hash, &row.scope, &home.trust()?)?;
            Ok((head.lookup.cost, Some(row)))
        }
        None => Ok((home.store.read(|tx| publish::lookup(tx))?.cost, None)),
    }
}
