//! Every kind of record torn, garbage, of a newer release, and missing: what is promised of what it stood for, and of
//! all that lies beside it.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use api::cri::v1::{
    ContainerState, ContainerStatusRequest, ListContainersRequest, ListImagesRequest, ListPodSandboxRequest,
    StopContainerRequest,
};
use nix::sys::signal::Signal;
use testkit::{Cri, Process, TempNode, container, eventually, pod};
use tonic::Code;

use super::{SOON, exited, first_process, monitor, pod_status, running, signal, status};
use crate::support::{self, PROBE, node};

/// What has become of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    Torn,
    Garbage,
    Newer,
    Missing,
}

impl Damage {
    const ALL: [Damage; 4] = [Damage::Torn, Damage::Garbage, Damage::Newer, Damage::Missing];

    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Does it to a file.
    fn spoil(self, record: &Path) {
        let whole = fs::read(record).unwrap();
        let body = whole.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let kind = String::from_utf8_lossy(&whole[..body]).split(' ').nth(1).unwrap_or_default().to_owned();
        match self {
            Damage::Torn => fs::write(record, &whole[..whole.len() / 2]).unwrap(),
            Damage::Garbage => fs::write(record, "\0garbage\n").unwrap(),
            Damage::Newer => {
                let value: serde_json::Value = serde_json::from_slice(&whole[body..]).unwrap();
                fs::write(record, disk::encode(&kind, 1000, &value).unwrap()).unwrap();
            }
            Damage::Missing => fs::remove_file(record).unwrap(),
        }
    }
}

/// A pod for each damage, with a container that runs and one that has ended.
struct Scene {
    node: TempNode,
    pods: BTreeMap<Damage, Victim>,
}

struct Victim {
    pod: String,
    runs: String,
    lives: Process,
    ended: String,
}

impl Scene {
    async fn new() -> Scene {
        let node = node().await;
        let mut cri = node.client().await;
        let mut pods = BTreeMap::new();
        for damage in Damage::ALL {
            let config = pod(&damage.name(), node.dir());
            let (pod, runs) = running(&mut cri, &config).await;
            let lives = first_process(&mut cri, &runs).await;
            let ended = cri.start(&pod, &config, &container("ended", PROBE, &["exit", "7"])).await.unwrap();
            assert_eq!(exited(&mut cri, &ended).await.exit_code, 7);
            pods.insert(damage, Victim { pod, runs, lives, ended });
        }
        Scene { node, pods }
    }

    /// Has records spoiled while no daemon runs, those that a victim names.
    fn spoil(&mut self, records: impl Fn(&Victim) -> Vec<String>) {
        self.node.kill_daemon();
        for (damage, victim) in &self.pods {
            records(victim).iter().for_each(|record| damage.spoil(&self.node.dir().join(record)));
        }
        self.node.start_daemon();
    }

    /// Takes away what was set aside, as a person does, and with it what it stood for.
    async fn finish(mut self, store: &str) {
        self.node.kill_daemon();
        let _ = fs::remove_dir_all(self.node.dir().join(store).join("quarantine"));
        for victim in self.pods.values() {
            for name in [&victim.pod, &victim.runs, &victim.ended] {
                let record = self.node.dir().join(store).join(name);
                if fs::read(&record).is_ok_and(|record| record.starts_with(b"coracle ") && is_newer(&record)) {
                    fs::remove_file(record).unwrap();
                }
            }
        }
        self.node.start_daemon();
        self.node.finish().await;
    }
}

fn is_newer(record: &[u8]) -> bool {
    String::from_utf8_lossy(record).split(' ').nth(2) == Some("1000")
}

async fn listed_pods(cri: &mut Cri) -> Vec<String> {
    let listed = cri.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    listed.into_iter().map(|pod| pod.id).collect()
}

