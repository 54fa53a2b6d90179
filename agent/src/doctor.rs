//! Checks everything that the agent depends on, and says for each how to mend it.
//! It must not change anything but mark damage that it finds, nor show anything of a person.

use std::borrow::Cow;

use serde::Serialize;

use crate::agent::Agent;
use crate::device_secret::Provider;
use crate::phone::london;
use crate::{memory, show};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Result {
    /// Nothing to do.
    Good,
    /// It works, but not for long or not as it should.
    Warning,
    /// It does not work.
    Failed,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub result: Result,
    /// What was found.
    pub finding: String,
    /// How to mend it; empty when there is nothing to mend.
    pub remedy: Cow<'static, str>,
}

/// All checks.
#[derive(Debug, Clone, Serialize)]
pub struct Examination {
    /// Nothing failed.
    pub healthy: bool,
    /// The checks.
    pub checks: Vec<Check>,
}

/// Examines an agent, running or stopped.
#[must_use]
pub fn examine(agent: &Agent) -> Examination {
    let mut checks = vec![
        clock(agent),
        copy(agent),
        storage(agent),
        link(agent),
        lease(agent),
        root(agent),
        certificate(agent),
        outbox(agent),
        keys(agent),
        permissions(agent),
        dumps(),
        swap(),
    ];
    checks.extend(pins(agent));
    Examination { healthy: checks.iter().all(|check| check.result != Result::Failed), checks }
}

fn check(name: &'static str, result: Result, finding: String, remedy: impl Into<Cow<'static, str>>) -> Check {
    Check { name, result, finding, remedy: remedy.into() }
}

fn clock(agent: &Agent) -> Check {
    let reading = agent.clock().reading();
    match agent.replica().clock().now(reading) {
        None => check(
            "clock",
            Result::Failed,
            "the present time is not known".into(),
            "connect to the server once; check the device's clock battery",
        ),
        Some(now) => {
            let off_s = (reading.wall_ms - now).abs() / 1000;
            if off_s > 600 {
                let finding = format!("the wall clock is {} away from trusted time", show::age(off_s));
                check(
                    "clock",
                    Result::Warning,
                    finding,
                    "set the device's clock; look-ups do not depend on it, TLS may",
                )
            } else {
                check("clock", Result::Good, "trusted time is known".into(), "")
            }
        }
    }
}

fn copy(agent: &Agent) -> Check {
    let copy = agent.status().copy;
    match copy.cannot_answer {
        Some(reason) if reason == "never-synced" => {
            check("copy", Result::Failed, "nothing received yet".into(), "run `cpis-agent sync` with a connection")
        }
        Some(reason) => check(
            "copy",
            Result::Failed,
            format!("cannot answer: {reason}"),
            "connect: the agent repairs and renews itself",
        ),
        None => check(
            "copy",
            Result::Good,
            format!("{} records, every feed proved against its signed root", copy.records),
            "",
        ),
    }
}

/// A stopped agent's copy was read when it was opened; a running one's has just been.
fn storage(agent: &Agent) -> Check {
    let (readings, found, _) = agent.scrub_status().found();
    let damaged = agent.replica().view().damaged.len();
    let before = if found > 0 { format!("; {found} feeds were damaged since the start") } else { String::new() };
    if damaged > 0 {
        let finding = format!("{damaged} feeds are damaged on the disk{before}");
        let remedy = "connect: what is damaged is fetched again by itself; if it comes back, replace the disk";
        return check("storage", Result::Failed, finding, remedy);
    }
    let when = if readings > 0 { "just now" } else { "when it was opened" };
    let finding = format!("every stored record was read and proved {when}{before}");
    if found > 0 {
        check("storage", Result::Warning, finding, "it was repaired; if it happens again, replace the disk")
    } else {
        check("storage", Result::Good, finding, "")
    }
}

fn link(agent: &Agent) -> Check {
    let link = agent.sync_status().get();
    match link.last_outcome {
        None => check("link", Result::Warning, "not tried since the start".into(), "run `cpis-agent sync`"),
        Some(outcome) if outcome == "up to date" => check("link", Result::Good, outcome, ""),
        Some(outcome) => {
            let remedy = link.trouble.map_or_else(
                || "check the network; open a browser for a sign-in page; then `cpis-agent sync`".into(),
                |trouble| trouble.remedy,
            );
            check("link", Result::Warning, outcome, remedy)
        }
    }
}

fn lease(agent: &Agent) -> Check {
    let reading = agent.clock().reading();
    if let Some(erasure) = agent.erasure() {
        let finding =
            format!("erased ({:?}): every key was destroyed, {} records went", erasure.cause, erasure.records);
        let hint = "let it upload what it recorded, then enrol it again with a new invitation in a new directory";
        return check("lease", Result::Failed, finding, hint);
    }
    if agent.barred().is_some() {
        let finding = "this device has been suspended".into();
        return check("lease", Result::Failed, finding, "ask the operator to resume it");
    }
    let Some(now) = agent.replica().clock().now(reading) else {
        let finding = "the present time is not known, so the lease counts as over".into();
        return check("lease", Result::Failed, finding, "connect to the server once");
    };
    let left_s = (agent.grant().lease_until_ms - now) / 1000;
    if left_s <= 0 {
        check("lease", Result::Failed, "the lease has run out".into(), "connect to the server to renew it")
    } else if left_s < 86_400 {
        check("lease", Result::Warning, format!("locks in {}", show::age(left_s)), "connect to the server to renew it")
    } else {
        check("lease", Result::Good, format!("locks in {}", show::age(left_s)), "")
    }
}

