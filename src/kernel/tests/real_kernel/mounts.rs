//! Mounts made detached, shaped and placed, each in a mount namespace of its own.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::Path,
};

use kernel::{
    mount::{
        self, FsContext, MountAttrs, PropagationType, mount_setattr, move_mount, open_tree_clone, pivot_root_here,
        set_propagation, umount_detach,
    },
    mount_table,
    namespace::{self, Namespaces},
    path_in_root::make_directories,
    process::{CloneArgs, Ended, clone3, exit_now, wait_blocking},
};

use super::{ends, in_private_mounts, place};

const NONE: MountAttrs = MountAttrs::empty();

fn tmpfs() -> OwnedFd {
    let context = FsContext::open(c"tmpfs").unwrap();
    context.set_string(c"size", c"1m").unwrap();
    context.set_string(c"mode", c"0751").unwrap();
    context.create().unwrap();
    context.mount(MountAttrs::NODEV | MountAttrs::NOSUID).unwrap()
}

/// The attributes of the mount at `path` itself, in its own order.
fn attributes(path: &Path) -> String {
    let table = mount_table::read().unwrap();
    table.iter().rfind(|entry| entry.mount_point == path).map(|entry| entry.attributes.clone()).unwrap()
}

#[test]
#[ignore = "needs root: mounts"]
fn a_tree_is_copied_made_read_only_and_placed() {
    in_private_mounts(|| {
        let top = tempfile::tempdir().unwrap();
        let (source, target) = (top.path().join("source"), top.path().join("target"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(source.join("file"), "x").unwrap();

        let copy = open_tree_clone(place(top.path()).as_fd(), Path::new("source"), true).unwrap();
        let set = MountAttrs::RDONLY | MountAttrs::NOSUID | MountAttrs::NOEXEC | MountAttrs::NOATIME;
        mount_setattr(copy.as_fd(), true, set, NONE, Some(PropagationType::Private)).unwrap();
        move_mount(copy.as_fd(), place(&target).as_fd()).unwrap();

        assert_eq!(fs::read(target.join("file")).unwrap(), b"x");
        assert_eq!(fs::write(target.join("file"), "y").unwrap_err().raw_os_error(), Some(libc::EROFS));
        fs::write(source.join("file"), "y").unwrap();
        assert_eq!(attributes(&target), "ro,nosuid,noexec,noatime");

        mount_setattr(copy.as_fd(), false, MountAttrs::RELATIME, MountAttrs::RDONLY, None).unwrap();
        assert_eq!(attributes(&target), "rw,nosuid,noexec,relatime");
        fs::write(target.join("file"), "z").unwrap();
        umount_detach(&target).unwrap();
        assert_eq!(umount_detach(&target).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    });
}

#[test]
#[ignore = "needs root: mounts"]
fn a_file_is_placed_on_a_file_and_never_on_a_directory() {
    in_private_mounts(|| {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("source"), "x").unwrap();
        fs::write(top.path().join("target"), "").unwrap();
        let copy = open_tree_clone(place(&top.path().join("source")).as_fd(), Path::new(""), false).unwrap();
        let refused = move_mount(copy.as_fd(), place(top.path()).as_fd()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
        move_mount(copy.as_fd(), place(&top.path().join("target")).as_fd()).unwrap();
        assert_eq!(fs::read(top.path().join("target")).unwrap(), b"x");
    });
}

#[test]
#[ignore = "needs root: mounts a tmpfs"]
fn a_filesystem_is_made_with_its_options_and_gone_when_dropped() {
    in_private_mounts(|| {
        let top = tempfile::tempdir().unwrap();
        let mounted = tmpfs();
        move_mount(mounted.as_fd(), place(top.path()).as_fd()).unwrap();
        assert_eq!(top.path().metadata().unwrap().permissions().mode() & 0o777, 0o751);
        assert_eq!(attributes(top.path()), "rw,nosuid,nodev,relatime");
        assert_eq!(kernel::file::filesystem(mounted.as_fd()).unwrap().bytes, 1 << 20);
        umount_detach(top.path()).unwrap();

        let before = mount_table::read().unwrap().len();
        drop(tmpfs());
        assert_eq!(mount_table::read().unwrap().len(), before);
    });
}

#[test]
#[ignore = "needs root: mounts an overlay"]
fn an_overlay_of_many_layers_is_mounted_detached() {
    in_private_mounts(|| {
        assert!(mount::overlay_takes_layers_one_by_one());
        let top = tempfile::tempdir().unwrap();
        let context = FsContext::open(c"overlay").unwrap();
        for layer in 0..40 {
            let path = top.path().join(format!("layer-with-a-long-name-{layer}"));
            fs::create_dir(&path).unwrap();
            fs::write(path.join(format!("{layer}")), "").unwrap();
            fs::write(path.join("which"), format!("{layer}")).unwrap();
            context.set_path(c"lowerdir+", &path).unwrap();
        }
        for (key, name) in [(c"upperdir", "upper"), (c"workdir", "work")] {
            fs::create_dir(top.path().join(name)).unwrap();
            context.set_path(key, &top.path().join(name)).unwrap();
        }
        context.set_flag(c"volatile").unwrap();
        context.create().unwrap();
        let overlay = context.mount(NONE).unwrap();
        let target = top.path().join("merged");
        fs::create_dir(&target).unwrap();
        move_mount(overlay.as_fd(), place(&target).as_fd()).unwrap();
        assert_eq!(fs::read(target.join("which")).unwrap(), b"0");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 41);
        umount_detach(&target).unwrap();
    });
}

#[test]
#[ignore = "needs root: mounts an overlay"]
fn an_older_kernel_gets_its_overlay_by_one_string() {
    in_private_mounts(|| {
        let top = tempfile::tempdir().unwrap();
        for name in ["a", "b", "upper", "work", "merged"] {
            fs::create_dir(top.path().join(name)).unwrap();
        }
        fs::write(top.path().join("a/which"), "a").unwrap();
        fs::write(top.path().join("b/which"), "b").unwrap();
        let dir = place(top.path());
        let before = mount_table::read().unwrap().len();
        let options = c"lowerdir=a:b,upperdir=upper,workdir=work,volatile";
        let overlay = mount::mount_detached_by_options(c"overlay", dir.as_fd(), options).unwrap();
        assert_eq!(mount_table::read().unwrap().len(), before);

        move_mount(overlay.as_fd(), place(&top.path().join("merged")).as_fd()).unwrap();
        assert_eq!(fs::read(top.path().join("merged/which")).unwrap(), b"a");
        fs::write(top.path().join("merged/new"), "").unwrap();
        assert!(top.path().join("upper/new").exists());
        umount_detach(&top.path().join("merged")).unwrap();

        let long = std::ffi::CString::new("lowerdir=".to_owned() + &"a:".repeat(2100)).unwrap();
        let refused = mount::mount_detached_by_options(c"overlay", dir.as_fd(), &long).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::E2BIG));
    });
}

