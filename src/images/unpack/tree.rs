//! The layer that is being made: its directories, found and made by walking, and what must wait until the end.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    fs::File,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
    rc::Rc,
    sync::Arc,
};

use kernel::path_in_root::open_no_links;
use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::{Mode, SFlag, mkdirat},
};

use crate::{
    Fault, Limits,
    budget::Share,
    record::LayerSize,
    unpack::{
        BLOCK,
        attributes::{Attributes, set_on_directory},
        failed,
        lower::{Found, Lowers},
        remove,
    },
};

mod ending;
mod hide;
mod place;

use ending::Ending;
use place::joined;
pub(super) use place::{Directory, Place};

/// Links that are followed on the way to one entry; the kernel's own number.
const LINKS: usize = 40;
/// Directories of a way that are kept open, from the root: deeper ones are rare.
const WAY: usize = 32;
/// Bytes of directory names that are remembered until the end. A large image has a few MiB.
const NAMES: usize = 64 << 20;
/// To read or change a directory itself.
const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// A layer in the making.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Directory,
    lowers: Lowers,
    limits: Limits,
    /// What the image has for this layer.
    share: Arc<Share>,
    size: LayerSize,
    /// Bytes that came of fewer in the archive: copied up from layers below, and holes.
    spent: u64,
    /// The archive has an entry for the root.
    root_is_described: bool,
    /// What directories get at the end, by path.
    endings: HashMap<Vec<u8>, Ending>,
    /// Directories of this layer below which nothing shows through.
    opaque: HashSet<Vec<u8>>,
    names: usize,
    /// The way to where the last entry went, from the root, each directory below the one before: most entries go there
    /// or near it.
    way: Vec<Directory>,
}

impl Tree {
    /// Begins in an empty directory, on top of the layers in `lowers` (topmost first).
    #[cfg(test)]
    pub(crate) fn open(target: &Path, lowers: &[std::path::PathBuf], limits: &Limits) -> Result<Self, Fault> {
        let share = crate::budget::Budget::of(limits).share();
        Self::open_on(target, Lowers::of(lowers), limits, Arc::new(share))
    }

    /// The same on top of layers that may still be in the making, for a layer of an image that has so much.
    pub(crate) fn open_on(target: &Path, lowers: Lowers, limits: &Limits, share: Arc<Share>) -> Result<Self, Fault> {
        let failed = |source| Fault::Kernel { act: "open", path: target.display().to_string(), source };
        let root = Directory { fd: Rc::new(File::open(target).map_err(failed)?.into()), path: Rc::default() };
        // Without an entry of its own, and without a layer below, the root is as open as any root.
        let attributes = Attributes::of_nobody();
        set_on_directory(root.fd(), &attributes).map_err(failed)?;
        Ok(Self {
            root,
            lowers,
            limits: limits.clone(),
            share,
            size: LayerSize { bytes: BLOCK, inodes: 1 },
            spent: 0,
            root_is_described: false,
            endings: HashMap::from([(Vec::new(), Ending::of(&attributes))]),
            opaque: HashSet::new(),
            names: 0,
            way: Vec::new(),
        })
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Counts an inode that was made, against the limit of entries: one path can make as many directories as it has
    /// names.
    pub(super) fn count(&mut self, place: &Place<'_>, bytes: u64) -> Result<(), Fault> {
        self.size.inodes += 1;
        self.size.bytes += bytes;
        let limit = self.limits.layer_entries;
        // The root is no entry's.
        if self.size.inodes - 1 > limit {
            return Err(in_place(Fault::budget("files and directories", limit), place));
        }
        self.share.take_entry().map_err(|fault| in_place(fault, place))
    }

    /// Counts bytes that the layer gets without holding them, against the limit of a layer.
    pub(super) fn spend(&mut self, place: &Place<'_>, bytes: u64) -> Result<(), Fault> {
        self.spent = self.spent.saturating_add(bytes);
        let limit = self.limits.layer_bytes;
        if self.spent > limit {
            return Err(in_place(Fault::budget("bytes", limit), place));
        }
        self.share.take_bytes(bytes).map_err(|fault| in_place(fault, place))
    }

    /// Gives the root what the archive says of it.
    pub(super) fn set_root(&mut self, attributes: &Attributes) -> Result<(), Fault> {
        let place = Place { directory: self.root.clone(), name: b"" };
        set_on_directory(self.root.fd(), attributes).map_err(failed("set the attributes of", &place))?;
        self.root_is_described = true;
        self.remember_ending(Vec::new(), attributes)
    }

    /// The directory that these names lead to in the view of all layers, made in this one where it is missing.
    pub(super) fn directory(&mut self, names: &[&[u8]]) -> Result<Directory, Fault> {
        let known = self.way.iter().zip(names).take_while(|(directory, name)| directory.name() == **name).count();
        let mut walked: Vec<Directory> = std::mem::take(&mut self.way);
        walked.truncate(known);
        walked.insert(0, self.root.clone());
        let mut todo: Vec<Vec<u8>> = names[known..].iter().rev().map(|name| name.to_vec()).collect();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            let here = walked.last().unwrap_or(&self.root).clone();
            let place = Place { directory: here, name: &name };
            if name == b".." {
                // Only from links.
                if walked.len() == 1 {
                    return Err(entry(&place, "a link on the way leads out of the root"));
                }
                walked.pop();
                continue;
            }
            match self.step(&place)? {
                Step::Into(directory) if walked.len() <= self.limits.depth => walked.push(directory),
                Step::Into(_) => {
                    return Err(entry(&place, "links on the way lead deeper than is allowed (images.limits.depth)"));
                }
                Step::Link(target) => {
                    links += 1;
                    if links > LINKS {
                        return Err(entry(&place, "too many links are on the way"));
                    }
                    if target.starts_with(b"/") {
                        walked.truncate(1);
                    }
                    let names = target.split(|b| *b == b'/').filter(|name| !matches!(*name, b"" | b"."));
                    todo.extend(names.rev().map(<[u8]>::to_vec));
                }
            }
        }
        let found = walked.last().unwrap_or(&self.root).clone();
        walked.remove(0);
        walked.truncate(WAY);
        self.way = walked;
        Ok(found)
    }

