//! What a person at a terminal sees: bars, and no archive.

use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    process::{ExitStatus, Stdio},
    thread,
};

use nix::pty::openpty;
use testkit::{Access, TinyRegistry};

use crate::command::{Coracle, image};

/// Which streams are the terminal's.
#[derive(Clone, Copy, PartialEq)]
enum At {
    Input,
    Output,
    Error,
}

/// Runs the program with one of its streams at a terminal; what that shows, and how it ended.
fn at_terminal(coracle: &Coracle, at: At, arguments: &[&str]) -> (String, ExitStatus) {
    let size = nix::pty::Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(Some(&size), None).unwrap();
    let its = |end: &OwnedFd| Stdio::from(end.try_clone().unwrap());
    let or_nothing = |wanted: At| if at == wanted { its(&terminal.slave) } else { Stdio::null() };
    let mut command = coracle.command(arguments);
    command.env("TERM", "xterm").stdin(or_nothing(At::Input)).stdout(or_nothing(At::Output));
    // Always: what is refused is told there.
    command.stderr(its(&terminal.slave));
    let mut child = command.spawn().unwrap();
    // Ours are closed, so that the reading ends with the program.
    drop(command);
    drop(terminal.slave);
    let mut shows = File::from(terminal.master);
    let reader = thread::spawn(move || {
        let mut shown = Vec::new();
        // EIO is how a terminal says that nobody is at its other end any more.
        let _ = shows.read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    });
    let status = child.wait().unwrap();
    (reader.join().unwrap(), status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn layers_are_bars_and_archives_never_reach_a_terminal() {
    let (coracle, registry) = (Coracle::start(), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    let name = format!("{}/x:1", registry.host());
    let (shown, status) = at_terminal(&coracle, At::Error, &["pull", &name]);
    assert!(status.success(), "{shown}");
    for layer in &built.layers {
        let line = format!("{}: Pull complete", &testkit::digest_of(layer)[7..19]);
        assert!(shown.contains(&line), "{line} is not in {shown:?}");
    }
    assert!(shown.contains('\u{1b}'), "bars are drawn in place: {shown:?}");
    let (shown, status) = at_terminal(&coracle, At::Error, &["pull", "-q", &name]);
    assert_eq!((shown.as_str(), status.success()), ("", true));

    let (shown, status) = at_terminal(&coracle, At::Output, &["save", &name]);
    assert_eq!(status.code(), Some(125), "{shown}");
    assert!(shown.contains("--output FILE"), "{shown}");
    let (shown, status) = at_terminal(&coracle, At::Input, &["load"]);
    assert_eq!(status.code(), Some(125), "{shown}");
    assert!(shown.contains("--input FILE"), "{shown}");
    coracle.finish().await;
}
