//! Unpacks a layer's archive into a directory of its own, as overlay wants a lower directory.
//!
//! Nothing can escape. No path of the archive is ever given to the kernel as a path: names are cleaned, and walked one
//! by one from the layer's root with `O_NOFOLLOW`; symbolic links on the way are followed by us, in the view that the
//! layers below and this one make together, so that they lead where they would lead inside a container. A path or a
//! link on the way that would leave the root is refused: no honest layer has one, though the kernel would stop it at
//! the root.
//!
//! Nothing can grow without bounds: entries, files and directories (also those that only a path mentions), bytes (also
//! those of holes and of what a hard link brings up from below) and depth have theirs in [`Limits`], and what is
//! remembered has one here.
//!
//! Order at each entry (facts of the kernel): create, owner, attributes, mode, time. A change of owner clears setuid
//! and `security.capability`; directories get their times at the very end, since every entry in them changes it.
//! Whiteouts become character devices 0:0, opaque directories `trusted.overlay.opaque`; no such device and no attribute
//! that overlay reads comes in from an archive. Other devices do: whether a container may open one is for its devices
//! cgroup to say.

use std::{
    ffi::OsStr,
    io::BufRead,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::FileExt},
    },
    path::{Path, PathBuf},
};

use kernel::file::{Special, make_special};
use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat},
    sys::stat::{Mode, SFlag, fstatat},
    unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat},
};

use crate::{
    Fault, Limits,
    early::Early,
    record::LayerSize,
    tar_stream::{Entry, Kind, TarStream},
};

mod attributes;
mod lower;
mod tree;

use attributes::{Attributes, set_attributes};
pub(crate) use lower::Lowers;
use tree::Place;
pub(crate) use tree::Tree;

/// Why a path is refused that goes up further than down.
const OUT_OF_ROOT: &str = "its path leads out of the root";
/// What marks a name of the layers below as deleted.
const WHITEOUT: &[u8] = b".wh.";
/// What marks a directory as hiding all that is below it.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that another union file system left for itself.
const FOREIGN: &[u8] = b".wh..wh.";
/// Bits of a device's major and minor number.
const MAJOR_BITS: u32 = 12;
const MINOR_BITS: u32 = 20;
/// The longest path and the longest link that the kernel takes, with its NUL.
const LONGEST_PATH: usize = 4096;
/// A file takes whole blocks of this many bytes.
const BLOCK: u64 = 4096;

/// Unpacks the whole stream into the tree and answers what it takes on disk.
pub(crate) fn unpack(stream: impl BufRead, mut tree: Tree) -> Result<LayerSize, Fault> {
    let mut stream = TarStream::new(stream, tree.limits().layer_entries);
    while let Some(entry) = stream.next()? {
        take(&mut tree, &mut stream, &entry)?;
    }
    // The diff id counts what follows the archive's end too.
    stream.drain()?;
    tree.finish()
}

