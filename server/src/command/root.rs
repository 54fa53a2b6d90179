//! `root`: make, draft, sign, install and show trust roots.
//! It must not sign anything that it has not shown.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use cpis_protocol::id::{hex, unhex};
use cpis_protocol::sign::{PublicKey, key_id};
use cpis_protocol::trust::{Root, Trust};
use cpis_server::ceremony::{self, Plan};
use cpis_server::clock::iso;
use cpis_server::keys::file::{self, KeyError};
use cpis_server::keys::{ROLES, passphrase, root_key};
use cpis_server::port::Store as _;
use cpis_server::review;
use serde_json::json;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::key::KeyRole;
use super::{Context, now_ms};

const ROOT_FILE_MAX: u64 = 64 * 1024;

/// Where the passphrase of a root key comes from.
#[derive(Debug, Args)]
pub(crate) struct Passphrase {
    /// Read the passphrase of root keys from the first line of this file instead of asking
    #[arg(long, value_name = "FILE", conflicts_with = "no_passphrase")]
    passphrase_file: Option<PathBuf>,
    /// Make root keys without a passphrase: for demonstrations, they sign roots of synthetic deployments only
    #[arg(long)]
    no_passphrase: bool,
}

impl Passphrase {
    /// For a key that is about to be made; `None` when none is wanted.
    pub(crate) fn new_passphrase(&self) -> anyhow::Result<Option<Zeroizing<String>>> {
        if self.no_passphrase {
            return Ok(None);
        }
        let first = self.ask()?;
        passphrase::check(&first).map_err(|weak| Failure::usage(weak.to_string(), "nothing was made"))?;
        if self.passphrase_file.is_some() {
            return Ok(Some(first));
        }
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

    /// Whether the key is to lie open.
    pub(crate) const fn is_none(&self) -> bool {
        self.no_passphrase
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
        after_help = "Examples:\n  cpis-server root draft --out next.root\n  cpis-server root draft --out next.root \
                      --withdraw publisher\n  cpis-server root draft --out next.root --root-key HEX --root-key HEX \
                      --threshold 2"
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
        /// Days until the keys of one role end, where that is to be earlier; once for each role
        #[arg(long = "role-days", value_name = "ROLE=DAYS", value_parser = role_days)]
        role_days: Vec<(KeyRole, u16)>,
        /// Name only the newest key of this role: every older one is withdrawn; once for each role
        #[arg(long, value_name = "ROLE")]
        withdraw: Vec<KeyRole>,
    },
    /// Show a draft with what it changes, and add one signature to it, in place
    #[command(
        after_help = "Example:\n  cpis-server root sign --key /media/usb/alice.rootkey --before present.root next.root"
    )]
    Sign {
        /// The root key file
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The root in force, as `root show --out FILE` wrote it; not for the first root
        #[arg(long, value_name = "FILE")]
        before: Option<PathBuf>,
        /// Do not ask whether to sign
        #[arg(long)]
        yes: bool,
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
        /// Write the root in force to this file, for those who sign the next one
        #[arg(long, value_name = "FILE", conflicts_with = "file")]
        out: Option<PathBuf>,
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

fn role_days(text: &str) -> Result<(KeyRole, u16), String> {
    let (role, days) = text.split_once('=').ok_or("write ROLE=DAYS, e.g. publisher=90")?;
    let days = days.parse().ok().filter(|days| *days > 0).ok_or("days are a number from 1 on")?;
    let role = <KeyRole as clap::ValueEnum>::from_str(role, true)?;
    if role.purpose().role().is_none() {
        return Err("the audit recipient signs nothing and ends with the root".into());
    }
    Ok((role, days))
}

pub(crate) fn run(context: &Context<'_>, command: RootCommand) -> anyhow::Result<()> {
    match command {
        RootCommand::NewKey { out, passphrase } => new_key(context, &out, &passphrase),
        RootCommand::Draft { out, root_keys, threshold, days, role_days, withdraw } => {
            let keys: Vec<PublicKey> = root_keys
                .iter()
                .map(|key| {
                    unhex(key)
                        .map_err(|_| Failure::usage("a public key has 64 hexadecimal digits", "root new-key prints it"))
                })
                .collect::<Result<_, _>>()?;
            let role_days = role_days.iter().filter_map(|(role, days)| Some((role.purpose().role()?, *days)));
            let plan = Plan {
                root_keys: threshold.map(|threshold| (keys, threshold)),
                days,
                role_days: role_days.collect(),
                withdraw: withdraw.iter().map(|role| role.purpose()).collect(),
            };
            draft(context, &out, &plan)
        }
        RootCommand::Sign { key, before, yes, passphrase, draft } => {
            sign(context, &Signing { key, before, yes, draft }, &passphrase)
        }
        RootCommand::Install { root } => {
            let home = context.home()?;
            let trust: Trust = ceremony::install(&home, &read_root(&root)?, now_ms())?;
            let text = format!(
                "In force now:\n{}\nA running server takes it up by itself; devices with their next sync.",
                describe(trust.root())
            );
            context.out.result(&value(trust.root()), &text);
            Ok(())
        }
        RootCommand::Show { file, out } => show(context, file.as_deref(), out.as_deref()),
    }
}

fn new_key(context: &Context<'_>, out: &Path, passphrase: &Passphrase) -> anyhow::Result<()> {
    let phrase = passphrase.new_passphrase()?;
    if phrase.is_none() {
        context.out.note("WARNING: this root key has no passphrase. Whoever reads the file is a root officer.");
    }
    let public = root_key::create(out, phrase.as_deref().map(String::as_str))?;
    let text = format!("Root key {} is in {}.\nPublic key: {}", hex(&key_id(&public)), out.display(), hex(&public));
    context.out.result(&json!({"public_key": hex(&public), "key_id": hex(&key_id(&public)), "file": out}), &text);
    Ok(())
}

fn draft(context: &Context<'_>, out: &Path, plan: &Plan) -> anyhow::Result<()> {
    let home = context.home()?;
    let before = home.store.read(|tx| cpis_server::home::trust(tx))?;
    let draft = ceremony::draft_as(&home, plan, now_ms())?;
    file::replace(out, &draft)?;
    let root = ceremony::show(&draft)?;
    let changes = before.as_ref().map(|before| review::changes(before.root(), &root)).unwrap_or_default();
    let text = format!(
        "{}\n{}Not signed yet: cpis-server root sign --key FILE {}{}",
        describe(&root),
        listed(&changes),
        if before.is_some() { "--before present.root " } else { "" },
        out.display()
    );
    let mut json = value(&root);
    json["changes"] = json!(changes);
    context.out.result(&json, &text);
    Ok(())
}

fn listed(changes: &[String]) -> String {
    changes.iter().map(|change| format!("  CHANGE: {change}\n")).collect()
}

struct Signing {
    key: PathBuf,
    before: Option<PathBuf>,
    yes: bool,
    draft: PathBuf,
}

fn sign(context: &Context<'_>, signing: &Signing, passphrase: &Passphrase) -> anyhow::Result<()> {
    let bytes = read_root(&signing.draft)?;
    let root = ceremony::show(&bytes)?;
    let before = match &signing.before {
        Some(path) => Some(Trust::pin(&read_root(path)?).map_err(ceremony::CeremonyError::Refused)?),
        None if root.version == 1 => None,
        None => {
            let hint = "give --before FILE: the root that you trust now, e.g. your own copy of it";
            return Err(Failure::usage("what a root changes can only be shown against the one before", hint).into());
        }
    };
    let changes = before.as_ref().map(|before| review::changes(before.root(), &root)).unwrap_or_default();
    let what = if before.is_some() && changes.is_empty() { "  CHANGE: dates only\n".into() } else { listed(&changes) };
    context.out.note(&format!("About to sign:\n{}\n{what}", describe(&root)));
    if changes.iter().any(|change| change.ends_with("do not sign")) {
        return Err(Failure::failed("this draft does not follow the root that you trust", "draft it again").into());
    }
    let ask = || {
        passphrase.ask().map_err(|error| KeyError::Io("passphrase".into(), std::io::Error::other(format!("{error:#}"))))
    };
    if !signing.yes {
        confirm(&root)?;
    }
    // Nothing that is said of the draft but its own word: a root of the other kind cannot be installed.
    let signer =
        if root.synthetic { root_key::open(&signing.key, ask)? } else { root_key::open_protected(&signing.key, ask)? };
    let public = signer.public_key();
    let of_before = before.as_ref().is_some_and(|before| before.root().root_keys.contains(&public));
    if !root.root_keys.contains(&public) && !of_before {
        let hint = "is it the right key file? It is neither in the draft nor in the root before";
        return Err(Failure::failed(format!("root key {} has no say here", hex(&key_id(&public))), hint).into());
    }
    file::replace(&signing.draft, &ceremony::endorse(&bytes, &signer)?)?;
    let id = hex(&key_id(&public));
    context
        .out
        .result(&json!({"signed_by": id, "file": signing.draft, "changes": changes}), &format!("Signed by {id}."));
    Ok(())
}

/// Asks on the terminal; what is piped in is no considered answer.
fn confirm(root: &Root) -> anyhow::Result<()> {
    use std::io::{BufRead as _, IsTerminal as _};
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("nobody can be asked without a terminal", "look at it, then give --yes").into());
    }
    let mut prompt = std::io::stderr();
    std::io::Write::write_all(&mut prompt, format!("Type the version ({}) to sign: ", root.version).as_bytes())?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim() == root.version.to_string() {
        Ok(())
    } else {
        Err(Failure::failed("not signed", "nothing was changed").into())
    }
}

