//! Watches the configuration file and the drop folder. The home of notify.
//! It must not trust an event: events are hints, a rescan is the truth, and a file is taken only when it has settled.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cpis_protocol::bundle::EXTENSION;
use notify_debouncer_full::notify::{RecommendedWatcher, RecursiveMode};
use notify_debouncer_full::{DebounceEventResult, Debouncer, RecommendedCache, new_debouncer};
use tokio::sync::{Notify, watch};

use crate::agent::Agent;
use crate::bundle;
use crate::config::Config;

/// Network shares and some USB file systems send no events: look again after this long.
const RESCAN: Duration = Duration::from_secs(60);
/// A file must keep its size this long before it is read.
const SETTLE: Duration = Duration::from_millis(400);

type Watcher = Debouncer<RecommendedWatcher, RecommendedCache>;

/// Watches until shutdown. `reload` is called with every changed and valid configuration.
pub async fn run(
    agent: Arc<Agent>,
    mut config: Config,
    reload: impl Fn(&Config) + Send + Sync,
    mut shutdown: watch::Receiver<bool>,
) {
    let hint = Arc::new(Notify::new());
    let mut seen = BTreeMap::new();
    let mut watcher = watcher(&hint, agent.directory(), config.drop_folder.as_deref());
    loop {
        if let Some(folder) = config.drop_folder.clone() {
            take_in(&agent, &folder, &mut seen).await;
        }
        tokio::select! {
            () = hint.notified() => {}
            () = tokio::time::sleep(RESCAN) => {}
            _ = shutdown.changed() => return,
        }
        match Config::load(agent.directory()) {
            Ok(next) if next != config => {
                tracing::info!("the configuration changed");
                reload(&next);
                if next.drop_folder != config.drop_folder {
                    seen.clear();
                }
                config = next;
                watcher = self::watcher(&hint, agent.directory(), config.drop_folder.as_deref());
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "the changed configuration is not used; the old one stays in force"),
        }
        if watcher.is_none() {
            watcher = self::watcher(&hint, agent.directory(), config.drop_folder.as_deref());
        }
    }
}

/// `None` where watching does not work: the rescan then does it alone.
fn watcher(hint: &Arc<Notify>, directory: &Path, drop_folder: Option<&Path>) -> Option<Watcher> {
    let hint = Arc::clone(hint);
    // The directory also holds the replica: only the configuration file's own events count.
    let config = directory.join(crate::config::FILE);
    let folder = drop_folder.map(Path::to_path_buf);
    let relevant = move |path: &PathBuf| *path == config || folder.as_ref().is_some_and(|f| path.starts_with(f));
    let handler = move |result: DebounceEventResult| {
        if result.map_or(true, |events| events.iter().any(|event| event.paths.iter().any(&relevant))) {
            hint.notify_one();
        }
    };
    let mut watcher = new_debouncer(SETTLE, None, handler).ok()?;
    watcher.watch(directory, RecursiveMode::NonRecursive).ok()?;
    if let Some(folder) = drop_folder
        && let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
    {
        tracing::warn!(%error, "the drop folder cannot be watched; it is looked at every minute");
    }
    Some(watcher)
}

/// What tells one state of a file from another.
type Mark = (u64, Option<std::time::SystemTime>);

async fn take_in(agent: &Arc<Agent>, folder: &Path, seen: &mut BTreeMap<PathBuf, Mark>) {
    for path in bundles(folder) {
        let Some(before) = mark(&path) else { continue };
        if seen.get(&path) == Some(&before) {
            continue;
        }
        tokio::time::sleep(SETTLE).await;
        if mark(&path) != Some(before) {
            // Still being written: the next event or rescan comes back to it.
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match bundle::import(agent, &path).await {
            Ok(done) => {
                tracing::info!(file = name, moved = done.moved, gseq = done.gseq, "a bundle was taken in");
            }
            Err(error) => {
                tracing::warn!(file = name, %error, "a bundle was not taken in");
                if !error.is_final() {
                    continue;
                }
            }
        }
        seen.insert(path, before);
    }
    seen.retain(|path, _| path.exists());
}

fn bundles(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION))
        .collect();
    paths.sort_unstable();
    paths
}

fn mark(path: &Path) -> Option<Mark> {
    // A link could point anywhere: only plain files are read.
    let metadata = std::fs::symlink_metadata(path).ok()?;
    metadata.is_file().then(|| (metadata.len(), metadata.modified().ok()))
}
