//! What tests ask of a deployment beyond the demonstration: exit codes, the audit's events, extracts, numbers.
//! It must not judge: it fetches, the tests assert.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};
use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_server::clock::{Clock as _, SystemClock};
use serde_json::Value;

use crate::process::{output, run};
use crate::site::{AgentSite, Site};

/// The columns of the documented extract.
pub const COLUMNS: &str = "nhs_number,date_of_birth,surname,given_name,postcode,plan,start_date,end_date,due_date,authority_code,restricted,action";

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it cannot be started, or was killed.
    pub fn by(command: &mut Command) -> anyhow::Result<Self> {
        let output = output(command)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().context("the command was killed")?;
        Ok(Self { code, out: text(&output.stdout), err: text(&output.stderr) })
    }

    /// Its standard output as JSON; `null` when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_default()
    }
}

/// A text in a reply; empty when it is not there.
#[must_use]
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number in a reply; 0 when it is not there.
#[must_use]
pub fn count(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

/// The first valid number at or after nine leading digits.
///
/// # Errors
/// When there is none, which cannot be.
pub fn number_from(nine_digits: u64) -> anyhow::Result<NhsNumber> {
    let mut valid = (nine_digits..).filter_map(|n| NhsNumber::new(n * 10 + NhsNumber::check_digit(n)?).ok());
    valid.next().context("no valid number")
}

/// Today, by the wall clock.
///
/// # Errors
/// When the clock is out of the range of dates.
pub fn today() -> anyhow::Result<Date> {
    Ok(Date::of_unix_ms(SystemClock.now_ms())?)
}

impl AgentSite {
    /// Runs a command of the agent, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn says(&self, arguments: &[&str]) -> anyhow::Result<Said> {
        Said::by(self.command()?.args(arguments))
    }

    /// Asks about somebody in JSON: exit code and reply.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn ask(&self, number: &str, birth: &str, more: &[&str]) -> anyhow::Result<(i32, Value)> {
        let mut command = self.command()?;
        command.args(["--json", "look-up", "--nhs-number", number, "--date-of-birth", birth]).args(more);
        let said = Said::by(&mut command)?;
        Ok((said.code, said.json()))
    }

    /// Reveals a look-up in JSON: exit code and reply.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn reveal(&self, look_up: u64) -> anyhow::Result<(i32, Value)> {
        let said = Said::by(self.command()?.args(["--json", "reveal", &look_up.to_string()]))?;
        Ok((said.code, said.json()))
    }

    /// The status.
    ///
    /// # Errors
    /// When there is none.
    pub fn status(&self) -> anyhow::Result<Value> {
        self.json(&["status"])
    }
}

impl Site {
    /// Every event that the server holds, in the order of its chains; with the persons asked about.
    ///
    /// # Errors
    /// When the command fails.
    pub fn events(&self) -> anyhow::Result<Vec<Value>> {
        let lines = run(self.command()?.args(["--json", "audit", "list", "--show-persons"]))?;
        lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Events of one device, in the order of its chain.
    ///
    /// # Errors
    /// When the command fails.
    pub fn events_of(&self, device: &str) -> anyhow::Result<Vec<Value>> {
        let mut events = self.events()?;
        events.retain(|event| text(event, "/device") == device);
        Ok(events)
    }

    /// Verifies every chain again; what it says, intact or not.
    ///
    /// # Errors
    /// When it says nothing.
    pub fn verify(&self) -> anyhow::Result<Value> {
        let said = Said::by(self.command()?.args(["--json", "audit", "verify"]))?;
        let value = said.json();
        ensure!(value.is_object(), "audit verify said nothing: {}{}", said.out, said.err);
        Ok(value)
    }

    /// Writes an extract beside the server's directory: the given header and lines.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn extract(&self, name: &str, header: &str, lines: &[String]) -> anyhow::Result<PathBuf> {
        let path = self.directory().with_file_name(name);
        std::fs::write(&path, format!("{header}\n{}\n", lines.join("\n")))?;
        Ok(path)
    }

    /// Takes lines of the documented extract in and publishes them: what the command says.
    ///
    /// # Errors
    /// When it fails.
    pub fn ingest(&self, name: &str, header: &str, lines: &[String]) -> anyhow::Result<Value> {
        let path = self.extract(name, header, lines)?;
        let out = run(self.command()?.args(["--json", "ingest"]).arg(path))?;
        Ok(serde_json::from_str(&out)?)
    }
}
