//! The commands, one file for each group: arguments in, library called, result printed.
//! A command must not do what the library should.

pub(crate) mod alert;
pub(crate) mod audit;
pub(crate) mod bundle;
pub(crate) mod device;
pub(crate) mod erasure;
pub(crate) mod failure;
pub(crate) mod feed;
pub(crate) mod init;
pub(crate) mod key;
pub(crate) mod mirror;
pub(crate) mod practitioner;
pub(crate) mod price;
pub(crate) mod register;
pub(crate) mod root;
pub(crate) mod scope;
pub(crate) mod serve;
pub(crate) mod site;
pub(crate) mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use cpis_protocol::id::UnixMs;
use cpis_server::clock::{Clock as _, SystemClock};
use cpis_server::digest;
use cpis_server::home::Home;
use cpis_server::publish::{self, Published, Step};
use failure::Failure;

use crate::cli::{Cli, Command};
use crate::output::Output;
use crate::progress::Progress;

/// What every command gets.
pub(crate) struct Context<'a> {
    pub(crate) dir: PathBuf,
    pub(crate) out: &'a Output,
}

impl Context<'_> {
    /// Opens the server's directory.
    pub(crate) fn home(&self) -> anyhow::Result<Home> {
        Ok(Home::open(&self.dir)?)
    }
}

/// The present.
pub(crate) fn now_ms() -> UnixMs {
    SystemClock.now_ms()
}

/// Runs the command of the command line.
pub(crate) fn run(cli: Cli, out: &Output) -> anyhow::Result<ExitCode> {
    let context = Context { dir: cli.dir, out };
    match cli.command {
        Command::Init(args) => init::run(&context, &args),
        Command::Root(command) => root::run(&context, command),
        Command::Key(command) => key::run(&context, &command),
        Command::Synthesise(args) => register::synthesise(&context, args),
        Command::Ingest(args) => register::ingest(&context, &args),
        Command::Scope(command) => scope::run(&context, command),
        Command::Feed(command) => feed::run(&context, command),
        Command::Site(command) => site::run(&context, command),
        Command::Device(command) => device::run(&context, command),
        Command::Practitioner(command) => practitioner::run(&context, command),
        Command::Alert(command) => alert::run(&context, &command),
        Command::Erasure(args) => erasure::run(&context, &args),
        Command::Audit(command) => return audit::run(&context, &command),
        Command::Mirror(command) => mirror::run(&context, command),
        Command::Bundle(args) => bundle::run(&context, &args),
        Command::Serve(args) => serve::run(&context, &args),
        Command::Price(args) => price::run(&context, &args),
        Command::Status => status::run(&context),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Looks at the audit that came in since the last time, so that what is reported is of now.
pub(crate) fn digested(context: &Context<'_>, home: &Home) -> anyhow::Result<()> {
    if home.keys.audit.is_empty() {
        context.out.note("note: the audit recipient key is not here, so what came in since it was is not looked at");
    }
    digest::run(&home.store, &home.keys.audit, &home.config)?;
    Ok(())
}

/// Publishes what changed, with progress.
pub(crate) fn publish(context: &Context<'_>, home: &Home) -> anyhow::Result<Published> {
    let mut tokens = Progress::start(*context.out, "computing look-up tokens", 0);
    let mut cells = None;
    let published = publish::publish(&home.store, &home.keys, now_ms(), &mut |step| match step {
        Step::Tokens { done, total } => tokens.at(done, total),
        Step::Persons { done, total } => {
            let bar = cells.get_or_insert_with(|| Progress::start(*context.out, "sealing records", total));
            bar.at(done, total);
        }
    })?;
    tokens.finish();
    if let Some(cells) = cells {
        cells.finish();
    }
    Ok(published)
}

/// An argument that does not name anything.
pub(crate) fn unknown(what: &str, name: &str, list: &str) -> anyhow::Error {
    Failure::usage(format!("there is no {what} {name}"), format!("cpis-server {list} shows those that are there"))
        .into()
}
