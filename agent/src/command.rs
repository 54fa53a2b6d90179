//! What each command does: against the running agent through its API, or on a stopped agent's own state.
//! It must not print anything itself beyond `output`, nor turn an answer into a yes or no by exit code.

mod files;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use cpis_protocol::clock::Carrier;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::agent::{Agent, OpenError};
use crate::api::{BreakGlassRequest, LookUpByNameRequest, LookUpRequest, Problem, RevealRequest, UnlockRequest};
use crate::cli::{
    BreakGlassArgs, Cli, Command, EnrolArgs, LookUpArgs, PassphraseArgs, PersonArgs, RevealArgs, RunArgs,
};
use crate::client::{Client, ClientError};
use crate::config::Config;
use crate::port::Transport as _;
use crate::status::Status;
use crate::{doctor, driver, enrol, output, show};

/// What a command ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Found, but the copy is stale.
    Stale = 3,
    /// Cannot answer.
    CannotAnswer = 4,
    /// Outside coverage.
    OutOfCoverage = 5,
    /// The agent is not running.
    NotRunning = 6,
    /// The server cannot be reached.
    Unreachable = 69,
    /// Locked or not permitted.
    NotPermitted = 77,
    /// Bad configuration.
    Configuration = 78,
}

/// A failure with its exit code and what to do about it.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Failed {
    fn new(exit: Exit, message: impl core::fmt::Display, hint: Option<&str>) -> Self {
        Self { exit, message: message.to_string(), hint: hint.map(str::to_owned) }
    }
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::NotRunning => {
                Self::new(Exit::NotRunning, &error, Some("start it with `cpis-agent run`, or point --dir at its state"))
            }
            ClientError::Problem(Problem { code, .. }) => {
                let exit = match code.as_str() {
                    "vault-locked" | "wrong-passphrase" | "slot-closed" | "no-slot" | "no-badge" | "no-token" => {
                        Exit::NotPermitted
                    }
                    "withdrawn"
                    | "slot-in-use"
                    | "wait"
                    | "tpm-locked-out"
                    | "break-glass-not-allowed"
                    | "break-glass-too-soon"
                    | "not-confirmed" => Exit::NotPermitted,
                    "never-synced"
                    | "stale"
                    | "lease-expired"
                    | "revoked"
                    | "integrity-failure"
                    | "age-unknown"
                    | "audit-cannot-be-written" => Exit::CannotAnswer,
                    _ => Exit::Failed,
                };
                Self::new(exit, &error, None)
            }
            ClientError::Unexpected(_) => Self::new(Exit::Failed, &error, None),
        }
    }
}

impl From<OpenError> for Failed {
    fn from(error: OpenError) -> Self {
        let hint = match &error {
            OpenError::NotEnrolled => Some("enrol it first: cpis-agent enrol --help"),
            // It says itself what to do.
            OpenError::DeviceSecret(_) => None,
            OpenError::InUse => Some("the agent is running here: this command talks to it, or stop it first"),
            _ => Some("run `cpis-agent doctor` for what to mend"),
        };
        Self::new(Exit::Failed, &error, hint)
    }
}

type Done = Result<Exit, Failed>;

/// Runs a command and gives its exit code.
pub fn run(cli: &Cli) -> ExitCode {
    // Every command holds a passphrase or a question at some time.
    let forbidden = crate::memory::forbid_dumps();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match forbidden.and(runtime) {
        Ok(runtime) => runtime.block_on(dispatch(cli)),
        Err(error) => Err(Failed::new(Exit::Failed, error, None)),
    };
    let exit = result.unwrap_or_else(|failed| {
        if cli.json {
            output::json(&serde_json::json!({ "error": failed.message, "hint": failed.hint }));
        }
        output::error(&failed.message, failed.hint.as_deref());
        failed.exit
    });
    ExitCode::from(exit as u8)
}

