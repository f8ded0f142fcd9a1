//! The acts on a container's new root, in the child: mounts placed, devices made, paths masked.
//!
//! Every path is resolved by the kernel beneath the root's descriptor, as the container itself would see it: a link in
//! the image can lead anywhere in the image and nowhere else. Mount points that are missing are made.

use std::{
    ffi::{CString, OsStr},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use kernel::{
    file::{self, Special},
    mount::{self, FsContext, MountAttrs, PropagationType},
    path_in_root::{self, OpenFlags},
};
use link::wire::{self, step::Act};
use nix::{
    libc,
    sys::stat::{Mode, SFlag},
};

use crate::{
    launch::{Beside, During, Failure, NULL_DEVICE, POD_SHM, inside_path},
    proc_file::may_be_covered,
};

/// Links that point to nothing, followed while making directories: as many as the kernel follows in one look-up.
const MAX_LINKS: usize = 40;

/// Mode of the directories and files made for mounts to stand on.
const DIRECTORY: u32 = 0o755;
const FILE: u32 = 0o644;

/// Does every step, in order. `old_root` is the monitor's root, where the pod's shared memory and the null device are.
pub(crate) fn steps(
    steps: &[wire::Step],
    fds: &[OwnedFd],
    root: BorrowedFd<'_>,
    old_root: BorrowedFd<'_>,
) -> Result<(), Failure> {
    let mut masks = Masks { old_root, empty: None };
    for step in steps {
        match step.act.as_ref().ok_or_else(|| Failure::wrong("a step that this release does not know"))? {
            Act::Attach(it) => attach(root, it, Beside(fds).one(it.mount_fd, "mount_fd")?)?,
            Act::NewFilesystem(it) => new_filesystem(root, it)?,
            Act::AttachShm(it) => {
                let target = inside_path(&it.target, "target")?;
                let shm = mount::open_tree_clone(old_root, Path::new(&POD_SHM[1..]), false)
                    .during(|| "find the pod's shared memory".into())?;
                place_directory(root, &target, shm.as_fd())?;
            }
            Act::Node(it) => node(root, it)?,
            Act::Symlink(it) => symlink(root, it)?,
            Act::MakeDirectory(it) => make_directory(root, it)?,
            Act::Mask(path) => masks.mask(root, &inside_path(path, "mask")?)?,
            Act::MakeReadonly(path) => make_readonly(root, &inside_path(path, "make_readonly")?)?,
            Act::SetAttributes(it) => {
                let target = inside_path(&it.target, "target")?;
                let step = || format!("change the mount on {}", target.display());
                let place = path_in_root::open_in_root(root, &target, OpenFlags::O_PATH, 0).during(step)?;
                let (set, clear) = (MountAttrs::from_bits_retain(it.set), MountAttrs::from_bits_retain(it.clear));
                mount::mount_setattr(place.as_fd(), false, set, clear, None).during(step)?;
            }
        }
    }
    Ok(())
}

/// The propagation that a `MS_*` number names; 0 is none.
pub(crate) fn propagation(flags: u64) -> Result<Option<PropagationType>, Failure> {
    // `MS_REC` may stand beside it; here it has no meaning of its own.
    match flags & !libc::MS_REC {
        0 => Ok(None),
        libc::MS_PRIVATE => Ok(Some(PropagationType::Private)),
        libc::MS_SLAVE => Ok(Some(PropagationType::Slave)),
        libc::MS_SHARED => Ok(Some(PropagationType::Shared)),
        other => Err(Failure::wrong(format!("{other:#x} is no propagation"))),
    }
}

/// Makes the directories of a path that are missing. A link on the way that points to nothing is followed too, and what
/// it points to is made: images have `/var/run` → `/run` without a `/run`, and a kubelet mounts below it.
pub(crate) fn make_directories(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    for _ in 0..MAX_LINKS {
        match path_in_root::make_directories(root, path, DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match dangling(root, path)? {
                Some(target) => drop(make_through_links(root, &target, MAX_LINKS)?),
                None => return Err(error),
            },
            made => return made,
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

fn make_through_links(root: BorrowedFd<'_>, path: &Path, left: usize) -> io::Result<OwnedFd> {
    match path_in_root::make_directories(root, path, DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && left > 0 => match dangling(root, path)? {
            Some(target) => {
                make_through_links(root, &target, left - 1)?;
                make_through_links(root, path, left - 1)
            }
            None => Err(error),
        },
        made => made,
    }
}

/// The target, from the root, of the first link of `path` that points to nothing.
fn dangling(root: BorrowedFd<'_>, path: &Path) -> io::Result<Option<PathBuf>> {
    let mut so_far = PathBuf::new();
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        let parent = so_far.clone();
        so_far.push(name);
        let itself = path_in_root::open_in_root(root, &so_far, OpenFlags::O_PATH | OpenFlags::O_NOFOLLOW, 0);
        let Ok(itself) = itself else { return Ok(None) };
        let about = nix::sys::stat::fstat(&itself)?;
        if SFlag::from_bits_truncate(about.st_mode) & SFlag::S_IFMT != SFlag::S_IFLNK {
            continue;
        }
        if path_in_root::open_in_root(root, &so_far, OpenFlags::O_PATH, 0).is_err() {
            // Joined as text, which is harmless: whatever comes out is resolved beneath the root again.
            let target = nix::fcntl::readlinkat(itself.as_fd(), "")?;
            return Ok(Some(parent.join(target)));
        }
    }
    Ok(None)
}

/// Places a mount on a directory of the container, which is made if it is missing.
fn place_directory(root: BorrowedFd<'_>, target: &Path, mount: BorrowedFd<'_>) -> Result<(), Failure> {
    let step = || format!("mount on {}", target.display());
    let place = make_directories(root, target).during(step)?;
    mount::move_mount(mount, place.as_fd()).during(step)
}

/// Places a mount on a file of the container, which is made if it is missing.
pub(crate) fn place_file(root: BorrowedFd<'_>, target: &Path, mount: BorrowedFd<'_>) -> Result<(), Failure> {
    let step = || format!("mount on {}", target.display());
    let place = file_place(root, target).during(step)?;
    mount::move_mount(mount, place.as_fd()).during(step)
}

fn file_place(root: BorrowedFd<'_>, target: &Path) -> io::Result<OwnedFd> {
    let parent = target.parent().ok_or(io::Error::from_raw_os_error(libc::EISDIR))?;
    match path_in_root::open_in_root(root, target, OpenFlags::O_PATH, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    make_directories(root, parent)?;
    match path_in_root::make_file(root, target, FILE, DIRECTORY) {
        // The name is a link to nothing: what it points to is made instead.
        Err(error) if error.kind() == io::ErrorKind::NotFound => match dangling(root, target)? {
            Some(real) => {
                if let Some(parent) = real.parent() {
                    make_directories(root, parent)?;
                }
                path_in_root::make_file(root, &real, FILE, DIRECTORY)
            }
            None => Err(error),
        },
        made => made,
    }
}

fn attach(root: BorrowedFd<'_>, it: &wire::Attach, source: BorrowedFd<'_>) -> Result<(), Failure> {
    let target = inside_path(&it.target, "target")?;
    let step = || format!("mount on {}", target.display());
    let place = if it.file { file_place(root, &target) } else { make_directories(root, &target) }.during(step)?;
    // A file of the image's choice over /proc/self/attr/exec or the like would make the kernel's words lies.
    if is_on_proc(place.as_fd()).during(step)? && !is_on_proc(source).during(step)? {
        let by_name = path_in_root::open_no_links(root, below(&target), OpenFlags::O_PATH, 0);
        if by_name.is_err() || !may_be_covered(&target) {
            return Err(Failure::wrong(format!("mount on {}: it is inside /proc", target.display())));
        }
    }
    mount::move_mount(source, place.as_fd()).during(step)
}

fn is_on_proc(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(file::filesystem(fd)?.magic == libc::PROC_SUPER_MAGIC)
}

fn new_filesystem(root: BorrowedFd<'_>, it: &wire::NewFilesystem) -> Result<(), Failure> {
    let target = inside_path(&it.target, "target")?;
    let step = || format!("mount {} on {}", it.r#type, target.display());
    let text = |text: &str| CString::new(text).map_err(|_| Failure::wrong(format!("{}: a zero byte", step())));
    let place = make_directories(root, &target).during(step)?;
    // What the kernel says of itself must stand where it is looked for, not where a link of the image leads.
    let place = match it.r#type.as_str() {
        "proc" | "sysfs" => {
            let directory = OpenFlags::O_PATH | OpenFlags::O_DIRECTORY;
            path_in_root::open_no_links(root, below(&target), directory, 0)
                .during(|| format!("{}: the way to it is no link", step()))?
        }
        _ => place,
    };
    let context = FsContext::open(&text(&it.r#type)?).during(step)?;
    // What tables of mounts show; without one it is "none".
    context.set_string(c"source", &text(&it.r#type)?).during(step)?;
    let explain = |error: io::Error| {
        let said = context.log();
        let more = if said.is_empty() { String::new() } else { format!(" ({said})") };
        Failure::new(format!("{}{more}", step()), &error)
    };
    for option in &it.options {
        match option.split_once('=') {
            Some((key, value)) => context.set_string(&text(key)?, &text(value)?).map_err(explain)?,
            None => context.set_flag(&text(option)?).map_err(explain)?,
        }
    }
    context.create().map_err(explain)?;
    let made = context.mount(MountAttrs::from_bits_retain(it.attributes)).map_err(explain)?;
    mount::move_mount(made.as_fd(), place.as_fd()).during(step)
}

fn node(root: BorrowedFd<'_>, it: &wire::Node) -> Result<(), Failure> {
    let path = inside_path(&it.path, "path")?;
    let step = || format!("make the device {}", path.display());
    let what = match it.mode & libc::S_IFMT {
        libc::S_IFCHR => Special::Char { major: it.major.into(), minor: it.minor.into() },
        libc::S_IFBLK => Special::Block { major: it.major.into(), minor: it.minor.into() },
        libc::S_IFIFO => Special::Fifo,
        _ => return Err(Failure::wrong(format!("{}: no type of device", step()))),
    };
    let (parent, name) = parent_of(root, &path)?;
    match file::make_special(parent.as_fd(), &name, what, it.mode & 0o777) {
        // An image, or an earlier mount, has something there: the order wins.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            nix::unistd::unlinkat(&parent, &name, nix::unistd::UnlinkatFlags::NoRemoveDir).during(step)?;
            file::make_special(parent.as_fd(), &name, what, it.mode & 0o777).during(step)?;
        }
        made => made.during(step)?,
    }
    if (it.uid, it.gid) != (0, 0) {
        file::set_owner(parent.as_fd(), &name, Some(it.uid), Some(it.gid)).during(step)?;
    }
    Ok(())
}

fn symlink(root: BorrowedFd<'_>, it: &wire::Symlink) -> Result<(), Failure> {
    let path = inside_path(&it.path, "path")?;
    let (parent, name) = parent_of(root, &path)?;
    match nix::unistd::symlinkat(OsStr::from_bytes(&it.target), &parent, &name) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        made => made.during(|| format!("make the link {}", path.display())),
    }
}

fn make_directory(root: BorrowedFd<'_>, it: &wire::MakeDirectory) -> Result<(), Failure> {
    let path = inside_path(&it.path, "path")?;
    let step = || format!("make the directory {}", path.display());
    let (parent, name) = parent_of(root, &path)?;
    match nix::sys::stat::mkdirat(&parent, &name, Mode::from_bits_truncate(it.mode)) {
        // What the image has stays as the image has it.
        Err(nix::errno::Errno::EEXIST) => return Ok(()),
        made => made.during(step)?,
    }
    if (it.uid, it.gid) != (0, 0) {
        file::set_owner(parent.as_fd(), &name, Some(it.uid), Some(it.gid)).during(step)?;
    }
    Ok(())
}

/// What hides paths: our own null device over files, one empty read-only tmpfs over directories.
struct Masks<'a> {
    old_root: BorrowedFd<'a>,
    empty: Option<OwnedFd>,
}

impl Masks<'_> {
    fn mask(&mut self, root: BorrowedFd<'_>, path: &Path) -> Result<(), Failure> {
        let step = || format!("mask {}", path.display());
        let Some(place) = there(root, path).during(step)? else { return Ok(()) };
        let about = nix::sys::stat::fstat(&place).during(step)?;
        let is_directory = SFlag::from_bits_truncate(about.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
        let cover = if is_directory {
            self.empty_directory().during(step)?
        } else {
            mount::open_tree_clone(self.old_root, Path::new(&NULL_DEVICE[1..]), false).during(step)?
        };
        mount::move_mount(cover.as_fd(), place.as_fd()).during(step)
    }

    /// A mount of the one empty directory. Copies need a placed original, so the first stays where it was placed.
    fn empty_directory(&mut self) -> io::Result<OwnedFd> {
        if let Some(first) = &self.empty {
            return mount::open_tree_clone(first.as_fd(), Path::new(""), false);
        }
        let context = FsContext::open(c"tmpfs")?;
        context.set_string(c"source", c"tmpfs")?;
        context.set_string(c"size", c"0")?;
        context.set_string(c"mode", c"0555")?;
        context.create()?;
        let attributes = MountAttrs::RDONLY | MountAttrs::NOSUID | MountAttrs::NODEV | MountAttrs::NOEXEC;
        let first = context.mount(attributes)?;
        self.empty = Some(first.try_clone()?);
        Ok(first)
    }
}

/// Binds a path onto itself, with the mounts below it, and makes that one mount read-only. Mounts below come along, or
/// what was mounted there would be gone from sight, and keep their own setting: a volume inside a protected directory
/// was asked for by name. Other runtimes do the same (a recursive bind, then a remount of its top).
fn make_readonly(root: BorrowedFd<'_>, path: &Path) -> Result<(), Failure> {
    let step = || format!("make {} read-only", path.display());
    let Some(place) = there(root, path).during(step)? else { return Ok(()) };
    let itself = mount::open_tree_clone(place.as_fd(), Path::new(""), true).during(step)?;
    mount::mount_setattr(itself.as_fd(), false, MountAttrs::RDONLY, MountAttrs::empty(), None).during(step)?;
    mount::move_mount(itself.as_fd(), place.as_fd()).during(step)
}

/// The thing at a path, if there is one.
fn there(root: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    match path_in_root::open_in_root(root, path, OpenFlags::O_PATH, 0) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        opened => opened.map(Some),
    }
}

/// The container's devpts, which must be one: a terminal opened elsewhere could be the host's.
pub(crate) fn devpts(root: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let step = || "find the container's devpts".to_owned();
    let flags = OpenFlags::O_PATH | OpenFlags::O_DIRECTORY;
    let devpts = path_in_root::open_no_links(root, Path::new("dev/pts"), flags, 0).during(step)?;
    if file::filesystem(devpts.as_fd()).during(step)?.magic != libc::DEVPTS_SUPER_MAGIC {
        return Err(Failure::wrong("the container's /dev/pts is no devpts"));
    }
    Ok(devpts)
}

/// The opened directory of a path (made if missing) and the last name.
fn parent_of(root: BorrowedFd<'_>, path: &Path) -> Result<(OwnedFd, PathBuf), Failure> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Failure::wrong(format!("{} has no name", path.display())));
    };
    let parent = make_directories(root, parent).during(|| format!("make the directory {}", parent.display()))?;
    Ok((parent, PathBuf::from(name)))
}

/// The same path, seen from the root's descriptor.
fn below(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}
