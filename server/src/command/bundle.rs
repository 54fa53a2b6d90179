//! `bundle`: a scope in one file.
//! It must not write half a file under the final name.

use std::path::PathBuf;

use clap::Args;
use cpis_protocol::id::ScopeId;
use cpis_server::export;
use cpis_server::keys::file;
use serde_json::json;

use super::{Context, now_ms};

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cpis-server bundle --scope south --out /media/usb/south.cpisbundle

Everything inside is sealed or signed: the file may be copied freely. It ages like any copy.")]
pub(crate) struct BundleArgs {
    /// The scope
    #[arg(long)]
    scope: ScopeId,
    /// The file to write; replaced if it exists
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(context: &Context<'_>, args: &BundleArgs) -> anyhow::Result<()> {
    let home = context.home()?;
    home.trust()?;
    let bytes = export::bundle(&home.store, &home.keys, &home.config, args.scope, now_ms())?;
    file::replace(&args.out, &bytes)?;
    let text = format!("Scope {} is in {} ({} bytes).", args.scope, args.out.display(), bytes.len());
    context.out.result(&json!({"scope": args.scope.as_str(), "file": args.out, "bytes": bytes.len()}), &text);
    Ok(())
}
