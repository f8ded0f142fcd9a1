//! Daemon and monitor of different releases: everything that both have to do with each other goes on in the words of
//! the link's first version.
//!
//! Between the two stands an interpreter that knows only the frozen `v1/monitor.proto`: what it does not know it leaves
//! out, on both ways. So the daemon's end of today meets a monitor of then, and the monitor of today a daemon of then.

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
    thread,
};

use kernel::socket;
use link::{
    MONITOR_SOCKET, NowState, Whole,
    frame::{self, MAX_FDS, MAX_PACKET, Place},
};
use model::{Exit, Signal};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use prost_reflect::{Cardinality, DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage, Value};

use crate::node::Node;

/// The name under which the monitor's own socket goes on.
const BEHIND: &str = "behind.sock";

/// The messages of a directory's `monitor.proto`.
fn words(dir: &str) -> DescriptorPool {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let files = protox::compile([dir.join("monitor.proto")], [&dir]).unwrap();
    DescriptorPool::from_file_descriptor_set(files).unwrap()
}

fn frozen() -> DescriptorPool {
    words("tests/v1")
}

/// What the words know of a message, and nothing else.
fn known(message: &DynamicMessage) -> DynamicMessage {
    let mut known = DynamicMessage::new(message.descriptor());
    for (field, value) in message.fields() {
        known.set_field(&field, known_value(value));
    }
    known
}

fn known_value(value: &Value) -> Value {
    match value {
        Value::Message(message) => Value::Message(known(message)),
        Value::List(items) => Value::List(items.iter().map(known_value).collect()),
        Value::Map(items) => Value::Map(items.iter().map(|(key, value)| (key.clone(), known_value(value))).collect()),
        other => other.clone(),
    }
}

/// Puts an interpreter before the monitor that listens in `pod_dir`.
fn interpret(pod_dir: &OwnedFd) {
    let dir = pod_dir.try_clone().unwrap();
    nix::fcntl::renameat(&dir, MONITOR_SOCKET, &dir, BEHIND).unwrap();
    let listener = socket::listen_at(dir.as_fd(), MONITOR_SOCKET, 0o600, 8).unwrap();
    let pool = frozen();
    let word = |name| pool.get_message_by_name(&format!("coracle.monitor.v1.{name}")).unwrap();
    let (request, reply) = (word("MonitorRequest"), word("MonitorReply"));
    // Ends with the test's process, as the threads of every connection do with its two ends.
    thread::spawn(move || {
        loop {
            await_any(&[(listener.as_fd(), PollFlags::POLLIN)]);
            let Ok(daemon) = socket::accept(listener.as_fd()) else { continue };
            // Whoever connects behind the monitor's end is told by the end of this connection.
            let Ok(monitor) = socket::connect_at(dir.as_fd(), BEHIND) else { continue };
            socket::set_nonblocking(daemon.as_fd()).unwrap();
            socket::set_nonblocking(monitor.as_fd()).unwrap();
            let (request, reply) = (request.clone(), reply.clone());
            thread::spawn(move || carry(&daemon, &monitor, &request, &reply));
        }
    });
}

/// Carries messages both ways until one end has gone.
fn carry(daemon: &OwnedFd, monitor: &OwnedFd, request: &MessageDescriptor, reply: &MessageDescriptor) {
    loop {
        await_any(&[(daemon.as_fd(), PollFlags::POLLIN), (monitor.as_fd(), PollFlags::POLLIN)]);
        let carried = pass(daemon, monitor, request).and_then(|()| pass(monitor, daemon, reply));
        if carried.is_err() {
            return;
        }
    }
}

/// Passes on what is there.
fn pass(from: &OwnedFd, to: &OwnedFd, words: &MessageDescriptor) -> io::Result<()> {
    let mut packet = vec![0; MAX_PACKET];
    loop {
        let (length, mut fds) = match socket::receive(from.as_fd(), &mut packet, MAX_FDS) {
            Ok((0, _)) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            received => received?,
        };
        let message = match frame::place(&packet[..length]).unwrap() {
            Place::Here(body) => DynamicMessage::decode(words.clone(), body),
            Place::Memfd => {
                let body = File::from(fds.pop().unwrap());
                let mut bytes = vec![0; body.metadata()?.len() as usize];
                body.read_exact_at(&mut bytes, 0)?;
                DynamicMessage::decode(words.clone(), bytes.as_slice())
            }
            other => panic!("no message of these tests is so long: {other:?}"),
        };
        let sealed = frame::seal(&known(&message.unwrap())).unwrap();
        fds.extend(sealed.body);
        let beside: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        while let Err(error) = socket::send(to.as_fd(), &sealed.packet, &beside) {
            if error.kind() != ErrorKind::WouldBlock {
                return Err(error);
            }
            await_any(&[(to.as_fd(), PollFlags::POLLOUT)]);
        }
    }
}