async fn dispatch(cli: &Cli) -> Done {
    match &cli.command {
        Command::Enrol(args) => enrol(cli, args).await,
        Command::Run(args) => serve(cli, args).await,
        Command::Unlock(args) => person(cli, args, "/v1/unlock").await,
        Command::AddPractitioner(args) => person(cli, args, "/v1/practitioner").await,
        Command::Lock => {
            Client::find(&cli.dir)?.post::<()>("/v1/lock", &()).await?;
            Ok(Exit::Done)
        }
        Command::BreakGlass(args) => break_glass(cli, args).await,
        Command::LookUp(args) => look_up(cli, args).await,
        Command::Reveal(args) => reveal(cli, args).await,
        Command::Sync => sync(cli).await,
        Command::Import { bundle } => files::import(cli, bundle).await,
        Command::Export { file } => files::export(cli, file).await,
        Command::Status => report(cli, "/v1/status", |agent| serde_json::to_value(agent.status()), show::status).await,
        Command::Outbox => report(cli, "/v1/outbox", |agent| serde_json::to_value(agent.outbox()), show::outbox).await,
        Command::Doctor => {
            let value = running_or_stopped(cli, "/v1/doctor", |a| serde_json::to_value(doctor::examine(a))).await?;
            let healthy = value.get("healthy").and_then(Value::as_bool).unwrap_or(false);
            print(cli, &value, show::doctor);
            Ok(if healthy { Exit::Done } else { Exit::Failed })
        }
    }
}

fn print(cli: &Cli, value: &Value, human: impl FnOnce(&Value) -> String) {
    if cli.json { output::json(value) } else { output::line(&human(value)) }
}

/// Asks the running agent, or opens a stopped agent's state.
async fn running_or_stopped(
    cli: &Cli,
    path: &str,
    stopped: impl FnOnce(&Agent) -> serde_json::Result<Value> + Send + 'static,
) -> Result<Value, Failed> {
    match Client::find(&cli.dir) {
        Ok(client) => match client.get(path).await {
            Err(ClientError::NotRunning) => {}
            other => return Ok(other?),
        },
        Err(ClientError::NotRunning) => {}
        Err(error) => return Err(error.into()),
    }
    let directory = cli.dir.clone();
    let value = tokio::task::spawn_blocking(move || {
        let agent = Agent::open(&directory, &load_config(&directory)?)?;
        stopped(&agent).map_err(|error| Failed::new(Exit::Failed, error, None))
    });
    value.await.map_err(|error| Failed::new(Exit::Failed, error, None))?
}

async fn report(
    cli: &Cli,
    path: &str,
    stopped: impl FnOnce(&Agent) -> serde_json::Result<Value> + Send + 'static,
    human: impl FnOnce(&Value) -> String,
) -> Done {
    let value = running_or_stopped(cli, path, stopped).await?;
    print(cli, &value, human);
    Ok(Exit::Done)
}

fn load_config(directory: &Path) -> Result<Config, Failed> {
    Config::load(directory).map_err(|error| Failed::new(Exit::Configuration, error, None))
}

fn passphrase(args: &PassphraseArgs, prompt: &str) -> Result<Zeroizing<String>, Failed> {
    let failed = |error| Failed::new(Exit::Failed, error, Some("use --passphrase-file where there is no terminal"));
    let text = match &args.passphrase_file {
        None => Zeroizing::new(output::ask_secret(prompt).map_err(failed)?),
        Some(path) if path.as_os_str() == "-" => {
            Zeroizing::new(std::io::read_to_string(std::io::stdin()).map_err(failed)?)
        }
        Some(path) => Zeroizing::new(std::fs::read_to_string(path).map_err(|error| {
            failed(std::io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display())))
        })?),
    };
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

async fn enrol(cli: &Cli, args: &EnrolArgs) -> Done {
    let passphrase = passphrase(
        &args.passphrase,
        "New passphrase (twelve characters or more), or where a TPM counts a PIN (six digits or more): ",
    )?;
    let device = enrol::enrol(&cli.dir, &args.invitation, &args.practitioner, &passphrase).await.map_err(|error| {
        let exit = if error.is_unreachable() { Exit::Unreachable } else { Exit::Failed };
        Failed::new(exit, &error, error.hint())
    })?;
    let value = serde_json::json!({ "device": device.to_string() });
    print(cli, &value, |_| format!("Enrolled as device {device}.\nNext: cpis-agent --dir {} run", cli.dir.display()));
    Ok(Exit::Done)
}

