//! `synthesise` and `ingest`: into the register, then published.
//! It must not print a line of a refused file: only where and why.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use cpis_protocol::digest::{self, sha256};
use cpis_protocol::nhs::Date;
use cpis_server::clock::iso;
use cpis_server::home::Home;
use cpis_server::ingest::{self, Applied, Source};
use cpis_server::publish::Published;
use cpis_server::register::{self, Extract, RowRefusal, SynthesiseOptions};
use serde_json::json;

use super::failure::{FAILED, Failure};
use super::{Context, now_ms, publish};
use crate::progress::Progress;

/// A file of any format is smaller.
const FILE_MAX: u64 = 64 * 1024 * 1024;
/// Refusals that are shown; all are in the JSON.
const REFUSALS_SHOWN: usize = 20;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cpis-server synthesise --authority Sheffield --authority E08000018
  cpis-server synthesise --records 20000 --seed 7      (the whole nation, scaled to 20,000 people)
  cpis-server synthesise                               (the whole nation in its published numbers)")]
pub(crate) struct Synthesise {
    /// GSS code or name of an authority; once for each, none for the nation
    #[arg(long = "authority", value_name = "CODE_OR_NAME")]
    authorities: Vec<String>,
    /// Scale to this many people, keeping proportions
    #[arg(long, value_name = "N")]
    records: Option<u32>,
    /// The same seed, authorities and day give the same people
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The day as which the register is made [default: today]
    #[arg(long, value_name = "YYYY-MM-DD")]
    today: Option<Date>,
    /// Also write the invented people as a CSV extract, e.g. to know whom to ask for
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The documented CSV extract
    Csv,
    /// A FHIR bundle in the shape of the national Patient Flags service
    Fhir,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cpis-server ingest extract.csv --dry-run
  cpis-server ingest bundle.json --format fhir

All or nothing: one refused row refuses the file. The same file twice changes nothing.")]
pub(crate) struct Ingest {
    /// The file
    file: PathBuf,
    /// Its format [default: by its extension, .csv or .json]
    #[arg(long)]
    format: Option<Format>,
    /// Say what would happen and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Take in a file that was taken in before, e.g. to undo a later one
    #[arg(long)]
    again: bool,
}

pub(crate) fn synthesise(context: &Context<'_>, args: Synthesise) -> anyhow::Result<()> {
    let home = context.home()?;
    if !home.synthetic {
        return Err(Failure::usage(
            "this deployment is for real data",
            "invented people go into one made with init --synthetic",
        )
        .into());
    }
    let today = match args.today {
        Some(today) => today,
        None => Date::of_unix_ms(now_ms())?,
    };
    let wanted = format!("{:?} {:?} {} {}", args.authorities, args.records, args.seed, today.iso());
    // Each list of authorities starts elsewhere in the range of test numbers, so that they rarely meet.
    let [a, b, c, d, e, f, g, h, ..] = digest::hash("synthesise", &[format!("{:?}", args.authorities).as_bytes()]);
    let options = SynthesiseOptions {
        seed: args.seed ^ u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        authorities: args.authorities,
        records: args.records,
        today,
    };
    let extract = register::synthesise(&options)
        .map_err(|error| Failure::usage(error.to_string(), "names are those of upper-tier authorities in England"))?;
    if let Some(path) = &args.csv {
        std::fs::write(path, register::write_plans_csv(&extract)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    let source = Source {
        kind: "synthetic",
        hash: digest::hash("cpis-edge/1/synthetic", &[wanted.as_bytes()]),
        again: false,
        rehearse: false,
        keep_others: true,
    };
    apply(context, &home, &extract, &source)
}

pub(crate) fn ingest(context: &Context<'_>, args: &Ingest) -> anyhow::Result<()> {
    let home = context.home()?;
    let format = match (args.format, args.file.extension().and_then(|e| e.to_str())) {
        (Some(format), _) => format,
        (None, Some("csv")) => Format::Csv,
        (None, Some("json")) => Format::Fhir,
        (None, _) => {
            return Err(Failure::usage("the format cannot be seen from the name", "give --format csv or fhir").into());
        }
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&args.file).with_context(|| format!("{}", args.file.display()))?;
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).with_context(|| format!("{}", args.file.display()))?;
    let (kind, read) = match format {
        Format::Csv => ("csv", register::read_csv(&bytes, home.synthetic)),
        Format::Fhir => ("fhir", register::read_fhir(&bytes, home.synthetic)),
    };
    let extract = read.map_err(|refusals| refused(context, &refusals))?;
    let source = Source { kind, hash: sha256(&bytes), again: args.again, rehearse: args.dry_run, keep_others: false };
    apply(context, &home, &extract, &source)
}

fn refused(context: &Context<'_>, refusals: &[RowRefusal]) -> anyhow::Error {
    if context.out.is_json() {
        let rows: Vec<_> = refusals
            .iter()
            .map(|r| json!({"line": r.line, "field": r.field, "code": r.code, "remedy": r.remedy}))
            .collect();
        context.out.json_line(&json!({"taken": false, "refusals": rows}));
    } else {
        for refusal in refusals.iter().take(REFUSALS_SHOWN) {
            context.out.note(&refusal.to_string());
        }
    }
    let message = format!("the file was refused: {} rows cannot be taken, so nothing was", refusals.len());
    Failure { message, hint: Some("mend them and give the file again; --json lists them all".into()), code: FAILED }
        .into()
}

fn apply(context: &Context<'_>, home: &Home, extract: &Extract, source: &Source) -> anyhow::Result<()> {
    let total = extract.changes.len() as u64;
    let mut progress = Progress::start(*context.out, "taking in records", total);
    let applied = ingest::apply(&home.store, extract, source, home.synthetic, now_ms(), &mut |done| {
        progress.at(done, total);
    })?;
    progress.finish();
    let published = if source.rehearse { None } else { Some(publish(context, home)?) };
    report(context, &applied, published.as_ref());
    Ok(())
}

fn report(context: &Context<'_>, applied: &Applied, published: Option<&Published>) {
    let mut text = match applied.before {
        Some(before) => format!("Taken in before, on {}: nothing changed.", iso(before)),
        None => format!(
            "{}{} records: {} added, {} changed, {} taken out, {} unchanged; {} authorities added or changed.",
            if published.is_none() { "Dry run, nothing was changed. " } else { "" },
            applied.records,
            applied.added,
            applied.changed,
            applied.removed,
            applied.unchanged,
            applied.authorities,
        ),
    };
    if applied.left_out > 0 {
        text += &format!("\n{} left out: their test numbers are taken by others.", applied.left_out);
    }
    if let Some(published) = published {
        text += &format!(
            "\nPublished up to register sequence {}: {} cells put, {} removed, {} scopes with a new head.",
            published.gseq,
            published.puts,
            published.removes,
            published.heads.len()
        );
        if published.crowded > 0 {
            text += &format!(
                "\nATTENTION: {} people share name and date of birth with more others than a device finds by name: they are \
                 found by NHS number only, and the device says that there may be more. This is in alert list.",
                published.crowded
            );
        }
    }
    let value = json!({
        "dry_run": published.is_none(), "before": applied.before.map(iso), "records": applied.records,
        "added": applied.added, "changed": applied.changed, "removed": applied.removed, "unchanged": applied.unchanged,
        "left_out": applied.left_out, "authorities": applied.authorities,
        "gseq": published.map_or(applied.gseq, |p| p.gseq),
        "puts": published.map(|p| p.puts), "removes": published.map(|p| p.removes),
        "crowded": published.map(|p| p.crowded),
        "heads": published.map(|p| p.heads.iter().map(ToString::to_string).collect::<Vec<_>>()),
    });
    context.out.result(&value, &text);
}
