//! The main job, end to end, with the real programs over real TLS on loopback, in words that a newcomer understands.
//! It must not leave a process or a file behind, nor show anything that a user could not do by hand.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a demonstration prints")]

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use cpis_tests::process::{Running, program};
use cpis_tests::site::{AgentSite, PRACTITIONER, Site, SiteRules};

const HELP: &str = "\
Shows the main job of CP-IS Edge with the real programs, on this machine only, with invented people.

usage: cargo demo [--stay] [--records N]

  --stay       leaves server and agent running to play with, until you press Enter
  --records N  how many records the register has (default 20000)
";
const AUTHORITIES: [&str; 5] = ["Leeds", "Bradford", "Wakefield", "Kirklees", "Calderdale"];

fn main() -> ExitCode {
    let mut stay = false;
    let mut records = 20_000;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--stay" => stay = true,
            "--records" => match arguments.next().and_then(|n| n.parse().ok()) {
                Some(n) => records = n,
                None => return usage("--records wants a number"),
            },
            "-h" | "--help" => {
                print!("{HELP}");
                return ExitCode::SUCCESS;
            }
            other => return usage(&format!("unknown argument {other}")),
        }
    }
    match show(stay, records) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("error: {problem}\n\n{HELP}");
    ExitCode::from(2)
}

fn step(title: &str) {
    println!("\n\u{2500}\u{2500} {title}");
}

fn say(text: &str) {
    println!("   {text}");
}

/// Prints what a command printed, indented, so that it is clear who speaks.
fn quote(text: &str) {
    for line in text.trim_end().lines() {
        println!("   \u{2502} {line}");
    }
}

/// Runs an agent command as a user would see it; its exit code does not matter here.
fn agent(site: &AgentSite, arguments: &[&str]) -> anyhow::Result<String> {
    println!("   $ cpis-agent {}", arguments.join(" "));
    let output = site.output(arguments)?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    quote(&printed);
    quote(&String::from_utf8_lossy(&output.stderr));
    Ok(printed)
}

/// A command whose progress goes straight to the terminal.
fn with_progress(mut command: std::process::Command, shown: &str) -> anyhow::Result<()> {
    println!("   $ {shown}");
    let output = command.stderr(Stdio::inherit()).output()?;
    quote(&String::from_utf8_lossy(&output.stdout));
    ensure!(output.status.success(), "`{shown}` failed");
    Ok(())
}

struct Stage {
    directory: PathBuf,
    site: Site,
    ambulance: AgentSite,
    remote: AgentSite,
}

fn show(stay: bool, records: u32) -> anyhow::Result<()> {
    println!(
        "CP-IS Edge: a crew with no signal asks about a child. Everything here is invented and stays on this machine."
    );
    let work = tempfile::Builder::new().prefix("cpis-demo-").tempdir()?;
    let (stage, server) = set_up(work.path(), records)?;
    let (mut ambulance, mut remote) = (stage.ambulance.start()?, stage.remote.start()?);
    bring_copies(&stage)?;
    step("The signal is gone: the server is stopped");
    server.stop()?;
    say("From here on the agents have nothing but what is on their own disks.");
    ask_offline(&stage)?;
    step("The signal is back: the server starts again, and the audit goes up by itself");
    let server = stage.site.serve()?;
    for (agent, running) in [(&stage.ambulance, &mut ambulance), (&stage.remote, &mut remote)] {
        let _ = agent.output(&["sync"])?;
        let through = agent.drain(running)?;
        say(&format!("{through} events of this device have been received and acknowledged, each exactly once."));
    }
    prove_audit(&stage)?;
    if stay {
        play(&stage)?;
    }
    step("Tidying up");
    for running in [ambulance, remote, server] {
        running.stop()?;
    }
    drop(stage);
    work.close()?;
    say("No process and no file is left behind.");
    Ok(())
}

fn set_up(work: &Path, records: u32) -> anyhow::Result<(Stage, Running)> {
    step("A server with an invented register from England's real counts");
    say(&format!("{records} records over {}; test NHS numbers (999 range) only.", AUTHORITIES.join(", ")));
    program("cpis-server").context("build the programs")?;
    let site = Site::make(&work.join("central"), &AUTHORITIES, records)?;
    site.add_site("ambulance", &SiteRules::default())?;
    // A day is long to wait: this site's signed policy calls a copy stale after four seconds.
    site.add_site("remote", &SiteRules { silent: true, bands: Some((2, 4, 3600)) })?;
    site.add_practitioner(&["ambulance", "remote"])?;
    say("Three root keys were made offline; two of them signed who may publish, enrol and acknowledge.");
    let server = site.serve()?;
    say(&format!("The server listens on {} with TLS 1.3; devices show a certificate of their own.", site.url()));
    step("Two devices are enrolled, each with a one-time code");
    let ambulance = site.enrol(&work.join("tablet-1"), "ambulance")?;
    let remote = site.enrol(&work.join("tablet-2"), "remote")?;
    say("Tablet 1 belongs to an ambulance: showing details will notify the child's authority.");
    say("Tablet 2 is at a site where access is silent and, for this demonstration, copies age within seconds.");
    Ok((Stage { directory: work.to_path_buf(), site, ambulance, remote }, server))
}

