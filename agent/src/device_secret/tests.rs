//! Providers without a chip: the file, the credential, and one put in another's place.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::durable;
use crate::random::OsRandom;

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn credentials(content: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    durable::create_new(&dir.path().join(CREDENTIAL), content).unwrap();
    dir
}

fn sources(choice: Choice, credentials: Option<&tempfile::TempDir>) -> Sources {
    Sources { choice, tpm: None, credentials: credentials.map(|dir| dir.path().to_owned()) }
}

#[test]
fn created_once_and_refused_when_exposed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("device.secret");
    assert!(matches!(DeviceSecret::open_file(&path), Err(DeviceSecretError::Missing(_))));
    let made = DeviceSecret::create_file(&path, &mut OsRandom).unwrap();
    assert!(matches!(DeviceSecret::create_file(&path, &mut OsRandom), Err(DeviceSecretError::Exists(_))));
    let read = DeviceSecret::open_file(&path).unwrap();
    assert_eq!(made.derive("a").expose(), read.derive("a").expose());
    assert_ne!(made.derive("a").expose(), made.derive("b").expose());
    assert_eq!(format!("{read:?}").matches("secret]").count(), 1);
    mode(&path, 0o640);
    assert!(matches!(DeviceSecret::open_file(&path), Err(DeviceSecretError::Exposed(_))));
    std::fs::remove_file(&path).unwrap();
    durable::create_new(&path, &[1; 31]).unwrap();
    assert!(matches!(DeviceSecret::open_file(&path), Err(DeviceSecretError::Malformed(_))));
}

#[test]
fn a_file_is_recorded_and_never_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let chosen = Chosen::find(&sources(Choice::File, None)).unwrap();
    let made = DeviceSecret::create(dir.path(), chosen, 7, &mut OsRandom).unwrap();
    let open = |choice| DeviceSecret::open(dir.path(), &sources(choice, None));
    let read = open(Choice::Auto).unwrap();
    assert_eq!((read.provider(), read.since_ms()), (Provider::File, Some(7)));
    assert_eq!(made.derive("a").expose(), read.derive("a").expose());
    assert!(matches!(
        open(Choice::Tpm),
        Err(DeviceSecretError::ConfiguredOtherwise { configured: Provider::Tpm, recorded: Provider::File })
    ));
    // Another secret in its place.
    let path = dir.path().join("device.secret");
    let old = std::fs::read(&path).unwrap();
    durable::replace(&path, &[9; 32]).unwrap();
    assert!(matches!(open(Choice::Auto), Err(DeviceSecretError::Replaced(Provider::File))));
    durable::replace(&path, &old).unwrap();
    assert!(open(Choice::File).is_ok());
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(open(Choice::Auto), Err(DeviceSecretError::Missing(_))));
    assert!(!path.exists(), "nothing was made in its place");
    std::fs::remove_file(dir.path().join(RECORD)).unwrap();
    assert!(matches!(open(Choice::Auto), Err(DeviceSecretError::NoRecord(_))));
}

#[test]
fn a_credential_is_taken_and_its_loss_or_change_is_told() {
    let (dir, given) = (tempfile::tempdir().unwrap(), credentials(b"0123456789abcdef0123456789abcdeF"));
    let chosen = Chosen::find(&sources(Choice::Credential, Some(&given))).unwrap();
    let made = DeviceSecret::create(dir.path(), chosen, 7, &mut OsRandom).unwrap();
    assert!(!dir.path().join("device.secret").exists(), "the secret is not on this disk");
    let written = std::fs::read(dir.path().join(RECORD)).unwrap();
    assert!(!written.windows(32).any(|window| window == b"0123456789abcdef0123456789abcdeF"));
    let open = |given: Option<&tempfile::TempDir>| DeviceSecret::open(dir.path(), &sources(Choice::Auto, given));
    assert_eq!(open(Some(&given)).unwrap().derive("a").expose(), made.derive("a").expose());
    assert!(matches!(open(None), Err(DeviceSecretError::NoCredential)));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(open(Some(&empty)), Err(DeviceSecretError::NoCredential)));
    let other = credentials(b"fedcba9876543210fedcba9876543210");
    assert!(matches!(open(Some(&other)), Err(DeviceSecretError::Replaced(Provider::Credential))));
    for bad in [&b"too short"[..], &[7; 32], &[7; 33]] {
        let bad = credentials(bad);
        assert!(matches!(open(Some(&bad)), Err(DeviceSecretError::Malformed(_))));
    }
    mode(&given.path().join(CREDENTIAL), 0o644);
    assert!(matches!(open(Some(&given)), Err(DeviceSecretError::Exposed(_))));
    assert!(matches!(made.check_new("804127"), Err(PassphraseProblem::DigitsOnly(Uncounted::NoHardware))));
}

#[test]
fn what_is_asked_for_and_missing_is_never_replaced_by_less() {
    let absent = Address::Unix("/nonexistent/swtpm.sock".into());
    for choice in [Choice::Tpm, Choice::Auto] {
        let given = credentials(b"0123456789abcdef0123456789abcdeF");
        let sources = Sources { tpm: Some(absent.clone()), ..sources(choice, Some(&given)) };
        let refused = Chosen::find(&sources);
        assert!(matches!(refused, Err(DeviceSecretError::Tpm(TpmError::Absent(_)))), "{refused:?}");
    }
    let refused = Chosen::find(&sources(Choice::Credential, None));
    assert!(matches!(refused, Err(DeviceSecretError::NoCredential)));
    // A credential that is there and unfit stops `auto` too.
    let bad = credentials(b"too short");
    if !Path::new(DEVICE).exists() {
        let refused = Chosen::find(&sources(Choice::Auto, Some(&bad)));
        assert!(matches!(refused, Err(DeviceSecretError::Malformed(_))));
        assert_eq!(Chosen::find(&sources(Choice::Auto, None)).unwrap().provider(), Provider::File);
    }
}

/// A record that was edited to name another provider leads to an error, and to no new secret.
#[test]
fn an_edited_record_opens_nothing() {
    let (dir, given) = (tempfile::tempdir().unwrap(), credentials(b"0123456789abcdef0123456789abcdeF"));
    let chosen = Chosen::find(&sources(Choice::Credential, Some(&given))).unwrap();
    drop(DeviceSecret::create(dir.path(), chosen, 7, &mut OsRandom).unwrap());
    let record = dir.path().join(RECORD);
    let text = std::fs::read_to_string(&record).unwrap();
    let open = |provider: &str| {
        durable::replace(&record, text.replace("\"credential\"", provider).as_bytes()).unwrap();
        DeviceSecret::open(dir.path(), &sources(Choice::Auto, Some(&given))).err()
    };
    assert!(matches!(open("\"file\""), Some(DeviceSecretError::Missing(_))));
    assert!(matches!(open("\"tpm\""), Some(DeviceSecretError::Tpm(TpmError::BlobMissing(_)))));
    assert!(open("\"credential\"").is_none());
    // With a file of the thief's own beside it, the record still knows the secret.
    durable::create_new(&dir.path().join("device.secret"), &[5; 32]).unwrap();
    assert!(matches!(open("\"file\""), Some(DeviceSecretError::Replaced(Provider::File))));
}
