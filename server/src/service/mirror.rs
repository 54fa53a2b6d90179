//! What a mirror may ask for: immutable objects of its scopes, by their names.
//! It must not give one anything that can change, or that is of one device: those come from here and nowhere else.

use cpis_protocol::id::{DeviceId, ScopeId};
use cpis_protocol::message::Request;

use super::{Service, ServiceError};
use crate::mirror::{self, MirrorRow};
use crate::port::{DeviceRow, Store};

/// Somebody who may have the objects of some scopes.
pub(super) trait Asker {
    /// Those scopes.
    fn scopes(&self) -> &[ScopeId];
}

impl Asker for DeviceRow {
    fn scopes(&self) -> &[ScopeId] {
        std::slice::from_ref(&self.scope)
    }
}

impl Asker for MirrorRow {
    fn scopes(&self) -> &[ScopeId] {
        &self.scopes
    }
}

impl<S: Store> Service<S> {
    /// R282: roots are left out, of which only the server can say that there is none yet.
    pub(super) fn mirrored(&self, peer: Option<DeviceId>, request: &Request) -> Result<Vec<u8>, ServiceError> {
        let peer = peer.ok_or(ServiceError::Unauthorised)?;
        let mirror = &self.store.read(|tx| mirror::with_key(tx, peer))?.ok_or(ServiceError::Unauthorised)?;
        match *request {
            Request::Head(ref hash) => self.head(mirror, hash),
            Request::Reference(ref hash) => self.reference(hash),
            Request::Delta { feed, epoch, from, to } => self.delta(mirror, feed, epoch, from, to),
            Request::Manifest { feed, epoch, seq } => self.manifest(mirror, feed, epoch, seq),
            Request::Bounds { feed, epoch, seq } => self.bounds(mirror, feed, epoch, seq),
            Request::Chunk { feed, epoch, seq, index } => self.chunk(mirror, feed, epoch, seq, index),
            _ => Err(ServiceError::Unauthorised),
        }
    }
}
