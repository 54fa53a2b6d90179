//! The inode table: every file and directory, with its running and its durable state.
//!
//! The durable state in memory is the authority and the backing directory its mirror, brought up to date by
//! `sync_file` and `sync_dir` alone. With `strict` off, each change of a directory is synced at once. This module
//! knows nothing of faults, handles or the kernel.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use fuser::{Errno, FileAttr, FileType};

use super::attr::{self, Changes, Owner};
use super::content::Content;
use super::mirror;

/// Inode of the mount point.
const ROOT: u64 = 1;
/// Children are numbered from here, clear of the readdir positions of `.` and `..`.
const FIRST: u64 = 16;
/// A backing directory larger than this is surely not meant: all of it is held in memory.
const MAX_LOAD: u64 = 1 << 30;

type Result<T> = std::result::Result<T, Errno>;
type Entries = BTreeMap<OsString, u64>;

#[derive(Debug, Default)]
struct Dir {
    current: Entries,
    durable: Entries,
    parent: u64,
}

#[derive(Debug)]
enum Body {
    File(Content),
    Dir(Dir),
}

#[derive(Debug)]
struct Node {
    /// Size is filled in when asked for; `nlink` is 0 once the entry is gone.
    attr: FileAttr,
    body: Body,
    /// References the kernel holds.
    lookups: u64,
}

/// One entry as readdir shows it.
#[derive(Debug)]
pub(super) struct Entry {
    /// Position: the inode number, so that removals between two calls of readdir make it skip nothing.
    pub(super) at: u64,
    pub(super) ino: u64,
    pub(super) kind: FileType,
    pub(super) name: OsString,
}

/// All inodes of one mounted file system.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: HashMap<u64, Node>,
    next: u64,
    backing: PathBuf,
    strict: bool,
}

impl Tree {
    /// Reads the backing directory; all of it is durable.
    pub(super) fn load(backing: &Path, strict: bool) -> anyhow::Result<Self> {
        let mut tree = Self { nodes: HashMap::new(), next: FIRST, backing: backing.to_owned(), strict };
        let meta = fs::metadata(backing).with_context(|| format!("backing directory {}", backing.display()))?;
        tree.nodes.insert(ROOT, Node { attr: attr::stored(ROOT, &meta), body: Body::Dir(Dir::default()), lookups: 1 });
        let mut room = MAX_LOAD;
        tree.load_dir(ROOT, backing, &mut room)?;
        Ok(tree)
    }

    fn load_dir(&mut self, parent: u64, path: &Path, room: &mut u64) -> anyhow::Result<()> {
        for entry in fs::read_dir(path).with_context(|| format!("reading {}", path.display()))? {
            let (entry, ino) = (entry?, self.fresh());
            let (path, meta) = (entry.path(), entry.metadata()?);
            let body = if meta.is_dir() {
                Body::Dir(Dir { parent, ..Dir::default() })
            } else if meta.is_file() {
                *room = room.checked_sub(meta.len()).context("more than 1 GiB to hold in memory")?;
                Body::File(Content::stored(fs::read(&path)?))
            } else {
                bail!("{} is neither a plain file nor a directory", path.display());
            };
            self.nodes.insert(ino, Node { attr: attr::stored(ino, &meta), body, lookups: 0 });
            if let Ok(dir) = self.dir_mut(parent) {
                dir.current.insert(entry.file_name(), ino);
                dir.durable.insert(entry.file_name(), ino);
            }
            if meta.is_dir() {
                self.load_dir(ino, &path, room)?;
            }
        }
        Ok(())
    }

    /// Attributes as the running system sees them.
    pub(super) fn attr(&self, ino: u64) -> Result<FileAttr> {
        let node = self.node(ino)?;
        let size = match &node.body {
            Body::File(content) => content.len() as u64,
            Body::Dir(_) => 0,
        };
        Ok(FileAttr { size, blocks: size.div_ceil(512), ..node.attr })
    }