fn bring_copies(stage: &Stage) -> anyhow::Result<()> {
    step("The copies come in, sealed, while the vaults are still locked");
    for agent in [&stage.ambulance, &stage.remote] {
        let mut command = agent.command()?;
        command.arg("sync");
        with_progress(command, "cpis-agent sync")?;
    }
    say("Background sync holds no key that opens a record: it checked every record's place in a signed tree instead.");
    step(&format!("{PRACTITIONER} unlocks both tablets with a passphrase"));
    stage.ambulance.unlock()?;
    stage.remote.unlock()
}

fn ask_offline(stage: &Stage) -> anyhow::Result<()> {
    let flagged = stage.site.flagged()?;
    let (number, birth) = (flagged.number.grouped(), flagged.birth.iso());
    step("1. A child who is known to social care");
    let printed = agent(&stage.ambulance, &["look-up", "--nhs-number", &number, "--date-of-birth", &birth])?;
    ensure!(printed.starts_with("RECORD FOUND"), "a child with a plan was not found");
    say("So far only that a record exists. Showing it is a second, deliberate step:");
    let look_up = printed.split_whitespace().last().context("no look-up")?;
    agent(&stage.ambulance, &["reveal", look_up])?;
    step("2. A child who is not in this copy: the answer that crews see most");
    let unknown = stage.site.unknown()?.grouped();
    let printed = agent(&stage.ambulance, &["look-up", "--nhs-number", &unknown, "--date-of-birth", "2015-03-04"])?;
    ensure!(printed.starts_with("NOT IN THIS COPY"), "somebody unknown was not answered as such");
    step("3. A mistyped number");
    agent(&stage.ambulance, &["look-up", "--nhs-number", "999 000 0019", "--date-of-birth", "2015-03-04"])?;
    step("4. A child from an area that this tablet does not cover");
    let far = ["look-up", "--nhs-number", &unknown, "--date-of-birth", "2015-03-04", "--area", "Cornwall"];
    agent(&stage.ambulance, &far)?;
    step("5. The other tablet's copy has gone stale");
    std::thread::sleep(Duration::from_secs(4));
    say("A record is still shown, with its age; but a stale copy never says that somebody is not in it:");
    agent(&stage.remote, &["look-up", "--nhs-number", &number, "--date-of-birth", &birth])?;
    agent(&stage.remote, &["look-up", "--nhs-number", &unknown, "--date-of-birth", "2015-03-04"])?;
    step("Every question was recorded before it was answered");
    agent(&stage.ambulance, &["outbox"])?;
    Ok(())
}

fn prove_audit(stage: &Stage) -> anyhow::Result<()> {
    step("What the server holds: a gap-free, signed chain for each device");
    for arguments in [vec!["audit", "list"], vec!["audit", "verify"]] {
        println!("   $ cpis-server {}", arguments.join(" "));
        let output = cpis_tests::process::run(stage.site.command()?.args(&arguments))?;
        quote(&output);
    }
    Ok(())
}

fn play(stage: &Stage) -> anyhow::Result<()> {
    let flagged = stage.site.flagged()?;
    step("Server and agents keep running. Try, in another terminal:");
    let programs = cpis_tests::process::programs()?;
    let (agent, server) = (programs.join("cpis-agent"), programs.join("cpis-server"));
    say(&format!("export CPIS_AGENT_DIR={}", stage.ambulance.directory().display()));
    say(&format!("export CPIS_SERVER_DIR={}", stage.site.directory().display()));
    say(&format!("{} status", agent.display()));
    say(&format!(
        "{} look-up --nhs-number '{}' --date-of-birth {}",
        agent.display(),
        flagged.number.grouped(),
        flagged.birth.iso()
    ));
    say(&format!("{} doctor", agent.display()));
    say(&format!("{} status", server.display()));
    say(&format!("Everything lies in {} and goes away at the end.", stage.directory.display()));
    say("Press Enter here to stop.");
    let _ = std::io::stdin().lock().read_line(&mut String::new());
    Ok(())
}
