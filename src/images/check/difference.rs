//! What tells two trees apart.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::{CString, OsString},
    fs::{self, File, Metadata},
    io::{self, Read},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use kernel::xattr;

/// Bytes that are compared at a time.
const CHUNK: usize = 64 << 10;

type Xattrs = Vec<(CString, Option<Vec<u8>>)>;

/// The first thing in which `found` differs from `right`: names, types, owners, modes, devices, links, extended
/// attributes, contents, and the times of files. Those of directories differ where no archive tells them.
pub(crate) fn difference(right: &Path, found: &Path) -> io::Result<Option<String>> {
    let mut trees = Trees { right, found, linked: HashMap::new() };
    let mut directories = vec![PathBuf::new()];
    if let Some(what) = trees.of(Path::new(""))? {
        return Ok(Some(format!("its root {what}")));
    }
    while let Some(directory) = directories.pop() {
        let (wanted, there) = (names(&right.join(&directory))?, names(&found.join(&directory))?);
        if let Some(name) = wanted.difference(&there).next() {
            return Ok(Some(format!("{} is missing", directory.join(name).display())));
        }
        if let Some(name) = there.difference(&wanted).next() {
            return Ok(Some(format!("{} does not belong to it", directory.join(name).display())));
        }
        for name in wanted {
            let path = directory.join(name);
            if let Some(what) = trees.of(&path)? {
                return Ok(Some(format!("{} {what}", path.display())));
            }
            if right.join(&path).symlink_metadata()?.is_dir() {
                directories.push(path);
            }
        }
    }
    Ok(None)
}

struct Trees<'a> {
    right: &'a Path,
    found: &'a Path,
    /// Which inode stands for which, where one has several names.
    linked: HashMap<u64, u64>,
}

impl Trees<'_> {
    /// What is different in one name.
    fn of(&mut self, path: &Path) -> io::Result<Option<&'static str>> {
        let (right, found) = (self.right.join(path), self.found.join(path));
        let (wanted, there) = (right.symlink_metadata()?, found.symlink_metadata()?);
        let kind = wanted.file_type();
        if kind != there.file_type() {
            return Ok(Some("is of another type"));
        }
        if wanted.mode() != there.mode() {
            return Ok(Some("has another mode"));
        }
        if (wanted.uid(), wanted.gid()) != (there.uid(), there.gid()) {
            return Ok(Some("has another owner"));
        }
        if (kind.is_char_device() || kind.is_block_device()) && wanted.rdev() != there.rdev() {
            return Ok(Some("is another device"));
        }
        if kind.is_symlink() && fs::read_link(&right)? != fs::read_link(&found)? {
            return Ok(Some("leads elsewhere"));
        }
        if xattrs(&right)? != xattrs(&found)? {
            return Ok(Some("has other extended attributes"));
        }
        if !kind.is_dir() && self.is_linked_otherwise(&wanted, &there) {
            return Ok(Some("is linked otherwise"));
        }
        if !kind.is_file() {
            return Ok(None);
        }
        if (wanted.mtime(), wanted.mtime_nsec()) != (there.mtime(), there.mtime_nsec()) {
            return Ok(Some("has another time"));
        }
        let same = wanted.len() == there.len() && same_content(&right, &found)?;
        Ok((!same).then_some("has another content"))
    }

    fn is_linked_otherwise(&mut self, wanted: &Metadata, there: &Metadata) -> bool {
        if wanted.nlink() != there.nlink() {
            return true;
        }
        wanted.nlink() > 1 && *self.linked.entry(wanted.ino()).or_insert(there.ino()) != there.ino()
    }
}

fn names(directory: &Path) -> io::Result<BTreeSet<OsString>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn xattrs(path: &Path) -> io::Result<Xattrs> {
    // Of a link itself, so by name in its directory.
    let (directory, name) = match (path.parent(), path.file_name()) {
        (Some(directory), Some(name)) => (directory, Path::new(name)),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let directory = File::open(directory)?;
    let mut found = Xattrs::new();
    for name_of in xattr::list_at(directory.as_fd(), name)? {
        let value = xattr::get_at(directory.as_fd(), name, &name_of)?;
        found.push((name_of, value));
    }
    found.sort();
    Ok(found)
}

fn same_content(right: &Path, found: &Path) -> io::Result<bool> {
    let (mut right, mut found) = (File::open(right)?, File::open(found)?);
    let (mut wanted, mut there) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let n = right.read(&mut wanted)?;
        if n == 0 {
            return Ok(true);
        }
        match found.read_exact(&mut there[..n]) {
            Ok(()) if wanted[..n] == there[..n] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
