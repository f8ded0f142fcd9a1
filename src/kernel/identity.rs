//! Who the calling thread is and what may happen to it: ids, groups, keys, no-new-privileges, parent's death,
//! dumpability.
//!
//! Ids are set by the bare system calls, for the calling thread alone: the C library's versions would walk a thread
//! list that is the parent's after `clone3`. Nothing here allocates, so the child may use it between clone and exec.

use std::io;

use crate::sys::{check, done};

/// Sets the real, effective and saved user id. `EPERM`: not allowed; `EINVAL`: unmapped in this user namespace.
///
/// Leaving root drops the permitted capabilities unless [`keep_capabilities`] was called, and clears the
/// parent-death signal: [`parent_death_signal`] is to be repeated after it.
pub fn set_user(uid: u32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    done(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}

/// Sets the real, effective and saved group id.
pub fn set_group(gid: u32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    done(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })
}

/// Replaces the supplementary groups. `EPERM`: no CAP_SETGID, or denied in this user namespace.
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the kernel reads `groups.len()` ids (u32, as gid_t) from the slice, which outlives the call.
    done(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })
}

/// Keeps the permitted capabilities over the next change from root to another user; undone by exec.
pub fn keep_capabilities() -> io::Result<()> {
    control(libc::PR_SET_KEEPCAPS, 1)
}

/// From here on no exec of this thread or its children gains privileges, by set-user-id or file capabilities. For ever.
pub fn no_new_privs() -> io::Result<()> {
    control(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Asks for this signal when the parent *thread* ends; 0 takes it back. Cleared by a change of user and by exec of a
/// set-user-id program. A parent that is already gone sends nothing: compare [`crate::process::parent_pid`] after it.
pub fn parent_death_signal(signal: i32) -> io::Result<()> {
    control(libc::PR_SET_PDEATHSIG, signal as u64)
}

/// Orphans below this process become its children, to be reaped by it. Kept over exec, not by children.
pub fn child_subreaper() -> io::Result<()> {
    control(libc::PR_SET_CHILD_SUBREAPER, 1)
}

/// Whether others of the same user may look into this process (`/proc/<pid>`, ptrace, core dumps). Exec resets it.
pub fn dumpable(yes: bool) -> io::Result<()> {
    control(libc::PR_SET_DUMPABLE, u64::from(yes))
}

/// Leaves the session keyring that came with the parent for a new, empty one: keys of whoever started the daemon are no
/// container's. Kept over exec, and by children. `ENOSYS`: a kernel without keys; `EPERM`: a filter around us forbids
/// it; `EDQUOT`: too many keys of this user.
///
/// `keyctl(2)`, `KEYCTL_JOIN_SESSION_KEYRING`.
pub fn new_session_keyring() -> io::Result<()> {
    let nameless = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name is allowed and asks for a keyring without one; the kernel reads nothing of ours.
    check(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, nameless) }).map(drop)
}

/// The name that `ps` shows; the kernel keeps 15 bytes.
pub fn set_name(name: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: the kernel reads the C string `name`, which outlives the call.
    done(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) })
}

/// Sets which permission bits new files lose; answers what it was.
pub fn umask(mask: u32) -> u32 {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask)).bits()
}

/// Sets the host name of this UTS namespace. `EINVAL`: longer than 64 bytes.
pub fn set_host_name(name: &str) -> io::Result<()> {
    Ok(nix::unistd::sethostname(name)?)
}

/// Sets the NIS domain name of this UTS namespace. `EINVAL`: longer than 64 bytes.
pub fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: the kernel reads `name.len()` bytes from the slice, which outlives the call.
    done(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) })
}

fn control(option: i32, value: u64) -> io::Result<()> {
    // SAFETY: every option passed here takes one number and ignores or wants zero for the rest.
    check(unsafe { libc::prctl(option, value, 0_u64, 0_u64, 0_u64) }).map(drop)
}
