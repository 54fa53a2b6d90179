//! A whole deployment on loopback, made with the real programs' own commands: a server, scopes, sites, people, agents.
//! It must not use anything that an operator does not have, but for knowing whom the synthetic register holds.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, ensure};
use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_server::register::{Change, PersonRow, read_csv};
use serde_json::Value;

use crate::process::{Running, output, program, run};

/// The passphrase of every practitioner here.
pub const PASSPHRASE: &str = "correct horse battery staple";
/// The practitioner who sets devices up.
pub const PRACTITIONER: &str = "P001";
/// The seed of every register here.
pub const SEED: u64 = 20_261_122;

/// A server's directory, its address, and the people in its register.
#[derive(Debug)]
pub struct Site {
    directory: PathBuf,
    place: Place,
    people: Vec<PersonRow>,
}

/// Where a server is to be found.
#[derive(Debug, Clone)]
pub struct Place {
    /// Where devices reach it.
    pub url: String,
    /// Where it listens.
    pub listen: SocketAddr,
}

impl Place {
    /// A free port of this machine's loopback.
    ///
    /// # Errors
    /// When there is none.
    pub fn loopback() -> anyhow::Result<Self> {
        // The port is free now; should another process take it before the server does, the server says so.
        let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        Ok(Self { url: format!("https://localhost:{}", listen.port()), listen })
    }
}

/// The rules of one site.
#[derive(Debug, Clone, Default)]
pub struct SiteRules {
    /// Reveals notify nobody.
    pub silent: bool,
    /// Fresh, ageing and stale, in seconds.
    pub bands: Option<(u32, u32, u32)>,
}

impl Site {
    /// Makes a server in `directory`: keys, register, and the scope `all` over the given authorities.
    ///
    /// # Errors
    /// When a command fails.
    pub fn make(directory: &Path, authorities: &[&str], records: u32) -> anyhow::Result<Self> {
        Self::make_at(directory, Place::loopback()?, authorities, records, &[])
    }

    /// The same at another place, and with further arguments for `init`.
    ///
    /// # Errors
    /// When a command fails.
    pub fn make_at(
        directory: &Path,
        place: Place,
        authorities: &[&str],
        records: u32,
        init: &[&str],
    ) -> anyhow::Result<Self> {
        let mut site = Self { directory: directory.join("server"), place, people: Vec::new() };
        std::fs::create_dir_all(directory)?;
        let (url, roots) = (site.url(), directory.join("root-keys"));
        run(site
            .command()?
            .args(["init", "--deployment", "Demonstration", "--synthetic", "--no-passphrase"])
            .args(["--url", &url, "--root-threshold", "2", "--root-keys", "3", "--root-key-dir"])
            .arg(roots)
            .args(init))?;
        site.register(authorities, records)?;
        let mut scope = site.command()?;
        scope.args(["scope", "add", "all"]);
        for authority in authorities {
            scope.args(["--authority", authority]);
        }
        if authorities.is_empty() {
            scope.arg("--all");
        }
        run(&mut scope)?;
        Ok(site)
    }

    fn register(&mut self, authorities: &[&str], records: u32) -> anyhow::Result<()> {
        let csv = self.directory.with_file_name("invented.csv");
        let mut command = self.command()?;
        command.args(["synthesise", "--seed", &SEED.to_string(), "--records", &records.to_string(), "--csv"]).arg(&csv);
        for authority in authorities {
            command.args(["--authority", authority]);
        }
        run(&mut command)?;
        let extract = read_csv(&std::fs::read(csv)?, true).map_err(|refusals| anyhow::anyhow!("{refusals:?}"))?;
        self.people = extract
            .changes
            .into_iter()
            .filter_map(|change| match change {
                Change::Put(person) => Some(person),
                Change::Delete(_) => None,
            })
            .collect();
        Ok(())
    }

