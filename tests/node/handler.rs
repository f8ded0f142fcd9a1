//! Pods of another OCI runtime that does not do its work.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use api::cri::v1::{RemovePodSandboxRequest, StopPodSandboxRequest};
use testkit::{NodeOptions, Process, container, eventually, patience, pod};

use crate::support::{PROBE, node_with};

/// Less than a runtime is given to make a container.
const SOON: Duration = Duration::from_secs(20);

/// A runtime that never comes to an end with `create`. It leaves its number in `hangs`.
fn hanging(dir: &Path) -> String {
    let (program, number) = (dir.join("hanging"), dir.join("hangs"));
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *' create '*) echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000 ;; esac\n",
        number.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    format!("[runtime.handlers.hanging]\ntype = \"oci\"\npath = \"{}\"\n", program.display())
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_hangs_while_it_makes_a_container_holds_neither_stop_nor_removal_of_its_pod() {
    let programs = tempfile::tempdir().unwrap();
    let config = hanging(programs.path());
    let node = node_with(NodeOptions { config, ..NodeOptions::default() }).await;
    let mut cri = node.client().await;
    for act in ["stop", "remove"] {
        let config = pod(act, node.dir());
        let id = cri.run_by("hanging", &config).await.unwrap();
        let creating = {
            let (mut cri, id, main) = (cri.clone(), id.clone(), container("main", PROBE, &["wait"]));
            tokio::spawn(async move { cri.create(&id, &config, &main).await })
        };
        let hangs = eventually(SOON, "the runtime hangs", || {
            let number = fs::read_to_string(programs.path().join("hangs")).unwrap_or_default();
            number.trim().parse().ok().and_then(Process::of).ok_or(number)
        });
        let ended = async {
            let pod_sandbox_id = id.clone();
            match act {
                "stop" => drop(cri.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id }).await.unwrap()),
                _ => drop(cri.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await.unwrap()),
            }
        };
        tokio::time::timeout(patience(SOON), ended).await.unwrap_or_else(|_| panic!("{act} does not end"));
        assert!(!hangs.alive(), "{act}: the runtime is gone");
        let refused = creating.await.unwrap().unwrap_err();
        assert!(refused.message().contains("is going away"), "{act}: {refused}");
        cri.remove(&id).await.unwrap();
        fs::remove_file(programs.path().join("hangs")).unwrap();
    }
    node.finish().await;
}
