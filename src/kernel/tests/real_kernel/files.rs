//! Names, owners, modes, times, special files and attributes, by directory descriptor.

use std::{
    fs,
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt, symlink},
    },
    path::Path,
};

use kernel::{
    file::{
        FileTime, Special, exchange, filesystem, fsync_dir, make_special, path_of, rename_noreplace, set_mode,
        set_owner, set_times, syncfs,
    },
    xattr,
};

use super::assert_root;

#[test]
fn a_rename_replaces_nothing_and_an_exchange_swaps() {
    let top = tempfile::tempdir().unwrap();
    let dir = fs::File::open(top.path()).unwrap();
    let dir = dir.as_fd();
    let (a, b, c) = (Path::new("a"), Path::new("b"), Path::new("c"));
    fs::write(top.path().join(a), "a").unwrap();
    fs::write(top.path().join(b), "b").unwrap();
    assert_eq!(rename_noreplace(dir, a, dir, b).unwrap_err().raw_os_error(), Some(libc::EEXIST));
    rename_noreplace(dir, a, dir, c).unwrap();
    exchange(dir, b, dir, c).unwrap();
    assert_eq!(fs::read(top.path().join(b)).unwrap(), b"a");
    assert_eq!(fs::read(top.path().join(c)).unwrap(), b"b");
    assert_eq!(exchange(dir, a, dir, b).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    fsync_dir(dir).unwrap();
    syncfs(dir).unwrap();
    assert!(filesystem(dir).unwrap().bytes > 0);
    assert_eq!(fs::read(path_of(&dir).join("b")).unwrap(), b"a");
}

#[test]
#[ignore = "needs root: changes owners and makes devices"]
fn a_link_is_changed_itself_and_never_followed() {
    assert_root();
    let top = tempfile::tempdir().unwrap();
    let dir = fs::File::open(top.path()).unwrap();
    let dir = dir.as_fd();
    fs::write(top.path().join("file"), "").unwrap();
    symlink("file", top.path().join("link")).unwrap();
    let (file, link) = (Path::new("file"), Path::new("link"));
    set_owner(dir, link, Some(5), None).unwrap();
    let moment = FileTime { seconds: 1_000_000_000, nanoseconds: 5 };
    set_times(dir, link, moment, moment).unwrap();
    let (of_file, of_link) =
        (top.path().join(file).metadata().unwrap(), top.path().join(link).symlink_metadata().unwrap());
    assert_eq!((of_file.uid(), of_link.uid(), of_link.gid()), (0, 5, 0));
    assert_eq!((of_link.mtime(), of_link.mtime_nsec()), (1_000_000_000, 5));
    assert_ne!(of_file.mtime(), 1_000_000_000);
    assert_eq!(set_mode(dir, link, 0o777).unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    set_mode(dir, file, 0o4711).unwrap();
    assert_eq!(top.path().join(file).metadata().unwrap().mode() & 0o7777, 0o4711);
}

#[test]
#[ignore = "needs root: changes owners and makes devices"]
fn special_files_have_their_kind_and_number() {
    assert_root();
    let top = tempfile::tempdir().unwrap();
    let dir = fs::File::open(top.path()).unwrap();
    let made = |name: &str, what| {
        make_special(dir.as_fd(), Path::new(name), what, 0o600).unwrap();
        top.path().join(name).metadata().unwrap()
    };
    let null = made("null", Special::Char { major: 1, minor: 3 });
    assert!(null.file_type().is_char_device());
    assert_eq!(null.rdev(), fs::metadata("/dev/null").unwrap().rdev());
    assert!(made("block", Special::Block { major: 7, minor: 0 }).file_type().is_block_device());
    assert!(made("fifo", Special::Fifo).file_type().is_fifo());
}

#[test]
#[ignore = "needs root: writes trusted attributes"]
fn attributes_are_kept_by_file_and_by_link() {
    assert_root();
    let top = tempfile::tempdir().unwrap();
    let dir = fs::File::open(top.path()).unwrap();
    let file = fs::File::create(top.path().join("file")).unwrap();
    symlink("file", top.path().join("link")).unwrap();
    let name = c"trusted.crt";
    assert_eq!(xattr::get(file.as_fd(), name).unwrap(), None);
    xattr::set(file.as_fd(), name, b"a\0b").unwrap();
    xattr::set_at(dir.as_fd(), Path::new("link"), name, b"").unwrap();
    assert_eq!(xattr::get(file.as_fd(), name).unwrap().unwrap(), b"a\0b");
    assert_eq!(xattr::get_at(dir.as_fd(), Path::new("file"), name).unwrap().unwrap(), b"a\0b");
    assert_eq!(xattr::get_at(dir.as_fd(), Path::new("link"), name).unwrap().unwrap(), b"");
    assert_eq!(xattr::list(file.as_fd()).unwrap(), [name.to_owned()]);
    assert_eq!(xattr::list_at(dir.as_fd(), Path::new("link")).unwrap(), [name.to_owned()]);
    xattr::remove(file.as_fd(), name).unwrap();
    xattr::remove(file.as_fd(), name).unwrap();
    assert!(xattr::list(file.as_fd()).unwrap().is_empty());
}
