//! The keyslot file under torn writes, wrong secrets and wrong passphrases.

use std::io::Write as _;

use cpis_protocol::audit::ErasureCause;
use cpis_protocol::id::{FeedId, PractitionerId};
use cpis_protocol::seal::{MemoryHard, OpeningKey};
use cpis_protocol::sign::Signer;
use cpis_protocol::text::Text;
use tempfile::TempDir;

use super::*;

struct Device {
    dir: TempDir,
    secret: DeviceSecret,
}

fn feed() -> FeedId {
    Text::lossy("E09000007")
}

fn person(name: &str) -> PractitionerId {
    Text::lossy(name)
}

fn vault() -> OpeningKey {
    OpeningKey::from_seed([0x5e; 32])
}

/// Boot time that goes on by more than any delay at each look.
fn later() -> u64 {
    static NOW: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NOW.fetch_add(1000 * DELAY_MAX_S, std::sync::atomic::Ordering::Relaxed)
}

fn new_slot(name: &str) -> NewSlot {
    NewSlot { practitioner: person(name), cost: MemoryHard::SYNTHETIC, synthetic: true, created_ms: 1 }
}

impl Device {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let secret = DeviceSecret::create_file(&dir.path().join("device.secret"), &mut OsRandom).unwrap();
        let contents = Contents::new(Signer::from_seed([0xd1; 32]), vault().sealing_key());
        drop(Keyslot::create(&dir.path().join("keyslot"), &secret, &contents).unwrap());
        Self { dir, secret }
    }
    fn path(&self) -> PathBuf {
        self.dir.path().join("keyslot")
    }
    fn open(&self) -> Keyslot {
        Keyslot::open(&self.path(), &self.secret).unwrap()
    }
    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }
    /// In place, as the keyslot itself writes.
    fn put(&self, bytes: &[u8]) {
        let mut file = std::fs::OpenOptions::new().write(true).open(self.path()).unwrap();
        file.write_all(bytes).unwrap();
    }
    /// What anybody with the device secret can read in either slot, whole or not.
    fn holds(&self, needle: &[u8]) -> bool {
        let kek = self.secret.derive(KEK_DOMAIN);
        let bytes = self.bytes();
        bytes.chunks(SLOT_BYTES).any(|slot| {
            let body = format::open(&kek, slot).unwrap().body;
            body.windows(needle.len()).any(|window| window == needle)
        })
    }
}

#[test]
fn contents_survive_and_others_are_refused() {
    let device = Device::new();
    let mut keyslot = device.open();
    assert!(matches!(Keyslot::open(&device.path(), &device.secret), Err(KeyslotError::InUse(_))));
    keyslot
        .update(|contents| {
            contents.certificate = vec![1, 2, 3];
            contents.set_local_key(feed(), 4, Key::from_bytes([0xaa; 32]))
        })
        .unwrap();
    let failed = keyslot.update(|contents| {
        contents.certificate.clear();
        Err::<(), _>(KeyslotError::Full)
    });
    assert!(matches!(failed, Err(KeyslotError::Full)));
    assert!(matches!(
        keyslot.update(|contents| {
            contents.grant = vec![0; 126_900];
            Ok(())
        }),
        Err(KeyslotError::Full)
    ));
    assert_eq!(keyslot.contents().certificate, [1, 2, 3]);
    drop(keyslot);
    let keyslot = device.open();
    assert_eq!((keyslot.generation(), keyslot.fell_back()), (3, false));
    assert_eq!(keyslot.contents().certificate, [1, 2, 3]);
    assert_eq!(keyslot.contents().local_key(feed(), 4).unwrap().expose(), &[0xaa; 32]);
    assert_eq!(keyslot.contents().signer.public_key(), Signer::from_seed([0xd1; 32]).public_key());
    assert_eq!(device.bytes().len(), FILE_BYTES);
    let contents = Contents::new(Signer::from_seed([0; 32]), [0; 32]);
    assert!(matches!(Keyslot::create(&device.path(), &device.secret, &contents), Err(KeyslotError::Exists(_))));
    let nowhere = Keyslot::open(&device.dir.path().join("nowhere"), &device.secret);
    assert!(matches!(nowhere, Err(KeyslotError::Missing(_))));
}

