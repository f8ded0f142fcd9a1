//! A short program of the host's, on the launcher's side: what a daemon that never forks has done by others.
//!
//! The child joins the daemon's mount namespace, where the program is, and becomes it, in a session of its own: so it
//! can be ended with all that it starts. It ends with the launcher too.

use std::{
    convert::Infallible,
    ffi::CString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use kernel::{
    descriptor, identity,
    namespace::{self, Namespaces},
    process::{self, CStringArray, CloneArgs, clone3},
};
use link::wire;

use crate::{
    child,
    launch::{Beside, During, Failure, word_pair},
    runtime::Run,
};

/// What the child needs.
struct Work<'a> {
    program: &'a CString,
    argv: &'a CStringArray,
    env: &'a CStringArray,
    streams: [BorrowedFd<'a>; 3],
    mounts: BorrowedFd<'a>,
    word: BorrowedFd<'a>,
}

/// Starts the program of the order, of whose descriptors none is kept.
pub fn start(order: &wire::RunProgram, fds: &[OwnedFd]) -> Result<Run, Failure> {
    let zero = |_| Failure::wrong("run a program: a text holds a zero byte");
    let beside = Beside(fds);
    let (word, childs_word) = word_pair()?;
    let work = Work {
        program: &CString::new(order.program.clone()).map_err(zero)?,
        argv: &CStringArray::new(order.argv.iter().cloned()).map_err(zero)?,
        env: &CStringArray::new(order.env.iter().cloned()).map_err(zero)?,
        streams: [
            beside.one(order.stdin_fd, "stdin_fd")?,
            beside.one(order.stdout_fd, "stdout_fd")?,
            beside.one(order.stderr_fd, "stderr_fd")?,
        ],
        mounts: beside.one(order.mount_namespace_fd, "mount_namespace_fd")?,
        word: childs_word.as_fd(),
    };
    let (pid, pidfd) = clone3(CloneArgs::default(), || {
        let Err(failure) = steps(&work);
        child::fail(work.word, &failure)
    })
    .during(|| "clone the program".into())?;
    Ok(Run { pid, pidfd, word })
}

/// See the law of [`crate::child`].
fn steps(work: &Work<'_>) -> Result<Infallible, Failure> {
    let [stdin, stdout, stderr] = work.streams;
    child::newborn(&[work.word, work.mounts, stdin, stdout, stderr])?;
    namespace::setns(work.mounts, Namespaces::MOUNT).during(|| "join the host's mounts".into())?;
    process::new_session().during(|| "begin a session".into())?;
    descriptor::place_stdio(stdin, stdout, stderr).during(|| "place the standard streams".into())?;
    nix::unistd::chdir("/").during(|| "enter the root directory".into())?;
    identity::umask(0o022);
    descriptor::close_all_but(&[work.word]).during(|| "close what is not the program's".into())?;
    let error = process::exec(work.program, work.argv, work.env);
    Err(Failure::new(format!("start {}", work.program.to_string_lossy()), &error))
}
