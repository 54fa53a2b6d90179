//! `root`: make, draft, sign, install and show trust roots.
//! It must not sign anything that it has not shown.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use cpis_protocol::id::{hex, unhex};
use cpis_protocol::sign::{PublicKey, key_id};
use cpis_protocol::trust::{Root, Trust};
use cpis_server::ceremony;
use cpis_server::clock::iso;
use cpis_server::keys::file::{self, KeyError};
use cpis_server::keys::{ROLES, root_key};
use cpis_server::port::Store as _;
use serde_json::json;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::{Context, now_ms};

const ROOT_FILE_MAX: u64 = 64 * 1024;

/// Where the passphrase of a root key comes from.
#[derive(Debug, Args)]
pub(crate) struct Passphrase {
    /// Read the passphrase of root keys from the first line of this file instead of asking
    #[arg(long, value_name = "FILE", conflicts_with = "no_passphrase")]
    passphrase_file: Option<PathBuf>,
    /// Make root keys without a passphrase: for demonstrations only, whoever reads the file has the key
    #[arg(long)]
    no_passphrase: bool,
}

impl Passphrase {
    /// For a key that is about to be made; `None` when none is wanted.
    pub(crate) fn new_passphrase(&self) -> anyhow::Result<Option<Zeroizing<String>>> {
        if self.no_passphrase {
            return Ok(None);
        }
        if self.passphrase_file.is_some() {
            return Ok(Some(self.ask()?));
        }
        let first = self.ask()?;
        let again = Zeroizing::new(rpassword::prompt_password("The same again: ").map_err(no_terminal)?);
        if *first != *again {
            return Err(Failure::usage("the two passphrases differ", "try again").into());
        }
        Ok(Some(first))
    }

    fn ask(&self) -> anyhow::Result<Zeroizing<String>> {
        let text = match &self.passphrase_file {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
                let text = Zeroizing::new(text);
                Zeroizing::new(text.lines().next().unwrap_or_default().to_owned())
            }
            None => Zeroizing::new(rpassword::prompt_password("Passphrase of the root key: ").map_err(no_terminal)?),
        };
        if text.is_empty() {
            return Err(Failure::usage(
                "the passphrase is empty",
                "use several words; or --no-passphrase to try things out",
            )
            .into());
        }
        Ok(text)
    }

    /// One that was given a moment ago.
    pub(crate) fn known(&self, passphrase: Option<&Zeroizing<String>>) -> Result<Zeroizing<String>, KeyError> {
        passphrase.cloned().ok_or(KeyError::Derivation)
    }
}

fn no_terminal(error: std::io::Error) -> anyhow::Error {
    let hint = "give --passphrase-file FILE, or --no-passphrase to try things out";
    anyhow::Error::new(error).context(Failure::usage("no passphrase can be asked for without a terminal", hint))
}

#[derive(Debug, Subcommand)]
pub(crate) enum RootCommand {
    /// Make a root key; do this on a machine that is never online
    #[command(after_help = "Example:\n  cpis-server root new-key --out /media/usb/alice.rootkey")]
    NewKey {
        /// The file to make
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Write the next root, unsigned: this server's keys, and the root keys given here or those of the root before
    #[command(
        after_help = "Example:\n  cpis-server root draft --out next.root --root-key HEX --root-key HEX --threshold 2"
    )]
    Draft {
        /// The file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Public key of a root key, as `root new-key` prints it; once for each
        #[arg(long = "root-key", value_name = "HEX", requires = "threshold")]
        root_keys: Vec<String>,
        /// How many of them must sign
        #[arg(long, value_name = "K", requires = "root_keys")]
        threshold: Option<u8>,
        /// Days until the root must have been replaced
        #[arg(long, default_value_t = 400)]
        days: u16,
    },
    /// Add one signature to a draft, in place
    #[command(after_help = "Example:\n  cpis-server root sign --key /media/usb/alice.rootkey next.root")]
    Sign {
        /// The root key file
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        #[command(flatten)]
        passphrase: Passphrase,
        /// The draft
        draft: PathBuf,
    },
    /// Verify a signed root as the successor of the present one and put it in force
    #[command(after_help = "Example:\n  cpis-server --dir /var/lib/cpis-server root install next.root")]
    Install {
        /// The signed root
        root: PathBuf,
    },
    /// Show the root in force, or a file
    #[command(after_help = "Example:\n  cpis-server root show next.root")]
    Show {
        /// A draft or a signed root
        file: Option<PathBuf>,
    },
}

