//! No way out of a root, whatever its owner puts into it.

use std::{
    fs,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{MetadataExt, symlink},
    },
    path::Path,
};

use kernel::path_in_root::{
    OpenFlags, make_directories, make_file, open_beneath, open_in_root, open_no_links, read_limited, read_regular,
};

use super::place;

const READ: OpenFlags = OpenFlags::O_RDONLY;

/// `outside/secret` beside `root/`, which holds `inside` and every kind of bad link.
fn hostile() -> (tempfile::TempDir, OwnedFd) {
    let top = tempfile::tempdir().unwrap();
    let (outside, root) = (top.path().join("outside"), top.path().join("root"));
    fs::create_dir_all(root.join("dir")).unwrap();
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    fs::write(root.join("inside"), "inside").unwrap();
    symlink("/inside", root.join("absolute")).unwrap();
    symlink("../../../../inside", root.join("dir/up")).unwrap();
    symlink(&outside, root.join("out")).unwrap();
    symlink("../outside", root.join("out_up")).unwrap();
    symlink("/nothing/here", root.join("dangling")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    let root = place(&root);
    (top, root)
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn text(fd: OwnedFd) -> String {
    let mut text = String::new();
    fs::File::from(fd).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn in_a_root_links_and_dots_lead_to_its_own_files() {
    let (_top, root) = hostile();
    for path in ["inside", "/inside", "absolute", "dir/up", "../../inside", "dir/../../../inside"] {
        assert_eq!(text(open_in_root(root.as_fd(), Path::new(path), READ, 0).unwrap()), "inside", "{path}");
    }
    for path in ["out/secret", "out_up/secret", "../outside/secret", "dangling"] {
        assert_eq!(errno(open_in_root(root.as_fd(), Path::new(path), READ, 0)), Some(libc::ENOENT), "{path}");
    }
    assert_eq!(errno(open_in_root(root.as_fd(), Path::new("loop"), READ, 0)), Some(libc::ELOOP));
}

#[test]
fn beneath_a_directory_every_step_out_is_refused() {
    let (_top, dir) = hostile();
    assert_eq!(text(open_beneath(dir.as_fd(), Path::new("dir/../inside"), READ, 0).unwrap()), "inside");
    for path in ["/inside", "absolute", "dir/up", "out/secret", "out_up/secret", "../outside/secret"] {
        assert_eq!(errno(open_beneath(dir.as_fd(), Path::new(path), READ, 0)), Some(libc::EXDEV), "{path}");
    }
}

#[test]
fn without_links_even_a_good_link_is_refused() {
    let (top, dir) = hostile();
    symlink("inside", top.path().join("root/good")).unwrap();
    assert_eq!(text(open_beneath(dir.as_fd(), Path::new("good"), READ, 0).unwrap()), "inside");
    assert_eq!(errno(open_no_links(dir.as_fd(), Path::new("good"), READ, 0)), Some(libc::ELOOP));
    open_no_links(dir.as_fd(), Path::new("good"), OpenFlags::O_PATH | OpenFlags::O_NOFOLLOW, 0).unwrap();
}

#[test]
fn a_magic_link_is_no_way_out() {
    let proc = place(Path::new("/proc"));
    for path in ["self/root/etc", "self/cwd", "self/exe", "self/fd/0"] {
        assert_eq!(errno(open_in_root(proc.as_fd(), Path::new(path), READ, 0)), Some(libc::ELOOP), "{path}");
    }
}

#[test]
fn directories_are_made_inside_and_making_them_again_is_fine() {
    let (top, root) = hostile();
    for _ in 0..2 {
        let made = make_directories(root.as_fd(), Path::new("/a//b/./c/"), 0o755).unwrap();
        let inode = nix::sys::stat::fstat(&made).unwrap().st_ino;
        assert_eq!(inode, top.path().join("root/a/b/c").metadata().unwrap().ino());
    }
    // A link out of the root leads to a directory of that name in it, and none is there.
    assert_eq!(errno(make_directories(root.as_fd(), Path::new("out/x"), 0o755)), Some(libc::ENOENT));
    assert_eq!(errno(make_directories(root.as_fd(), Path::new("dangling/x"), 0o755)), Some(libc::ENOENT));
    assert_eq!(errno(make_directories(root.as_fd(), Path::new("inside/x"), 0o755)), Some(libc::ENOTDIR));
    make_directories(root.as_fd(), Path::new("../../up/../side"), 0o755).unwrap();
    assert!(top.path().join("root/side").is_dir());
    assert_eq!(fs::read_dir(top.path().join("outside")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(top.path()).unwrap().count(), 2);
    for path in ["", "/", "."] {
        make_directories(root.as_fd(), Path::new(path), 0o755).unwrap();
    }
}

#[test]
fn a_file_is_made_once_with_its_directories() {
    let (top, root) = hostile();
    for _ in 0..2 {
        make_file(root.as_fd(), Path::new("/etc/deep/hosts"), 0o644, 0o755).unwrap();
    }
    assert_eq!(fs::read(top.path().join("root/etc/deep/hosts")).unwrap(), b"");
    make_file(root.as_fd(), Path::new("inside"), 0o644, 0o755).unwrap();
    assert_eq!(fs::read(top.path().join("root/inside")).unwrap(), b"inside");
    assert!(make_file(root.as_fd(), Path::new("dangling"), 0o644, 0o755).is_err());
    assert!(make_file(root.as_fd(), Path::new("new/.."), 0o644, 0o755).is_err());
}

#[test]
fn what_is_read_has_a_limit_and_is_a_file() {
    let (top, root) = hostile();
    let open = || open_in_root(root.as_fd(), Path::new("inside"), READ, 0).unwrap();
    assert_eq!(read_limited(open(), 6).unwrap(), b"inside");
    assert_eq!(errno(read_limited(open(), 5)), Some(libc::EFBIG));
    assert_eq!(read_regular(root.as_fd(), Path::new("absolute"), 6).unwrap(), b"inside");
    assert_eq!(errno(read_regular(root.as_fd(), Path::new("absolute"), 5)), Some(libc::EFBIG));
    nix::unistd::mkfifo(&top.path().join("root/fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    for path in ["fifo", "dir"] {
        assert_eq!(errno(read_regular(root.as_fd(), Path::new(path), 9)), Some(libc::EINVAL), "{path}");
    }
}

#[test]
fn a_new_file_gets_its_mode() {
    let (top, root) = hostile();
    let create = OpenFlags::O_CREAT | OpenFlags::O_EXCL | OpenFlags::O_WRONLY;
    open_in_root(root.as_fd(), Path::new("dir/new"), create, 0o600).unwrap();
    assert_eq!(top.path().join("root/dir/new").metadata().unwrap().mode() & 0o777, 0o600);
}
