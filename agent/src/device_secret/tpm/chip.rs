//! One conversation with a TPM: its storage key made, a session salted to it, and the few commands in it.
//! It must not leave a key or a session in the TPM when it ends, however it ends.

use std::time::Duration;

use cpis_protocol::digest::sha256;
use zeroize::Zeroizing;

use super::address::Address;
use super::error::{Meaning, TpmError, meaning};
use super::link::Link;
use super::session::{DECRYPT, ENCRYPT, Salt, Session};
use super::wire::{
    AES, CFB, CREATE, CREATE_PRIMARY, Command, FLUSH_CONTEXT, GET_CAPABILITY, HEADER_BYTES, LOAD, NO_HANDLE, OWNER,
    PASSWORD_SESSION, Reader, SHA256, START_AUTH_SESSION, TAG_PLAIN, TAG_SESSIONS, UNSEAL, Writer, sealed_object,
    storage_key, storage_point,
};

/// A busy TPM is asked again so often, 50 ms apart.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);
/// `TPM_CAP_TPM_PROPERTIES`.
const PROPERTIES: u32 = 6;

/// A sealed object as the TPM hands it out: its public area, and its sensitive area encrypted to the storage key.
pub(super) struct Object {
    pub(super) public: Vec<u8>,
    pub(super) private: Vec<u8>,
}

/// An object that is in the TPM.
#[derive(Clone)]
struct Loaded {
    handle: u32,
    name: Vec<u8>,
}

fn name(public: &[u8]) -> Vec<u8> {
    [&SHA256.to_be_bytes()[..], &sha256(public)].concat()
}

/// An open TPM.
pub(super) struct Chip {
    link: Link,
    /// What must be flushed at the end.
    handles: Vec<u32>,
}

/// An open TPM with its storage key and a session.
pub(super) struct Conversation {
    chip: Chip,
    session: Session,
    parent: Loaded,
}

impl Drop for Chip {
    fn drop(&mut self) {
        for handle in std::mem::take(&mut self.handles).into_iter().rev() {
            if let Err(error) = self.plain(TAG_PLAIN, FLUSH_CONTEXT, &handle.to_be_bytes()) {
                tracing::warn!(%error, "a key was left in the TPM");
            }
        }
    }
}

impl Chip {
    pub(super) fn open(address: &Address) -> Result<Self, TpmError> {
        Ok(Self { link: Link::open(address)?, handles: Vec::new() })
    }

    /// Sends a command and gives what follows the header of a good reply.
    fn plain(&mut self, tag: u16, command: Command, body: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let length = (HEADER_BYTES + body.len()) as u32;
        let bytes = Writer::new().u16(tag).u32(length).u32(command.0).raw(body).done();
        for _ in 0..TRIES {
            let reply = self.link.exchange(&bytes)?;
            let mut header = Reader(&reply);
            let (Some(_), Some(_), Some(code)) = (header.u16(), header.u32(), header.u32()) else {
                return Err(self.link.malformed());
            };
            match meaning(code) {
                Meaning::Success => return Ok(Zeroizing::new(header.0.to_vec())),
                Meaning::TryAgain => std::thread::sleep(PAUSE),
                Meaning::WrongAuthorisation => return Err(TpmError::WrongAuthorisation),
                Meaning::LockedOut => return Err(TpmError::LockedOut),
                Meaning::Integrity => return Err(TpmError::ObjectDamaged),
                Meaning::NotStarted => return Err(TpmError::NotStarted),
                Meaning::NoRoom => return Err(TpmError::NoRoom),
                Meaning::Other => return Err(TpmError::Refused(command.1, code)),
            }
        }
        Err(TpmError::Refused(command.1, 0x922))
    }

    /// A number of properties, from the first on.
    pub(super) fn properties(&mut self, first: u32, count: u32) -> Result<Vec<(u32, u32)>, TpmError> {
        let body = Writer::new().u32(PROPERTIES).u32(first).u32(count).done();
        let reply = self.plain(TAG_PLAIN, GET_CAPABILITY, &body)?;
        let mut reader = Reader(&reply);
        let mut read = || {
            let (_more, capability, found) = (reader.u8()?, reader.u32()?, reader.u32()?);
            if capability != PROPERTIES || found > count {
                return None;
            }
            (0..found).map(|_| Some((reader.u32()?, reader.u32()?))).collect()
        };
        read().ok_or_else(|| self.link.malformed())
    }

