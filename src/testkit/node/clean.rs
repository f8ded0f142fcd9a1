//! Takes a node down by force: what a test that has failed leaves, and what a reboot would end.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{GONE, TempNode};
use crate::{eventually, leak::hierarchies};

impl TempNode {
    /// Ends every process of the node, and waits until none is left.
    pub(super) fn kill_everything(&mut self) {
        self.look();
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for process in &self.family {
            process.kill();
        }
        for pid in self.cgroups().iter().flat_map(|cgroup| members(cgroup)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        eventually(GONE, "every process of the node is gone", || {
            match self.family.iter().find(|process| process.alive()) {
                Some(process) => Err(process.clone()),
                None => Ok(()),
            }
        });
    }

    /// Detaches every mount below the node's directory.
    pub(super) fn unmount(&self) {
        let dir = self.dir.display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for line in mounts.lines().rev() {
            if let Some(at) = line.split(' ').nth(4).filter(|at| at.starts_with(&dir)) {
                let _ = nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH);
            }
        }
    }

    /// Every cgroup of the node, the deepest first.
    fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for hierarchy in hierarchies() {
            let mut next = vec![hierarchy.join(self.cgroup_root().trim_start_matches('/'))];
            while let Some(dir) = next.pop().filter(|dir| dir.is_dir()) {
                next.extend(
                    fs::read_dir(&dir).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_dir()),
                );
                found.push(dir);
            }
        }
        found.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
        found
    }

    /// Takes down the node's bridge and its rules in the shared nftables table. What cannot be done is left: `clean` is
    /// the rougher way, and rules without a bridge are cleared away by the next node.
    fn dismantle(&self) {
        let text = fs::read_to_string(self.dir.join("config.toml")).unwrap_or_default();
        let config = text.parse::<toml::Table>().ok().and_then(|mut table| table.remove("network")?.try_into().ok());
        let (Some(config), root, state) = (config, self.dir.join("root"), self.dir.join("state")) else { return };
        // On a thread of its own: the caller may be inside an async runtime.
        let dismantling = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let network = network::Network::open(config, &root, &state)?;
            runtime.block_on(network.dismantle()).map_err(anyhow::Error::from)
        });
        match dismantling.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("dismantle the network of {}: {error:#}", self.dir.display()),
            Err(_) => eprintln!("dismantle the network of {}: it panicked", self.dir.display()),
        }
    }

    /// Gives everything back, by force where needed.
    pub(super) fn clean(&mut self) {
        // In a network namespace of its own, all of it ends with that.
        if self.options.netns.is_none() {
            self.dismantle();
        }
        self.unmount();
        for cgroup in self.cgroups() {
            let _ = fs::remove_dir(cgroup);
        }
        for link in fs::read_dir(Path::new("/sys/class/net").join(self.bridge()).join("brif")).into_iter().flatten() {
            delete_link(&link.unwrap().file_name().to_string_lossy());
        }
        delete_link(&self.bridge());
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn members(cgroup: &Path) -> Vec<i32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// By the tool: this is clean-up after a failure, and no room of ours is to be trusted with it.
fn delete_link(name: &str) {
    if Path::new("/sys/class/net").join(name).exists() {
        let _ = Command::new("ip").args(["link", "delete", name]).status();
    }
}
