//! The bytes' way to a TPM and back: one command, one reply, on a character device or a socket.
//! It must not know what the bytes mean, nor hang for ever on a socket.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use zeroize::Zeroizing;

use super::address::Address;
use super::error::TpmError;
use super::wire::{BYTES_MAX, HEADER_BYTES};

/// Making a key takes seconds on a slow chip; a software TPM that needs longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a TPM.
pub(super) struct Link {
    address: Address,
    stream: Stream,
}

enum Stream {
    Device(File),
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Link {
    pub(super) fn open(address: &Address) -> Result<Self, TpmError> {
        let stream = match address {
            Address::Device(path) => OpenOptions::new().read(true).write(true).open(path).map(Stream::Device),
            Address::Unix(path) => UnixStream::connect(path).and_then(|stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(Stream::Unix(stream))
            }),
            Address::Tcp(socket) => TcpStream::connect(socket).and_then(|stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }),
        };
        let stream = stream.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => TpmError::Absent(address.clone()),
            // A character device without a driver behind it.
            _ if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
                TpmError::Absent(address.clone())
            }
            io::ErrorKind::PermissionDenied => TpmError::NotAllowed(address.clone()),
            _ => TpmError::Io(address.clone(), error),
        })?;
        Ok(Self { address: address.clone(), stream })
    }

    /// What a reply that is none is reported as.
    pub(super) fn malformed(&self) -> TpmError {
        TpmError::Malformed(self.address.clone())
    }

    /// Sends a whole command and reads its whole reply.
    pub(super) fn exchange(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let mut reply = Zeroizing::new(vec![0; BYTES_MAX]);
        let length = match &mut self.stream {
            Stream::Device(file) => exchange(file, command, &mut reply),
            Stream::Unix(stream) => exchange(stream, command, &mut reply),
            Stream::Tcp(stream) => exchange(stream, command, &mut reply),
        };
        match length.map_err(|error| TpmError::Io(self.address.clone(), error))? {
            Some(length) => {
                reply.truncate(length);
                Ok(reply)
            }
            None => Err(self.malformed()),
        }
    }
}

/// The length of the reply; `None` when it is none, or longer than any.
fn exchange(stream: &mut (impl Read + Write), command: &[u8], reply: &mut [u8]) -> io::Result<Option<usize>> {
    // In one piece: the device takes each write as a whole command.
    stream.write_all(command)?;
    let mut got = 0;
    loop {
        let read = stream.read(reply.get_mut(got..).unwrap_or_default())?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        got += read;
        let Some([_, _, a, b, c, d, ..]) = reply.get(..got) else { continue };
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        if !(HEADER_BYTES..=reply.len()).contains(&length) || got > length {
            return Ok(None);
        }
        if got == length {
            return Ok(Some(length));
        }
    }
}
