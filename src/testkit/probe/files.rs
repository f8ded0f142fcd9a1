//! Verbs on files: what a container may read, write, make and mount.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::Path,
};

use nix::{
    mount::MsFlags,
    sys::stat::{Mode, SFlag, makedev},
};
use serde_json::json;

use crate::{Done, argument};

pub(crate) fn cat(arguments: &[String]) -> Done {
    argument(arguments, 0, "FILE")?;
    for path in arguments {
        io::copy(&mut at(path, File::open(path))?, &mut io::stdout())?;
    }
    Ok(0)
}

pub(crate) fn write(arguments: &[String]) -> Done {
    let path = argument(arguments, 0, "FILE")?;
    at(path, fs::write(path, argument(arguments, 1, "TEXT")?))?;
    Ok(0)
}

pub(crate) fn touch(arguments: &[String]) -> Done {
    let path = argument(arguments, 0, "FILE")?;
    let file = at(path, OpenOptions::new().create(true).append(true).open(path))?;
    at(path, file.set_modified(std::time::SystemTime::now()))?;
    Ok(0)
}

pub(crate) fn mkdir(arguments: &[String]) -> Done {
    let path = argument(arguments, 0, "DIR")?;
    at(path, fs::create_dir_all(path))?;
    Ok(0)
}

pub(crate) fn remove(arguments: &[String]) -> Done {
    let path = argument(arguments, 0, "PATH")?;
    let is_directory = at(path, fs::symlink_metadata(path))?.is_dir();
    at(path, if is_directory { fs::remove_dir(path) } else { fs::remove_file(path) })?;
    Ok(0)
}

pub(crate) fn chmod(arguments: &[String]) -> Done {
    let mode = u32::from_str_radix(argument(arguments, 0, "MODE")?, 8)?;
    let path = argument(arguments, 1, "PATH")?;
    at(path, fs::set_permissions(path, fs::Permissions::from_mode(mode)))?;
    Ok(0)
}

pub(crate) fn tree(arguments: &[String]) -> Done {
    walk(Path::new(argument(arguments, 0, "DIR")?))?;
    Ok(0)
}

/// Depth first, sorted, without following links: two equal trees print the same.
fn walk(path: &Path) -> io::Result<()> {
    let about = fs::symlink_metadata(path)?;
    let link = if about.is_symlink() { format!(" -> {}", fs::read_link(path)?.display()) } else { String::new() };
    println!(
        "{} {:06o} {}:{} {} {}{link}",
        kind(&about),
        about.mode(),
        about.uid(),
        about.gid(),
        if about.is_file() { about.size() } else { 0 },
        path.display()
    );
    if about.is_dir() {
        let mut below: Vec<_> = fs::read_dir(path)?.flatten().map(|entry| entry.path()).collect();
        below.sort();
        for path in below {
            walk(&path)?;
        }
    }
    Ok(())
}

pub(crate) fn stat(arguments: &[String]) -> Done {
    let path = argument(arguments, 0, "PATH")?;
    let about = at(path, fs::symlink_metadata(path))?;
    println!(
        "{}",
        json!({
            "kind": kind(&about), "mode": format!("{:04o}", about.mode() & 0o7777), "uid": about.uid(),
            "gid": about.gid(), "size": about.size(), "links": about.nlink(),
            "major": nix::sys::stat::major(about.rdev()), "minor": nix::sys::stat::minor(about.rdev()),
            "device": about.dev(), "modified": about.mtime(),
        })
    );
    Ok(0)
}

pub(crate) fn open(arguments: &[String]) -> Done {
    println!("{}", tried(Path::new(argument(arguments, 0, "PATH")?)));
    Ok(0)
}

/// How opening a path for reading and for writing goes: `ok` or the error's name. Opening for writing changes nothing.
pub(crate) fn tried(path: &Path) -> serde_json::Value {
    let how = |options: &mut OpenOptions| match options.open(path) {
        Ok(_) => "ok".to_owned(),
        Err(error) => name(&error),
    };
    use std::os::unix::fs::OpenOptionsExt;
    // A FIFO or a terminal must not hold the report up.
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    json!({
        "read": how(OpenOptions::new().read(true).custom_flags(flags)),
        "write": how(OpenOptions::new().write(true).custom_flags(flags)),
    })
}

/// `EPERM` and its like.
pub(crate) fn name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", nix::errno::Errno::from_raw(number)),
        None => error.to_string(),
    }
}

pub(crate) fn kind(about: &fs::Metadata) -> &'static str {
    let kind = about.file_type();
    match () {
        () if kind.is_file() => "file",
        () if kind.is_dir() => "directory",
        () if kind.is_symlink() => "link",
        () if kind.is_char_device() => "char",
        () if kind.is_block_device() => "block",
        () if kind.is_fifo() => "fifo",
        () => "socket",
    }
}

pub(crate) fn mknod(arguments: &[String]) -> Done {
    let path = argument(arguments, 0, "PATH")?;
    let kind = match argument(arguments, 1, "c|b")? {
        "c" => SFlag::S_IFCHR,
        "b" => SFlag::S_IFBLK,
        other => return Err(format!("{other:?} is neither c nor b").into()),
    };
    let device = makedev(argument(arguments, 2, "MAJOR")?.parse()?, argument(arguments, 3, "MINOR")?.parse()?);
    nix::sys::stat::mknod(path, kind, Mode::from_bits_truncate(0o666), device)?;
    Ok(0)
}

pub(crate) fn mount(arguments: &[String]) -> Done {
    let (kind, dir) = (argument(arguments, 0, "TYPE")?, argument(arguments, 1, "DIR")?);
    nix::mount::mount(Some(kind), dir, Some(kind), MsFlags::empty(), None::<&str>)?;
    Ok(0)
}

pub(crate) fn set_hostname(arguments: &[String]) -> Done {
    nix::unistd::sethostname(argument(arguments, 0, "NAME")?)?;
    Ok(0)
}

/// The path before the reason, as every tool prints it.
fn at<T>(path: &str, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{path}: {error}"))
}
