//! Device access of cgroup v2: an eBPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE` on the cgroup's directory.
//!
//! What the program says (which devices) is built elsewhere; here it is loaded and put in force. Linux 4.15;
//! replacing one program by another in a single step is 5.6. Needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use crate::sys::{done, take};

/// `enum bpf_cmd`.
const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_GET_FD_BY_ID: i32 = 13;
const PROG_QUERY: i32 = 16;

/// `BPF_PROG_TYPE_CGROUP_DEVICE`.
const TYPE_CGROUP_DEVICE: u32 = 15;
/// `BPF_CGROUP_DEVICE`, the attach type.
const ATTACH_DEVICE: u32 = 6;
/// `BPF_F_ALLOW_MULTI`: descendants may have programs of their own, and *every* one must allow.
const ALLOW_MULTI: u32 = 1 << 1;
/// `BPF_F_REPLACE`.
const REPLACE: u32 = 1 << 2;
/// The kernel's own limit of programs on one cgroup (`BPF_CGROUP_MAX_PROGS`).
const MAX_PROGRAMS: usize = 64;
/// What the verifier may say, kept in the error.
const LOG_SIZE: usize = 8192;

/// One instruction of eBPF (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instruction {
    /// What to do.
    pub code: u8,
    /// Destination register in the low four bits, source in the high four.
    pub registers: u8,
    /// How far to jump, or where in memory.
    pub offset: i16,
    /// The operand.
    pub immediate: i32,
}

/// The part of `union bpf_attr` for `BPF_PROG_LOAD` up to `expected_attach_type`.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach: u32,
}

/// The part of `union bpf_attr` for `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

/// The part of `union bpf_attr` for `BPF_PROG_QUERY`, with the fields of Linux 6.6 that an older one wants zero.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

/// The part of `union bpf_attr` for `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// Loads a device program. `EACCES` or `EINVAL`: the verifier refuses it, and the error's text is what it said.
pub fn load_device_program(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    match load(instructions, None) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EINVAL)) => {
            // Again, only to hear the reason: asking for it costs the verifier time, so the good case goes without.
            let mut log = vec![0; LOG_SIZE];
            match load(instructions, Some(&mut log)) {
                Err(_) if log[0] != 0 => {
                    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
                    Err(io::Error::new(error.kind(), String::from_utf8_lossy(&log[..end]).trim().to_owned()))
                }
                other => other,
            }
        }
        loaded => loaded,
    }
}

/// Puts the program in force for a cgroup and everything below it, instead of what was attached here before.
///
/// A device must be allowed by the programs of all ancestors too. With one program before, the two are exchanged in a
/// single step; with several (somebody else's), the new one is added first and the old ones are taken away after: at no
/// moment is there none. The program stays with the cgroup when `program` is closed.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let before = attached(cgroup)?;
    let mut request = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: ATTACH_DEVICE,
        flags: ALLOW_MULTI,
        replaced: 0,
    };
    if let [only] = before.as_slice() {
        request.flags |= REPLACE;
        request.replaced = only.as_raw_fd() as u32;
        return call(PROG_ATTACH, &mut request);
    }
    call(PROG_ATTACH, &mut request)?;
    before.iter().try_for_each(|old| detach_device_program(cgroup, old.as_fd()))
}

/// Takes a program off a cgroup. `ENOENT`: it is not attached here.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut request = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: ATTACH_DEVICE,
        ..Attach::default()
    };
    call(PROG_DETACH, &mut request)
}

/// The device programs attached to this cgroup itself.
pub fn attached(cgroup: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut request = Query {
        target: cgroup.as_raw_fd() as u32,
        kind: ATTACH_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: MAX_PROGRAMS as u32,
        ..Query::default()
    };
    call(PROG_QUERY, &mut request)?;
    let count = (request.count as usize).min(MAX_PROGRAMS);
    let mut programs = Vec::with_capacity(count);
    for id in &ids[..count] {
        match open(*id) {
            Ok(program) => programs.push(program),
            // Detached meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(programs)
}

fn load(instructions: &[Instruction], log: Option<&mut Vec<u8>>) -> io::Result<OwnedFd> {
    let mut request = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        expected_attach: ATTACH_DEVICE,
        ..Load::default()
    };
    let name = b"coracle_device";
    request.name[..name.len()].copy_from_slice(name);
    if let Some(log) = log {
        request.log_level = 1;
        request.log_size = log.len() as u32;
        request.log = log.as_mut_ptr() as u64;
    }
    // SAFETY: `request` is as large as said and its pointers lead to `count` instructions, a C string and `log_size`
    // writable bytes, all of which outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw mut request, size_of::<Load>()) };
    // SAFETY: BPF_PROG_LOAD makes a new descriptor (close-on-exec always), and `fd` is its only record.
    unsafe { take(fd) }
}

fn open(id: u32) -> io::Result<OwnedFd> {
    let mut request = ById { id, ..ById::default() };
    // SAFETY: `request` is as large as said and holds no pointer.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_GET_FD_BY_ID, &raw mut request, size_of::<ById>()) };
    // SAFETY: BPF_PROG_GET_FD_BY_ID makes a new descriptor (close-on-exec always), and `fd` is its only record.
    unsafe { take(fd) }
}

fn call<T>(command: i32, request: &mut T) -> io::Result<()> {
    // SAFETY: `request` is one of the structs above, as large as said; a pointer in it leads to an array that its maker
    // keeps alive, with the length beside it.
    done(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(request), size_of::<T>()) })
}