fn take<R: BufRead>(tree: &mut Tree, stream: &mut TarStream<R>, entry: &Entry) -> Result<(), Fault> {
    let names = clean(&entry.path, tree.limits()).map_err(|why| Fault::entry(&entry.path, why))?;
    let Some((name, parents)) = names.split_last() else {
        return match entry.kind {
            Kind::Directory => tree.set_root(&Attributes::of(entry)),
            _ => Err(Fault::entry(&entry.path, "it stands for the root and is no directory")),
        };
    };
    if names.iter().any(|name| name.starts_with(FOREIGN) && *name != OPAQUE) {
        return Ok(());
    }
    let parent = tree.directory(parents).map_err(|fault| of_entry(entry, fault))?;
    if *name == OPAQUE {
        return tree.hide_below(&parent);
    }
    if let Some(hidden) = name.strip_prefix(WHITEOUT) {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Fault::entry(&entry.path, "it deletes no name"));
        }
        return tree.hide(&Place { directory: parent, name: hidden });
    }
    let place = Place { directory: parent, name };
    match entry.kind {
        Kind::Directory => tree.take_directory(&place, &Attributes::of(entry)),
        Kind::File => take_file(tree, stream, &place, entry),
        Kind::HardLink => take_hard_link(tree, &place, entry),
        Kind::Symlink => {
            if entry.target.is_empty() || entry.target.len() >= LONGEST_PATH || entry.target.contains(&0) {
                return Err(Fault::entry(&entry.path, "it is a link to no path"));
            }
            let target = OsStr::from_bytes(&entry.target);
            tree.create(&place, || symlinkat(target, place.directory.fd(), place.path()))?;
            tree.count(&place, if entry.target.len() < 60 { 0 } else { BLOCK })?;
            set_attributes(&place, &Attributes::of(entry), SFlag::S_IFLNK)
        }
        Kind::Character { major, minor } => {
            check_device(entry, major, minor)?;
            take_special(tree, &place, entry, Special::Char { major, minor }, SFlag::S_IFCHR)
        }
        Kind::Block { major, minor } => {
            check_device(entry, major, minor)?;
            take_special(tree, &place, entry, Special::Block { major, minor }, SFlag::S_IFBLK)
        }
        Kind::Fifo => take_special(tree, &place, entry, Special::Fifo, SFlag::S_IFIFO),
    }
}

fn take_file<R: BufRead>(
    tree: &mut Tree,
    stream: &mut TarStream<R>,
    place: &Place<'_>,
    entry: &Entry,
) -> Result<(), Fault> {
    // Said before anything is written, not when the stream has proved it.
    let most = tree.limits().layer_bytes;
    if entry.size > most {
        return Err(Fault::budget("bytes", most).at("in", &entry.path));
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let attributes = Attributes::of(entry);
    let file = tree.create(place, || openat(place.directory.fd(), place.path(), flags, attributes.permissions()))?;
    let file = std::fs::File::from(file);
    let (mut end, mut written, mut early) = (0, 0, Early::default());
    while let Some((at, bytes)) = stream.content()? {
        file.write_all_at(bytes, at).map_err(|e| failed("write", place)(e))?;
        let taken = bytes.len();
        stream.take(taken);
        end = at + taken as u64;
        written += taken as u64;
        early.wrote(&file, end);
    }
    // Holes are counted as what they would be when somebody fills or copies them: an archive of a few bytes must not
    // make a layer of any size.
    tree.spend(place, entry.size - written)?;
    if end < entry.size {
        file.set_len(entry.size).map_err(|e| failed("lengthen", place)(e))?;
    }
    tree.count(place, entry.size.next_multiple_of(BLOCK))?;
    attributes::set_on_file(&file, &attributes).map_err(failed("set the attributes of", place))
}

/// A larger number would be cut by the kernel, and might then be that of a whiteout.
fn check_device(entry: &Entry, major: u64, minor: u64) -> Result<(), Fault> {
    if major >> MAJOR_BITS != 0 || minor >> MINOR_BITS != 0 {
        return Err(Fault::entry(&entry.path, "its device number is larger than any device has"));
    }
    if matches!(entry.kind, Kind::Character { .. }) && (major, minor) == (0, 0) {
        return Err(Fault::entry(&entry.path, "it is the device 0:0, by which overlay tells what is deleted"));
    }
    Ok(())
}

fn take_special(tree: &mut Tree, place: &Place<'_>, entry: &Entry, special: Special, kind: SFlag) -> Result<(), Fault> {
    let make = || make_special(place.directory.fd(), place.path(), special, 0o600).map_err(to_errno);
    tree.create(place, make)?;
    tree.count(place, 0)?;
    set_attributes(place, &Attributes::of(entry), kind)
}

/// A second name of a file of this layer, or of one below, which is then copied up as overlay would.
fn take_hard_link(tree: &mut Tree, place: &Place<'_>, entry: &Entry) -> Result<(), Fault> {
    let refuse = |why| Fault::entry(&entry.path, why);
    let names = clean(&entry.target, tree.limits()).map_err(|why| match why {
        OUT_OF_ROOT => refuse("it is a hard link out of the root"),
        why => refuse(why),
    })?;
    let Some((name, parents)) = names.split_last() else {
        return Err(refuse("it is a hard link to the root"));
    };
    let directory = tree.directory(parents).map_err(|fault| of_entry(entry, fault))?;
    let target = Place { directory, name };
    if target.directory.path() == place.directory.path() && target.name == place.name {
        return Err(refuse("it is a hard link to itself"));
    }
    if !tree.bring_up(&target).map_err(|fault| of_entry(entry, fault))? {
        return Err(refuse("it is a hard link to nothing"));
    }
    tree.create(place, || {
        linkat(target.directory.fd(), target.path(), place.directory.fd(), place.path(), AtFlags::empty())
    })?;
    Ok(())
}

/// The names of a path, `.` and `..` resolved as text, as every unpacker does it before it looks at the disk.
fn clean<'a>(path: &'a [u8], limits: &Limits) -> Result<Vec<&'a [u8]>, &'static str> {
    if path.len() >= LONGEST_PATH {
        return Err("its path is longer than the kernel takes");
    }
    if path.contains(&0) {
        return Err("its path holds a NUL");
    }
    let mut names = Vec::new();
    for name in path.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop().ok_or(OUT_OF_ROOT)?),
            name if name.len() > 255 => return Err("a name in its path is longer than 255 bytes"),
            name => names.push(name),
        }
    }
    if names.len() > limits.depth {
        return Err("it lies deeper than is allowed (images.limits.depth)");
    }
    Ok(names)
}

