//! The verdict on every system call: how each number ends when it is called with arguments that nobody can use.

use std::collections::BTreeMap;

use kernel::process::Ended;
use nix::{errno::Errno, libc};

use crate::{
    Done,
    trial::{Outcome, system_call},
};

/// Above every number of any kernel so far.
const LAST: i64 = 480;

/// Called with all ones, these would not say what a filter says of them: the first returns twice on one stack, the next
/// writes back every disk of the machine.
const LEFT_OUT: [i64; 2] = [libc::SYS_vfork, libc::SYS_sync];

/// Takes its registers from the stack: what happens to lie there decides by which fault the process ends.
const FROM_THE_STACK: i64 = libc::SYS_rt_sigreturn;

/// Calls whose verdict may hang on an argument.
const BY_ARGUMENT: &[(&str, i64, [i64; 6])] = &[
    ("clone a user namespace", libc::SYS_clone, [libc::CLONE_NEWUSER as i64 | 17, 0, 0, 0, 0, 0]),
    ("clone a mount namespace", libc::SYS_clone, [libc::CLONE_NEWNS as i64 | 17, 0, 0, 0, 0, 0]),
    ("clone a process", libc::SYS_clone, [17, 0, 0, 0, 0, 0]),
    ("unshare a user namespace", libc::SYS_unshare, [libc::CLONE_NEWUSER as i64, 0, 0, 0, 0, 0]),
    ("personality 0", libc::SYS_personality, [0, 0, 0, 0, 0, 0]),
    ("personality 8", libc::SYS_personality, [8, 0, 0, 0, 0, 0]),
    ("personality 0x20008", libc::SYS_personality, [0x20008, 0, 0, 0, 0, 0]),
    ("personality 0x40000", libc::SYS_personality, [0x40000, 0, 0, 0, 0, 0]),
    ("socket vsock", libc::SYS_socket, [40, 1, 0, 0, 0, 0]),
    ("socket alg", libc::SYS_socket, [38, 5, 0, 0, 0, 0]),
    ("socket packet", libc::SYS_socket, [17, 3, 0, 0, 0, 0]),
    ("socket inet", libc::SYS_socket, [2, 1, 0, 0, 0, 0]),
    ("chmod", libc::SYS_fchmod, [-1, 0o4755, 0, 0, 0, 0]),
];

/// Prints name or number of each with its outcome, as one JSON object.
pub(crate) fn system_calls(_: &[String]) -> Done {
    let mut verdicts = BTreeMap::new();
    for number in (0..LAST).filter(|number| !LEFT_OUT.contains(number)) {
        let verdict = match system_call(number, [-1; 6])? {
            Outcome::Ended(Ended::Signal(libc::SIGSEGV | libc::SIGBUS)) if number == FROM_THE_STACK => "faults".into(),
            outcome => told(outcome),
        };
        verdicts.insert(format!("{number:03}"), verdict);
    }
    for (name, number, arguments) in BY_ARGUMENT {
        verdicts.insert((*name).to_owned(), told(system_call(*number, *arguments)?));
    }
    println!("{}", serde_json::json!(verdicts));
    Ok(0)
}

fn told(outcome: Outcome) -> String {
    match outcome {
        Outcome::Done => "done".to_owned(),
        Outcome::Refused(errno) => format!("{:?}", Errno::from_raw(errno)),
        Outcome::Ended(how) => format!("{how:?}"),
        Outcome::Waits => "waits".to_owned(),
    }
}
