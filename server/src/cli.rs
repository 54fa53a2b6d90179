//! The command line of the server: its grammar and its help.
//! It must not do anything.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::command;

/// CP-IS Edge server: keeps the register, publishes sealed feeds, enrols devices, takes in their audit.
///
/// This is not an NHS England product. A deployment with real data needs a legal permission to hold a copy.
#[derive(Debug, Parser)]
#[command(name = "cpis-server", version, propagate_version = true, after_help = FIRST_STEPS, max_term_width = 110)]
pub(crate) struct Cli {
    /// The server's directory: configuration, keys and database
    #[arg(long, global = true, env = "CPIS_SERVER_DIR", default_value = "cpis-server", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Print one JSON value on standard output instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const FIRST_STEPS: &str = "First steps, with invented people:
  cpis-server --dir /tmp/s init --deployment demo --synthetic --root-key-dir /tmp/s-root --no-passphrase
  cpis-server --dir /tmp/s synthesise --authority Sheffield
  cpis-server --dir /tmp/s scope add south --authority Sheffield
  cpis-server --dir /tmp/s site add rotherham
  cpis-server --dir /tmp/s practitioner add PARA001 --name 'A. Crew' --role R1070 --site rotherham
  cpis-server --dir /tmp/s device invite --scope south --site rotherham --out /tmp/invitation
  cpis-server --dir /tmp/s serve

Exit status: 0 done, 1 failed, 2 wrong usage, 75 try again later, 78 configuration or set-up is wrong.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Set up a new deployment: keys, database, configuration and the first trust root
    Init(command::init::Init),
    /// Make, draft, sign, install and show trust roots
    #[command(subcommand)]
    Root(command::root::RootCommand),
    /// List, replace and destroy the online keys
    #[command(subcommand)]
    Key(command::key::KeyCommand),
    /// Fill the register with invented people in the published numbers of each authority
    Synthesise(command::register::Synthesise),
    /// Take an extract into the register and publish what changed
    Ingest(command::register::Ingest),
    /// Name the lists of feeds that kinds of sites need
    #[command(subcommand)]
    Scope(command::scope::ScopeCommand),
    /// Feed keys: list them, rotate them, seal feeds anew
    #[command(subcommand)]
    Feed(command::feed::FeedCommand),
    /// Sites, and the policy that their devices get
    #[command(subcommand)]
    Site(command::site::SiteCommand),
    /// Invite, list and revoke devices
    #[command(subcommand)]
    Device(command::device::DeviceCommand),
    /// Who may unlock devices, and where
    #[command(subcommand)]
    Practitioner(command::practitioner::PractitionerCommand),
    /// Show and verify the audit that devices sent
    #[command(subcommand)]
    Audit(command::audit::AuditCommand),
    /// What in the audit gives reason to look: forks, break-glass, patterns of enumeration
    #[command(subcommand)]
    Alert(command::alert::AlertCommand),
    /// Which devices have proved that removed records are gone, and when the rest lock anyway
    Erasure(command::erasure::Erasure),
    /// Write everything that a scope's devices need into one file, for a USB stick or a mirror
    Bundle(command::bundle::BundleArgs),
    /// Caching proxies that carry the immutable objects
    #[command(subcommand)]
    Mirror(command::mirror::MirrorCommand),
    /// Serve devices until told to stop
    Serve(command::serve::Serve),
    /// Show what a guess costs at the parameters in force: a look-up, an index, a dump of the register
    Price(command::price::PriceArgs),
    /// Show what this server holds
    Status,
}