/// Deletes what is there, all of it. Never follows a link.
fn remove(place: &Place<'_>) -> Result<LayerSize, Fault> {
    remove_name(place.directory.fd(), place.path()).map_err(|errno| failed("replace", place)(errno.into()))
}

fn remove_name(directory: impl AsFd, name: &Path) -> Result<LayerSize, Errno> {
    let stat = fstatat(directory.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let mut freed = LayerSize::default();
    if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFDIR.bits() {
        unlinkat(directory, name, UnlinkatFlags::NoRemoveDir)?;
        if stat.st_nlink == 1 {
            let bytes = u64::try_from(stat.st_size).unwrap_or(0);
            let is_file = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
            freed = LayerSize { bytes: if is_file { bytes.next_multiple_of(BLOCK) } else { 0 }, inodes: 1 };
        }
        return Ok(freed);
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let inner = openat(directory.as_fd(), name, flags, Mode::empty())?;
    for name in names_in(&inner)? {
        let more = remove_name(&inner, &name)?;
        freed.bytes += more.bytes;
        freed.inodes += more.inodes;
    }
    unlinkat(directory, name, UnlinkatFlags::RemoveDir)?;
    freed.bytes += BLOCK;
    freed.inodes += 1;
    Ok(freed)
}

/// The names in a directory. All of them before any is deleted: deleting under a listing may skip names.
fn names_in(directory: &OwnedFd) -> Result<Vec<PathBuf>, Errno> {
    let mut listing = Dir::from_fd(directory.try_clone().map_err(|_| Errno::EMFILE)?)?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(PathBuf::from(OsStr::from_bytes(entry.file_name().to_bytes())));
        }
    }
    Ok(names)
}

/// What is wrong on the way to an entry is wrong with it.
fn of_entry(entry: &Entry, fault: Fault) -> Fault {
    match fault {
        Fault::Entry { why, .. } => Fault::entry(&entry.path, why),
        other => other,
    }
}

fn failed<'a>(act: &'static str, place: &'a Place<'_>) -> impl FnOnce(std::io::Error) -> Fault + 'a {
    move |source| Fault::Kernel { act, path: place.shown(), source }
}

fn to_errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests;