    /// Adds a site with its rules.
    ///
    /// # Errors
    /// When a command fails.
    pub fn add_site(&self, name: &str, rules: &SiteRules) -> anyhow::Result<()> {
        let mut command = self.command()?;
        command.args(["site", "add", name, "--access-mode", if rules.silent { "silent" } else { "unscheduled" }]);
        // These scenes ask hundreds of times within a second; the limit has a scene of its own.
        command.args(["--look-ups-at-once", "65535", "--seconds-per-look-up", "1"]);
        if let Some((fresh, ageing, stale)) = rules.bands {
            command.args(["--fresh-s", &fresh.to_string(), "--ageing-s", &ageing.to_string()]);
            command.args(["--stale-s", &stale.to_string()]);
        }
        run(&mut command)?;
        Ok(())
    }

    /// Adds the practitioner, who may work at these sites.
    ///
    /// # Errors
    /// When the command fails.
    pub fn add_practitioner(&self, sites: &[&str]) -> anyhow::Result<()> {
        let mut command = self.command()?;
        command.args(["practitioner", "add", PRACTITIONER, "--name", "Sam Example", "--role", "R1070"]);
        // The badge alone silences nothing: the site's policy decides.
        command.args(["--activity", "B0170"]);
        for site in sites {
            command.args(["--site", site]);
        }
        run(&mut command)?;
        Ok(())
    }

    /// A command of the server's program on this site.
    ///
    /// # Errors
    /// When the programs do not build.
    pub fn command(&self) -> anyhow::Result<Command> {
        let mut command = program("cpis-server")?;
        command.arg("--dir").arg(&self.directory);
        Ok(command)
    }

    /// The server's address.
    #[must_use]
    pub fn url(&self) -> String {
        self.place.url.clone()
    }

    /// The server's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The people in the register.
    #[must_use]
    pub fn people(&self) -> &[PersonRow] {
        &self.people
    }

    /// Somebody with an active plan and nothing unusual about them.
    ///
    /// # Errors
    /// When there is nobody.
    pub fn flagged(&self) -> anyhow::Result<&PersonRow> {
        let plain =
            |p: &&PersonRow| !p.restricted && p.plans.len() == 1 && p.plans.iter().all(|plan| plan.end.is_none());
        self.people.iter().find(plain).context("nobody in the register has a plan")
    }

    /// A valid number that nobody in the register has.
    ///
    /// # Errors
    /// When there is none, which cannot be.
    pub fn unknown(&self) -> anyhow::Result<NhsNumber> {
        let valid =
            (999_123_400u64..).filter_map(|nine| NhsNumber::new(nine * 10 + NhsNumber::check_digit(nine)?).ok());
        let mut free = valid.filter(|number| self.people.iter().all(|person| person.number != *number));
        free.next().context("no free number")
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn serve(&self) -> anyhow::Result<Running> {
        self.serve_logging("info")
    }

    /// Starts the server with a log filter and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn serve_logging(&self, log: &str) -> anyhow::Result<Running> {
        let ready = self.directory.join("ready");
        let _ = std::fs::remove_file(&ready);
        let mut command = self.command()?;
        command.args(["serve", "--listen", &self.place.listen.to_string(), "--ready-file"]).arg(&ready);
        command.env("RUST_LOG", log);
        let mut running = Running::start(&mut command)?;
        running.wait_until("the server to be ready", || ready.exists())?;
        Ok(running)
    }

    /// Invites a device, enrols an agent in `directory` with the invitation, and leaves it stopped.
    ///
    /// # Errors
    /// When a command fails; the server must run.
    pub fn enrol(&self, directory: &Path, site: &str) -> anyhow::Result<AgentSite> {
        self.enrol_in("all", directory, site)
    }

    /// The same for a device of another scope.
    ///
    /// # Errors
    /// As [`Self::enrol`].
    pub fn enrol_in(&self, scope: &str, directory: &Path, site: &str) -> anyhow::Result<AgentSite> {
        let agent = self.invite(scope, directory, site)?;
        run(&mut agent.enrolment()?)?;
        Ok(agent)
    }

