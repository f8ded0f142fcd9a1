//! A program in another's place: everything goes on, or nothing has changed.

use std::{fs::File, io::Write, os::fd::OwnedFd};

use kernel::memfd;
use link::{NowState, Whole};
use model::{Exit, Signal};
use testkit::{eventually_async, is_other_release, other_release};

use crate::node::{Node, PATIENCE, PROGRAM, built, container_id};

/// What the other program is called.
const OTHER: &str = "the second";

/// A program with these bytes, sealed.
fn sealed(bytes: &[u8]) -> OwnedFd {
    memfd::sealed_program(c"coracle-monitor", &mut &*bytes).unwrap()
}

fn other_program() -> OwnedFd {
    sealed(&other_release("coracle-monitor"))
}

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn all_that_a_pod_has_goes_on_in_another_program() {
    let node = Node::start().await;
    let mut pod = node.pod_with(|order| order.shared_pid = true).await;
    let ended = pod.run(&["probe", "exit", "3"]).await;
    pod.exited(&ended).await;
    let waits = pod.create(&["probe", "exit", "7"]).await;
    let gives_up = pod.create(&["probe", "exit", "8"]).await;
    let sleeps = pod.run(&["probe", "sleep", "forever"]).await;
    let terminal = pod.create_with(&["probe", "copy"], |launch, _| launch.tty = true).await.unwrap();
    pod.monitor.start(&terminal).await.unwrap();
    let before = pod.reconnect().await;
    assert_eq!(before.program, PROGRAM);
    let writes = pod.run(&["probe", "write-lines", "2000", "4000"]).await;
    let (output, mut exec) = pod.start_exec(&sleeps, &["probe", "write-lines", "500", "1000"]).await.unwrap();
    let open = descriptors(pod.pid);

    for _ in 0..3 {
        pod.monitor.replace(&other_program(), OTHER).await.unwrap();
        assert!(is_other_release(pod.pid));
        assert_eq!(descriptors(pod.pid), open, "descriptors");
    }
    // Over the connection that there was: the end of an exec, the end of a container.
    assert_eq!(exec.exited().await.unwrap(), Exit::Code(0));
    let text = tokio::task::spawn_blocking(move || std::io::read_to_string(output).unwrap()).await.unwrap();
    assert_eq!(text.lines().count(), 1000);
    assert_eq!(pod.exited(&writes).await.how, Exit::Code(0));
    assert_eq!(pod.text(&writes).lines().count(), 4000, "no line is lost or doubled");
    pod.monitor.forget(&writes).await.unwrap();

    let after = pod.reconnect().await;
    assert_eq!((after.program.as_str(), after.pid, after.init_pid), (OTHER, pod.pid, before.init_pid));
    let (mut was, mut is) = (before.containers, after.containers);
    was.sort_by(|one, other| one.id.cmp(&other.id));
    is.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(is, was);

    pod.monitor.start(&waits).await.unwrap();
    assert_eq!(pod.exited(&waits).await.how, Exit::Code(7));
    pod.monitor.forget(&gives_up).await.unwrap();
    assert_eq!(pod.exec(&sleeps, &["probe", "print", "here"]).await, (Exit::Code(0), "here\n".to_owned()));
    pod.monitor.kill(&terminal, Signal::KILL, Whole::Every).await.unwrap();
    pod.exited(&terminal).await;
    pod.end().await;
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn a_line_that_has_begun_is_one_line() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let id = pod.run(&["probe", "sleep", "forever"]).await;
    // Written into the container's own output from beside it, in two halves.
    let NowState::Running { pid, .. } = pod.reconnect().await.containers[0].state.clone() else { panic!("it runs") };
    let mut stdout = File::options().write(true).open(format!("/proc/{pid}/fd/1")).unwrap();
    stdout.write_all(b"one ").unwrap();
    pod.monitor.replace(&other_program(), OTHER).await.unwrap();
    stdout.write_all(b"line\n").unwrap();
    drop(stdout);
    pod.monitor.kill(&id, Signal::KILL, Whole::Every).await.unwrap();
    pod.exited(&id).await;
    assert_eq!(pod.log(&id), [("stdout".into(), "F".into(), "one line".into())]);
    pod.end().await;
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn a_program_that_cannot_go_on_is_refused_and_nothing_has_changed() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let id = pod.run(&["probe", "sleep", "forever"]).await;
    let unsealed: OwnedFd = tempfile::tempfile().unwrap().into();
    let other = sealed(&std::fs::read(built("coracle-probe")).unwrap());
    for (what, file, want) in [
        ("no program", sealed(b"no program"), "ended with Code(127)"),
        ("one that needs files of the host", sealed(&std::fs::read("/bin/true").unwrap()), "ended with Code(127)"),
        ("one that knows no such role", other, "ended with Code(64)"),
        ("a file", unsealed, "not a sealed file in memory"),
    ] {
        let error = pod.monitor.replace(&file, OTHER).await.unwrap_err().to_string();
        assert!(error.contains(want), "{what}: {error}");
        assert!(!is_other_release(pod.pid));
        assert_eq!(pod.exec(&id, &["probe", "print", "here"]).await.1, "here\n", "{what}");
    }
    assert_eq!(pod.reconnect().await.program, PROGRAM);
    pod.end().await;
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn while_somebody_waits_for_a_container_the_program_stays() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let id = container_id();
    let (launch, fds) = pod.order(&id, &["probe", "sleep", "forever"], |_, _| ());
    // Its child stops where it joins its cgroup.
    let held = pod.freeze(&id);
    let monitor = pod.monitor.clone();
    let making = tokio::spawn(async move { monitor.create(launch, fds).await });
    let is_held = || std::future::ready(if held.is_empty() { Err(()) } else { Ok(()) });
    eventually_async(PATIENCE, "the child is held", is_held).await;
    let refused = pod.monitor.replace(&other_program(), OTHER).await.unwrap_err().to_string();
    assert!(refused.contains("a container is being made, started or ended"), "{refused}");
    assert!(!is_other_release(pod.pid));
    held.thaw();
    making.await.unwrap().unwrap();
    pod.monitor.replace(&other_program(), OTHER).await.unwrap();
    assert!(is_other_release(pod.pid));
    pod.monitor.start(&id).await.unwrap();
    assert_eq!(pod.exec(&id, &["probe", "print", "here"]).await.1, "here\n");
    pod.end().await;
    node.end().await;
}