#[test]
fn the_wrong_device_secret_opens_nothing() {
    let (device, other) = (Device::new(), Device::new());
    assert!(matches!(Keyslot::open(&device.path(), &other.secret), Err(KeyslotError::WrongSecret)));
    let mut short = device.bytes();
    short.truncate(FILE_BYTES - 1);
    std::fs::write(device.path(), &short).unwrap();
    assert_eq!(device.open().generation(), 1);
    std::fs::write(device.path(), vec![0; FILE_BYTES]).unwrap();
    assert!(matches!(Keyslot::open(&device.path(), &device.secret), Err(KeyslotError::Damaged)));
    std::fs::write(device.path(), vec![0; FILE_BYTES + 1]).unwrap();
    assert!(matches!(Keyslot::open(&device.path(), &device.secret), Err(KeyslotError::Damaged)));
}

#[test]
fn a_torn_write_at_every_sector_keeps_the_old_generation() {
    let device = Device::new();
    let old = device.bytes();
    device
        .open()
        .update(|c| {
            c.certificate = vec![9];
            Ok(())
        })
        .unwrap();
    let new = device.bytes();
    assert_eq!(old[SLOT_BYTES..], new[SLOT_BYTES..], "the newer slot is not touched");
    for sectors in 0..=SLOT_BYTES / 512 {
        let at = sectors * 512;
        let forwards = [&new[..at], &old[at..]].concat();
        let backwards = [&old[..at], &new[at..]].concat();
        for (torn, whole) in [(forwards, at == SLOT_BYTES), (backwards, at == 0)] {
            device.put(&torn);
            let keyslot = device.open();
            let expected = if whole { (3, 1) } else { (2, 0) };
            assert_eq!((keyslot.generation(), keyslot.contents().certificate.len()), expected, "at {at}");
        }
    }
    // And goes on from there.
    device.put(&[&new[..512], &old[512..]].concat());
    let mut keyslot = device.open();
    assert!(keyslot.fell_back());
    keyslot
        .update(|c| {
            c.certificate = vec![7; 7];
            Ok(())
        })
        .unwrap();
    drop(keyslot);
    let keyslot = device.open();
    assert_eq!((keyslot.generation(), keyslot.contents().certificate.len(), keyslot.fell_back()), (3, 7, false));
}

#[test]
fn destroy_leaves_no_copy_and_a_cut_between_is_finished() {
    let device = Device::new();
    let mut keyslot = device.open();
    let secret = [0xc3; 32];
    for _ in 0..2 {
        keyslot.update(|c| c.set_local_key(feed(), 1, Key::from_bytes(secret))).unwrap();
    }
    keyslot.update(|c| Ok(c.retain_local_keys(|_, _| false))).unwrap();
    assert!(device.holds(&secret), "an update alone leaves it in the other slot");
    keyslot.update(|c| c.set_local_key(feed(), 1, Key::from_bytes(secret))).unwrap();
    keyslot.destroy(|c| Ok(c.retain_local_keys(|_, _| false))).unwrap();
    assert!(!device.holds(&secret));
    // Cut between the two writes.
    keyslot.update(|c| c.set_local_key(feed(), 2, Key::from_bytes(secret))).unwrap();
    let (next, _) = keyslot.changed(|c| Ok(c.retain_local_keys(|_, _| false))).unwrap();
    keyslot.write(next, FLAG_SCRUB).unwrap();
    drop(keyslot);
    assert!(device.holds(&secret));
    let marked = device.bytes();
    drop(device.open());
    assert!(!device.holds(&secret));
    // Cut within the second write: the marked slot is still there, so it is finished as well.
    let done = device.bytes();
    let other = if marked[..SLOT_BYTES] == done[..SLOT_BYTES] { SLOT_BYTES } else { 0 };
    let mut torn = marked.clone();
    torn[other..other + 1024].copy_from_slice(&done[other..other + 1024]);
    device.put(&torn);
    let keyslot = device.open();
    assert!(!device.holds(&secret));
    assert_eq!(keyslot.contents().local_keys().count(), 0);
}

fn erasure(cause: ErasureCause) -> Erasure {
    Erasure {
        cause,
        records: 40,
        event_ms: 1,
        anchor_ms: 1,
        gseq: 7,
        head: [0; 32],
        site: feed(),
        scope: feed(),
        lease_until_ms: 1,
        announced: None,
        receipted: false,
    }
}

