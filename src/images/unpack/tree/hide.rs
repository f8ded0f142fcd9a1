//! What layers below show through, and how that is hidden: whiteouts and opaque directories.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use kernel::{
    file::{Special, make_special},
    path_in_root::reopen,
    xattr,
};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat},
    sys::stat::{Mode, SFlag, fstatat, major, minor},
    unistd::{UnlinkatFlags, symlinkat, unlinkat},
};

use super::{DIRECTORY, Directory, Place, Tree, entry, joined, list_failed, or_fault};
use crate::{
    Fault,
    unpack::{
        BLOCK,
        attributes::{Attributes, OPAQUE_XATTR, set_attributes, set_on_file},
        failed,
        lower::Found,
        names_in, to_errno,
    },
};

/// The device number of a whiteout.
const WHITEOUT: Special = Special::Char { major: 0, minor: 0 };

impl Tree {
    /// Hides what the layers below have at this place. What this layer itself has there stays.
    pub(in crate::unpack) fn hide(&mut self, place: &Place<'_>) -> Result<(), Fault> {
        match Found::at(place.directory.fd(), place.name).map_err(failed("open", place))? {
            Some(found) if found.kind() == SFlag::S_IFDIR => {
                let directory = place.directory.below(place.name, found.fd);
                self.set_opaque(&directory)
            }
            Some(_) => Ok(()),
            // A whiteout of nothing would show as a device in a directory that is of this layer alone.
            None if self.below(place)?.is_none() => Ok(()),
            None => {
                make_special(place.directory.fd(), place.path(), WHITEOUT, 0).map_err(failed("delete", place))?;
                self.count(place, 0)
            }
        }
    }

    /// Hides everything that the layers below have in this directory.
    pub(in crate::unpack) fn hide_below(&mut self, directory: &Directory) -> Result<(), Fault> {
        if !directory.path.is_empty() {
            return self.set_opaque(directory);
        }
        // Once is for good: whatever takes the place of a mark goes on hiding what is below.
        if self.opaque.contains(&*directory.path) {
            return Ok(());
        }
        // Overlay does not look at the mark on a layer's root, so each name is hidden by itself.
        let names = self.lowers.root_names().map_err(or_fault(|source| list_failed("/", source)))?;
        for name in names {
            self.hide(&Place { directory: directory.clone(), name: &name })?;
        }
        self.opaque.insert(directory.path.to_vec());
        Ok(())
    }

    /// Sees to it that a hard link has something in this layer to link to; whether there is anything.
    pub(in crate::unpack) fn bring_up(&mut self, place: &Place<'_>) -> Result<bool, Fault> {
        if let Some(found) = Found::at(place.directory.fd(), place.name).map_err(failed("open", place))? {
            return match found.kind() {
                SFlag::S_IFDIR => Err(entry(place, "it is a hard link to a directory")),
                _ => Ok(!found.is_whiteout()),
            };
        }
        let Some(found) = self.below(place)? else { return Ok(false) };
        let attributes = Attributes::of_fd(&found.fd).map_err(failed("read", place))?;
        match found.kind() {
            SFlag::S_IFDIR => return Err(entry(place, "it is a hard link to a directory")),
            SFlag::S_IFREG => {
                let bytes = u64::try_from(found.stat.st_size).unwrap_or(0);
                self.spend(place, bytes)?;
                copy(place, &found, &attributes).map_err(failed("copy", place))?;
                self.count(place, bytes.next_multiple_of(BLOCK))?;
                return Ok(true);
            }
            SFlag::S_IFLNK => {
                let target = found.target().map_err(failed("read the link", place))?;
                let target = OsStr::from_bytes(&target);
                self.create(place, || symlinkat(target, place.directory.fd(), place.path()))?;
            }
            kind => {
                let (major, minor) = (major(found.stat.st_rdev), minor(found.stat.st_rdev));
                let special = match kind {
                    SFlag::S_IFCHR => Special::Char { major, minor },
                    SFlag::S_IFBLK => Special::Block { major, minor },
                    _ => Special::Fifo,
                };
                let make = || make_special(place.directory.fd(), place.path(), special, 0o600).map_err(to_errno);
                self.create(place, make)?;
            }
        }
        self.count(place, 0)?;
        set_attributes(place, &attributes, found.kind())?;
        Ok(true)
    }

    /// What the layers below show at a place where this one has nothing.
    pub(super) fn below(&self, place: &Place<'_>) -> Result<Option<Found>, Fault> {
        if self.is_hidden(&place.directory.path) {
            return Ok(None);
        }
        let mut names = place.directory.names();
        names.push(place.name);
        self.lowers.look_up(&names).map_err(or_fault(failed("look up", place)))
    }

    /// Whether the directory or one above it hides what is below.
    pub(super) fn is_hidden(&self, path: &[u8]) -> bool {
        if self.opaque.is_empty() {
            return false;
        }
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at).chain([path.len()]);
        ends.into_iter().any(|end| self.opaque.contains(&path[..end]))
    }

    pub(super) fn set_opaque(&mut self, directory: &Directory) -> Result<(), Fault> {
        let path = || String::from_utf8_lossy(&directory.path).chars().take(200).collect();
        let failed = |source| Fault::Kernel { act: "hide what is below", path: path(), source };
        let fd = reopen(directory.fd(), OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(failed)?;
        xattr::set(fd.as_fd(), OPAQUE_XATTR, b"y").map_err(failed)?;
        if !self.is_hidden(&directory.path) {
            let removed = remove_whiteouts(fd, &directory.path, &self.opaque);
            self.size.inodes -= removed.map_err(|errno| failed(errno.into()))?;
        }
        if !self.opaque.contains(&*directory.path) {
            self.remember(directory.path.len())?;
            self.opaque.insert(directory.path.to_vec());
        }
        Ok(())
    }
}

/// Removes whiteouts below a directory that hides everything by itself: overlay would list them. Answers how many.
fn remove_whiteouts(directory: OwnedFd, path: &[u8], opaque: &HashSet<Vec<u8>>) -> Result<u64, Errno> {
    let mut removed = 0;
    for name in names_in(&directory)? {
        let stat = fstatat(&directory, name.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let below = joined(path, name.as_os_str().as_bytes());
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFCHR if stat.st_rdev == 0 => {
                unlinkat(&directory, name.as_path(), UnlinkatFlags::NoRemoveDir)?;
                removed += 1;
            }
            // In one that hides by itself there are none any more.
            SFlag::S_IFDIR if !opaque.contains(&below) => {
                let inner = openat(&directory, name.as_path(), DIRECTORY, Mode::empty())?;
                removed += remove_whiteouts(inner, &below, opaque)?;
            }
            _ => {}
        }
    }
    Ok(removed)
}

fn copy(place: &Place<'_>, found: &Found, attributes: &Attributes) -> io::Result<()> {
    let mut from = File::from(reopen(found.fd.as_fd(), OFlag::O_RDONLY)?);
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let to = openat(place.directory.fd(), place.path(), flags, Mode::from_bits_truncate(0o600))?;
    let mut to = File::from(to);
    io::copy(&mut from, &mut to)?;
    set_on_file(&to, attributes)
}