async fn serve(cli: &Cli, args: &RunArgs) -> Done {
    let mut config = load_config(&cli.dir)?;
    if let Some(api) = args.api {
        if !api.ip().is_loopback() {
            return Err(Failed::new(Exit::Configuration, crate::config::ConfigError::NotLoopback(api), None));
        }
        config.api = api;
    }
    crate::daemon::run(&cli.dir, config, args.log_json).await.map_err(|error| match error.downcast::<OpenError>() {
        Ok(error) => error.into(),
        Err(error) => Failed::new(Exit::Failed, format!("{error:#}"), None),
    })?;
    Ok(Exit::Done)
}

async fn person(cli: &Cli, args: &PersonArgs, path: &str) -> Done {
    let client = Client::find(&cli.dir)?;
    let passphrase = passphrase(&args.passphrase, "Passphrase: ")?;
    let body = UnlockRequest { practitioner: args.practitioner.clone(), passphrase: passphrase.to_string() };
    let reply: Value = client.post(path, &body).await?;
    let name = reply.get("name").and_then(Value::as_str).unwrap_or(&args.practitioner).to_owned();
    let done = if path.ends_with("unlock") { "Unlocked by" } else { "Added:" };
    print(cli, &reply, |_| format!("{done} {name}."));
    Ok(Exit::Done)
}

async fn break_glass(cli: &Cli, args: &BreakGlassArgs) -> Done {
    let body = BreakGlassRequest { reason: args.reason.clone(), confirmed: args.yes };
    let reply: Value = Client::find(&cli.dir)?.post("/v1/break-glass", &body).await?;
    print(cli, &reply, |reply| {
        let left = reply.get("break_glass_look_ups").and_then(Value::as_u64).unwrap_or(0);
        format!("The glass is broken: {left} look-ups beyond the limit. Every access is marked and reported.")
    });
    Ok(Exit::Done)
}

async fn look_up(cli: &Cli, args: &LookUpArgs) -> Done {
    let client = Client::find(&cli.dir)?;
    let (date_of_birth, area, incident) = (args.date_of_birth.clone(), args.area.clone(), args.incident.clone());
    let reply: Value = if let Some(nhs_number) = args.nhs_number.clone() {
        client.post("/v1/look-up", &LookUpRequest { nhs_number, date_of_birth, area, incident }).await?
    } else {
        let surname = args.surname.clone().unwrap_or_default();
        let given_name = args.given_name.clone().unwrap_or_default();
        let postcode = args.postcode.clone();
        let body = LookUpByNameRequest { surname, given_name, date_of_birth, postcode, area, incident };
        client.post("/v1/look-up-by-name", &body).await?
    };
    print(cli, &reply, show::answer);
    let text = |key: &str| reply.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let stale = reply.pointer("/copy/freshness").and_then(Value::as_str) == Some("stale");
    Ok(match text("answer").as_str() {
        "flagged" if stale => Exit::Stale,
        "flagged" | "not-in-this-copy" => Exit::Done,
        "out-of-coverage" => Exit::OutOfCoverage,
        _ if text("reason") == "vault-locked" => Exit::NotPermitted,
        _ => Exit::CannotAnswer,
    })
}

async fn reveal(cli: &Cli, args: &RevealArgs) -> Done {
    let body = RevealRequest { look_up: args.look_up, candidate: args.candidate, incident: args.incident.clone() };
    let reply: Value = Client::find(&cli.dir)?.post("/v1/reveal", &body).await?;
    print(cli, &reply, show::revealed);
    Ok(if reply.pointer("/copy/freshness").and_then(Value::as_str) == Some("stale") { Exit::Stale } else { Exit::Done })
}

