//! `import` and `export`: bundles by hand, through the running agent or on a stopped agent's own state.
//! It must not print anything itself beyond `output`.

use std::path::Path;

use super::{Done, Exit, Failed, open_stopped, print};
use crate::api::{ExportRequest, ImportRequest};
use crate::cli::Cli;
use crate::client::{Client, ClientError};
use crate::{bundle, export};

/// Asks the running agent to do something with a file; `None` when it is not running.
async fn with_file<R: serde::de::DeserializeOwned>(
    cli: &Cli,
    path: &str,
    body: &(impl serde::Serialize + Sync),
) -> Result<Option<R>, Failed> {
    match Client::find(&cli.dir) {
        Ok(client) => match client.post::<R>(path, body).await {
            Ok(reply) => Ok(Some(reply)),
            Err(ClientError::NotRunning) => Ok(None),
            Err(error) => Err(error.into()),
        },
        Err(ClientError::NotRunning) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn done(cli: &Cli, value: &impl serde::Serialize, text: &str) -> Done {
    print(cli, &serde_json::to_value(value).unwrap_or_default(), |_| text.to_owned());
    Ok(Exit::Done)
}

pub(super) async fn import(cli: &Cli, path: &Path) -> Done {
    let path = std::path::absolute(path).map_err(|error| Failed::new(Exit::Failed, error, None))?;
    let told = with_file::<bundle::Imported>(cli, "/v1/import", &ImportRequest { path: path.clone() }).await?;
    let imported = match told {
        Some(imported) => imported,
        None => {
            let agent = open_stopped(cli).await?;
            bundle::import(&agent, &path).await.map_err(|error| Failed::new(Exit::Failed, error, None))?
        }
    };
    done(cli, &imported, &imported.describe())
}

pub(super) async fn export(cli: &Cli, path: &Path) -> Done {
    let path = std::path::absolute(path).map_err(|error| Failed::new(Exit::Failed, error, None))?;
    let told = with_file::<export::Exported>(cli, "/v1/export", &ExportRequest { path: path.clone() }).await?;
    let exported = match told {
        Some(exported) => exported,
        None => {
            let agent = open_stopped(cli).await?;
            let target = path.clone();
            let written = tokio::task::spawn_blocking(move || export::write(&agent, &target)).await;
            let failed = |error: &dyn core::fmt::Display| Failed::new(Exit::Failed, error, None);
            written.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?
        }
    };
    let (scope, bytes) = (&exported.scope, exported.bytes);
    done(cli, &exported, &format!("The copy of scope {scope} is in {} ({bytes} bytes).", path.display()))
}
