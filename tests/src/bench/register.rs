//! Sizes of the programs, a register of a whole nation, and the price of the memory-hard step.
//! It must not use another profile than the one that is released.

use std::path::Path;

use cpis_protocol::seal::MemoryHard;

use super::live::memory_hard;
use super::report::{Report, grouped, mib, time};
use super::{Scale, directory_bytes, run_measured};
use crate::process::{program, programs};

/// Sizes of the programs as they are installed.
///
/// # Errors
/// When they do not build.
pub fn sizes(report: &mut Report) -> anyhow::Result<()> {
    report.section("Programs, stripped");
    let kib = |name: &str| anyhow::Ok(std::fs::metadata(programs()?.join(name))?.len() / 1024);
    let agent = kib("cpis-agent")?;
    report.target("cpis-agent", mib(agent), "at most 15 MiB", agent <= 15 * 1024);
    report.figure("cpis-server", mib(kib("cpis-server")?));
    Ok(())
}

/// A national register, synthesised, taken in, sealed and published at synthetic cost.
///
/// # Errors
/// When a command fails.
pub fn nation(directory: &Path, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let records = scale.of(250_000, 2_000);
    report.section(&format!("A register of {} by cpis-server, synthetic cost", grouped(records)));
    let central = directory.join("nation");
    let server = || -> anyhow::Result<_> {
        let mut command = program("cpis-server")?;
        command.arg("--dir").arg(&central);
        Ok(command)
    };
    let init = ["init", "--deployment", "Bench", "--synthetic", "--no-passphrase", "--root-key-dir"];
    run_measured(server()?.args(init).arg(directory.join("nation-roots")))?;
    let (took, peak) = run_measured(server()?.args(["synthesise", "--seed", "1", "--records", &records.to_string()]))?;
    report.figure("synthesise: invented, taken in, cells sealed", format!("{}, peak {}", time(took), mib(peak)));
    let (took, peak) = run_measured(server()?.args(["scope", "add", "nation", "--all"]))?;
    report.figure("scope of the whole nation: first head signed", format!("{}, peak {}", time(took), mib(peak)));
    report.figure("the server's directory on disk", mib(directory_bytes(&central) / 1024));
    Ok(())
}

/// What one look-up pays, and an attacker for every guess.
///
/// # Errors
/// When the memory cannot be had.
pub fn hard(scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    report.section("One memory-hard step (Argon2id, one lane), median");
    for (what, cost) in [
        ("default", MemoryHard::DEFAULT),
        ("floor outside synthetic deployments", MemoryHard::FLOOR),
        ("synthetic", MemoryHard::SYNTHETIC),
    ] {
        let what = format!("{what}: {} KiB, {} passes", grouped(u64::from(cost.memory_kib)), cost.passes);
        report.figure(&what, time(memory_hard(cost, scale.of(15, 1))?));
    }
    Ok(())
}
