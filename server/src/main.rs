//! The `cpis-server` binary: parses the command line, runs one command, and turns its error into words and a status.
//! It must not hold logic: commands are in `command/`, what they do is in the library.

mod cli;
mod command;
mod output;
mod progress;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let out = output::Output::new(cli.json);
    match command::run(cli, &out) {
        Ok(code) => code,
        Err(error) => {
            let told = command::failure::explain(&error);
            out.failure(&told.message, told.hint.as_deref());
            ExitCode::from(told.code)
        }
    }
}