#[test]
#[ignore = "needs root: opens filesystems"]
fn what_the_kernel_says_about_a_mistake_is_kept() {
    super::assert_root();
    let context = FsContext::open(c"overlay").unwrap();
    let error = context.set_string(c"no_such_option", c"1").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    let told = context.explain(error);
    assert!(told.to_string().contains("no_such_option"), "{told}");
    let source = std::error::Error::source(told.get_ref().unwrap()).unwrap();
    assert_eq!(source.downcast_ref::<io::Error>().unwrap().raw_os_error(), Some(libc::EINVAL));
    assert_eq!(context.log(), "");
    assert_eq!(FsContext::open(c"no_such_fs").unwrap_err().raw_os_error(), Some(libc::ENODEV));
}

#[test]
#[ignore = "needs root: pivots into a new root"]
fn a_child_pivots_into_a_root_that_holds_nothing_else() {
    super::assert_root();
    let top = tempfile::tempdir().unwrap();
    let foreign = place(top.path());
    let args = CloneArgs { namespaces: Namespaces::MOUNT, cgroup: None };
    let how = ends(args, || {
        let step = || -> io::Result<()> {
            set_propagation(Path::new("/"), PropagationType::Slave, true)?;
            let context = FsContext::open(c"tmpfs")?;
            context.create()?;
            let root = context.mount(NONE)?;
            // Opened before the clone, it belongs to the parent's mounts.
            if move_mount(root.as_fd(), foreign.as_fd()).is_ok() {
                exit_now(99);
            }
            move_mount(root.as_fd(), place(top.path()).as_fd())?;
            make_directories(root.as_fd(), Path::new("only/this"), 0o755)?;
            nix::unistd::fchdir(&root)?;
            pivot_root_here()?;
            nix::unistd::access(c"/only/this", nix::unistd::AccessFlags::F_OK)?;
            match nix::unistd::access(c"/proc", nix::unistd::AccessFlags::F_OK) {
                Err(nix::errno::Errno::ENOENT) => {}
                _ => exit_now(100),
            }
            // The working directory moved along: `..` of it is still the new root.
            nix::unistd::access(c"../only", nix::unistd::AccessFlags::F_OK)?;
            Ok(())
        };
        exit_now(step().err().map_or(0, |error| error.raw_os_error().unwrap_or(101)))
    });
    assert_eq!(how, Ended::Code(0));
    assert_eq!(fs::read_dir(top.path()).unwrap().count(), 0);
}

