//! A server with a register and one enrolled agent, and the running agent's API, for the measures that need them.
//! It must not measure anything itself.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use cpis_agent::api::{LookUpRequest, UnlockRequest};
use cpis_agent::client::Client;
use cpis_agent::status::Status;
use cpis_protocol::nhs::{Date, NhsNumber};
use serde_json::Value;

use crate::process::{PATIENCE, Running};
use crate::site::{AgentSite, PASSPHRASE, PRACTITIONER, Place, Site, SiteRules};

/// The authorities of the register: five neighbours, as a regional ambulance service might carry.
pub const AUTHORITIES: [&str; 5] = ["Leeds", "Bradford", "Wakefield", "Kirklees", "Calderdale"];
/// The site of the agent.
pub const SITE: &str = "ambulance";

/// Makes a server with a register, a site and a practitioner.
///
/// # Errors
/// When a command fails.
pub fn server(
    directory: &Path,
    place: Place,
    authorities: &[&str],
    records: u32,
    init: &[&str],
) -> anyhow::Result<Site> {
    let site = Site::make_at(&directory.join("central"), place, authorities, records, init)?;
    site.add_site(SITE, &SiteRules::default())?;
    site.add_practitioner(&[SITE])?;
    Ok(site)
}

/// A server and an agent whose copy is complete; neither runs.
#[derive(Debug)]
pub struct Fleet {
    /// The server's site.
    pub site: Site,
    /// The agent, stopped.
    pub agent: AgentSite,
    /// How long the first sync took, by the agent's own command, and what the agent then had in memory.
    pub records: u64,
}

impl Fleet {
    /// Makes all of it on loopback and brings the copy.
    ///
    /// # Errors
    /// When a command fails.
    pub fn make(directory: &Path, records: u32) -> anyhow::Result<Self> {
        let site = server(directory, Place::loopback()?, &AUTHORITIES, records, &[])?;
        let serving = site.serve()?;
        let agent = site.enrol(&directory.join("tablet"), SITE)?;
        agent.sync()?;
        serving.stop()?;
        let records = site.people().len() as u64;
        Ok(Self { site, agent, records })
    }
}

/// The API of a running agent, called as its own command line does, without starting a process for each call.
#[derive(Debug)]
pub struct Api {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Api {
    /// Waits until the agent of a directory answers.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait(directory: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let started = Instant::now();
        let client = loop {
            match Client::find(directory) {
                Ok(client) => break client,
                Err(error) => ensure!(started.elapsed() < PATIENCE, "no API: {error}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        Ok(Self { runtime, client })
    }

    /// Unlocks the vault.
    ///
    /// # Errors
    /// When it stays locked.
    pub fn unlock(&self) -> anyhow::Result<()> {
        let request = UnlockRequest { practitioner: PRACTITIONER.into(), passphrase: PASSPHRASE.into() };
        let _: Value = self.runtime.block_on(self.client.post("/v1/unlock", &request))?;
        Ok(())
    }

    /// Asks about a person and demands one of the two answers that search the copy.
    ///
    /// # Errors
    /// When there is another answer or none.
    pub fn look_up(&self, number: NhsNumber, birth: Date) -> anyhow::Result<()> {
        let (nhs_number, date_of_birth) = (number.digits(), birth.iso());
        let request = LookUpRequest { nhs_number, date_of_birth, area: None, incident: None };
        let reply: Value = self.runtime.block_on(self.client.post("/v1/look-up", &request))?;
        ensure!(reply.get("look_up").is_some_and(Value::is_u64), "the look-up was not answered: {reply}");
        Ok(())
    }

    /// What the agent says of itself.
    ///
    /// # Errors
    /// When it does not.
    pub fn status(&self) -> anyhow::Result<Status> {
        Ok(self.runtime.block_on(self.client.get("/v1/status"))?)
    }

    /// Waits until an attempt to sync has ended after `attempts` earlier ones, with a copy that is up to date.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_synced(&self, running: &mut Running, attempts: u64) -> anyhow::Result<Status> {
        let mut found = None;
        running.wait_until("the end of a sync", || {
            found = self.status().ok().filter(|status| {
                let link = &status.link;
                !link.syncing && link.attempts > attempts && link.last_outcome.as_deref() == Some("up to date")
            });
            found.is_some()
        })?;
        found.context("no status")
    }
}
