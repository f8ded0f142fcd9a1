//! Short programs that the launcher runs for the daemon.

use std::{fs, path::Path, time::Duration};

use link::{Error, Launcher, Output, Program};
use model::Exit;
use nix::libc;
use testkit::eventually_async;
use tokio::task::JoinSet;

use crate::node::{Node, PATIENCE};

fn shell(script: &str) -> Program {
    Program {
        path: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        environment: vec![("PATH".into(), "/usr/bin:/bin".into()), ("WORD".into(), "a b".into())],
        input: b"in".to_vec(),
        patience: PATIENCE,
        most_output: 64 << 10,
    }
}

async fn run(launcher: &Launcher, script: &str) -> (Exit, String, String) {
    let Output { how, stdout, stderr, overdue } = launcher.run(&shell(script)).await.unwrap();
    assert!(!overdue);
    (how, String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Waits until a script has written the number of its process there, whole.
async fn begins(file: &Path) {
    let written = || fs::read_to_string(file).ok().filter(|text| text.ends_with('\n')).map(drop).ok_or("nothing yet");
    eventually_async(PATIENCE, "the program runs", || async { written() }).await;
}

/// Waits until the process whose number a script has written there has gone.
async fn gone(file: &Path) {
    let pid = fs::read_to_string(file).unwrap();
    let stat = Path::new("/proc").join(pid.trim());
    eventually_async(PATIENCE, "the program is gone", || async {
        if stat.exists() { Err(pid.clone()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs root: prunes mounts"]
async fn a_program_has_what_it_was_given_and_nothing_else() {
    let node = Node::start().await;
    let there = node.dir.join("there");
    fs::write(&there, "of the host").unwrap();
    let script = format!("cat; cat {}; echo \"$WORD\" >&2; exit 3", there.display());
    let ran = run(&node.launcher, &script).await;
    assert_eq!(ran, (Exit::Code(3), "inof the host".to_owned(), "a b\n".to_owned()));
    // The descriptor of the directory is that of `ls` itself.
    let (_, descriptors, _) = run(&node.launcher, "exec ls /proc/self/fd").await;
    assert_eq!(descriptors.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    let (_, signals, _) = run(&node.launcher, "exec grep -E '^Sig(Ign|Blk)' /proc/self/status").await;
    for line in signals.lines() {
        assert_eq!(line.split_whitespace().nth(1), Some("0000000000000000"), "{signals}");
    }
    let (_, names, _) = run(&node.launcher, "env; pwd; umask; cat /proc/$PPID/comm").await;
    assert!(names.contains("WORD=a b\n") && !names.contains("GLIBC_TUNABLES"), "{names}");
    assert!(names.ends_with("/\n0022\ncoracle-launch\n"), "{names}");
    let (how, ..) = run(&node.launcher, "kill -9 $$").await;
    assert!(matches!(how, Exit::Signal(signal) if signal.number() == 9), "{how:?}");
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: prunes mounts"]
async fn what_cannot_be_started_says_why() {
    let node = Node::start().await;
    fs::write(node.dir.join("plain"), "no program").unwrap();
    for (path, errno) in [
        (Path::new("/nowhere/at/all").to_owned(), libc::ENOENT),
        (node.dir.join("plain"), libc::EACCES),
        (node.dir.clone(), libc::EACCES),
    ] {
        let refused = node.launcher.run(&Program { path, ..shell("") }).await.err().unwrap();
        assert_eq!(refused.errno(), Some(errno), "{refused}");
    }
    let zero = Program { arguments: vec!["a\0b".into()], ..shell("") };
    assert!(matches!(node.launcher.run(&zero).await, Err(Error::Refused { errno: 0, .. })));
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: prunes mounts"]
async fn a_program_ends_at_its_deadline_with_its_output_and_with_whoever_wanted_it() {
    let node = Node::start().await;
    let file = |name: &str| node.dir.join(name);
    let forever =
        |name: &str| shell(&format!("sleep 1000 & echo $! > {0}.child; echo $$ > {0}; wait", file(name).display()));
    // Too long.
    let late = Program { patience: Duration::from_millis(500), ..forever("late") };
    let said = node.launcher.run(&late).await.unwrap();
    assert!(said.overdue);
    let last_words = Program { patience: Duration::from_millis(500), ..shell("echo waiting >&2; exec sleep 1000") };
    let said = node.launcher.run(&last_words).await.unwrap();
    assert_eq!((said.overdue, said.stderr.as_slice()), (true, &b"waiting\n"[..]));
    // Too much; of the standard error the beginning is kept, and the rest holds nobody up.
    for script in ["yes", "head -c 65537 /dev/zero"] {
        let error = node.launcher.run(&shell(script)).await.err().unwrap().to_string();
        assert!(error.contains("it wrote more than 65536 bytes"), "{error}");
    }
    let much = node.launcher.run(&shell("head -c 10000000 /dev/zero >&2; echo done")).await.unwrap();
    assert_eq!((much.how, much.stdout.as_slice(), much.stderr.len()), (Exit::Code(0), &b"done\n"[..], 65536));
    // No longer wanted.
    let unwanted = forever("unwanted");
    let running = tokio::spawn({
        let launcher = node.launcher.clone();
        async move { launcher.run(&unwanted).await.map(drop) }
    });
    let begun = file("unwanted");
    begins(&begun).await;
    running.abort();
    // Somebody else's now: the daemon that asked has a successor.
    let orphaned = forever("orphaned");
    let running = tokio::spawn({
        let launcher = node.launcher.clone();
        async move { launcher.run(&orphaned).await.map(drop) }
    });
    let begun = file("orphaned");
    begins(&begun).await;
    let successor = Launcher::connect(std::os::fd::AsFd::as_fd(&node.state)).await.unwrap();
    assert!(running.await.unwrap().unwrap_err().is_lost());
    for name in ["late", "unwanted", "orphaned"] {
        gone(&file(name)).await;
        gone(&file(&format!("{name}.child"))).await;
    }
    // And the launcher does its work.
    assert_eq!(run(&successor, "echo still there").await.1, "still there\n");
    Node { launcher: successor, ..node }.end().await;
}

#[tokio::test]
#[ignore = "needs root: prunes mounts"]
async fn many_programs_run_at_once_and_each_has_its_own_answer() {
    let node = Node::start().await;
    let mut all = JoinSet::new();
    for n in 0..40 {
        let launcher = node.launcher.clone();
        all.spawn(async move { (n, run(&launcher, &format!("sleep 0.{}; echo {n}; exit {n}", n % 4)).await) });
    }
    for (n, (how, stdout, _)) in all.join_all().await {
        assert_eq!((how, stdout), (Exit::Code(n), format!("{n}\n")));
    }
    // One that reads nothing of much input, and one that leaves somebody behind with its output: nobody waits for that.
    let much = Program { input: vec![b'x'; 1 << 20], ..shell("exit 0") };
    assert_eq!(node.launcher.run(&much).await.unwrap().how, Exit::Code(0));
    let left = node.launcher.run(&shell("sleep 5 & echo left; exit 0")).await.unwrap();
    assert_eq!((left.how, left.stdout.as_slice()), (Exit::Code(0), &b"left\n"[..]));
    node.end().await;
}