fn show(context: &Context<'_>, file: Option<&Path>, out: Option<&Path>) -> anyhow::Result<()> {
    let bytes = match file {
        Some(file) => read_root(file)?,
        None => {
            let trust = context.home()?.store.read(|tx| cpis_server::home::trust(tx))?;
            trust.map(|trust| trust.root().bytes().to_vec()).ok_or(cpis_server::home::HomeError::NoRoot)?
        }
    };
    let root = ceremony::show(&bytes)?;
    if let Some(out) = out {
        file::replace(out, &bytes)?;
    }
    let signed: Vec<String> = review::signers(&bytes, &root.root_keys).iter().map(|key| hex(&key_id(key))).collect();
    let who = if signed.is_empty() { "none of its own root keys yet".into() } else { signed.join(", ") };
    let mut json = value(&root);
    json["signed_by"] = json!(signed);
    context.out.result(&json, &format!("{}\n  signed by: {who}", describe(&root)));
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
        format!("  fingerprint: {}", review::fingerprint(root)),
        format!("  {} of these root keys must sign: {}", root.threshold, ids.join(", ")),
    ];
    for (role, name) in ROLES {
        let ids: Vec<String> = root.keys(role).iter().map(|key| hex(&key_id(key))).collect();
        lines.push(format!("  {name}: {}, until {}", ids.join(", "), iso(root.role_until_ms(role))));
    }
    let ids: Vec<String> = root.audit_recipients.iter().map(|key| hex(&key_id(key))).collect();
    lines.push(format!("  audit recipient: {}", ids.join(", ")));
    lines.join("\n")
}

fn value(root: &Root) -> serde_json::Value {
    let ids = |keys: &[PublicKey]| -> Vec<String> { keys.iter().map(|key| hex(&key_id(key))).collect() };
    let roles: serde_json::Map<_, _> =
        ROLES.iter().map(|(role, name)| ((*name).to_owned(), json!(ids(root.keys(*role))))).collect();
    json!({
        "version": root.version, "deployment": root.deployment.as_str(), "synthetic": root.synthetic,
        "issued": iso(root.issued_ms), "expires": iso(root.expires_ms), "threshold": root.threshold,
        "root_key_ids": ids(&root.root_keys), "role_key_ids": roles, "fingerprint": review::fingerprint(root),
        "audit_recipient_ids": ids(&root.audit_recipients),
    })
}