    /// Finds an entry and counts one kernel reference.
    pub(super) fn lookup(&mut self, parent: u64, name: &OsStr) -> Result<FileAttr> {
        let ino = self.child(parent, name)?;
        self.node_mut(ino)?.lookups += 1;
        self.attr(ino)
    }

    /// The kernel drops `count` references.
    pub(super) fn forget(&mut self, ino: u64, count: u64) {
        if let Ok(node) = self.node_mut(ino) {
            node.lookups = node.lookups.saturating_sub(count);
            self.collect(ino);
        }
    }

    /// Creates a file or directory and counts one kernel reference.
    pub(super) fn create(&mut self, parent: u64, name: &OsStr, kind: FileType, owner: Owner) -> Result<FileAttr> {
        if self.dir(parent)?.current.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let ino = self.fresh();
        let attr = attr::new(ino, kind, owner);
        let body = match kind {
            FileType::Directory => Body::Dir(Dir { parent, ..Dir::default() }),
            _ => Body::File(Content::default()),
        };
        self.nodes.insert(ino, Node { attr, body, lookups: 1 });
        self.dir_mut(parent)?.current.insert(name.to_owned(), ino);
        self.settle(&[parent])?;
        Ok(attr)
    }

    /// `unlink`, or `rmdir` where `directory` is set.
    pub(super) fn remove(&mut self, parent: u64, name: &OsStr, directory: bool) -> Result<()> {
        let ino = self.child(parent, name)?;
        match &self.node(ino)?.body {
            Body::Dir(_) if !directory => return Err(Errno::EISDIR),
            Body::Dir(dir) if !dir.current.is_empty() => return Err(Errno::ENOTEMPTY),
            Body::File(_) if directory => return Err(Errno::ENOTDIR),
            _ => {}
        }
        self.dir_mut(parent)?.current.remove(name);
        self.unlinked(ino)?;
        self.settle(&[parent])
    }

