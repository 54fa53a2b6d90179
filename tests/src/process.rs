//! The real programs as child processes: found or built, started, watched, and never left behind.
//! It must not hide what a program printed when it failed.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// How long anything may take before the harness gives up. Not a measure of speed.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Where the programs are: in `CPIS_TEST_PROGRAMS` where that is set, e.g. to test an installed package; else they are
/// built once, in the profile of the running test or demonstration.
///
/// # Errors
/// When they do not build.
pub fn programs() -> anyhow::Result<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    found.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn build() -> anyhow::Result<PathBuf> {
    if let Some(given) = std::env::var_os("CPIS_TEST_PROGRAMS") {
        return Ok(given.into());
    }
    let me = std::env::current_exe()?;
    let directory = me
        .ancestors()
        .find(|path| path.ends_with("debug") || path.ends_with("release"))
        .context("the test program is not below a target directory")?;
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    cargo.args(["build", "--quiet", "-p", "cpis-agent", "-p", "cpis-server", "-p", "cpis-tests", "--bins"]);
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    cargo.env("CARGO_TARGET_DIR", directory.parent().context("no target directory")?);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    ensure!(cargo.status().context("start cargo")?.success(), "the programs do not build");
    Ok(directory.to_path_buf())
}

/// One of the programs, ready for arguments. Settings of the caller's shell do not reach it.
///
/// # Errors
/// When the programs do not build.
pub fn program(name: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(programs()?.join(name));
    for variable in ["CPIS_AGENT_DIR", "CPIS_SERVER_DIR", "CPIS_JSON", "CPIS_AGENT_API", "RUST_BACKTRACE", "RUST_LOG"] {
        command.env_remove(variable);
    }
    for proxy in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(proxy);
    }
    command.stdin(Stdio::null());
    Ok(command)
}

/// Runs a command to its end; failing is an error that shows what it printed.
///
/// # Errors
/// When it cannot be started or ends with another code than 0.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!(
            "{:?} ended with {}\n{}{}",
            command,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, whatever its code.
///
/// # Errors
/// When it cannot be started.
pub fn output(command: &mut Command) -> anyhow::Result<Output> {
    command.output().with_context(|| format!("start {command:?}"))
}

/// A program that keeps running. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: Arc<Mutex<String>>,
    lines: Receiver<String>,
}

impl Running {
    /// Starts a program and collects what it prints.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let log = Arc::new(Mutex::new(String::new()));
        let (sender, lines) = channel();
        let (out, err) = (child.stdout.take().context("no stdout")?, child.stderr.take().context("no stderr")?);
        let (copy, forward) = (Arc::clone(&log), sender.clone());
        std::thread::spawn(move || collect(out, &copy, &forward));
        let copy = Arc::clone(&log);
        std::thread::spawn(move || collect(err, &copy, &sender));
        Ok(Self { child, log, lines })
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// When the program ends first, or patience does.
    pub fn wait_until(&mut self, what: &str, mut ready: impl FnMut() -> bool) -> anyhow::Result<()> {
        let started = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the program ended ({status}) before {what}:\n{}", self.log());
            }
            ensure!(started.elapsed() < PATIENCE, "no {what} in time:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Whether it runs still.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn is_alive(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// The next line that the program printed, if there is one already.
    pub fn line(&self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// Everything that it printed so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: nothing can be tidied up.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(mut self) -> anyhow::Result<()> {
        let _ = self.child.kill();
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and its exit status.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(mut self) -> anyhow::Result<ExitStatus> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(started.elapsed() < PATIENCE, "it does not stop:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(from: impl std::io::Read, log: &Mutex<String>, lines: &std::sync::mpsc::Sender<String>) {
    let mut reader = BufReader::new(from);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
        log.lock().unwrap_or_else(PoisonError::into_inner).push_str(&line);
        let _ = lines.send(line.trim_end().to_owned());
        line.clear();
    }
    // What is not UTF-8 is dropped, but the pipe is drained, so that the program never blocks on it.
    let _ = reader.read_to_end(&mut Vec::new());
}