async fn sync(cli: &Cli) -> Done {
    match Client::find(&cli.dir) {
        Ok(client) => match client.get::<Status>("/v1/status").await {
            Ok(before) => return follow(cli, &client, &before).await,
            Err(ClientError::NotRunning) => {}
            Err(error) => return Err(error.into()),
        },
        Err(ClientError::NotRunning) => {}
        Err(error) => return Err(error.into()),
    }
    sync_stopped(cli).await
}

/// Asks the running agent to sync and shows how far it is.
async fn follow(cli: &Cli, client: &Client, before: &Status) -> Done {
    client.post::<()>("/v1/sync", &()).await?;
    let mut bar = output::Bar::new("syncing");
    let status = loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let status: Status = client.get("/v1/status").await?;
        if let Some(progress) = status.link.progress {
            bar.set(progress);
        }
        if !status.link.syncing && status.link.attempts > before.link.attempts {
            break status;
        }
    };
    bar.finish();
    finish_sync(cli, &status)
}

fn finish_sync(cli: &Cli, status: &Status) -> Done {
    let value = serde_json::to_value(status).unwrap_or_default();
    if status.link.last_outcome.as_deref() == Some("up to date") {
        print(cli, &value, |value| format!("The copy is up to date.\n{}", show::status(value)));
        return Ok(Exit::Done);
    }
    let why = status.link.last_outcome.clone().unwrap_or_else(|| "unknown".into());
    if status.revoked {
        let hint = Some("hand it in: it answers nothing any more, and what it recorded is still uploaded");
        return Err(Failed::new(Exit::NotPermitted, why, hint));
    }
    let hint = match status.copy.cannot_answer {
        _ if status.link.trouble.is_some() => status.link.trouble.as_ref().map_or("", |trouble| &trouble.remedy),
        None => "the copy on this device keeps answering, with its true age; see `cpis-agent status`",
        Some(_) => "see `cpis-agent doctor`",
    };
    Err(Failed::new(Exit::Unreachable, format!("the copy is not up to date: {why}"), Some(hint)))
}

/// One sync without a running agent.
async fn sync_stopped(cli: &Cli) -> Done {
    let agent = open_stopped(cli).await?;
    let way = agent.way(&load_config(&cli.dir)?);
    let (transport, _) = way.map_err(|error| Failed::new(Exit::Failed, error, None))?;
    let mut bar = output::Bar::new("syncing");
    let watcher = Arc::clone(&agent);
    agent.sync_status().begin();
    let mut push = cpis_protocol::sync::push::Push::new(agent.device(), agent.trust());
    let Some(mut machine) = agent.pull_machine(true) else {
        // Erased: what is left to do is the upload.
        driver::push_once(&agent, &mut push, &transport).await;
        let hint = Some("what it recorded was offered to the server; enrol it again with a new invitation");
        return Err(Failed::new(Exit::NotPermitted, "this device was erased", hint));
    };
    let (outcome, _) = {
        let pull = driver::pull_once(&agent, &mut machine, &transport, Carrier::Live, true);
        tokio::pin!(pull);
        loop {
            tokio::select! {
                done = &mut pull => break done,
                () = tokio::time::sleep(Duration::from_millis(100)) => {
                    if let Some(progress) = watcher.sync_status().get().progress {
                        bar.set(progress);
                    }
                }
            }
        }
    };
    bar.finish();
    agent.sync_status().set_trouble(transport.trouble());
    agent.sync_status().finish(outcome, agent.now().time_ms);
    driver::push_once(&agent, &mut push, &transport).await;
    let status = tokio::task::spawn_blocking(move || agent.status());
    finish_sync(cli, &status.await.map_err(|error| Failed::new(Exit::Failed, error, None))?)
}

async fn open_stopped(cli: &Cli) -> Result<Arc<Agent>, Failed> {
    let directory = cli.dir.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let config = load_config(&directory)?;
        Ok::<_, Failed>(Arc::new(Agent::open(&directory, &config)?))
    });
    opened.await.map_err(|error| Failed::new(Exit::Failed, error, None))?
}
