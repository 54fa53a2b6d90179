//! Debian's nginx with the sample configuration of the repository, on this machine's loopback.
//! It must not change the sample beyond what an operator must: names, ports and places.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::process::Running;

/// A running nginx. Dropping it kills it.
#[derive(Debug)]
pub struct Nginx {
    running: Running,
    directory: PathBuf,
    url: String,
}

/// Whether the program is there.
#[must_use]
pub fn available() -> bool {
    Command::new("nginx").arg("-v").output().is_ok_and(|output| output.status.success())
}

/// The sample as an operator would fill it in: `files` from `mirror add`, `server` as `host:port`.
///
/// # Errors
/// When the sample cannot be read.
pub fn filled_in(directory: &Path, files: &Path, listen: &str, server: &str) -> anyhow::Result<String> {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/nginx/mirror.conf");
    let text = std::fs::read_to_string(sample)?;
    let (host, _) = server.rsplit_once(':').context("host:port")?;
    let changes = [
        ("/var/cache/nginx/cpis", directory.join("cache").display().to_string()),
        ("/var/log/nginx/cpis-mirror.log", directory.join("mirror.log").display().to_string()),
        ("/etc/nginx/cpis/", format!("{}/", files.display())),
        ("listen 8443 ", format!("listen {listen} ")),
        ("server cpis.example.nhs.uk:8443;", format!("server {server};")),
        ("proxy_ssl_name cpis.example.nhs.uk;", format!("proxy_ssl_name {host};")),
        ("mirror.example.nhs.uk", listen.split(':').next().unwrap_or_default().to_owned()),
    ];
    changes.into_iter().try_fold(text, |text, (from, to)| {
        ensure!(text.contains(from), "the sample has no {from}");
        Ok(text.replace(from, &to))
    })
}

impl Nginx {
    /// Starts one with this configuration of a site.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(directory: &Path, listen: &str, site: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory.join("cache"))?;
        std::fs::write(directory.join("site.conf"), site)?;
        let place = directory.display();
        let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
        let bodies: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {place}/{kind};\n"))
            .concat();
        let main = format!(
            "daemon off; master_process off; {user} pid {place}/pid; error_log stderr notice;\n\
             events {{ worker_connections 256; }}\nhttp {{\n{bodies}include {place}/site.conf;\n}}\n"
        );
        std::fs::write(directory.join("nginx.conf"), main)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(directory).arg("-c").arg(directory.join("nginx.conf")).args(["-e", "stderr"]);
        let mut running = Running::start(&mut command).context("start nginx (Debian: apt-get install nginx)")?;
        running.wait_until("nginx", || std::net::TcpStream::connect(listen).is_ok())?;
        Ok(Self { running, directory: directory.to_path_buf(), url: format!("https://{listen}") })
    }

    /// Where devices reach it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What was asked of it: status, whether it was in the cache, path.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn asked(&self) -> anyhow::Result<Vec<(u16, String, String)>> {
        let log = std::fs::read_to_string(self.directory.join("mirror.log"))?;
        let line = |line: &str| {
            let fields: Vec<_> = line.split(' ').collect();
            let [_, status, cached, _, _, path] = fields.as_slice() else { anyhow::bail!("a line of the log: {line}") };
            Ok((status.parse()?, (*cached).to_owned(), (*path).to_owned()))
        };
        log.lines().map(line).collect()
    }

    /// Changes the last bytes of every object in the cache, and says how many.
    ///
    /// # Errors
    /// When a file cannot be changed.
    pub fn poison(&self) -> anyhow::Result<usize> {
        let mut files = vec![self.directory.join("cache")];
        let mut poisoned = 0;
        while let Some(path) = files.pop() {
            if path.is_dir() {
                files.extend(
                    std::fs::read_dir(path)?.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?,
                );
                continue;
            }
            let mut bytes = std::fs::read(&path)?;
            let last = bytes.last_mut().context("an empty file in the cache")?;
            *last ^= 1;
            std::fs::write(&path, bytes)?;
            poisoned += 1;
        }
        Ok(poisoned)
    }

    /// What it printed.
    #[must_use]
    pub fn log(&self) -> String {
        self.running.log()
    }
}