    fn step(&mut self, place: &Place<'_>) -> Result<Step, Fault> {
        let here = Found::at(place.directory.fd(), place.name).map_err(failed("open", place))?;
        let not_one = || entry(place, "something on the way is no directory");
        match here {
            Some(found) if found.is_whiteout() => {
                self.replace(place)?;
                let made = self.make_undescribed(place)?;
                self.set_opaque(&made)?;
                Ok(Step::Into(made))
            }
            Some(found) => match found.kind() {
                SFlag::S_IFDIR => Ok(Step::Into(place.directory.below(place.name, found.fd))),
                SFlag::S_IFLNK => found.target().map(Step::Link).map_err(failed("read the link", place)),
                _ => Err(not_one()),
            },
            None => match self.below(place)? {
                None => self.make_undescribed(place).map(Step::Into),
                Some(found) => match found.kind() {
                    SFlag::S_IFDIR => {
                        let attributes = Attributes::of_fd(&found.fd).map_err(failed("read", place))?;
                        let made = self.make_directory(place, &attributes)?;
                        self.remember_ending(made.path.to_vec(), &attributes)?;
                        Ok(Step::Into(made))
                    }
                    SFlag::S_IFLNK => found.target().map(Step::Link).map_err(failed("read the link", place)),
                    _ => Err(not_one()),
                },
            },
        }
    }

    /// A directory entry: merges into a directory that is there, replaces anything else.
    pub(super) fn take_directory(&mut self, place: &Place<'_>, attributes: &Attributes) -> Result<(), Fault> {
        let new = self.make_new_directory(place, attributes)?;
        let there = match new {
            Some(_) => None,
            None => Found::at(place.directory.fd(), place.name).map_err(failed("open", place))?,
        };
        let directory = match there {
            Some(found) if found.kind() == SFlag::S_IFDIR => {
                let fd = openat(place.directory.fd(), place.path(), DIRECTORY, Mode::empty());
                let fd = fd.map_err(|errno| failed("open", place)(errno.into()))?;
                set_on_directory(fd.as_fd(), attributes).map_err(failed("set the attributes of", place))?;
                place.directory.below(place.name, fd)
            }
            Some(_) => {
                // What was here hid what is below, and what comes instead must go on hiding it.
                self.replace(place)?;
                let directory = self.make_directory(place, attributes)?;
                self.set_opaque(&directory)?;
                directory
            }
            None => match new {
                Some(directory) => directory,
                None => self.make_directory(place, attributes)?,
            },
        };
        self.remember_ending(directory.path.to_vec(), attributes)?;
        self.go_into(&place.directory, directory);
        Ok(())
    }

    /// Makes something new; what has the name already gives way.
    pub(super) fn create<T>(&mut self, place: &Place<'_>, make: impl Fn() -> nix::Result<T>) -> Result<T, Fault> {
        let made = match make() {
            Err(Errno::EEXIST) => {
                self.replace(place)?;
                make()
            }
            made => made,
        };
        made.map_err(|errno| failed("create", place)(errno.into()))
    }

