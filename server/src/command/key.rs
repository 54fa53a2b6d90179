//! `key`: the online keys, their successors, and what is left of those before.
//! It must not print a private key, nor take one away that is needed.

use clap::{Subcommand, ValueEnum};
use cpis_server::home::{self, HomeError};
use cpis_server::keys::file::Purpose;
use cpis_server::port::Store as _;
use cpis_server::resign;
use serde_json::json;

use super::failure::Failure;
use super::{Context, now_ms};
use crate::output::table;

/// A role whose key is replaced through the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyRole {
    /// Signs heads
    Publisher,
    /// Signs beats
    Beat,
    /// Signs grants and certificates
    DeviceAuthority,
    /// Signs audit receipts
    Receipt,
    /// Opens audit events
    AuditRecipient,
}

impl KeyRole {
    /// What the library calls it.
    pub(crate) const fn purpose(self) -> Purpose {
        match self {
            Self::Publisher => Purpose::Publisher,
            Self::Beat => Purpose::Beat,
            Self::DeviceAuthority => Purpose::Authority,
            Self::Receipt => Purpose::Receipt,
            Self::AuditRecipient => Purpose::Audit,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// List the online keys: which signs now, which is next, which the root in force names
    #[command(after_help = "Example:\n  cpis-server key list --json")]
    List,
    /// Make the next key of a role beside the present one
    #[command(after_help = "Example:\n  cpis-server key next publisher\n\nThen: root draft, root sign, root install, \
                            key promote. See docs/ceremony.md.")]
    Next {
        /// The role
        role: KeyRole,
    },
    /// Go over to the next key of a role, once the root in force names it
    #[command(after_help = "Example:\n  cpis-server key promote publisher\n\nA running server takes it up by itself.")]
    Promote {
        /// The role
        role: KeyRole,
    },
    /// Destroy key files from before that the root in force no longer names
    #[command(after_help = "Examples:\n  cpis-server key retire publisher\n  \
                            cpis-server key retire audit-recipient --key 0123456789abcdef --yes")]
    Retire {
        /// The role
        role: KeyRole,
        /// Only this key, by its id; an audit recipient key goes only so
        #[arg(long, value_name = "ID")]
        key: Option<String>,
        /// Yes: events that only this audit recipient key opens stay sealed for ever
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) fn run(context: &Context<'_>, command: &KeyCommand) -> anyhow::Result<()> {
    let home = context.home()?;
    let trust = home.store.read(|tx| home::trust(tx))?;
    let root = trust.as_ref().map(|trust| &**trust.root());
    if let Some(root) = root {
        home.keys.check(root)?;
    }
    let need = || root.ok_or(HomeError::NoRoot);
    match command {
        KeyCommand::List => {
            let keys = home.keys.list(root)?;
            let mark = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
            let standing = |standing| serde_json::to_value(standing).ok().and_then(|v| v.as_str().map(str::to_owned));
            let header = ["role", "key", "id", "in the root", "in use"].map(str::to_owned).to_vec();
            let rows = keys.iter().map(|key| {
                let standing = standing(key.standing).unwrap_or_default();
                vec![key.role.to_owned(), standing, key.id.clone(), mark(key.named), mark(key.in_use)]
            });
            let text = table(&std::iter::once(header).chain(rows).collect::<Vec<_>>());
            context.out.result(&json!({ "keys": keys }), &text);
        }
        KeyCommand::Next { role } => {
            let id = home.keys.make_next(role.purpose(), &home.deployment, now_ms())?;
            let name = role.purpose().name();
            let text = format!(
                "The next {name} key is {id}. Nothing uses it yet.\nNext: cpis-server root draft --out next.root (with \
                 --withdraw {name} when the present key was stolen), then root sign, root install."
            );
            context.out.result(&json!({"role": name, "id": id}), &text);
        }
        KeyCommand::Promote { role } => {
            home.keys.promote(role.purpose(), need()?)?;
            let heads = resign::heads(&home.store, &home.keys, now_ms())?;
            let name = role.purpose().name();
            let text = format!(
                "The next {name} key is the present one now; {heads} heads were signed again.\nOnce every device has \
                 synced: cpis-server root draft --withdraw {name}, so that the old key is good for nothing."
            );
            context.out.result(&json!({"role": name, "heads_signed_again": heads}), &text);
        }
        KeyCommand::Retire { role, key, yes } => {
            if *role == KeyRole::AuditRecipient && (key.is_none() || !yes) {
                return Err(Failure::usage(
                    "events that only this key opens would stay sealed for ever",
                    "name the key with --key ID (cpis-server key list) and say --yes",
                )
                .into());
            }
            let gone = home.keys.retire(role.purpose(), key.as_deref(), need()?)?;
            let name = role.purpose().name();
            let text = if gone.is_empty() {
                format!("There is no {name} key that the root in force has withdrawn.")
            } else {
                format!("Destroyed: {name} {}.", gone.join(", "))
            };
            context.out.result(&json!({"role": name, "destroyed": gone}), &text);
        }
    }
    Ok(())
}