    /// Makes the storage key in the owner hierarchy; gives its handle and public area.
    pub(super) fn storage_key(&mut self) -> Result<(u32, Vec<u8>), TpmError> {
        let body = Writer::new().u32(OWNER);
        // An empty password for the owner hierarchy.
        let body = body.u32(9).u32(PASSWORD_SESSION).sized(&[]).u8(1).sized(&[]);
        // No authorisation, no data; the template; no outside information, no PCRs.
        let body = body.u16(4).sized(&[]).sized(&[]).sized(&storage_key()).sized(&[]).u32(0).done();
        let reply = self.plain(TAG_SESSIONS, CREATE_PRIMARY, &body).map_err(|error| match error {
            TpmError::WrongAuthorisation => TpmError::OwnerPassword,
            other => other,
        })?;
        let mut reader = Reader(&reply);
        let handle = reader.u32().ok_or_else(|| self.link.malformed())?;
        self.handles.push(handle);
        let public = reader.u32().and_then(|_| reader.sized()).ok_or_else(|| self.link.malformed())?;
        Ok((handle, public.to_vec()))
    }

    /// Makes the storage key, compares it with the `recorded` one, and starts a session salted to the recorded one.
    ///
    /// # Errors
    /// [`TpmError::Another`] when it is another key.
    pub(super) fn converse(mut self, recorded: &[u8]) -> Result<Conversation, TpmError> {
        let (handle, public) = self.storage_key()?;
        if public != recorded {
            return Err(TpmError::Another);
        }
        let point = storage_point(recorded).ok_or(TpmError::Another)?;
        let (salt, nonce) = (Salt::to_key(&point)?, Session::nonce()?);
        let body = Writer::new().u32(handle).u32(NO_HANDLE).sized(&nonce).sized(&salt.sent);
        let body = body.u8(0).u16(AES).u16(128).u16(CFB).u16(SHA256).done();
        let reply = self.plain(TAG_PLAIN, START_AUTH_SESSION, &body)?;
        let mut reader = Reader(&reply);
        let (session, nonce_tpm) = reader.u32().zip(reader.sized()).ok_or_else(|| self.link.malformed())?;
        self.handles.push(session);
        let session = Session::started(session, &salt, nonce, nonce_tpm);
        Ok(Conversation { chip: self, session, parent: Loaded { handle, name: name(&public) } })
    }
}

impl Conversation {
    /// Runs a command on one object in the session; gives the handles and the parameters of the reply.
    fn run(
        &mut self,
        command: Command,
        object: &Loaded,
        authorisation: &[u8],
        mut parameters: Zeroizing<Vec<u8>>,
        protect: u8,
    ) -> Result<(Option<u32>, Zeroizing<Vec<u8>>), TpmError> {
        let area = self.session.authorise(command, &[&object.name], authorisation, &mut parameters, protect)?;
        let body = Writer::new().u32(object.handle).u32(area.len() as u32).raw(&area).raw(&parameters).done();
        let reply = self.chip.plain(TAG_SESSIONS, command, &body)?;
        let malformed = || self.chip.link.malformed();
        let mut reader = Reader(&reply);
        let handle = if command.0 == LOAD.0 { Some(reader.u32().ok_or_else(malformed)?) } else { None };
        // Before anything can fail: what was loaded is flushed at the end.
        self.chip.handles.extend(handle);
        let length = reader.u32().and_then(|length| usize::try_from(length).ok());
        let taken = length.and_then(|length| reader.take(length)).ok_or_else(malformed)?;
        let mut parameters = Zeroizing::new(taken.to_vec());
        let area = reader.sized().zip(reader.u8()).zip(reader.sized());
        let ((nonce, attributes), mac) = area.filter(|_| reader.0.is_empty()).ok_or_else(malformed)?;
        self.session.accept(command, authorisation, &mut parameters, (nonce, attributes, mac), protect)?;
        Ok((handle, parameters))
    }

    /// Seals `content` under the storage key, to be had again with `authorisation`.
    pub(super) fn seal(&mut self, content: &[u8], authorisation: &[u8], counted: bool) -> Result<Object, TpmError> {
        let sensitive = Writer::new().sized(authorisation).sized(content).done();
        let parameters = Writer::new().sized(&sensitive).sized(&sealed_object(counted)).sized(&[]).u32(0).done();
        let parent = self.parent.clone();
        let (_, reply) = self.run(CREATE, &parent, &[], parameters, DECRYPT)?;
        let mut reader = Reader(&reply);
        let (private, public) = reader.sized().zip(reader.sized()).ok_or_else(|| self.chip.link.malformed())?;
        Ok(Object { public: public.to_vec(), private: private.to_vec() })
    }

    /// Unseals an object.
    pub(super) fn unseal(&mut self, object: &Object, authorisation: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let parameters = Writer::new().sized(&object.private).sized(&object.public).done();
        let parent = self.parent.clone();
        let (handle, _) = self.run(LOAD, &parent, &[], parameters, DECRYPT)?;
        let handle = handle.ok_or_else(|| self.chip.link.malformed())?;
        let loaded = Loaded { handle, name: name(&object.public) };
        let nothing = Zeroizing::new(Vec::new());
        let (_, reply) = self.run(UNSEAL, &loaded, authorisation, nothing, ENCRYPT)?;
        let content = Reader(&reply).sized().ok_or_else(|| self.chip.link.malformed())?;
        Ok(Zeroizing::new(content.to_vec()))
    }
}
