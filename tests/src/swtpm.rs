//! A software TPM (the program `swtpm`) on a free port of this machine, with its state in a directory.
//! It must not outlive the test, nor be used for anything but tests: it keeps its secrets in plain files.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::process::Running;

/// A running software TPM. Dropping it kills it, as pulling the plug would.
#[derive(Debug)]
pub struct SoftwareTpm {
    running: Option<Running>,
    state: PathBuf,
    port: u16,
}

/// Whether the program is there.
#[must_use]
pub fn available() -> bool {
    Command::new("swtpm").arg("--version").output().is_ok_and(|output| output.status.success())
}

impl SoftwareTpm {
    /// Starts one over `state`, which is made when it is not there: a new directory is another chip.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(state: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(state)?;
        // The port is free now; should another process take it before swtpm does, swtpm says so.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut this = Self { running: None, state: std::path::absolute(state)?, port };
        this.power_on()?;
        Ok(this)
    }

    fn power_on(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new("swtpm");
        command.args(["socket", "--tpm2", "--tpmstate"]).arg(format!("dir={}", self.state.display()));
        command.args(["--server", &format!("type=tcp,port={},bindaddr=127.0.0.1", self.port)]);
        command.args(["--flags", "not-need-init,startup-clear"]);
        let mut running = Running::start(&mut command).context("start swtpm (Debian: apt-get install swtpm)")?;
        let port = self.port;
        running.wait_until("the software TPM", || TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        self.running = Some(running);
        Ok(())
    }

    /// Pulls the plug and starts it again with the state that it kept.
    ///
    /// # Errors
    /// When it does not start.
    pub fn power_cycle(&mut self) -> anyhow::Result<()> {
        self.power_off()?;
        self.power_on()
    }

    /// Pulls the plug.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn power_off(&mut self) -> anyhow::Result<()> {
        self.running.take().map_or(Ok(()), Running::kill)
    }

    /// The address for `tpm = ...` in agent.toml.
    #[must_use]
    pub fn address(&self) -> String {
        format!("tcp:127.0.0.1:{}", self.port)
    }

    /// Sets the lockout password, as `tpm2_changeauth -c lockout` does: without it a thief sets the counter back.
    ///
    /// # Errors
    /// When the TPM refuses.
    pub fn set_lockout_password(&self, password: &[u8]) -> anyhow::Result<()> {
        // TPM2_HierarchyChangeAuth on TPM_RH_LOCKOUT, authorised by the empty password.
        let length = u16::try_from(password.len())?;
        let body = [&auth_area(0x4000_000a)[..], &length.to_be_bytes(), password].concat();
        self.command(0x129, &body)
    }

    /// Clears the TPM, as its owner may: its seeds are new afterwards, and what was sealed is lost.
    ///
    /// # Errors
    /// When the TPM refuses.
    pub fn clear(&self) -> anyhow::Result<()> {
        // TPM2_Clear, authorised by the platform hierarchy.
        self.command(0x126, &auth_area(0x4000_000c))
    }

    fn command(&self, code: u32, body: &[u8]) -> anyhow::Result<()> {
        let length = u32::try_from(10 + body.len())?;
        let bytes = [&0x8002u16.to_be_bytes()[..], &length.to_be_bytes(), &code.to_be_bytes(), body].concat();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.write_all(&bytes)?;
        let mut header = [0; 10];
        stream.read_exact(&mut header)?;
        let [.., a, b, c, d] = header;
        let code = u32::from_be_bytes([a, b, c, d]);
        ensure!(code == 0, "the software TPM refuses with 0x{code:x}");
        Ok(())
    }
}

/// A handle and the empty password for it.
fn auth_area(handle: u32) -> Vec<u8> {
    let session = [0x4000_0009u32.to_be_bytes().as_slice(), &[0, 0, 1, 0, 0]].concat();
    [&handle.to_be_bytes()[..], &9u32.to_be_bytes(), &session].concat()
}
