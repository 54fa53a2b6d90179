//! `audit`: show and verify what devices sent.
//! It must not show who was looked up unless that was asked for by name.

use std::process::ExitCode;

use clap::Subcommand;
use cpis_server::audit_report::{self, ChainLine, EventLine, Verification};

use super::Context;
use super::failure::FAILED;
use crate::output::table;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List the events, opened with the audit recipient key where it is here
    #[command(after_help = "Examples:
  cpis-server audit list
  cpis-server audit list --json --show-persons | jq 'select(.notification == \"unscheduled\")'

With --json one event on each line. --show-persons shows who was asked about: that is access to personal data.")]
    List {
        /// Show NHS numbers and dates of birth
        #[arg(long)]
        show_persons: bool,
    },
    /// Verify every chain again from its first link, with the devices' keys; status 1 when anything is not intact
    #[command(after_help = "Example:\n  cpis-server audit verify")]
    Verify,
}

pub(crate) fn run(context: &Context<'_>, command: &AuditCommand) -> anyhow::Result<ExitCode> {
    let home = context.home()?;
    let keys = &home.keys.audit;
    if keys.is_empty() {
        context.out.note("note: the audit recipient key is not here, so events stay sealed");
    }
    match command {
        AuditCommand::List { show_persons } => {
            let mut count = 0u64;
            audit_report::list(&home.store, keys, *show_persons, &mut |event| {
                count += 1;
                if context.out.is_json() {
                    context.out.json_line(&event);
                } else {
                    context.out.text(&line(&event));
                }
            })?;
            if !context.out.is_json() {
                context.out.text(&format!("{count} events"));
            }
            Ok(ExitCode::SUCCESS)
        }
        AuditCommand::Verify => {
            let verification = audit_report::verify(&home.store, keys)?;
            context.out.result(&verification, &text(&verification));
            Ok(if verification.intact { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
        }
    }
}

fn line(event: &EventLine) -> String {
    let short = |text: &str| text.chars().take(8).collect::<String>();
    let mut parts = vec![
        event.event.clone(),
        format!("device {} chain {} #{}", short(&event.device), short(&event.chain), event.seq),
        event.act.to_owned(),
    ];
    let mut push = |label: &str, value: Option<&str>| {
        if let Some(value) = value {
            parts.push(format!("{label}{value}"));
        }
    };
    push("", event.outcome.as_deref());
    push("reason ", event.reason.as_deref());
    push("notification ", event.notification);
    push("feed ", event.feed.as_deref());
    push("number ", event.nhs_number.as_deref());
    push("born ", event.birth.as_deref());
    push("by ", event.practitioner.as_deref());
    push("", event.role.as_deref());
    push("", event.break_glass.then_some("UNDER BREAK-GLASS"));
    push("incident ", event.incident.as_deref());
    if event.act == "look-up" {
        parts.push(format!("from copy at {}", event.gseq));
    }
    parts.push(format!("received {} s later", event.delay_s));
    parts.join(", ")
}

fn text(verification: &Verification) -> String {
    let head = ["DEVICE", "CHAIN", "LINKS", "VERIFIED", "LOOK-UPS", "NOTIFYING", "SILENT", "OTHER", "SEALED", "STATE"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(verification.chains.iter().map(chain));
    let mut out = table(&lines);
    for aside in &verification.aside {
        out += &format!("\nALERT {} by device {} at position {}, {}", aside.why, aside.device, aside.seq, aside.at);
    }
    let links: u64 = verification.chains.iter().map(|chain| chain.links).sum();
    out += &format!(
        "\n{} chains, {links} links: {}",
        verification.chains.len(),
        if verification.intact {
            "every link verified from the first, nothing missing, nothing set aside"
        } else {
            "NOT INTACT, see above"
        }
    );
    out
}

fn chain(chain: &ChainLine) -> Vec<String> {
    let state = match (chain.intact, chain.beside_another) {
        (false, _) => "BROKEN",
        (true, true) => "intact, begun beside another",
        (true, false) => "intact",
    };
    vec![
        chain.device.chars().take(8).collect(),
        chain.chain.chars().take(8).collect(),
        chain.links.to_string(),
        chain.verified.to_string(),
        chain.look_ups.to_string(),
        chain.reveals_unscheduled.to_string(),
        chain.reveals_silent.to_string(),
        chain.others.to_string(),
        chain.sealed.to_string(),
        state.to_owned(),
    ]
}