    /// Gives directories their times and what they pass on, now that nothing is made in them any more.
    pub(super) fn finish(mut self) -> Result<LayerSize, Fault> {
        // Without an entry of its own the root is as it was below: overlay shows that of the topmost layer. Looked at
        // now that nothing else is left to do, since whoever looks waits for the layers below.
        if !self.root_is_described {
            let below = self.lowers.root().and_then(|root| root.map(Attributes::of_fd).transpose());
            if let Some(attributes) = below.map_err(or_fault(|source| list_failed("/", source)))? {
                self.set_root(&attributes)?;
            }
        }
        for (path, ending) in &self.endings {
            let name = if path.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(path)) };
            let opened = open_no_links(self.root.fd(), name, DIRECTORY, 0);
            match opened.and_then(|fd| ending.give(fd.as_fd())) {
                // Something else replaced it since.
                Err(error) if matches!(errno_of(&error), Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                set => set.map_err(|source| list_failed(&String::from_utf8_lossy(path), source))?,
            }
        }
        Ok(self.size)
    }

    /// The next entry may well go into a directory that was just described.
    fn go_into(&mut self, parent: &Directory, directory: Directory) {
        let is_next = self.way.last().map_or_else(|| parent.path.is_empty(), |last| last.path == parent.path);
        if is_next && self.way.len() < WAY {
            self.way.push(directory);
        }
    }

    fn make_directory(&mut self, place: &Place<'_>, attributes: &Attributes) -> Result<Directory, Fault> {
        self.create(place, || mkdirat(place.directory.fd(), place.path(), attributes.permissions()))?;
        self.made_directory(place, attributes)
    }

    /// The same if nothing has the name.
    fn make_new_directory(&mut self, place: &Place<'_>, attributes: &Attributes) -> Result<Option<Directory>, Fault> {
        match mkdirat(place.directory.fd(), place.path(), attributes.permissions()) {
            Ok(()) => self.made_directory(place, attributes).map(Some),
            Err(Errno::EEXIST) => Ok(None),
            Err(errno) => Err(failed("create", place)(errno.into())),
        }
    }

    fn made_directory(&mut self, place: &Place<'_>, attributes: &Attributes) -> Result<Directory, Fault> {
        let fd = openat(place.directory.fd(), place.path(), DIRECTORY, Mode::empty());
        let fd = fd.map_err(|errno| failed("open", place)(errno.into()))?;
        set_on_directory(fd.as_fd(), attributes).map_err(failed("set the attributes of", place))?;
        self.count(place, BLOCK)?;
        Ok(place.directory.below(place.name, fd))
    }

    /// A directory that no entry describes: with the same attributes wherever the layer is unpacked, its time included.
    fn make_undescribed(&mut self, place: &Place<'_>) -> Result<Directory, Fault> {
        let attributes = Attributes::of_nobody();
        let made = self.make_directory(place, &attributes)?;
        self.remember_ending(made.path.to_vec(), &attributes)?;
        Ok(made)
    }

    fn replace(&mut self, place: &Place<'_>) -> Result<(), Fault> {
        let freed = remove(place)?;
        self.size.bytes = self.size.bytes.saturating_sub(freed.bytes);
        self.size.inodes = self.size.inodes.saturating_sub(freed.inodes);
        self.way.clear();
        Ok(())
    }

    fn remember_ending(&mut self, path: Vec<u8>, attributes: &Attributes) -> Result<(), Fault> {
        let ending = Ending::of(attributes);
        self.remember(path.len() + ending.passes_on.as_ref().map_or(0, Vec::len))?;
        self.endings.insert(path, ending);
        Ok(())
    }

    fn remember(&mut self, bytes: usize) -> Result<(), Fault> {
        // With what a map takes for each.
        self.names += bytes + 96;
        if self.names > NAMES {
            return Err(Fault::budget("bytes of directory names", NAMES as u64));
        }
        Ok(())
    }
}

/// What one name on the way turned out to be.
enum Step {
    Into(Directory),
    Link(Vec<u8>),
}

fn entry(place: &Place<'_>, why: &'static str) -> Fault {
    Fault::Entry { path: place.shown(), why }
}

fn in_place(fault: Fault, place: &Place<'_>) -> Fault {
    fault.at("in", &joined(&place.directory.path, place.name))
}

fn list_failed(path: &str, source: io::Error) -> Fault {
    Fault::Kernel { act: "finish", path: path.chars().take(200).collect(), source }
}

/// A fault that came through an error of I/O, or what else that error is.
fn or_fault(other: impl FnOnce(io::Error) -> Fault) -> impl FnOnce(io::Error) -> Fault {
    |error| error.downcast::<Fault>().unwrap_or_else(other)
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}
