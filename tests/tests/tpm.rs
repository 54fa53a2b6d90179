//! The device secret and PINs in a TPM, against a software TPM; and the real agent with one.
//! It must not pass where it did not run: without `swtpm` it says so aloud, and tests/run ends non-zero.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test stops where something is not as it must be"
)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cpis_agent::device_secret::tpm::{Address, TpmError, Uncounted};
use cpis_agent::device_secret::{Choice, Chosen, DeviceSecret, DeviceSecretError, Provider, Sources};
use cpis_agent::keyslot::{Contents, Keyslot, KeyslotError, NewSlot, PassphraseProblem, VaultError};
use cpis_agent::random::OsRandom;
use cpis_protocol::seal::{MemoryHard, OpeningKey};
use cpis_protocol::sign::Signer;
use cpis_protocol::text::Text;
use cpis_tests::process::run;
use cpis_tests::scene::text;
use cpis_tests::site::{Site, SiteRules};
use cpis_tests::swtpm::{SoftwareTpm, available};

const PIN: &str = "804127";

fn missing() -> bool {
    if !available() {
        eprintln!("NOT RUN: the TPM: there is no program swtpm here (Debian: apt-get install swtpm)");
    }
    !available()
}

fn sources(tpm: &SoftwareTpm) -> Sources {
    Sources { choice: Choice::Tpm, tpm: Some(Address::try_from(tpm.address()).unwrap()), credentials: None }
}

fn vault() -> OpeningKey {
    OpeningKey::from_seed([0x5e; 32])
}

/// Enrols a directory's secret and makes its keyslot file.
fn enrol(directory: &Path, tpm: &SoftwareTpm) {
    std::fs::create_dir_all(directory).unwrap();
    let chosen = Chosen::find(&sources(tpm)).unwrap();
    let secret = DeviceSecret::create(directory, chosen, 7, &mut OsRandom).unwrap();
    let contents = Contents::new(Signer::from_seed([0xd1; 32]), vault().sealing_key());
    drop(Keyslot::create(&directory.join("keyslot"), &secret, &contents).unwrap());
}

fn open(directory: &Path, sources: &Sources) -> Result<Keyslot, DeviceSecretError> {
    let secret = DeviceSecret::open(directory, sources)?;
    Ok(Keyslot::open(&directory.join("keyslot"), &secret).unwrap())
}

fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .map(|path| (path.file_name().unwrap().to_string_lossy().into(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

fn slot(name: &str) -> NewSlot {
    NewSlot { practitioner: Text::lossy(name), cost: MemoryHard::SYNTHETIC, synthetic: true, created_ms: 1 }
}

#[test]
fn opens_after_a_power_cycle_and_with_no_other_tpm() {
    if missing() {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let device = work.path().join("device");
    let mut tpm = SoftwareTpm::start(&work.path().join("chip")).unwrap();
    enrol(&device, &tpm);
    let names: Vec<_> = files(&device).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["device.provider", "device.tpm", "keyslot"], "no secret lies in a file");
    for _ in 0..20 {
        // More often than the chip has room for keys and sessions: nothing is left in it.
        open(&device, &sources(&tpm)).unwrap();
    }
    tpm.power_cycle().unwrap();
    open(&device, &sources(&tpm)).unwrap();
    let before = files(&device);
    // Another chip: the disk was copied or moved.
    let other = SoftwareTpm::start(&work.path().join("another chip")).unwrap();
    let refused = open(&device, &sources(&other)).unwrap_err();
    assert!(matches!(refused, DeviceSecretError::Tpm(TpmError::Another)), "{refused:?}");
    assert!(refused.to_string().contains("not the TPM that this device was enrolled with"), "{refused}");
    // No chip at all.
    tpm.power_off().unwrap();
    let refused = open(&device, &sources(&tpm)).unwrap_err();
    assert!(matches!(refused, DeviceSecretError::Tpm(TpmError::Absent(_))), "{refused:?}");
    assert_eq!(files(&device), before, "nothing was changed or made anew");
    tpm.power_cycle().unwrap();
    open(&device, &sources(&tpm)).unwrap();
    // Another device's blob from the same chip.
    let second = work.path().join("second");
    enrol(&second, &tpm);
    std::fs::copy(second.join("device.tpm"), device.join("device.tpm")).unwrap();
    let refused = open(&device, &sources(&tpm)).unwrap_err();
    assert!(matches!(refused, DeviceSecretError::Replaced(Provider::Tpm)), "{refused:?}");
    tpm.clear().unwrap();
    let refused = open(&second, &sources(&tpm)).unwrap_err();
    assert!(matches!(refused, DeviceSecretError::Tpm(TpmError::Another)), "{refused:?}");
}

#[test]
fn a_pin_is_accepted_only_where_the_chip_really_counts() {
    if missing() {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let device = work.path().join("device");
    let tpm = SoftwareTpm::start(&work.path().join("chip")).unwrap();
    enrol(&device, &tpm);
    let mut keyslot = open(&device, &sources(&tpm)).unwrap();
    let refused = keyslot.add_vault_slot(slot("ann"), PIN, &vault()).unwrap_err();
    let problem = PassphraseProblem::DigitsOnly(Uncounted::NoLockoutPassword);
    assert!(matches!(refused, KeyslotError::Passphrase(found) if found == problem), "{refused:?}");
    tpm.set_lockout_password(b"kept in the operator's safe").unwrap();
    keyslot.add_vault_slot(slot("ann"), PIN, &vault()).unwrap();
    keyslot.add_vault_slot(slot("bob"), "four loose words here", &vault()).unwrap();
    assert_eq!(keyslot.open_vault(Text::lossy("ann"), PIN, || 100_000_000).unwrap().expose(), vault().expose());
    assert!(keyslot.open_vault(Text::lossy("bob"), "four loose words here", || 100_000_000).is_ok());
}

/// The point of counting in hardware: a keyslot file put back after each attempt brings back our count, not the chip's.
#[test]
fn wrong_pins_lock_the_chip_though_the_keyslot_file_is_put_back_each_time() {
    if missing() {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let device = work.path().join("device");
    let mut tpm = SoftwareTpm::start(&work.path().join("chip")).unwrap();
    enrol(&device, &tpm);
    tpm.set_lockout_password(b"kept in the operator's safe").unwrap();
    let mut keyslot = open(&device, &sources(&tpm)).unwrap();
    keyslot.add_vault_slot(slot("ann"), PIN, &vault()).unwrap();
    keyslot.add_vault_slot(slot("bob"), "four loose words here", &vault()).unwrap();
    drop(keyslot);
    let backup = std::fs::read(device.join("keyslot")).unwrap();
    let (mut tried, mut locked) = (0, false);
    while tried < 20 && !locked {
        std::fs::write(device.join("keyslot"), &backup).unwrap();
        let mut keyslot = open(&device, &sources(&tpm)).unwrap();
        assert_eq!(keyslot.vault_slots()[0].attempts, 0, "our own count was put back");
        match keyslot.open_vault(Text::lossy("ann"), "690335", || 100_000_000) {
            Err(VaultError::WrongPassphrase { attempts: 1 }) => tried += 1,
            Err(VaultError::LockedOut) => locked = true,
            other => panic!("{other:?}"),
        }
    }
    assert!(locked && tried == 3, "the chip allowed {tried} attempts");
    // Locked is locked: for the right PIN too, after a power cycle too; and it costs no attempt of ours.
    tpm.power_cycle().unwrap();
    let mut keyslot = open(&device, &sources(&tpm)).unwrap();
    assert!(matches!(keyslot.open_vault(Text::lossy("ann"), PIN, || 100_000_000), Err(VaultError::LockedOut)));
    assert_eq!(keyslot.vault_slots()[0].attempts, 0);
    // The device itself starts, and a passphrase opens.
    assert!(keyslot.open_vault(Text::lossy("bob"), "four loose words here", || 100_000_000).is_ok());
}

#[test]
fn the_agent_enrols_and_runs_with_a_tpm_and_doctor_names_it() {
    if missing() {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let mut tpm = SoftwareTpm::start(&work.path().join("chip")).unwrap();
    let site = Site::make(&work.path().join("central"), &["Leeds"], 50).unwrap();
    site.add_site("crew", &SiteRules::default()).unwrap();
    site.add_practitioner(&["crew"]).unwrap();
    let _server = site.serve().unwrap();
    let directory = work.path().join("crew");
    std::fs::create_dir_all(directory.join("agent")).unwrap();
    let toml = format!("device_secret = \"tpm\"\ntpm = \"{}\"\n", tpm.address());
    std::fs::set_permissions(directory.join("agent"), PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(directory.join("agent/agent.toml"), toml).unwrap();
    let crew = site.enrol(&directory, "crew").unwrap();
    assert!(!crew.directory().join("device.secret").exists());
    tpm.power_cycle().unwrap();
    let running = crew.start().unwrap();
    crew.unlock().unwrap();
    crew.sync().unwrap();
    let status = crew.status().unwrap();
    assert_eq!(text(&status, "/device_secret/provider"), "tpm");
    assert!(status["device_secret"]["since_ms"].as_i64().unwrap() > 1_700_000_000_000);
    let doctor = run(crew.command().unwrap().arg("doctor")).unwrap();
    assert!(doctor.contains("device secret: TPM 2.0, since"), "{doctor}");
    assert!(doctor.contains("no lockout password"), "{doctor}");
    assert!(running.stop().unwrap().success());
    // Without its TPM it does not start, says why, and changes nothing.
    let before = std::fs::read(crew.directory().join("keyslot")).unwrap();
    tpm.power_off().unwrap();
    let output = crew.output(&["status"]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("there is no TPM at tcp:127.0.0.1"), "{said}");
    assert_eq!(std::fs::read(crew.directory().join("keyslot")).unwrap(), before);
}
