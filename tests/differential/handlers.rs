//! A node that has a handler for each runtime of the host.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use api::cri::v1::{ContainerConfig, StartContainerRequest};
use testkit::{Cri, NodeOptions, TempNode};
use tonic::Status;

use crate::{scene::Scene, support};

/// The runtimes, by the names of their handlers and of their programs.
pub(crate) const OTHERS: [&str; 2] = ["runc", "crun"];

/// Where a program of the host is.
pub(crate) fn program(name: &str) -> PathBuf {
    let dirs = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
    let found = dirs.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed: tests/run differential installs it"))
}

/// The program of a handler: the runtime itself, or, where it cannot live with this host, a script that helps it.
fn of_handler(name: &str) -> PathBuf {
    let program = program(name);
    // crun refuses hosts that have controllers in both versions' trees. Its own copy of the mounts has version 1 alone.
    let both =
        fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").is_ok_and(|text| !text.trim().is_empty());
    if name != "crun" || !both {
        return program;
    }
    let hide = "mount --make-rprivate /sys/fs/cgroup && umount /sys/fs/cgroup/unified";
    let script = format!(
        "#!/bin/sh\nexec unshare --mount --propagation unchanged sh -c '{hide} && exec {} \"$@\"' crun \"$@\"\n",
        program.display()
    );
    write_program(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("crun"), &script)
}

/// Writes a script. Whole at once: tests run side by side, and one may be starting it.
pub(crate) fn write_program(path: &Path, text: &str) -> PathBuf {
    let fresh = tempfile::NamedTempFile::new_in(path.parent().unwrap()).unwrap();
    fs::write(&fresh, text).unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
    // Closed before it has its name: a program that is open for writing cannot be executed.
    fresh.into_temp_path().persist(path).unwrap();
    path.to_owned()
}

/// The settings that make a runtime a handler.
pub(crate) fn table(handler: &str, program: &Path) -> String {
    format!("[runtime.handlers.{handler}]\ntype = \"oci\"\npath = \"{}\"\n", program.display())
}

/// A node with the probe image and every handler.
pub(crate) async fn node() -> TempNode {
    let config = OTHERS.iter().map(|name| table(name, &of_handler(name))).collect();
    support::node_with(NodeOptions { config, ..NodeOptions::default() }).await
}

impl Scene {
    /// Creates a container and starts it, if that can be done.
    pub(crate) async fn try_start(&mut self, config: &ContainerConfig) -> Result<String, Status> {
        let (pod, of) = (self.pod.clone(), self.config.clone());
        Cri::start(self, &pod, &of, config).await
    }

    /// Starts a container that was created before.
    pub(crate) async fn begin(&mut self, container: &str) -> Result<(), Status> {
        let request = StartContainerRequest { container_id: container.to_owned() };
        self.runtime.start_container(request).await.map(drop)
    }

    /// Goes on with a daemon that was started anew.
    pub(crate) async fn reconnect(&mut self) {
        **self = self.node.client().await;
    }
}