fn root(agent: &Agent) -> Check {
    let reading = agent.clock().reading();
    let now = agent.replica().clock().now(reading).unwrap_or(reading.wall_ms);
    let left_s = (agent.root_until_ms() - now) / 1000;
    let version = agent.trust().root().version;
    let remedy = "connect to the server; if it has no newer root, tell its operators: root draft, sign, install";
    if left_s <= 0 {
        check("root", Result::Failed, format!("trust root {version} has ended: nothing new is installed"), remedy)
    } else if left_s < 30 * 86_400 {
        check("root", Result::Warning, format!("trust root {version} ends in {}", show::age(left_s)), remedy)
    } else {
        check("root", Result::Good, format!("trust root {version}, {} left", show::age(left_s)), "")
    }
}

fn certificate(agent: &Agent) -> Check {
    let remedy = "connect to the server: it sends a new one by itself; if it does not, tell its operators";
    let Some(term) = agent.certificate_term() else {
        return check("certificate", Result::Failed, "there is no usable certificate".into(), "enrol the device anew");
    };
    let now = agent.certificate_now_ms();
    let left_s = (term.until_ms - now) / 1000;
    if left_s <= 0 {
        let finding = format!("the device's certificate ended {}", london(term.until_ms));
        return check("certificate", Result::Warning, finding, remedy);
    }
    let finding =
        format!("the device's certificate is good until {}, {} left", london(term.until_ms), show::age(left_s));
    if term.is_nearly_over(now) {
        check("certificate", Result::Warning, finding, remedy)
    } else {
        check("certificate", Result::Good, finding, "")
    }
}

fn outbox(agent: &Agent) -> Check {
    let outbox = agent.status().outbox;
    match outbox.space.as_str() {
        "normal" => check("outbox", Result::Good, format!("{} events wait", outbox.waiting), ""),
        "warning" => check(
            "outbox",
            Result::Warning,
            format!("{} events wait; the space is nearly used up", outbox.waiting),
            "connect to the server so that they are uploaded",
        ),
        _ => check(
            "outbox",
            Result::Failed,
            format!("{} events wait; no space is left", outbox.waiting),
            "free disk space and connect to the server",
        ),
    }
}

fn keys(agent: &Agent) -> Check {
    let secret = agent.device_secret();
    let since = secret.since_ms().map_or_else(String::new, |ms| format!(", since {}", london(ms)));
    let finding = format!("device secret: {}{since}", secret.provider().words());
    match secret.provider() {
        Provider::File => check(
            "keys",
            Result::Warning,
            format!("{finding} (no hardware protection: a copied disk brings it along)"),
            "on a machine with a TPM, or with a systemd credential, enrol anew with device_secret = \"auto\"",
        ),
        Provider::Tpm | Provider::Credential => check("keys", Result::Good, finding, ""),
    }
}

/// Whether PINs may be used here, and whether the TPM is locked to them just now.
fn pins(agent: &Agent) -> Option<Check> {
    let attempts = match agent.device_secret().tpm()?.attempts() {
        Ok(attempts) => attempts,
        Err(error) => {
            let remedy = "look-ups go on; restarting the agent needs the TPM";
            return Some(check("pins", Result::Failed, error.to_string(), remedy));
        }
    };
    let counts = format!(
        "the TPM remembers {} wrong PINs, locks at {}, forgets one in {} s",
        attempts.wrong, attempts.most, attempts.forgets_one_in_s
    );
    Some(match attempts.protect_a_pin() {
        _ if attempts.locked => {
            check("pins", Result::Warning, format!("locked: {counts}"), "wait, or unlock with a passphrase")
        }
        Ok(()) => check("pins", Result::Good, format!("accepted: {counts}"), ""),
        Err(why) => check("pins", Result::Warning, format!("not accepted: {why}"), "passphrases are, as everywhere"),
    })
}

fn permissions(agent: &Agent) -> Check {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(agent.directory()).map(|m| m.permissions().mode() & 0o777);
    match mode {
        Ok(mode) if mode & 0o077 == 0 => {
            check("permissions", Result::Good, "only the agent's own user reads its state".into(), "")
        }
        Ok(mode) => check(
            "permissions",
            Result::Failed,
            format!("the state directory has mode {mode:o}"),
            "chmod 700 the state directory",
        ),
        Err(error) => check(
            "permissions",
            Result::Failed,
            format!("the state directory cannot be read: {error}"),
            "run as the agent's user",
        ),
    }
}

fn dumps() -> Check {
    if memory::dumps_are_forbidden() {
        check("core-dumps", Result::Good, "the agent leaves none".into(), "")
    } else {
        check(
            "core-dumps",
            Result::Warning,
            "a core dump of the agent would hold keys".into(),
            "set the core limit of the agent's service to 0 (LimitCORE=0) and start it again",
        )
    }
}

fn swap() -> Check {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swaps.lines().count() > 1 {
        check(
            "swap",
            Result::Warning,
            "swap is on: keys in memory may reach the disk".into(),
            "turn swap off or encrypt it",
        )
    } else {
        check("swap", Result::Good, "no swap".into(), "")
    }
}