    /// Renames, replacing what is there unless `keep` is set.
    ///
    /// In strict mode each directory commits its own side, so a file renamed across directories can be found in both
    /// or in neither after a cut. Directories cannot be moved across directories there (EXDEV).
    pub(super) fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr), keep: bool) -> Result<()> {
        let ino = self.child(from.0, from.1)?;
        let target = self.dir(to.0)?.current.get(to.1).copied();
        let moves_dir = matches!(self.node(ino)?.body, Body::Dir(_));
        if let Some(target) = target {
            if keep {
                return Err(Errno::EEXIST);
            }
            match &self.node(target)?.body {
                _ if target == ino => return Ok(()),
                Body::Dir(_) if !moves_dir => return Err(Errno::EISDIR),
                Body::Dir(dir) if !dir.current.is_empty() => return Err(Errno::ENOTEMPTY),
                Body::File(_) if moves_dir => return Err(Errno::ENOTDIR),
                _ => {}
            }
        }
        if self.strict && moves_dir && from.0 != to.0 {
            return Err(Errno::EXDEV);
        }
        self.dir_mut(from.0)?.current.remove(from.1);
        self.dir_mut(to.0)?.current.insert(to.1.to_owned(), ino);
        if let Body::Dir(dir) = &mut self.node_mut(ino)?.body {
            dir.parent = to.0;
        }
        if let Some(target) = target {
            self.unlinked(target)?;
        }
        if from.0 == to.0 { self.settle(&[to.0]) } else { self.settle(&[to.0, from.0]) }
    }

    /// Entries of a directory in the order of their positions, `.` and `..` first.
    pub(super) fn list(&self, ino: u64) -> Result<Vec<Entry>> {
        let dir = self.dir(ino)?;
        let dot = |at, ino, name: &str| Entry { at, ino, kind: FileType::Directory, name: name.into() };
        let mut entries = vec![dot(1, ino, "."), dot(2, dir.parent.max(ROOT), "..")];
        for (name, child) in &dir.current {
            entries.push(Entry { at: *child, ino: *child, kind: self.node(*child)?.attr.kind, name: name.clone() });
        }
        entries.sort_unstable_by_key(|entry| entry.at);
        Ok(entries)
    }

    /// Applies mode, owner and times; these are durable at once.
    pub(super) fn set_attr(&mut self, ino: u64, changes: Changes) -> Result<()> {
        let attr = &mut self.node_mut(ino)?.attr;
        attr.perm = changes.mode.map_or(attr.perm, attr::permissions);
        attr.uid = changes.uid.unwrap_or(attr.uid);
        attr.gid = changes.gid.unwrap_or(attr.gid);
        attr.atime = changes.atime.unwrap_or(attr.atime);
        attr.mtime = changes.mtime.unwrap_or(attr.mtime);
        attr.ctime = attr::now();
        let attr = *attr;
        if changes.mode.is_some() || changes.uid.is_some() || changes.gid.is_some() {
            for path in self.durable_paths(ino) {
                mirror::set_owner(&path, &attr)?;
            }
        }
        Ok(())
    }

    /// Contents of a regular file.
    pub(super) fn content(&self, ino: u64) -> Result<&Content> {
        match &self.node(ino)?.body {
            Body::File(content) => Ok(content),
            Body::Dir(_) => Err(Errno::EISDIR),
        }
    }

    /// Contents of a regular file about to be changed.
    pub(super) fn content_mut(&mut self, ino: u64) -> Result<&mut Content> {
        let node = self.node_mut(ino)?;
        match &mut node.body {
            Body::File(content) => {
                node.attr.mtime = attr::now();
                node.attr.ctime = node.attr.mtime;
                Ok(content)
            }
            Body::Dir(_) => Err(Errno::EISDIR),
        }
    }

    /// fsync of a file: its contents and length become durable.
    pub(super) fn sync_file(&mut self, ino: u64) -> Result<()> {
        let content = self.content(ino)?;
        if content.is_dirty() {
            for path in self.durable_paths(ino) {
                mirror::patch(&path, content.len() as u64, content.patch())?;
            }
            if let Body::File(content) = &mut self.node_mut(ino)?.body {
                content.commit();
            }
        }
        Ok(())
    }

    /// fsync of a directory: its entries become durable, each with what is durable of its file so far.
    pub(super) fn sync_dir(&mut self, ino: u64) -> Result<()> {
        let dir = self.dir(ino)?;
        let (current, durable) = (dir.current.clone(), dir.durable.clone());
        for path in self.durable_paths(ino) {
            for (name, _) in durable.iter().filter(|(name, child)| current.get(*name) != Some(*child)) {
                mirror::remove(&path.join(name))?;
            }
            for (name, child) in current.iter().filter(|(name, child)| durable.get(*name) != Some(*child)) {
                self.materialise(*child, &path.join(name))?;
            }
        }
        self.dir_mut(ino)?.durable = current;
        for child in durable.into_values() {
            self.collect(child);
        }
        Ok(())
    }

    /// Everything becomes durable, as after `sync(2)` and a clean unmount.
    pub(super) fn sync_all(&mut self) -> Result<()> {
        let (dirs, files): (Vec<u64>, Vec<u64>) = self.nodes.keys().partition(|ino| self.dir(**ino).is_ok());
        files.into_iter().try_for_each(|ino| self.sync_file(ino))?;
        dirs.into_iter().try_for_each(|ino| if self.nodes.contains_key(&ino) { self.sync_dir(ino) } else { Ok(()) })
    }

    /// Power cut: every file and directory returns to its durable state.
    pub(super) fn revert(&mut self) {
        for node in self.nodes.values_mut() {
            match &mut node.body {
                Body::File(content) => content.revert(),
                Body::Dir(dir) => dir.current.clone_from(&dir.durable),
            }
        }
        let mut links: HashMap<u64, u32> = HashMap::from([(ROOT, 1)]);
        let mut stack = vec![ROOT];
        while let Some(ino) = stack.pop() {
            let Ok(dir) = self.dir(ino) else { continue };
            for child in dir.current.values() {
                *links.entry(*child).or_default() += 1;
                stack.push(*child);
            }
        }
        for (ino, node) in &mut self.nodes {
            let count = links.get(ino).copied().unwrap_or_default();
            node.attr.nlink = match &mut node.body {
                Body::File(_) => count,
                Body::Dir(_) if count > 0 => 2,
                Body::Dir(dir) => {
                    *dir = Dir { parent: dir.parent, ..Dir::default() };
                    0
                }
            };
        }
        self.nodes.retain(|_, node| node.attr.nlink > 0 || node.lookups > 0);
    }

    /// Regular files the kernel knows of.
    pub(super) fn known_files(&self) -> Vec<u64> {
        let known = |node: &Node| node.lookups > 0 && matches!(node.body, Body::File(_));
        self.nodes.iter().filter(|(_, node)| known(node)).map(|(ino, _)| *ino).collect()
    }

    fn node(&self, ino: u64) -> Result<&Node> {
        self.nodes.get(&ino).ok_or(Errno::ENOENT)
    }

    fn node_mut(&mut self, ino: u64) -> Result<&mut Node> {
        self.nodes.get_mut(&ino).ok_or(Errno::ENOENT)
    }

    fn dir(&self, ino: u64) -> Result<&Dir> {
        match &self.node(ino)?.body {
            Body::Dir(dir) => Ok(dir),
            Body::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn dir_mut(&mut self, ino: u64) -> Result<&mut Dir> {
        match &mut self.node_mut(ino)?.body {
            Body::Dir(dir) => Ok(dir),
            Body::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn child(&self, parent: u64, name: &OsStr) -> Result<u64> {
        self.dir(parent)?.current.get(name).copied().ok_or(Errno::ENOENT)
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn unlinked(&mut self, ino: u64) -> Result<()> {
        let node = self.node_mut(ino)?;
        node.attr.nlink = if matches!(node.body, Body::Dir(_)) { 0 } else { node.attr.nlink.saturating_sub(1) };
        Ok(())
    }

    /// Ends a change of these directories.
    fn settle(&mut self, dirs: &[u64]) -> Result<()> {
        for ino in dirs {
            let attr = &mut self.node_mut(*ino)?.attr;
            attr.mtime = attr::now();
            attr.ctime = attr.mtime;
            if !self.strict {
                self.sync_dir(*ino)?;
            }
        }
        Ok(())
    }

    /// Drops an inode that neither the kernel nor any directory, running or durable, refers to.
    fn collect(&mut self, ino: u64) {
        let unused = self.nodes.get(&ino).is_some_and(|node| node.lookups == 0 && node.attr.nlink == 0);
        let in_dir = |node: &Node| matches!(&node.body, Body::Dir(dir) if dir.durable.values().any(|d| *d == ino));
        if unused
            && !self.nodes.values().any(in_dir)
            && let Some(Node { body: Body::Dir(dir), .. }) = self.nodes.remove(&ino)
        {
            dir.durable.into_values().for_each(|child| self.collect(child));
        }
    }

    /// Where in the backing directory an inode is found; more than one place only in strict mode.
    fn durable_paths(&self, target: u64) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut stack = vec![(ROOT, self.backing.clone())];
        while let Some((ino, path)) = stack.pop() {
            if let Ok(dir) = self.dir(ino) {
                let wanted = |child: u64| child == target || self.dir(child).is_ok();
                let children = dir.durable.iter().filter(|(_, child)| wanted(**child));
                stack.extend(children.map(|(name, child)| (*child, path.join(name))));
            }
            if ino == target {
                found.push(path);
            }
        }
        found
    }

    /// Writes the durable state of an inode and all below it to a new place in the backing directory.
    fn materialise(&self, ino: u64, path: &Path) -> Result<()> {
        let node = self.node(ino)?;
        match &node.body {
            Body::File(content) => mirror::put(path, content.durable(), &node.attr)?,
            Body::Dir(dir) => {
                mirror::mkdir(path, &node.attr)?;
                for (name, child) in &dir.durable {
                    self.materialise(*child, &path.join(name))?;
                }
            }
        }
        Ok(())
    }
}