fn read_root(path: &Path) -> anyhow::Result<Vec<u8>> {
    let size = std::fs::metadata(path).with_context(|| format!("{}", path.display()))?.len();
    if size > ROOT_FILE_MAX {
        return Err(
            Failure::failed(format!("{} is too large for a root", path.display()), "is it the right file?").into()
        );
    }
    std::fs::read(path).with_context(|| format!("{}", path.display()))
}

pub(crate) fn run(context: &Context<'_>, command: RootCommand) -> anyhow::Result<()> {
    match command {
        RootCommand::NewKey { out, passphrase } => {
            let phrase = passphrase.new_passphrase()?;
            let public = root_key::create(&out, phrase.as_deref().map(String::as_str))?;
            let text =
                format!("Root key {} is in {}.\nPublic key: {}", hex(&key_id(&public)), out.display(), hex(&public));
            context
                .out
                .result(&json!({"public_key": hex(&public), "key_id": hex(&key_id(&public)), "file": out}), &text);
        }
        RootCommand::Draft { out, root_keys, threshold, days } => {
            let keys: Vec<PublicKey> = root_keys
                .iter()
                .map(|key| {
                    unhex(key)
                        .map_err(|_| Failure::usage("a public key has 64 hexadecimal digits", "root new-key prints it"))
                })
                .collect::<Result<_, _>>()?;
            let given = threshold.map(|threshold| (keys, threshold));
            let draft = ceremony::draft(&context.home()?, given, days, now_ms())?;
            file::replace(&out, &draft)?;
            let root = ceremony::show(&draft)?;
            let text =
                format!("{}\nNot signed yet: cpis-server root sign --key FILE {}", describe(&root), out.display());
            context.out.result(&value(&root), &text);
        }
        RootCommand::Sign { key, passphrase, draft } => {
            let bytes = read_root(&draft)?;
            let root = ceremony::show(&bytes)?;
            context.out.note(&format!("About to sign:\n{}", describe(&root)));
            let ask = || {
                passphrase
                    .ask()
                    .map_err(|error| KeyError::Io("passphrase".into(), std::io::Error::other(format!("{error:#}"))))
            };
            let signer = root_key::open(&key, ask)?;
            file::replace(&draft, &ceremony::endorse(&bytes, &signer)?)?;
            let id = hex(&key_id(&signer.public_key()));
            context.out.result(&json!({"signed_by": id, "file": draft}), &format!("Signed by {id}."));
        }
        RootCommand::Install { root } => {
            let home = context.home()?;
            let trust: Trust = ceremony::install(&home, &read_root(&root)?)?;
            context.out.result(&value(trust.root()), &format!("In force now:\n{}", describe(trust.root())));
        }
        RootCommand::Show { file } => {
            let root = match file {
                Some(file) => ceremony::show(&read_root(&file)?)?,
                None => {
                    let trust = context.home()?.store.read(|tx| cpis_server::home::trust(tx))?;
                    trust.map(|trust| (**trust.root()).clone()).ok_or(cpis_server::home::HomeError::NoRoot)?
                }
            };
            context.out.result(&value(&root), &describe(&root));
        }
    }
    Ok(())
}

fn describe(root: &Root) -> String {
    let ids: Vec<String> = root.root_keys.iter().map(|key| hex(&key_id(key))).collect();
    let mut lines = vec![
        format!(
            "root {} of {}{}, {} to {}",
            root.version,
            root.deployment,
            if root.synthetic { " (synthetic)" } else { "" },
            iso(root.issued_ms),
            iso(root.expires_ms)
        ),
        format!("  {} of these root keys must sign: {}", root.threshold, ids.join(", ")),
    ];
    for (role, name) in ROLES {
        let ids: Vec<String> = root.keys(role).iter().map(|key| hex(&key_id(key))).collect();
        lines.push(format!("  {name}: {}", ids.join(", ")));
    }
    lines.join("\n")
}

fn value(root: &Root) -> serde_json::Value {
    let ids = |keys: &[PublicKey]| -> Vec<String> { keys.iter().map(|key| hex(&key_id(key))).collect() };
    let roles: serde_json::Map<_, _> =
        ROLES.iter().map(|(role, name)| ((*name).to_owned(), json!(ids(root.keys(*role))))).collect();
    json!({
        "version": root.version, "deployment": root.deployment.as_str(), "synthetic": root.synthetic,
        "issued": iso(root.issued_ms), "expires": iso(root.expires_ms), "threshold": root.threshold,
        "root_key_ids": ids(&root.root_keys), "role_key_ids": roles,
    })
}