/// Before any receipt: a journal that takes none must not leave the keys of the copy before in the other slot.
#[test]
fn erasing_leaves_no_key_in_either_copy() {
    for updates in 1..=3 {
        let device = Device::new();
        let mut keyslot = device.open();
        keyslot.add_vault_slot(new_slot("ann"), "four loose words here", &vault()).unwrap();
        let wrapped = keyslot.contents().slot(person("ann")).unwrap().wrapped.clone();
        let (local, grant, previous) = ([0xc3; 32], vec![0xc4; 300], vec![0xc5; 300]);
        for _ in 0..updates {
            let put = |c: &mut Contents| {
                (c.grant, c.previous_grant) = (grant.clone(), previous.clone());
                c.set_local_key(feed(), 1, Key::from_bytes(local))
            };
            keyslot.update(put).unwrap();
        }
        let secrets = [&wrapped[..], &local, &grant, &previous];
        assert!(secrets.iter().all(|secret| device.holds(secret)));
        assert!(!keyslot.erase(&erasure(ErasureCause::LeaseExpired), |_| false).unwrap(), "another grant has come");
        assert!(secrets.iter().all(|secret| device.holds(secret)));
        assert!(keyslot.erase(&erasure(ErasureCause::LeaseExpired), |c| c.grant == grant).unwrap());
        assert!(!secrets.iter().any(|secret| device.holds(secret)), "after {updates} updates");
        // What was noted first stays, and is the same after a restart.
        assert!(keyslot.erase(&erasure(ErasureCause::Withdrawn), |_| false).unwrap());
        drop(keyslot);
        let keyslot = device.open();
        assert_eq!(keyslot.contents().erasure, Some(erasure(ErasureCause::LeaseExpired)));
        assert_eq!((keyslot.contents().local_keys().count(), keyslot.vault_slots().len()), (0, 0));
    }
}

#[test]
fn the_vault_opens_with_its_passphrase_only() {
    let device = Device::new();
    let mut keyslot = device.open();
    keyslot.add_vault_slot(new_slot("ann"), "four loose words here", &vault()).unwrap();
    keyslot.add_vault_slot(new_slot("bob"), "quite another passphrase", &vault()).unwrap();
    let opened = keyslot.open_vault(person("ann"), "four loose words here", later).unwrap();
    assert_eq!(opened.expose(), vault().expose());
    let wrong = keyslot.open_vault(person("ann"), "quite another passphrase", later);
    assert!(matches!(wrong, Err(VaultError::WrongPassphrase { attempts: 1 })));
    assert!(matches!(keyslot.open_vault(person("eve"), "x", later), Err(VaultError::NoSlot)));
    // Weak, foreign, too cheap.
    let add =
        |keyslot: &mut Keyslot, slot, passphrase, vault: &OpeningKey| keyslot.add_vault_slot(slot, passphrase, vault);
    assert!(matches!(add(&mut keyslot, new_slot("c"), "123456", &vault()), Err(KeyslotError::Passphrase(_))));
    let foreign = OpeningKey::from_seed([1; 32]);
    let refused = add(&mut keyslot, new_slot("c"), "four loose words here", &foreign);
    assert!(matches!(refused, Err(KeyslotError::AnotherVault)));
    let cheap = NewSlot { synthetic: false, ..new_slot("c") };
    let refused = add(&mut keyslot, cheap, "four loose words here", &vault());
    assert!(matches!(refused, Err(KeyslotError::Refused(Refusal::BelowFloor))));
    for n in 2..VAULT_SLOTS_MAX {
        add(&mut keyslot, new_slot(&format!("p{n}")), "four loose words here", &vault()).unwrap();
    }
    let refused = add(&mut keyslot, new_slot("one more"), "four loose words here", &vault());
    assert!(matches!(refused, Err(KeyslotError::Full)));
    // The wrapped seed is of no use on another device, nor in another slot.
    assert!(!device.holds(vault().expose()), "the seed is never written bare");
    // A changed passphrase takes the old one away from both slots.
    let old = keyslot.contents().slot(person("ann")).unwrap().wrapped.clone();
    assert!(device.holds(&old));
    add(&mut keyslot, new_slot("ann"), "five other loose words here", &vault()).unwrap();
    assert!(!device.holds(&old));
    assert!(keyslot.open_vault(person("ann"), "five other loose words here", later).is_ok());
    assert!(keyslot.remove_vault_slot(person("bob")).unwrap());
    assert!(!keyslot.remove_vault_slot(person("bob")).unwrap());
    assert!(keyslot.erase(&erasure(ErasureCause::Withdrawn), |_| true).unwrap());
    assert!(keyslot.vault_slots().is_empty());
}

