//! The command line's grammar. The home of clap.
//! It must not do anything: `command` does.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Answers look-ups about children known to social care, from a verified offline copy.
#[derive(Debug, Parser)]
#[command(name = "cpis-agent", version, max_term_width = 100, after_help = AFTER)]
pub struct Cli {
    /// Where the agent keeps its state.
    #[arg(long, global = true, env = "CPIS_AGENT_DIR", default_value = "/var/lib/cpis-agent", value_name = "DIR")]
    pub dir: PathBuf,
    /// Prints JSON for programs instead of text for people.
    #[arg(long, global = true, env = "CPIS_JSON")]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER: &str = "\
Exit codes: 0 done; 1 failed; 2 wrong usage; 3 found, but the copy is stale; 4 cannot answer; 5 outside coverage;
6 the agent is not running; 69 the server cannot be reached; 77 locked or not permitted; 78 bad configuration.
`look-up` exits with 0 both for a record and for none: read the answer, not the code.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Enrols this device with a server, once, from an invitation.
    #[command(after_help = "Example: cpis-agent --dir ./agent enrol --invitation invite.txt --practitioner P001")]
    Enrol(EnrolArgs),
    /// Runs the agent: keeps the copy up to date, answers on the loopback API, uploads the audit.
    #[command(after_help = "Example: cpis-agent --dir ./agent run")]
    Run(RunArgs),
    /// Unlocks the vault, so that look-ups can be answered.
    #[command(after_help = "Example: cpis-agent unlock --practitioner P001")]
    Unlock(PersonArgs),
    /// Locks the vault and wipes its keys from memory.
    Lock,
    /// Allows look-ups beyond the limit for a while, where signed policy has it. It is recorded and reported.
    #[command(after_help = "Example: cpis-agent break-glass --reason 'major incident, 40 casualties' --yes")]
    BreakGlass(BreakGlassArgs),
    /// Gives another practitioner with a badge an own slot; somebody must have unlocked the vault.
    AddPractitioner(PersonArgs),
    /// Asks about one person by NHS number and date of birth.
    #[command(
        visible_alias = "lookup",
        after_help = "Example: cpis-agent look-up --nhs-number '999 000 0018' --date-of-birth 2015-03-04"
    )]
    LookUp(LookUpArgs),
    /// Shows the details of what a look-up found. This is the access that social care is told of.
    #[command(after_help = "Example: cpis-agent reveal 17")]
    Reveal(RevealArgs),
    /// Brings the copy up to date now, and uploads the audit.
    Sync,
    /// Writes the copy that this device holds to a bundle file, for another device of its scope. Needs no unlocking:
    /// everything in it is sealed or signed. It ages like any copy.
    #[command(after_help = "Example: cpis-agent export /media/usb/station-7.cpisbundle")]
    Export {
        /// The file to write. A bundle of that name is replaced, as a whole; any other file is left as it is.
        file: PathBuf,
    },
    /// Takes in a bundle file, e.g. from a USB stick. An older one than the copy is refused.
    #[command(after_help = "Example: cpis-agent import /media/usb/station-7.cpisbundle")]
    Import {
        /// The file.
        bundle: PathBuf,
    },
    /// Shows the copy, the link, the outbox and the vault.
    Status,
    /// Shows what waits to be uploaded. Who was looked up is sealed, to this device too.
    Outbox,
    /// Checks everything that the agent depends on and says how to mend it.
    Doctor,
}

/// How to enrol.
#[derive(Debug, Args)]
pub struct EnrolArgs {
    /// A file with the invitation, or the invitation itself.
    #[arg(long, value_name = "FILE|TEXT")]
    pub invitation: String,
    /// The practitioner who sets the device up and gets the first slot.
    #[arg(long, value_name = "ID")]
    pub practitioner: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened into the help")]
    pub passphrase: PassphraseArgs,
}

/// How to run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Where the API listens, instead of what agent.toml says.
    #[arg(long, env = "CPIS_AGENT_API", value_name = "ADDRESS")]
    pub api: Option<std::net::SocketAddr>,
    /// Logs JSON lines.
    #[arg(long, env = "CPIS_LOG_JSON")]
    pub log_json: bool,
}

/// Where the passphrase comes from.
#[derive(Debug, Args)]
pub struct PassphraseArgs {
    /// Reads the passphrase from the first line of a file instead of asking. `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

/// Who.
#[derive(Debug, Args)]
pub struct PersonArgs {
    /// The practitioner's identity, as on the badge.
    #[arg(long, value_name = "ID")]
    pub practitioner: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened into the help")]
    pub passphrase: PassphraseArgs,
}

/// Whom to ask for.
#[derive(Debug, Args)]
pub struct LookUpArgs {
    /// The NHS number; spaces are allowed. For an unborn baby, the mother's.
    #[arg(long, value_name = "NUMBER", required_unless_present_any = ["surname", "given_name"])]
    pub nhs_number: Option<String>,
    /// Without an NHS number: the surname; the whole name of somebody with a single one.
    #[arg(long, value_name = "NAME", conflicts_with = "nhs_number")]
    pub surname: Option<String>,
    /// Without an NHS number: the given name, when known.
    #[arg(long, value_name = "NAME", conflicts_with = "nhs_number")]
    pub given_name: Option<String>,
    /// Without an NHS number: the full postcode, when known; with it a surname that only sounds alike is found.
    #[arg(long, value_name = "POSTCODE", conflicts_with = "nhs_number")]
    pub postcode: Option<String>,
    /// The date of birth: YYYY-MM-DD, dd-Mmm-yyyy or dd/mm/yyyy.
    #[arg(long, value_name = "DATE")]
    pub date_of_birth: String,
    /// Where the person lives, when known: an authority's name or GSS code.
    #[arg(long, value_name = "AUTHORITY")]
    pub area: Option<String>,
    /// The incident or case that you are working on.
    #[arg(long, value_name = "ID")]
    pub incident: Option<String>,
}

/// Why the glass is broken.
#[derive(Debug, Args)]
pub struct BreakGlassArgs {
    /// Why: 8 to 64 characters. It is recorded and reported; do not name a patient in it.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Confirms it.
    #[arg(long)]
    pub yes: bool,
}

/// What to reveal.
#[derive(Debug, Args)]
pub struct RevealArgs {
    /// The number that the look-up printed.
    pub look_up: u64,
    /// Of a look-up by name: which candidate, from 1.
    #[arg(long, value_name = "N")]
    pub candidate: Option<usize>,
    /// The incident or case that you are working on.
    #[arg(long, value_name = "ID")]
    pub incident: Option<String>,
}