#[test]
#[ignore = "needs root: maps ids of a mount"]
fn a_mapped_mount_shows_other_owners() {
    in_private_mounts(|| {
        let (read, write) = nix::unistd::pipe().unwrap();
        let args = CloneArgs { namespaces: Namespaces::USER, cgroup: None };
        let (pid, pidfd) = clone3(args, || {
            // Lives until the other end says otherwise, so that its namespace can be opened and filled.
            let _ = nix::unistd::read(&read, &mut [0; 1]);
            exit_now(0)
        })
        .unwrap();
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{map}", pid.0), "0 100000 65536").unwrap();
        }
        let users = namespace::of_process(pid, Namespaces::USER).unwrap();
        nix::unistd::write(&write, b"x").unwrap();
        assert_eq!(wait_blocking(pidfd.as_fd()).unwrap(), Ended::Code(0));

        let top = tempfile::tempdir().unwrap();
        let (source, target) = (top.path().join("source"), top.path().join("target"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(source.join("file"), "").unwrap();
        let copy = open_tree_clone(place(&source).as_fd(), Path::new(""), false).unwrap();
        mount::map_ids(copy.as_fd(), false, users.as_fd()).unwrap();
        move_mount(copy.as_fd(), place(&target).as_fd()).unwrap();
        assert_eq!(source.join("file").metadata().unwrap().uid(), 0);
        assert_eq!(target.join("file").metadata().unwrap().uid(), 100_000);
        umount_detach(&target).unwrap();
    });
}

#[test]
#[ignore = "needs root: mounts"]
fn a_bind_shows_and_a_shared_mount_sends() {
    in_private_mounts(|| {
        let top = tempfile::tempdir().unwrap();
        let (one, other) = (top.path().join("one"), top.path().join("other"));
        fs::create_dir_all(one.join("inner")).unwrap();
        fs::create_dir(&other).unwrap();
        mount::bind(&one, &one).unwrap();
        set_propagation(&one, PropagationType::Shared, false).unwrap();
        mount::bind(&one, &other).unwrap();
        mount::bind(Path::new("/proc"), &one.join("inner")).unwrap();
        assert!(other.join("inner/self").exists());
        let table = mount_table::read().unwrap();
        assert!(mount_table::holding(&table, &other).unwrap().shared.is_some());
        umount_detach(&one.join("inner")).unwrap();
        assert!(!other.join("inner/self").exists());
    });
}
