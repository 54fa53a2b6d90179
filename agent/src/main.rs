//! The `cpis-agent` program: a thin shell over the library.
//! It must not hold logic: it parses, runs a command, and turns the result into an exit code.

use std::process::ExitCode;

use clap::Parser as _;
use zeroizing_alloc::ZeroAlloc;

/// Wipes whatever is freed: requests, passphrases, parsed questions and answers, wherever a library copied them to.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<std::alloc::System> = ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    let cli = cpis_agent::cli::Cli::parse();
    cpis_agent::command::run(&cli)
}
