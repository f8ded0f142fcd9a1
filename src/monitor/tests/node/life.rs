//! A container's life: created, started, ended, forgotten; and what holds when the daemon is away.

use std::{fs::File, os::fd::AsFd, path::Path};

use link::{News, NowState, Whole, frame, wire};
use model::{Exit, Signal};
use wire::step::Act;

use crate::node::{Node, PATIENCE, entries, filesystem, process, records, step};

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn a_container_runs_from_create_to_forget() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let id = pod.create(&["probe", "exit", "7"]).await;
    let greeting = pod.reconnect().await;
    assert!(matches!(greeting.containers[0].state, NowState::Waiting { pid } if pid > 0));
    pod.monitor.start(&id).await.unwrap();
    let record = pod.exited(&id).await;
    assert_eq!(record.how, Exit::Code(7));
    assert!(!record.oom_killed);
    assert_eq!(records(&pod.dir), [link::exit_record_name(&id)]);
    let greeting = pod.reconnect().await;
    assert!(
        matches!(&greeting.containers[0].state, NowState::Exited { started: Some(_), record: told } if *told == record)
    );
    pod.monitor.forget(&id).await.unwrap();
    pod.monitor.forget(&id).await.unwrap();
    assert_eq!(records(&pod.dir), Vec::<String>::new());
    pod.end().await;
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn both_streams_arrive_whole_and_the_last_line_is_full() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let out = pod.run(&["probe", "print-n", "no newline"]).await;
    pod.exited(&out).await;
    assert_eq!(pod.log(&out), [("stdout".into(), "F".into(), "no newline".into())]);
    let err = pod.run(&["probe", "print-err", "to", "stderr"]).await;
    pod.exited(&err).await;
    assert_eq!(pod.log(&err), [("stderr".into(), "F".into(), "to stderr".into())]);
    let long = pod.run(&["probe", "write-bytes", "40000"]).await;
    pod.exited(&long).await;
    let sizes: Vec<_> = pod.log(&long).into_iter().map(|(_, tag, content)| (tag, content.len())).collect();
    assert_eq!(sizes, [("P".into(), 16384), ("P".into(), 16384), ("F".into(), 7232)]);
    pod.end().await;
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn a_program_that_cannot_be_started_says_why_in_known_words() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    std::fs::write(pod.dir.join("root/bin/plain"), "text").unwrap();
    for (name, words) in [
        ("missing", "exec: \"missing\": executable file not found in $PATH"),
        ("/bin/missing", "exec: \"/bin/missing\": no such file or directory"),
        ("plain", "exec: \"plain\": permission denied"),
        ("/bin/plain", "exec: \"/bin/plain\": permission denied"),
    ] {
        let id = pod.create(&[name]).await;
        let error = pod.monitor.start(&id).await.unwrap_err();
        assert_eq!(error.to_string(), words);
        assert_eq!(pod.exited(&id).await.how, Exit::StartFailed { why: words.into() });
    }
    pod.end().await;
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn signals_reach_the_first_process_or_all_of_them() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    // Process 1 of a pid namespace would not hear it before it listens; an ordinary process does.
    let id = pod
        .create_with(&["probe", "sleep", "forever"], |launch, _| launch.set_pid(wire::launch::Pid::Host))
        .await
        .unwrap();
    pod.monitor.start(&id).await.unwrap();
    pod.monitor.kill(&id, Signal::TERM, Whole::First).await.unwrap();
    assert!(matches!(pod.exited(&id).await.how, Exit::Code(143) | Exit::Signal(Signal::TERM)));
    // Without a pid namespace of its own the kernel kills nobody for us.
    for space in [wire::launch::Pid::Container, wire::launch::Pid::Host] {
        let id = pod.create_with(&["probe", "children", "5"], |launch, _| launch.set_pid(space)).await.unwrap();
        pod.monitor.start(&id).await.unwrap();
        pod.monitor.kill(&id, Signal::KILL, Whole::First).await.unwrap();
        assert_eq!(pod.exited(&id).await.how, Exit::Signal(Signal::KILL));
    }
    let id = pod.run(&["probe", "stubborn"]).await;
    pod.monitor.kill(&id, Signal::KILL, Whole::Every).await.unwrap();
    assert_eq!(pod.exited(&id).await.how, Exit::Signal(Signal::KILL));
    pod.end().await;
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn an_exec_runs_inside_and_dies_with_all_it_started() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let id = pod.run(&["probe", "sleep", "forever"]).await;
    let (how, text) = pod.exec(&id, &["probe", "print", "inside"]).await;
    assert_eq!((how, text.as_str()), (Exit::Code(0), "inside\n"));
    assert_eq!(pod.exec(&id, &["probe", "exit", "9"]).await.0, Exit::Code(9));
    let (_, text) = pod.exec(&id, &["probe", "processes"]).await;
    assert!(text.contains("probe") && text.lines().count() <= 3, "it sees its container alone: {text}");
    let error = pod.start_exec(&id, &["missing"]).await.unwrap_err();
    assert_eq!(error.to_string(), "exec: \"missing\": executable file not found in $PATH");
    let (_output, mut exec) = pod.start_exec(&id, &["probe", "children", "5"]).await.unwrap();
    pod.monitor.kill_exec(exec.id).await.unwrap();
    assert_eq!(exec.exited().await.unwrap(), Exit::Signal(Signal::KILL));
    pod.monitor.kill_exec(exec.id).await.unwrap();
    // A child that keeps the stream does not keep the exec.
    let (_output, mut exec) = pod.start_exec(&id, &["probe", "spawn-child-holding-stdout", "60"]).await.unwrap();
    assert_eq!(exec.exited().await.unwrap(), Exit::Code(0));
    pod.monitor.kill(&id, Signal::KILL, Whole::Every).await.unwrap();
    pod.exited(&id).await;
    pod.end().await;
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn a_terminal_has_a_size_and_its_lines_lose_their_carriage_return() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let id = pod.create_with(&["probe", "print", "on a terminal"], |launch, _| launch.tty = true).await.unwrap();
    pod.monitor.start(&id).await.unwrap();
    pod.exited(&id).await;
    assert_eq!(pod.log(&id), [("stdout".into(), "F".into(), "on a terminal".into())]);
    let id = pod.create_with(&["probe", "stat", "/dev/console"], |launch, _| launch.tty = true).await.unwrap();
    pod.monitor.start(&id).await.unwrap();
    pod.exited(&id).await;
    assert!(pod.text(&id).contains("char"), "{}", pod.text(&id));
    pod.end().await;
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn a_reopened_log_goes_on_in_the_new_file() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let id = pod.run(&["probe", "write-lines", "200", "100"]).await;
    let new = pod.dir.join("log-new");
    let file = File::options().append(true).create(true).open(&new).unwrap();
    pod.monitor.reopen_log(&id, file.into()).await.unwrap();
    pod.exited(&id).await;
    let (old, new) = (pod.log(&id).len(), entries(&new).len());
    assert_eq!(old + new, 100);
    assert!(new > 0);
    pod.end().await;
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn an_absent_daemon_misses_nothing() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let id = pod.create(&["probe", "write-lines", "0", "20000"]).await;
    let copy = pod.monitor.clone();
    let start = copy.start(&id);
    start.await.unwrap();
    // The daemon's end closes: nobody reads replies or news any more.
    drop(copy);
    let _ = pod.reconnect().await;
    let (launcher, mut greeting);
    launcher = link::Launcher::connect(node.state.as_fd()).await.unwrap();
    assert_eq!(launcher.pods().len(), 1);
    loop {
        greeting = pod.reconnect().await;
        if let NowState::Exited { record, .. } = &greeting.containers[0].state {
            assert_eq!(record.how, Exit::Code(0));
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(pod.log(&id).len(), 20000);
    drop(node.launcher);
    let node = Node { launcher, ..node };
    pod.end().await;
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn containers_die_with_their_monitor_and_live_without_the_launcher() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let mut other = node.pod().await;
    let id = pod.run(&["probe", "sleep", "forever"]).await;
    let survivor = other.run(&["probe", "sleep", "forever"]).await;
    let greeting = pod.reconnect().await;
    let NowState::Running { pid, .. } = greeting.containers[0].state else { panic!("{greeting:?}") };
    let container = kernel::process::pidfd_open(kernel::process::Pid(pid)).unwrap();
    kill(node.launcher.pid());
    node.launcher.closed().await;
    assert!(matches!(link::Launcher::connect(node.state.as_fd()).await, Err(link::Error::Absent { .. })));
    let (how, _) = other.exec(&survivor, &["probe", "exit", "3"]).await;
    assert_eq!(how, Exit::Code(3));
    kill(pod.pid);
    while pod.next().await != News::Lost {}
    let gone = tokio::task::spawn_blocking(move || {
        let mut asked = [nix::poll::PollFd::new(container.as_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut asked, 30_000u16).unwrap()
    });
    assert_eq!(gone.await.unwrap(), 1);
    assert!(matches!(link::Monitor::connect(pod.pod_dir.as_fd()).await, Err(link::Error::Absent { .. })));
    let _ = id;
    other.end().await;
    pod.remove_cgroups().await;
    std::fs::remove_dir_all(&node.dir).unwrap();
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn a_waiting_container_can_be_forgotten_and_a_bad_one_leaves_nothing() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let id = pod.create(&["probe", "exit", "0"]).await;
    pod.monitor.forget(&id).await.unwrap();
    assert!(pod.reconnect().await.containers.is_empty());
    // A link in the image leads out of nothing, and proc stands where it is looked for.
    std::os::unix::fs::symlink("/etc", pod.dir.join("root/proc-link")).unwrap();
    let bad = pod.create_with(&["probe"], |launch, _| launch.steps.push(filesystem("/proc-link", "proc", &[]))).await;
    let error = bad.unwrap_err();
    assert_eq!(error.errno(), Some(nix::libc::ELOOP), "{error}");
    let bad = pod.create_with(&["probe"], |launch, _| launch.steps.push(step(Act::Node(wire::Node::default())))).await;
    assert!(matches!(bad, Err(link::Error::Refused { errno: 0, .. })));
    assert!(pod.reconnect().await.containers.is_empty());
    pod.end().await;
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn links_of_the_image_stay_in_the_image() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let root = pod.dir.join("root");
    std::os::unix::fs::symlink("/../../../../run", root.join("var")).unwrap();
    let source = pod.dir.join("volume");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "of the volume").unwrap();
    let id = pod
        .create_with(&["probe", "cat", "/run/secrets/file"], |launch, fds| {
            let dir = crate::node::open_dir(&source);
            fds.push(kernel::mount::open_tree_clone(dir.as_fd(), Path::new(""), false).unwrap());
            let attach = wire::Attach { target: b"/var/secrets".to_vec(), mount_fd: fds.len() as u32 - 1, file: false };
            launch.steps.push(step(Act::Attach(attach)));
        })
        .await
        .unwrap();
    pod.monitor.start(&id).await.unwrap();
    assert_eq!(pod.exited(&id).await.how, Exit::Code(0));
    assert!(pod.text(&id).contains("of the volume"));
    assert!(root.join("run/secrets").is_dir(), "made inside the image");
    pod.end().await;
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn a_shared_pid_namespace_has_an_init_that_reaps_and_hides() {
    let node = Node::start().await;
    let mut pod = node.pod_with(|order| order.shared_pid = true).await;
    assert!(pod.ready.init_pid.is_some());
    let id =
        pod.create_with(&["probe", "orphans", "3"], |launch, _| launch.set_pid(wire::launch::Pid::Pod)).await.unwrap();
    pod.monitor.start(&id).await.unwrap();
    let (_, text) = pod.exec(&id, &["probe", "processes"]).await;
    assert!(text.lines().any(|line| line.trim_start().starts_with("1 ") && line.contains("coracle-init")), "{text}");
    let (_, text) = pod.exec(&id, &["probe", "tree", "/proc/1/root"]).await;
    assert!(text.lines().count() <= 1, "{text}");
    // The exec has every capability, so it may look: three times the null device, and of a root that nobody can name.
    let (how, text) = pod.exec(&id, &["probe", "tree", "/proc/1/fd"]).await;
    let links: Vec<_> = text.lines().filter_map(|line| line.split_once(" /proc/1/fd/")).map(|(_, link)| link).collect();
    assert_eq!((how, links), (Exit::Code(0), vec!["0 -> /null", "1 -> /null", "2 -> /null"]));
    let (how, text) = pod.exec(&id, &["probe", "chmod", "0600", "/proc/1/fd/0"]).await;
    assert_eq!((how, text.contains("Read-only file system")), (Exit::Code(1), true), "{text}");
    pod.monitor.kill(&id, Signal::KILL, Whole::Every).await.unwrap();
    pod.exited(&id).await;
    pod.end().await;
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn an_ordinary_user_has_what_the_order_gives_and_no_more() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let id = pod
        .create_with(&["probe", "report"], |launch, _| {
            launch.readonly_rootfs = true;
            launch.process = Some(wire::Process {
                uid: 1000,
                gid: 1001,
                groups: vec![1002],
                no_new_privs: true,
                bounding: 1 << 10,
                effective: 1 << 10,
                permitted: 1 << 10,
                inheritable: 1 << 10,
                ambient: 1 << 10,
                cwd: b"/srv/here".to_vec(),
                ..process(&["probe", "report"])
            });
        })
        .await
        .unwrap();
    pod.monitor.start(&id).await.unwrap();
    assert_eq!(pod.exited(&id).await.how, Exit::Code(0));
    let report = pod.text(&id);
    for wanted in ["1000", "1001", "1002", "/srv/here"] {
        assert!(report.contains(wanted), "{wanted}");
    }
    pod.end().await;
    node.end().await;
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn a_start_whose_connection_was_lost_is_told_to_the_next_one_and_may_be_asked_for_again() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let id = pod.create(&["probe", "sleep", "forever"]).await;
    let stand = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pod.pid), signal).unwrap();
    // Both the order and its successor's greeting lie before the monitor when it wakes.
    stand(nix::sys::signal::Signal::SIGSTOP);
    let first = pod.monitor.clone();
    let of_first = id.clone();
    let started = tokio::spawn(async move { first.start(&of_first).await });
    tokio::task::yield_now().await;
    let next = tokio::spawn({
        let dir = pod.pod_dir.try_clone().unwrap();
        async move { link::Monitor::connect(dir.as_fd()).await }
    });
    tokio::task::yield_now().await;
    stand(nix::sys::signal::Signal::SIGCONT);
    let (monitor, greeting, news) = next.await.unwrap().unwrap();
    (pod.monitor, pod.news) = (monitor, news);
    let at = match greeting.containers[0].state {
        NowState::Running { since, .. } => since,
        _ => match pod.next().await {
            News::Started { container, at } if container == id => at,
            other => panic!("the start is told: {other:?}"),
        },
    };
    assert!(started.await.unwrap().is_err_and(|error| error.is_lost()));
    assert_eq!(pod.monitor.start(&id).await.unwrap(), at);
    pod.monitor.kill(&id, Signal::KILL, Whole::Every).await.unwrap();
    assert_eq!(pod.exited(&id).await.how, Exit::Signal(Signal::KILL));
    assert!(pod.monitor.start(&id).await.is_err_and(|error| !error.is_lost()), "once is enough");
    pod.end().await;
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn what_happened_before_a_greeting_is_in_it_and_is_no_news() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    pod.run(&["probe", "sleep", "forever"]).await;
    let NowState::Running { pid, .. } = pod.reconnect().await.containers[0].state else { panic!("it runs") };
    // A daemon that has come, as the one before it is told, and has not said anything yet.
    let socket = kernel::socket::connect_at(pod.pod_dir.as_fd(), link::MONITOR_SOCKET).unwrap();
    while pod.next().await != News::Lost {}
    kill(pid);
    let recorded = || if records(&pod.dir).is_empty() { Err(()) } else { Ok(()) };
    testkit::eventually(PATIENCE, "its end is on record", recorded);
    let hello = wire::Hello { protocol: link::PROTOCOL, release: String::new() };
    let hello = wire::MonitorRequest { id: 7, act: Some(wire::monitor_request::Act::Hello(hello)) };
    kernel::socket::send(socket.as_fd(), &frame::seal(&hello).unwrap().packet, &[]).unwrap();
    let mut packet = vec![0; frame::MAX_PACKET];
    let mut receive = || kernel::socket::receive(socket.as_fd(), &mut packet, frame::MAX_FDS);
    let (length, _) = testkit::eventually(PATIENCE, "it answers", &mut receive);
    let (first, _) = frame::open::<wire::MonitorReply>(&packet[..length], Vec::new()).unwrap();
    let Some(wire::monitor_reply::Result::Hello(greeting)) = first.result else { panic!("{first:?}") };
    assert!(greeting.containers[0].exited.is_some(), "{greeting:?}");
    pod.end().await;
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn a_monitor_that_nobody_greets_ends_and_one_that_was_greeted_stays() {
    let node = Node::start().await;
    let pod = node.pod().await;
    let unheard = testkit::Process::of(node.unheard().await).expect("it was forked");
    testkit::eventually(PATIENCE, "it goes", || if unheard.alive() { Err("it lives") } else { Ok(()) });
    assert!(
        pod.monitor.kill(&crate::node::container_id(), Signal::KILL, Whole::Every).await.is_err_and(|e| !e.is_lost())
    );
    pod.end().await;
    node.end().await;
}
