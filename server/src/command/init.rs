//! `init`: a whole deployment in one go.
//! It must not overwrite a deployment that is there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use cpis_protocol::id::hex;
use cpis_protocol::seal::MemoryHard;
use cpis_protocol::sign::key_id;
use cpis_protocol::text::Text;
use cpis_server::ceremony::{self, Setup};
use cpis_server::clock::iso;
use cpis_server::config::Config;
use cpis_server::home::Home;
use cpis_server::keys::root_key;
use serde_json::json;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::root::Passphrase;
use super::{Context, now_ms};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cpis-server --dir /tmp/s init --deployment demo --synthetic --root-key-dir /tmp/s-root --no-passphrase
  cpis-server --dir /var/lib/cpis-server init --deployment 'North Ambulance' --url https://cpis.example.nhs.uk:8443 \\
      --root-threshold 2 --root-keys 3 --root-key-dir /media/usb/roots

Without --root-key-dir no root is made: make keys on offline machines with `root new-key`, then `root draft`,
`root sign` and `root install`.")]
pub(crate) struct Init {
    /// The deployment's name, at most 32 characters; part of the trust root
    #[arg(long)]
    deployment: String,
    /// Only test numbers (999 range) will live here; cheaper look-ups are allowed, and nothing real is accepted
    #[arg(long)]
    synthetic: bool,
    /// Where devices reach the server
    #[arg(long, default_value = "https://localhost:8443")]
    url: String,
    /// Where the server listens
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// How many root keys must sign a root
    #[arg(long, default_value_t = 1, value_name = "K")]
    root_threshold: u8,
    /// How many root keys to make
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    root_keys: u8,
    /// Make the root keys here and install the first root; take the directory offline afterwards
    #[arg(long, value_name = "DIR")]
    root_key_dir: Option<PathBuf>,
    /// Days until the root must have been replaced
    #[arg(long, default_value_t = 400, value_name = "DAYS")]
    root_days: u16,
    #[command(flatten)]
    passphrase: Passphrase,
    /// Memory of the memory-hard look-up step in KiB [default: 65536, or 64 with --synthetic]
    #[arg(long, value_name = "KIB")]
    lookup_memory_kib: Option<u32>,
    /// Passes of the memory-hard look-up step [default: 3, or 1 with --synthetic]
    #[arg(long, value_name = "N")]
    lookup_passes: Option<u32>,
}

pub(crate) fn run(context: &Context<'_>, args: &Init) -> anyhow::Result<()> {
    if args.root_threshold == 0 || args.root_threshold > args.root_keys {
        return Err(Failure::usage(
            "the threshold must be between 1 and the number of root keys",
            "e.g. --root-threshold 2 --root-keys 3",
        )
        .into());
    }
    let default = if args.synthetic { MemoryHard::SYNTHETIC } else { MemoryHard::DEFAULT };
    let setup = Setup {
        deployment: Text::new(&args.deployment)
            .ok()
            .filter(|name| !name.is_empty())
            .ok_or_else(|| Failure::usage("the name has 1 to 32 plain characters", "e.g. --deployment demo"))?,
        synthetic: args.synthetic,
        cost: MemoryHard {
            memory_kib: args.lookup_memory_kib.unwrap_or(default.memory_kib),
            passes: args.lookup_passes.unwrap_or(default.passes),
        },
        config: Config { url: args.url.clone(), listen: args.listen, ..Config::default() },
    };
    if args.passphrase.is_none() && !args.synthetic {
        return Err(Failure::usage(
            "--no-passphrase is for deployments of invented people",
            "leave it out, or add --synthetic; nothing was made",
        )
        .into());
    }
    // Asked for before anything is made: a wrong passphrase file must not leave half a deployment.
    let passphrase = match &args.root_key_dir {
        Some(_) => args.passphrase.new_passphrase()?,
        None => None,
    };
    if let Some(dir) = &args.root_key_dir
        && let Some(path) = ceremony::root_key_paths(dir, args.root_keys).into_iter().find(|path| path.exists())
    {
        return Err(Failure::failed(
            format!("{} exists already, and keys are never overwritten", path.display()),
            "give another --root-key-dir; nothing was made",
        )
        .into());
    }
    let home = ceremony::set_up(&context.dir, &setup).context("the deployment was not set up")?;
    match &args.root_key_dir {
        Some(root_dir) => first_root(context, args, &home, root_dir, passphrase.as_ref()),
        None => {
            let text = format!(
                "Deployment {} is set up in {}, without a trust root yet.\nNext: cpis-server root new-key on offline \
                 machines, then root draft, root sign, root install.",
                args.deployment,
                context.dir.display()
            );
            context.out.result(&json!({"deployment": args.deployment, "root": null}), &text);
            Ok(())
        }
    }
}

/// Makes the root keys, and the first root with as many signatures as it needs.
fn first_root(
    context: &Context<'_>,
    args: &Init,
    home: &Home,
    root_dir: &Path,
    passphrase: Option<&Zeroizing<String>>,
) -> anyhow::Result<()> {
    let now = now_ms();
    let made = ceremony::make_root_keys(root_dir, args.root_keys, passphrase.map(|phrase| phrase.as_str()))?;
    let public = made.iter().map(|(_, key)| *key).collect();
    let mut root = ceremony::draft(home, Some((public, args.root_threshold)), args.root_days, now)?;
    for (path, _) in made.iter().take(args.root_threshold.into()) {
        let signer = root_key::open(path, || args.passphrase.known(passphrase))?;
        root = ceremony::endorse(&root, &signer)?;
    }
    let trust = ceremony::install(home, &root, now)?;
    let expires = iso(trust.root().expires_ms);
    let keys: Vec<String> = made.iter().map(|(_, key)| hex(&key_id(key))).collect();
    let protection = if passphrase.is_some() { "under the passphrase" } else { "WITHOUT a passphrase" };
    let text = format!(
        "Deployment {} is set up in {}{}.\n\
         Trust root 1: {} of {} keys must sign, good until {expires}.\n\
         Root keys {} are in {}, {protection}: take that directory offline now and keep it apart from this machine.",
        args.deployment,
        context.dir.display(),
        if args.synthetic { ", for invented people only" } else { "" },
        args.root_threshold,
        args.root_keys,
        keys.join(", "),
        root_dir.display(),
    );
    let value = json!({
        "deployment": args.deployment, "synthetic": args.synthetic, "dir": context.dir, "root_version": 1,
        "root_threshold": args.root_threshold, "root_key_ids": keys, "root_key_dir": root_dir, "root_expires": expires,
    });
    context.out.result(&value, &text);
    Ok(())
}
