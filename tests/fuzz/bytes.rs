//! Targets that only read: references, records, frames between the daemon and its monitors.

use link::{frame, wire};
use model::{Digest, ImageRef, PodPlan, Signal};

use crate::runner::Target;

#[test]
fn an_image_reference_is_read_or_refused() {
    let seeds = [
        "busybox",
        "busybox:1.36",
        "registry.k8s.io/pause:3.9",
        "localhost:5000/a/b/c:tag",
        "[::1]:5000/a",
        "docker.io/library/debian@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "a.example/x:1@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "UPPER/x",
    ];
    let words: &[&[u8]] = &[b":", b"/", b"@", b"sha256:", b"..", b"__", b"-", b"localhost", b"%2e", "é".as_bytes()];
    let target =
        Target { name: "reference", seeds: seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect(), words };
    target.run(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let _ = text.parse::<Digest>();
        let _ = text.parse::<Signal>();
        if let Ok(reference) = text.parse::<ImageRef>() {
            // What is accepted is written in one way, and that way is read as the same.
            let written = reference.to_string();
            assert_eq!(written.parse::<ImageRef>().as_ref(), Ok(&reference), "{text:?} as {written:?}");
            assert!(!reference.path().split('/').any(|part| part == ".." || part.is_empty()), "{text:?}");
        }
    });
}

#[test]
fn a_record_is_read_or_named_as_damaged() {
    let value = serde_json::json!({ "name": "web", "attempt": 2, "at": [1, 2, 3] });
    let seeds = vec![
        disk::encode("pod", 1, &value).unwrap(),
        disk::encode("pod", 2, &value).unwrap(),
        disk::encode("container", 1, &value).unwrap(),
    ];
    let words: &[&[u8]] = &[b"coracle ", b"pod ", b"\n", b"{}", b"null", b"[[[[", b" 00000000"];
    Target { name: "record", seeds, words }.run(|bytes| {
        let _ = disk::decode::<serde_json::Value>("pod", 1, bytes);
        let _ = disk::decode::<PodPlan>("pod", 1, bytes);
    });
}

#[test]
fn a_frame_is_a_message_or_malformed() {
    use prost::Message;
    let request = wire::MonitorRequest {
        id: 7,
        act: Some(wire::monitor_request::Act::Create(wire::Launch {
            container_id: "c".repeat(64),
            process: Some(wire::Process {
                argv: vec![b"/bin/true".to_vec()],
                env: vec![b"PATH=/bin".to_vec()],
                groups: vec![1, 2, 3],
                ..Default::default()
            }),
            cgroup_tasks_fd: vec![0, 1, 2],
            ..Default::default()
        })),
    };
    let reply = wire::MonitorReply {
        id: 0,
        result: Some(wire::monitor_reply::Result::Exited(wire::Exited {
            container_id: "c".repeat(64),
            at_ns: 5,
            ..Default::default()
        })),
    };
    let framed = |body: Vec<u8>| [vec![1], body].concat();
    let seeds = vec![framed(request.encode_to_vec()), framed(reply.encode_to_vec()), vec![2], vec![]];
    Target { name: "frame", seeds, words: &[&[1], &[2], &[0xff; 10], &[0x0a], &[0x80, 0x80, 0x80]] }.run(|bytes| {
        let _ = frame::open::<wire::MonitorRequest>(bytes, Vec::new());
        let _ = frame::open::<wire::MonitorReply>(bytes, Vec::new());
        let _ = frame::open::<wire::LauncherRequest>(bytes, Vec::new());
        let _ = frame::open::<wire::LauncherReply>(bytes, Vec::new());
    });
}