async fn listed_containers(cri: &mut Cri) -> Vec<String> {
    let listed = cri.runtime.list_containers(ListContainersRequest::default()).await.unwrap().into_inner().containers;
    api::cri::containers(listed).unwrap().into_iter().map(|container| container.id).collect()
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_pod_whose_record_is_spoiled_runs_on_unlisted_and_one_without_a_record_is_ended() {
    let mut scene = Scene::new().await;
    scene.spoil(|victim| vec![format!("root/records/pods/{}", victim.pod)]);
    for _ in 0..2 {
        let mut cri = scene.node.client().await;
        assert_eq!(listed_pods(&mut cri).await, [""; 0]);
        for (damage, victim) in &scene.pods {
            if *damage == Damage::Missing {
                eventually(SOON, "nobody can name it", || if victim.lives.alive() { Err("it runs") } else { Ok(()) });
                continue;
            }
            assert!(victim.lives.alive(), "{damage:?}");
            assert!(scene.node.log().contains(&victim.pod), "{damage:?}: it is named in the log");
        }
        scene.node.restart_daemon();
    }
    scene.finish("root/records/pods").await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_container_whose_record_is_spoiled_runs_on_unlisted_and_one_without_a_record_is_ended() {
    let mut scene = Scene::new().await;
    scene.spoil(|victim| {
        [&victim.runs, &victim.ended].map(|container| format!("root/records/containers/{container}")).to_vec()
    });
    for _ in 0..2 {
        let mut cri = scene.node.client().await;
        assert_eq!(listed_pods(&mut cri).await.len(), 4);
        assert_eq!(listed_containers(&mut cri).await, [""; 0]);
        for (damage, victim) in &scene.pods {
            let kept = |container: &str| scene.node.dir().join("root/containers").join(container).is_dir();
            if *damage == Damage::Missing {
                eventually(SOON, "nobody can name it", || if victim.lives.alive() { Err("it runs") } else { Ok(()) });
                eventually(SOON, "nothing of it is kept", || {
                    if kept(&victim.runs) || kept(&victim.ended) { Err("it is") } else { Ok(()) }
                });
                continue;
            }
            assert!(victim.lives.alive() && kept(&victim.runs) && kept(&victim.ended), "{damage:?}");
            assert_eq!(pod_status(&mut cri, &victim.pod).await.state, 0, "{damage:?}: its pod is ready");
        }
        scene.node.restart_daemon();
    }
    for victim in scene.pods.values() {
        scene.node.client().await.remove(&victim.pod).await.unwrap();
        assert!(!victim.lives.alive(), "it ends with its pod");
    }
    scene.finish("root/records/containers").await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn how_a_container_of_a_newer_release_ended_is_told_by_the_release_that_reads_its_record() {
    let mut node = node().await;
    let mut cri = node.client().await;
    let (_, container) = running(&mut cri, &pod("upgraded", node.dir())).await;
    let first = first_process(&mut cri, &container).await;
    let record = node.dir().join("root/records/containers").join(&container);
    let original = fs::read(&record).unwrap();
    node.kill_daemon();
    Damage::Newer.spoil(&record);
    node.start_daemon();
    // Once before the eyes of a daemon that cannot read its record, who is told of it, and once more at its next start.
    signal(&first, Signal::SIGTERM);
    eventually(SOON, "its end has been heard of", || {
        if node.log().contains("whose record cannot be read has ended") { Ok(()) } else { Err("it has not") }
    });
    node.restart_daemon();
    assert!(node.dir().join("root/containers").join(&container).is_dir());
    assert_eq!(node.client().await.exec(&container, &["/x"], 1).await.unwrap_err().code(), Code::NotFound);

    node.kill_daemon();
    fs::write(&record, original).unwrap();
    node.start_daemon();
    let ended = status(&mut node.client().await, &container).await;
    assert_eq!((ended.state(), ended.exit_code), (ContainerState::ContainerExited, 143), "{ended:?}");
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_spoiled_phase_is_known_from_the_monitor_and_a_newer_releases_is_left_as_it_is() {
    let mut scene = Scene::new().await;
    let phases = |victim: &Victim| {
        [&victim.runs, &victim.ended].map(|container| format!("root/records/phases/{container}")).to_vec()
    };
    let originals: Vec<(PathBuf, Vec<u8>)> = phases(&scene.pods[&Damage::Newer])
        .into_iter()
        .map(|record| scene.node.dir().join(record))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    scene.spoil(phases);
    for _ in 0..2 {
        let mut cri = scene.node.client().await;
        for (damage, victim) in &scene.pods {
            assert!(victim.lives.alive(), "{damage:?}");
            if *damage == Damage::Newer {
                let listed = listed_containers(&mut cri).await;
                assert!(!listed.contains(&victim.runs) && !listed.contains(&victim.ended));
                assert!(originals.iter().all(|(path, _)| is_newer(&fs::read(path).unwrap())), "they stay");
                continue;
            }
            let runs = status(&mut cri, &victim.runs).await;
            assert_eq!(runs.state(), ContainerState::ContainerRunning, "{damage:?}");
            assert_eq!(first_process(&mut cri, &victim.runs).await, victim.lives);
            // Its monitor was told that the end is written down, and has forgotten it: nobody else knows.
            let ended = status(&mut cri, &victim.ended).await;
            assert_eq!(ended.state(), ContainerState::ContainerExited, "{damage:?}");
            assert_eq!((ended.exit_code, ended.reason.as_str()), (255, "Unknown"), "{damage:?}: {ended:?}");
        }
        scene.node.restart_daemon();
    }

    scene.node.kill_daemon();
    originals.iter().for_each(|(path, original)| fs::write(path, original).unwrap());
    scene.node.start_daemon();
    let mut cri = scene.node.client().await;
    let victim = &scene.pods[&Damage::Newer];
    assert_eq!(first_process(&mut cri, &victim.runs).await, victim.lives, "there again after the upgrade");
    let ended = status(&mut cri, &victim.ended).await;
    assert_eq!((ended.state(), ended.exit_code), (ContainerState::ContainerExited, 7));
    scene.finish("root/records/phases").await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_spoiled_exit_record_makes_an_end_unknown_and_nothing_else() {
    let mut scene = Scene::new().await;
    let mut cri = scene.node.client().await;
    let mut monitors = Vec::new();
    for victim in scene.pods.values() {
        monitors.push(monitor(&mut cri, &victim.pod).await);
    }
    // The containers end while no daemon runs, and their monitors after them: one record is all that speaks of it.
    scene.node.kill_daemon();
    for ((damage, victim), monitor) in scene.pods.iter().zip(&monitors) {
        signal(&victim.lives, Signal::SIGTERM);
        let record = scene.node.dir().join("state/pods").join(&victim.pod).join(format!("exit-{}", victim.runs));
        eventually(SOON, "the end is on record", || if record.is_file() { Ok(()) } else { Err("it is not") });
        monitor.kill();
        damage.spoil(&record);
    }
    scene.node.start_daemon();
    let mut cri = scene.node.client().await;
    for victim in scene.pods.values() {
        let lost = status(&mut cri, &victim.runs).await;
        assert_eq!((lost.exit_code, lost.reason.as_str()), (255, "Unknown"), "{lost:?}");
        assert_eq!(status(&mut cri, &victim.ended).await.exit_code, 7, "what was written down before stays known");
    }
    scene.node.finish().await;
}

/// The lease files of a pod.
fn leases(node: &TempNode, pod: &str) -> Vec<PathBuf> {
    let networks = fs::read_dir(node.dir().join("root/network")).unwrap();
    let files = networks.flat_map(|network| fs::read_dir(network.unwrap().path()).unwrap());
    let leases = files.map(|file| file.unwrap().path()).filter(|path| {
        path.file_name().unwrap().to_str().unwrap().parse::<IpAddr>().is_ok()
            && fs::read_to_string(path).unwrap().starts_with(pod)
    });
    leases.collect()
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_living_pods_address_stays_its_own_when_its_lease_is_spoiled() {
    let mut scene = Scene::new().await;
    let before: BTreeMap<_, _> =
        scene.pods.iter().map(|(damage, victim)| (*damage, leases(&scene.node, &victim.pod))).collect();
    scene.node.kill_daemon();
    for (damage, leases) in &before {
        assert!(!leases.is_empty());
        for lease in leases {
            match damage {
                // A lease has no version.
                Damage::Newer => fs::write(lease, "").unwrap(),
                Damage::Garbage => fs::write(lease, "\0garbage\n").unwrap(),
                Damage::Torn | Damage::Missing => damage.spoil(lease),
            }
            // The next pod would be given the first address that seems free.
            let last = lease.parent().unwrap().join("last_reserved_ip.0");
            let _ = fs::write(last, "garbage");
        }
    }
    scene.node.start_daemon();
    for (damage, victim) in &scene.pods {
        assert_eq!(leases(&scene.node, &victim.pod).len(), before[damage].len(), "{damage:?}");
    }
    let mut cri = scene.node.client().await;
    let mut taken = Vec::new();
    for victim in scene.pods.values() {
        taken.push(pod_status(&mut cri, &victim.pod).await.network.unwrap().ip);
    }
    for number in 0..4 {
        let next = cri.run(&pod(&format!("next-{number}"), scene.node.dir())).await.unwrap();
        let ip = pod_status(&mut cri, &next).await.network.unwrap().ip;
        assert!(!taken.contains(&ip), "{ip} is a living pod's");
    }
    scene.node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn an_image_whose_record_is_spoiled_is_fetched_again_and_its_containers_run_on() {
    for damage in Damage::ALL {
        let mut node = node().await;
        let mut cri = node.client().await;
        let config = pod("uses-it", node.dir());
        let (pod_id, runs) = running(&mut cri, &config).await;
        let lives = first_process(&mut cri, &runs).await;
        node.kill_daemon();
        let records = fs::read_dir(node.dir().join("root/images/records")).unwrap();
        let records: Vec<_> = records.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
        assert_eq!(records.len(), 1);
        damage.spoil(&records[0]);
        node.start_daemon();

        let mut cri = node.client().await;
        let listed = cri.images.list_images(ListImagesRequest::default()).await.unwrap().into_inner().images;
        assert_eq!(listed, [], "{damage:?}");
        assert!(lives.alive(), "{damage:?}");
        assert_eq!(cri.exec(&runs, &["/probe", "print", "here"], 10).await.unwrap().stdout, b"here\n", "{damage:?}");
        let refused = cri.create(&pod_id, &config, &container("more", PROBE, &["exit", "0"])).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{damage:?}: {refused}");

        node.kill_daemon();
        if damage != Damage::Newer {
            support::import(node.dir(), support::probe().build().archive(PROBE)).await;
            node.start_daemon();
            let mut cri = node.client().await;
            let again = cri.start(&pod_id, &config, &container("again", PROBE, &["sleep", "forever"])).await.unwrap();
            assert!(first_process(&mut cri, &again).await.alive());
        } else {
            assert!(is_newer(&fs::read(&records[0]).unwrap()), "it stays");
            node.start_daemon();
        }
        let mut cri = node.client().await;
        assert!(lives.alive(), "{damage:?}");
        let sees = cri.exec(&runs, &["/probe", "tree", "/etc"], 10).await.unwrap();
        assert_eq!(sees.exit_code, 0, "{damage:?}: its files are there: {}", String::from_utf8_lossy(&sees.stderr));
        cri.runtime.stop_container(StopContainerRequest { container_id: runs.clone(), timeout: 20 }).await.unwrap();
        let request = ContainerStatusRequest { container_id: runs.clone(), verbose: false };
        assert_eq!(cri.runtime.container_status(request).await.unwrap().into_inner().status.unwrap().exit_code, 143);
        node.finish().await;
    }
}
