//! Device programs on a v2 cgroup, and children that are born in it.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use kernel::{
    bpf::{Instruction, attach_device_program, attached, detach_device_program, load_device_program},
    mount_table,
    process::{CloneArgs, Ended, exit_now},
};

use super::{assert_root, ends, place};

/// A cgroup for one test, removed with it.
struct Cgroup {
    path: PathBuf,
    fd: OwnedFd,
}

impl Cgroup {
    fn new(name: &str) -> Self {
        let table = mount_table::read().unwrap();
        let v2 = table.iter().find(|entry| entry.fstype == "cgroup2").expect("a cgroup2 mount");
        let path = v2.mount_point.join(format!("crt-kernel-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let fd = nix::fcntl::open(&path, kernel::path_in_root::OpenFlags::O_DIRECTORY, nix::sys::stat::Mode::empty());
        Self { fd: fd.unwrap(), path }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.path).unwrap();
    }
}

/// Answers every question about a device with the same word.
fn always(answer: i32) -> Vec<Instruction> {
    let mov_r0 = Instruction { code: 0xb7, registers: 0, offset: 0, immediate: answer };
    let exit = Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 };
    vec![mov_r0, exit]
}

/// The errno with which a child of the cgroup opens /dev/null, 0 when it can.
fn opening_null_in(cgroup: &Cgroup) -> i32 {
    let args = CloneArgs { cgroup: Some(cgroup.fd.as_fd()), ..CloneArgs::default() };
    let flags = kernel::path_in_root::OpenFlags::O_RDWR;
    let how = ends(args, || match nix::fcntl::open(c"/dev/null", flags, nix::sys::stat::Mode::empty()) {
        Ok(_) => exit_now(0),
        Err(errno) => exit_now(errno as i32),
    });
    match how {
        Ended::Code(code) => i32::from(code),
        Ended::Signal(signal) => panic!("signal {signal}"),
    }
}

#[test]
#[ignore = "needs root: makes a cgroup and loads BPF programs"]
fn a_program_counts_for_who_is_born_in_the_cgroup_and_is_replaced_in_one_step() {
    assert_root();
    let cgroup = Cgroup::new("replace");
    assert_eq!(opening_null_in(&cgroup), 0);
    let (deny, allow) = (load_device_program(&always(0)).unwrap(), load_device_program(&always(1)).unwrap());

    attach_device_program(cgroup.fd.as_fd(), deny.as_fd()).unwrap();
    assert_eq!(opening_null_in(&cgroup), libc::EPERM);
    attach_device_program(cgroup.fd.as_fd(), allow.as_fd()).unwrap();
    assert_eq!(opening_null_in(&cgroup), 0);
    assert_eq!(attached(cgroup.fd.as_fd()).unwrap().len(), 1);

    drop(deny);
    let refuse_again = load_device_program(&always(0)).unwrap();
    attach_device_program(cgroup.fd.as_fd(), refuse_again.as_fd()).unwrap();
    assert_eq!(opening_null_in(&cgroup), libc::EPERM);
    detach_device_program(cgroup.fd.as_fd(), refuse_again.as_fd()).unwrap();
    assert_eq!(opening_null_in(&cgroup), 0);
    assert_eq!(attached(cgroup.fd.as_fd()).unwrap().len(), 0);
}

#[test]
#[ignore = "needs root: makes a cgroup and loads BPF programs"]
fn a_program_that_cannot_be_proved_safe_is_refused_with_the_reason() {
    assert_root();
    let endless = [Instruction { code: 0x05, registers: 0, offset: -1, immediate: 0 }];
    let error: io::Error = load_device_program(&endless).unwrap_err();
    assert!(error.to_string().len() > 20, "{error}");
}

#[test]
#[ignore = "needs root: asks for a birth in something that is no cgroup"]
fn a_child_is_not_born_where_no_cgroup_is() {
    assert_root();
    let tmp = place(Path::new("/tmp"));
    let args = CloneArgs { cgroup: Some(tmp.as_fd()), ..CloneArgs::default() };
    assert!(kernel::process::clone3(args, || exit_now(0)).is_err());
}