    /// Invites a device and prepares its agent in `directory`, which has asked for nothing yet.
    ///
    /// # Errors
    /// When a command fails.
    pub fn invite(&self, scope: &str, directory: &Path, site: &str) -> anyhow::Result<AgentSite> {
        std::fs::create_dir_all(directory)?;
        let (invitation, passphrase) = (directory.join("invitation.txt"), directory.join("passphrase"));
        std::fs::write(&passphrase, PASSPHRASE)?;
        run(self.command()?.args(["device", "invite", "--scope", scope, "--site", site, "--out"]).arg(&invitation))?;
        let agent = AgentSite { directory: directory.join("agent"), passphrase, invitation };
        // The machine's own TPM, where there is one, is left alone.
        let config = agent.directory.join("agent.toml");
        if !config.exists() {
            std::fs::create_dir_all(&agent.directory)?;
            std::fs::set_permissions(&agent.directory, PermissionsExt::from_mode(0o700))?;
            std::fs::write(&config, "device_secret = \"file\"\n")?;
        }
        Ok(agent)
    }

    /// The JSON that a server command prints.
    ///
    /// # Errors
    /// When it fails or prints something else.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = run(self.command()?.arg("--json").args(arguments))?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }
}

/// One enrolled agent.
#[derive(Debug)]
pub struct AgentSite {
    directory: PathBuf,
    passphrase: PathBuf,
    invitation: PathBuf,
}

impl AgentSite {
    /// A command of the agent's program.
    ///
    /// # Errors
    /// When the programs do not build.
    pub fn command(&self) -> anyhow::Result<Command> {
        let mut command = program("cpis-agent")?;
        command.arg("--dir").arg(&self.directory);
        Ok(command)
    }

    /// The command that enrols it with its invitation.
    ///
    /// # Errors
    /// When the programs do not build.
    pub fn enrolment(&self) -> anyhow::Result<Command> {
        let mut command = self.command()?;
        command.args(["enrol", "--practitioner", PRACTITIONER, "--invitation"]).arg(&self.invitation);
        command.arg("--passphrase-file").arg(&self.passphrase);
        Ok(command)
    }

    /// The agent's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file with the passphrase of the first practitioner.
    #[must_use]
    pub fn passphrase(&self) -> &Path {
        &self.passphrase
    }

    /// Starts the agent on any free port and waits until its API answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(&self) -> anyhow::Result<Running> {
        let api = self.directory.join("api.json");
        let _ = std::fs::remove_file(&api);
        let mut running = Running::start(self.command()?.args(["run", "--api", "127.0.0.1:0"]))?;
        running.wait_until("the agent's API", || api.exists())?;
        Ok(running)
    }

    /// Runs a command and shows what it printed, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        output(self.command()?.args(arguments))
    }

    /// The JSON that a command prints, whatever its exit code.
    ///
    /// # Errors
    /// When it prints something else.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let output = output(self.command()?.arg("--json").args(arguments))?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            format!("{arguments:?} printed no JSON: {}{}", text(&output.stdout), text(&output.stderr))
        })
    }

    /// Unlocks the vault of the running agent.
    ///
    /// # Errors
    /// When it stays locked.
    pub fn unlock(&self) -> anyhow::Result<()> {
        let command = &mut self.command()?;
        run(command.args(["unlock", "--practitioner", PRACTITIONER, "--passphrase-file"]).arg(&self.passphrase))?;
        Ok(())
    }

    /// Syncs and demands success.
    ///
    /// # Errors
    /// When the copy is not up to date afterwards.
    pub fn sync(&self) -> anyhow::Result<()> {
        run(self.command()?.arg("sync")).map(|_| ())
    }

    /// Looks a person up.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn look_up(&self, number: NhsNumber, birth: Date) -> anyhow::Result<Value> {
        self.json(&["look-up", "--nhs-number", &number.digits(), "--date-of-birth", &birth.iso()])
    }

    /// Waits until nothing is left in the outbox.
    ///
    /// # Errors
    /// When it does not empty in time.
    pub fn drain(&self, running: &mut Running) -> anyhow::Result<u64> {
        let mut through = 0;
        running.wait_until("the outbox to empty", || {
            let Ok(status) = self.json(&["status"]) else { return false };
            through = status.pointer("/outbox/through").and_then(Value::as_u64).unwrap_or(0);
            status.pointer("/outbox/waiting").and_then(Value::as_u64) == Some(0)
        })?;
        ensure!(through > 0, "nothing was ever recorded");
        Ok(through)
    }
}
