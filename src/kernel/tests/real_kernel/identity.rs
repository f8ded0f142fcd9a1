//! Giving up what root has, in children, as the engine does it before an exec.

use std::io;

use kernel::{
    capability::{
        CapSet, Capabilities, bounding, capabilities, clear_ambient, limit_bounding, raise_ambient, set_capabilities,
    },
    identity::{
        keep_capabilities, new_session_keyring, no_new_privs, set_domain_name, set_group, set_groups, set_host_name,
        set_user, umask,
    },
    limit::{Limit, Resource, limit, set_limit},
    namespace::Namespaces,
    process::{CStringArray, CloneArgs, Ended, exec, exit_now},
};

use super::{assert_root, ends};

/// NET_BIND_SERVICE.
const KEPT: CapSet = CapSet(1 << 10);

fn become_a_user_with_one_capability() -> io::Result<()> {
    limit_bounding(KEPT)?;
    keep_capabilities()?;
    set_groups(&[7, 8])?;
    set_group(1001)?;
    set_user(1000)?;
    set_capabilities(Capabilities { effective: KEPT, permitted: KEPT, inheritable: KEPT })?;
    clear_ambient()?;
    raise_ambient(KEPT)?;
    no_new_privs()
}

#[test]
#[ignore = "needs root: changes ids and capabilities"]
fn a_child_becomes_a_user_with_one_capability() {
    assert_root();
    let how = ends(CloneArgs::default(), || {
        if become_a_user_with_one_capability().is_err() {
            exit_now(1);
        }
        let left = Capabilities { effective: KEPT, permitted: KEPT, inheritable: KEPT };
        if capabilities().ok() != Some(left) || bounding() != KEPT {
            exit_now(2);
        }
        if set_user(0).is_ok() || set_groups(&[]).is_ok() {
            exit_now(3);
        }
        // Nothing comes back.
        let all = Capabilities { effective: CapSet::all(), permitted: CapSet::all(), inheritable: CapSet::all() };
        exit_now(if set_capabilities(all).is_err() { 0 } else { 4 })
    });
    assert_eq!(how, Ended::Code(0));
}

#[test]
#[ignore = "needs root: leaves the session's keys"]
fn a_child_leaves_its_parents_keys() {
    assert_root();
    let how = ends(CloneArgs::default(), || exit_now(if new_session_keyring().is_ok() { 0 } else { 1 }));
    assert_eq!(how, Ended::Code(0));
}

#[test]
#[ignore = "needs root: changes ids and capabilities"]
fn what_a_child_became_passes_exec() {
    assert_root();
    let script = "test \"$(id -u):$(id -g):$(id -G)\" = '1000:1001:1001 7 8' || exit 2; \
                  grep -q 'CapEff:.*0000000400$' /proc/self/status || exit 3; \
                  grep -q 'CapBnd:.*0000000400$' /proc/self/status || exit 4; \
                  grep -q 'NoNewPrivs:.*1$' /proc/self/status || exit 5";
    let argv = CStringArray::new(["sh", "-c", script]).unwrap();
    let env = CStringArray::new(["PATH=/bin:/usr/bin"]).unwrap();
    let how = ends(CloneArgs::default(), || {
        if become_a_user_with_one_capability().is_ok() {
            exec(c"/bin/sh", &argv, &env);
        }
        exit_now(1)
    });
    assert_eq!(how, Ended::Code(0));
}

#[test]
#[ignore = "needs root: makes a UTS namespace"]
fn names_change_in_the_namespace_only() {
    assert_root();
    let before = nix::unistd::gethostname().unwrap();
    let args = CloneArgs { namespaces: Namespaces::UTS, cgroup: None };
    let how = ends(args, || {
        let named = set_host_name("crt-kernel-host").and_then(|()| set_domain_name("crt.example"));
        let mut uts = [0; 64];
        let _ = nix::sys::utsname::uname().map(|name| {
            let host = std::os::unix::ffi::OsStrExt::as_bytes(name.nodename());
            uts[..host.len()].copy_from_slice(host);
        });
        exit_now(if named.is_ok() && uts.starts_with(b"crt-kernel-host\0") { 0 } else { 1 })
    });
    assert_eq!(how, Ended::Code(0));
    assert_eq!(nix::unistd::gethostname().unwrap(), before);
}

#[test]
fn limits_and_umask_of_a_child_are_its_own() {
    let before = limit(Resource::OPEN_FILES).unwrap();
    let how = ends(CloneArgs::default(), || {
        let lower = Limit { soft: 10, hard: 12 };
        if set_limit(Resource::OPEN_FILES, lower).is_err() || limit(Resource::OPEN_FILES).ok() != Some(lower) {
            exit_now(1);
        }
        umask(0o027);
        exit_now(if umask(0) == 0o027 { 0 } else { 2 })
    });
    assert_eq!(how, Ended::Code(0));
    assert_eq!(limit(Resource::OPEN_FILES).unwrap(), before);
}