#[test]
fn attempts_are_counted_before_and_the_tenth_closes() {
    let device = Device::new();
    let mut keyslot = device.open();
    keyslot.add_vault_slot(new_slot("ann"), "four loose words here", &vault()).unwrap();
    let wrapped = keyslot.contents().slot(person("ann")).unwrap().wrapped.clone();
    for attempts in 1..ATTEMPTS_MAX {
        let wrong = keyslot.open_vault(person("ann"), "wrong", later);
        assert!(matches!(wrong, Err(VaultError::WrongPassphrase { attempts: n }) if n == attempts));
        drop(keyslot);
        keyslot = device.open();
        assert_eq!(keyslot.vault_slots().first().map(|s| (s.attempts, s.closed)), Some((attempts, false)));
    }
    let nine_wrong = device.bytes();
    assert!(keyslot.open_vault(person("ann"), "four loose words here", later).is_ok());
    assert_eq!(keyslot.vault_slots().first().map(|s| s.attempts), Some(0));
    drop(keyslot);
    device.put(&nine_wrong);
    let mut keyslot = device.open();
    assert!(matches!(keyslot.open_vault(person("ann"), "wrong", later), Err(VaultError::JustClosed)));
    assert!(!device.holds(&wrapped));
    assert!(matches!(keyslot.open_vault(person("ann"), "four loose words here", later), Err(VaultError::Closed)));
    drop(keyslot);
    // The power goes after the tenth attempt was counted and before it was made: no eleventh.
    device.put(&nine_wrong);
    let mut keyslot = device.open();
    keyslot
        .update(|c| {
            c.slot_mut(person("ann")).unwrap().attempts = ATTEMPTS_MAX;
            Ok(())
        })
        .unwrap();
    drop(keyslot);
    let mut keyslot = device.open();
    assert!(matches!(keyslot.open_vault(person("ann"), "four loose words here", later), Err(VaultError::JustClosed)));
    assert!(!device.holds(&wrapped));
    // A colleague with an open vault sets it up again.
    keyslot.add_vault_slot(new_slot("ann"), "five other loose words here", &vault()).unwrap();
    assert!(keyslot.open_vault(person("ann"), "five other loose words here", later).is_ok());
}

#[test]
fn each_wrong_attempt_slows_the_next_one_and_a_restart_begins_the_delay_anew() {
    let device = Device::new();
    let mut keyslot = device.open();
    keyslot.add_vault_slot(new_slot("ann"), "four loose words here", &vault()).unwrap();
    keyslot.add_vault_slot(new_slot("bob"), "quite another passphrase", &vault()).unwrap();
    let mut now = 0;
    for (attempts, delay_s) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 60), (8, 60)] {
        let wrong = keyslot.open_vault(person("ann"), "wrong", || now);
        assert!(matches!(wrong, Err(VaultError::WrongPassphrase { attempts: n }) if n == attempts));
        // Even the right one, within the delay, is refused, and not counted.
        let early = keyslot.open_vault(person("ann"), "four loose words here", || now + delay_s * 1000 - 1);
        assert!(matches!(early, Err(VaultError::Wait { wait_s: 1 })), "{early:?}");
        assert_eq!(keyslot.vault_slots().first().map(|slot| slot.attempts), Some(attempts));
        // A colleague's slot is not slowed.
        assert!(keyslot.open_vault(person("bob"), "quite another passphrase", || now).is_ok());
        // A restart in the middle: the whole delay, from there.
        drop(keyslot);
        keyslot = device.open();
        now += delay_s * 500;
        keyslot.begin_delays(now);
        let early = keyslot.open_vault(person("ann"), "four loose words here", || now + delay_s * 1000 - 1);
        assert!(matches!(early, Err(VaultError::Wait { wait_s: 1 })), "{early:?}");
        now += delay_s * 1000;
    }
    assert!(keyslot.open_vault(person("ann"), "four loose words here", || now).is_ok());
    assert!(matches!(
        keyslot.open_vault(person("ann"), "wrong", || now),
        Err(VaultError::WrongPassphrase { attempts: 1 })
    ));
    assert_eq!(keyslot.destroy(|c| Ok(c.retain_slots(|who| who == person("bob")))).unwrap(), 1);
    assert!(matches!(keyslot.open_vault(person("ann"), "four loose words here", later), Err(VaultError::NoSlot)));
}
