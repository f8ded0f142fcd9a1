//! A terminal from a devpts of its own.

use std::os::fd::{AsFd, OwnedFd};

use kernel::{
    mount::{FsContext, MountAttrs},
    process::{CloneArgs, Ended, exit_now, new_session},
    tty::{WindowSize, is_tty, open, set_controlling, set_window_size, window_size},
};

use super::{assert_root, ends};

fn devpts() -> OwnedFd {
    let context = FsContext::open(c"devpts").unwrap();
    context.set_string(c"ptmxmode", c"0666").unwrap();
    context.set_string(c"mode", c"0620").unwrap();
    context.set_string(c"max", c"2").unwrap();
    context.create().unwrap();
    context.mount(MountAttrs::NOSUID | MountAttrs::NOEXEC).unwrap()
}

#[test]
#[ignore = "needs root: mounts a devpts"]
fn what_is_typed_arrives_and_sizes_are_kept() {
    assert_root();
    let devpts = devpts();
    let pty = open(devpts.as_fd()).unwrap();
    assert_eq!(pty.number, 0);
    assert!(is_tty(pty.slave.as_fd()));
    let size = WindowSize { rows: 33, columns: 111 };
    set_window_size(pty.master.as_fd(), size).unwrap();
    assert_eq!(window_size(pty.slave.as_fd()).unwrap(), size);
    nix::unistd::write(&pty.master, b"typed\n").unwrap();
    let mut line = [0; 16];
    assert_eq!(nix::unistd::read(&pty.slave, &mut line).unwrap(), 6);
    assert_eq!(&line[..6], b"typed\n");

    let second = open(devpts.as_fd()).unwrap();
    assert_eq!(second.number, 1);
    assert_eq!(open(devpts.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
}

#[test]
#[ignore = "needs root: mounts a devpts"]
fn a_session_takes_its_terminal_and_is_hung_up_with_it() {
    assert_root();
    let pty = open(devpts().as_fd()).unwrap();
    let how = ends(CloneArgs::default(), || {
        if new_session().and_then(|()| set_controlling(pty.slave.as_fd())).is_err() {
            exit_now(1);
        }
        // /dev/tty opens only for who has a controlling terminal.
        let flags = kernel::path_in_root::OpenFlags::O_RDWR;
        exit_now(if nix::fcntl::open(c"/dev/tty", flags, nix::sys::stat::Mode::empty()).is_ok() { 0 } else { 2 })
    });
    assert_eq!(how, Ended::Code(0));
}