fn await_any(what: &[(BorrowedFd<'_>, PollFlags)]) {
    let mut asked: Vec<_> = what.iter().map(|(fd, flags)| PollFd::new(*fd, *flags)).collect();
    // A signal is no reason to give up: whoever calls looks again.
    let _ = poll(&mut asked, PollTimeout::NONE);
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn a_pods_whole_life_goes_well_in_the_words_of_the_first_version() {
    let node = Node::start().await;
    let mut pod = node.pod_behind(interpret, |order| order.shared_pid = true).await;
    assert!(pod.ready.init_pid.is_some());

    let id = pod.create(&["probe", "write-lines", "0", "1000"]).await;
    let greeting = pod.reconnect().await;
    assert_eq!(greeting.program, "", "the first version has no such word");
    assert!(matches!(greeting.containers[0].state, NowState::Waiting { pid } if pid > 0));
    pod.monitor.start(&id).await.unwrap();
    assert_eq!(pod.exited(&id).await.how, Exit::Code(0));
    assert_eq!(pod.text(&id).lines().count(), 1000);
    pod.monitor.forget(&id).await.unwrap();

    let id = pod.run(&["probe", "sleep", "forever"]).await;
    assert_eq!(pod.exec(&id, &["probe", "print", "here"]).await, (Exit::Code(0), "here\n".to_owned()));
    let (output, mut exec) = pod.start_exec(&id, &["probe", "sleep", "forever"]).await.unwrap();
    pod.monitor.kill_exec(exec.id).await.unwrap();
    assert_eq!(exec.exited().await.unwrap(), Exit::Signal(Signal::KILL));
    drop(output);
    let log = File::options().append(true).create(true).open(pod.dir.join("another-log")).unwrap();
    pod.monitor.reopen_log(&id, log.into()).await.unwrap();
    let missing = pod.create(&["missing"]).await;
    let error = pod.monitor.start(&missing).await.unwrap_err();
    assert_eq!(error.to_string(), "exec: \"missing\": executable file not found in $PATH");
    assert!(matches!(pod.exited(&missing).await.how, Exit::StartFailed { .. }));
    let given_up = pod.create(&["probe", "exit", "0"]).await;
    pod.monitor.forget(&given_up).await.unwrap();

    // A word of a later version is refused by one that does not know it, and costs nothing.
    let error = pod.monitor.replace(&node.program, "another").await.unwrap_err();
    assert_eq!(error.to_string(), "an act that this release does not know");
    pod.monitor.kill(&id, Signal::KILL, Whole::Every).await.unwrap();
    assert_eq!(pod.exited(&id).await.how, Exit::Signal(Signal::KILL));
    pod.end().await;
    node.end().await;
}

#[test]
fn no_word_of_the_first_version_has_gone_or_means_something_else() {
    let (then, now) = (frozen(), words("../../proto/monitor/v1"));
    let mut compared = 0;
    for message in then.all_messages() {
        let today = now.get_message_by_name(message.full_name());
        let today = today.unwrap_or_else(|| panic!("{} has gone", message.full_name()));
        for field in message.fields() {
            let name = field.full_name().to_owned();
            let same = today.get_field(field.number()).unwrap_or_else(|| panic!("{name} has gone"));
            assert_eq!(same.name(), field.name(), "{name}: another field has its number");
            assert_eq!(shape(&same.kind(), same.cardinality()), shape(&field.kind(), field.cardinality()), "{name}");
            let oneof =
                |field: &prost_reflect::FieldDescriptor| field.containing_oneof().map(|of| of.name().to_owned());
            assert_eq!(oneof(&same), oneof(&field), "{name}");
            compared += 1;
        }
    }
    for kind in then.all_enums() {
        let today = now.get_enum_by_name(kind.full_name()).unwrap_or_else(|| panic!("{} has gone", kind.full_name()));
        for value in kind.values() {
            let same = today.get_value(value.number()).unwrap_or_else(|| panic!("{} has gone", value.full_name()));
            assert_eq!(same.name(), value.name());
            compared += 1;
        }
    }
    assert!(compared > 150, "{compared} words: the fixture is whole");
}

/// A field's kind; of a message or an enumeration, its name.
fn shape(kind: &Kind, cardinality: Cardinality) -> String {
    format!("{cardinality:?} {kind:?}")
}
