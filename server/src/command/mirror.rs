//! `mirror`: ordinary caching proxies between the server and its devices.
//! It must not leave a mirror's private key anywhere but in the directory that was asked for.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use cpis_protocol::id::ScopeId;
use cpis_server::clock::iso;
use cpis_server::home::Home;
use cpis_server::keys::file;
use cpis_server::mirror::{self, Deployment, Given, MirrorError, MirrorRow};
use cpis_server::port::{Store as _, StoreError};
use serde_json::{Value, json};

use super::failure::Failure;
use super::{Context, now_ms};
use crate::output::table;

#[derive(Debug, Subcommand)]
pub(crate) enum MirrorCommand {
    /// Let a caching proxy fetch the immutable objects of scopes, and give it key and certificate
    #[command(after_help = "Example:
  cpis-server mirror add north --host mirror.north.example --scope south --out /tmp/north

Writes mirror.pem, mirror.key and authority.pem for packaging/nginx/mirror.conf. The key is kept nowhere else: hand the
directory over by a safe way and destroy it. Devices use it by mirrors = [\"https://mirror.north.example\"] in agent.toml.")]
    Add {
        /// Its name
        name: String,
        /// The host name or address under which devices reach it; none of this server's own
        #[arg(long)]
        host: String,
        /// A scope of which it may have the objects; once for each
        #[arg(long = "scope", required = true, value_name = "SCOPE")]
        scopes: Vec<ScopeId>,
        #[command(flatten)]
        files: Files,
    },
    /// Give a mirror a new key and certificate; the one before is worth nothing from then on
    #[command(after_help = "Example:\n  cpis-server mirror renew north --out /tmp/north")]
    Renew {
        /// Its name
        name: String,
        #[command(flatten)]
        files: Files,
    },
    /// List the mirrors
    #[command(after_help = "Example:\n  cpis-server mirror list --json")]
    List,
    /// Take a mirror out: it gets nothing more from this server
    #[command(after_help = "Example:\n  cpis-server mirror remove north")]
    Remove {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Files {
    /// The directory for its files; it must not exist yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Days for which its certificate is good
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=825))]
    days: u16,
}

pub(crate) fn run(context: &Context<'_>, command: MirrorCommand) -> anyhow::Result<()> {
    let home = context.home()?;
    match command {
        MirrorCommand::Add { name, host, scopes, files } => {
            let sane = |text: &str, more: &[u8]| {
                !text.is_empty()
                    && text.len() <= 253
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
            };
            if !sane(&name, b"-_.") || !sane(&host, b"-.:") {
                let what = "a mirror's name has letters, digits, - _ and . only; its host is a host name or an address";
                return Err(Failure::usage(what, "e.g. mirror add north --host mirror.north.example").into());
            }
            give(context, &home, &files, |tx, deployment| {
                mirror::add(tx, deployment, &name, &host, scopes, files.days.into())
            })
        }
        MirrorCommand::Renew { name, files } => {
            give(context, &home, &files, |tx, deployment| mirror::renew(tx, deployment, &name, files.days.into()))
        }
        MirrorCommand::List => list(context, &home),
        MirrorCommand::Remove { name } => {
            home.store.write(|tx| mirror::remove(tx, &name))?;
            context.out.result(&json!({ "removed": name }), &format!("Mirror {name} gets nothing more."));
            Ok(())
        }
    }
}

type Tx<'a> = <cpis_server::store::SqliteStore as cpis_server::port::Store>::Tx<'a>;

fn give(
    context: &Context<'_>,
    home: &Home,
    files: &Files,
    make: impl FnOnce(&Tx<'_>, &Deployment<'_>) -> Result<Given, MirrorError>,
) -> anyhow::Result<()> {
    let trust = home.trust()?;
    let deployment = Deployment {
        keys: &home.keys,
        config: &home.config,
        name: trust.root().deployment.as_str(),
        authorities: &trust.root().authority_certificates,
        now_ms: now_ms(),
    };
    if files.out.exists() {
        let text = format!("{} is there already", files.out.display());
        return Err(Failure::usage(text, "give a directory that does not exist yet").into());
    }
    // Written before the row is: a key that nobody has must not be what counts.
    let given = home.store.write(|tx| {
        let given = make(tx, &deployment)?;
        write(&files.out, &given).map_err(|error| StoreError::Constraint(error.to_string()))?;
        Ok::<_, MirrorError>(given)
    })?;
    let text = format!(
        "Mirror {} may have the objects of {}. Its key, certificate and the authority are in {}.\n\
         Next: packaging/nginx/mirror.conf there, and mirrors = [\"https://{}\"] in agent.toml.",
        given.row.name,
        scopes(&given.row),
        files.out.display(),
        given.row.host
    );
    let mut value = shown(&given.row);
    value["directory"] = json!(files.out);
    context.out.result(&value, &text);
    Ok(())
}

fn write(directory: &Path, given: &Given) -> Result<(), file::KeyError> {
    file::make_private_dir(directory)?;
    file::write_private(&directory.join("mirror.key"), given.key.as_bytes())?;
    file::write_private(&directory.join("mirror.pem"), given.certificate.as_bytes())?;
    file::write_private(&directory.join("authority.pem"), given.authorities.as_bytes())?;
    file::sync_dir(directory)
}

fn scopes(row: &MirrorRow) -> String {
    row.scopes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn shown(row: &MirrorRow) -> Value {
    let scopes: Vec<_> = row.scopes.iter().map(|scope| scope.as_str()).collect();
    json!({ "name": row.name, "host": row.host, "scopes": scopes, "until": iso(row.until_ms) })
}

fn list(context: &Context<'_>, home: &Home) -> anyhow::Result<()> {
    let rows = home.store.read::<_, StoreError>(|tx| mirror::list(tx))?;
    let mut lines = vec![["MIRROR", "HOST", "SCOPES", "CERTIFICATE UNTIL"].map(String::from).to_vec()];
    lines.extend(rows.iter().map(|row| vec![row.name.clone(), row.host.clone(), scopes(row), iso(row.until_ms)]));
    let text = table(&lines);
    context.out.result(&rows.iter().map(shown).collect::<Value>(), &text);
    Ok(())
}
