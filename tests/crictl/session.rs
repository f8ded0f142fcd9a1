//! A pod's whole life, verb by verb.

use std::{process::Stdio, time::Duration};

use testkit::eventually;

use crate::{IMAGE, command::Crictl, container};

/// How long a container that ends by itself may take until the node says so.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// runp, pods, inspectp, create, start, ps, inspect, exec, stop, rm, stopp, rmp.
pub(crate) async fn pod() {
    let crictl = Crictl::start();
    crictl.ok(&["pull", IMAGE]);
    let pod_file = crictl.file("pod.json", &crate::pod(&crictl, "web"));
    let pod_id = crictl.ok(&["runp", &pod_file]).trim().to_owned();
    assert_eq!(pod_id.len(), 64);

    let pods = crictl.json(&["pods", "-o", "json"]);
    assert_eq!(pods["items"][0]["id"], *pod_id);
    assert_eq!(pods["items"][0]["state"], "SANDBOX_READY");
    assert_eq!(crictl.ok(&["pods", "-q", "--label", "app=web"]).trim(), pod_id);
    assert_eq!(crictl.ok(&["pods", "-q", "--name", "other"]).trim(), "");
    let inspected = crictl.json(&["inspectp", &pod_id]);
    assert_eq!(inspected["status"]["metadata"]["attempt"], 1);
    let address: std::net::IpAddr = inspected["status"]["network"]["ip"].as_str().unwrap().parse().unwrap();
    assert!(!address.is_unspecified());

    let sleeper = crictl.file("sleeper.json", &container("sleeper", &["sleep", "1000"]));
    let id = crictl.ok(&["create", &pod_id, &sleeper, &pod_file]).trim().to_owned();
    assert_eq!(crictl.json(&["inspect", &id])["status"]["state"], "CONTAINER_CREATED");
    assert_eq!(crictl.ok(&["ps", "-q"]).trim(), "", "ps shows what runs");
    crictl.ok(&["start", &id]);
    assert_eq!(crictl.ok(&["ps", "-q", "--no-trunc"]).trim(), id);
    assert!(crictl.ok(&["ps"]).contains("Running"));
    let inspected = crictl.json(&["inspect", &id[..12]]);
    assert_eq!(inspected["status"]["state"], "CONTAINER_RUNNING");
    assert!(inspected["info"]["pid"].as_i64().is_some_and(|pid| pid > 1), "{inspected}");

    // crictl adds a newline of its own after each of the two outputs.
    assert_eq!(crictl.ok(&["exec", "-s", &id, "echo", "hello"]).trim_end(), "hello");
    assert_eq!(crictl.ok(&["exec", "-s", &id, "hostname"]).trim_end(), "web");
    assert_eq!(crictl.ok(&["exec", "-s", &id, "cat", "/etc/resolv.conf"]).trim_end().lines().count(), 2);
    crictl.fails(&["exec", "-s", &id, "sh", "-c", "exit 3"]);
    crictl.fails(&["exec", "-s", &id, "no-such-program"]);

    crictl.ok(&["stop", "-t", "1", &id]);
    let inspected = crictl.json(&["inspect", &id]);
    assert_eq!(inspected["status"]["state"], "CONTAINER_EXITED");
    crictl.ok(&["stop", &id]);
    crictl.ok(&["rm", &id]);
    assert_eq!(crictl.ok(&["ps", "-a", "-q"]).trim(), "");
    crictl.ok(&["stopp", &pod_id]);
    assert_eq!(crictl.json(&["pods", "-o", "json"])["items"][0]["state"], "SANDBOX_NOTREADY");
    crictl.ok(&["rmp", &pod_id]);
    assert_eq!(crictl.ok(&["pods", "-q"]).trim(), "");
    crictl.finish().await;
}

/// logs, logs -f, --tail, --since, -t.
pub(crate) async fn logs() {
    let crictl = Crictl::start();
    crictl.ok(&["pull", IMAGE]);
    let pod_file = crictl.file("pod.json", &crate::pod(&crictl, "talk"));
    let pod_id = crictl.ok(&["runp", &pod_file]).trim().to_owned();
    let script = "echo one; echo two; echo bad >&2; sleep 2; echo -n last";
    let talker = crictl.file("talker.json", &container("talker", &["sh", "-c", script]));
    let id = crictl.ok(&["create", &pod_id, &talker, &pod_file]).trim().to_owned();
    crictl.ok(&["start", &id]);

    // Followed to its end: the last line comes although it has no newline, and the command ends with the container.
    let followed = crictl.command(&["logs", "-f", &id]).stderr(Stdio::piped()).output().unwrap();
    assert!(followed.status.success());
    assert_eq!(String::from_utf8_lossy(&followed.stdout).trim_end(), "one\ntwo\nlast");
    assert_eq!(String::from_utf8_lossy(&followed.stderr).trim_end(), "bad");

    eventually(SOON, "the talker has exited", || {
        let state = crictl.json(&["inspect", &id])["status"]["state"].clone();
        if state == "CONTAINER_EXITED" { Ok(()) } else { Err(state) }
    });
    assert_eq!(crictl.ok(&["logs", &id]).trim_end(), "one\ntwo\nlast");
    assert_eq!(crictl.ok(&["logs", "--tail", "1", &id]).trim_end(), "last");
    assert_eq!(crictl.ok(&["logs", "--since", "1h", &id]).trim_end(), "one\ntwo\nlast");
    let dated = crictl.ok(&["logs", "-t", "--tail", "1", &id]);
    let (date, text) = dated.trim_end().split_once(' ').unwrap();
    assert!(date.len() >= 20 && date.contains('T') && text.ends_with("last"), "{dated}");
    crictl.ok(&["rmp", "-f", &pod_id]);
    crictl.finish().await;
}

/// run: pod, container and start in one.
pub(crate) async fn run() {
    let crictl = Crictl::start();
    let pod_file = crictl.file("pod.json", &crate::pod(&crictl, "quick"));
    let file = crictl.file("quick.json", &container("quick", &["sh", "-c", "exit 7"]));
    let id = crictl.ok(&["run", "--with-pull", &file, &pod_file]).trim().to_owned();
    let status = eventually(SOON, "it has exited", || {
        let status = crictl.json(&["inspect", &id])["status"].clone();
        if status["state"] == "CONTAINER_EXITED" { Ok(status) } else { Err(status) }
    });
    assert_eq!(status["exitCode"], 7, "{status}");
    assert_eq!(status["reason"], "Error");
    crictl.ok(&["rm", "-f", &id]);
    crictl.ok(&["rmp", "-f", "-a"]);
    crictl.finish().await;
}
