//! `coracle-power`: what a power cut is survived by. One verb keeps a daemon busy and says what it has acknowledged;
//! the other, after the cut and a boot, holds the daemon to it.
//!
//! ```text
//!   coracle-power churn SOCKET CERTS PROBE FIRST    until it is killed; a line for each thing acknowledged
//!   coracle-power check SOCKET < LINES              1 and a reason if a promise is broken
//! ```
//! A line is `<seconds since boot> image|pod|removing|removed <name or id>`, and ten times a second
//! `<seconds since boot> beat <number of the others so far>`: the last one says how long the guest has lived. Promised
//! is (ARCHITECTURE, "What survives what"): a listed image is whole; what was acknowledged more than a second before
//! the cut is listed, a pod as not ready; whatever is listed can be stopped and removed; new pods run. An image whose
//! removal has begun may be listed or not, and is whole if it is. A cut before which nothing was promised proves
//! nothing, and fails too.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what this program is for")]

mod told;

use std::{collections::BTreeSet, env, fs, io, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use api::cri::v1::{
    ContainerState, ContainerStatusRequest, ListContainersRequest, ListImagesRequest, ListPodSandboxRequest,
    PodSandboxConfig, PodSandboxState,
};
use testkit::{Access, BuiltImage, Cri, ImageBuilder, Layer, TinyRegistry, container, eventually_async, pod};
use tokio::task::JoinSet;

use told::{Teller, Told};

/// Where the pods' logs go, each in a directory of its own.
const LOGS: &str = "/var/log/coracle-power";

/// Lines of an image's own content.
const LINES: u64 = 4000;

/// Patience with one container.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["churn", socket, certs, probe, first] => churn(socket.as_ref(), certs.as_ref(), probe, first).await,
        ["check", socket] => check(socket.as_ref()).await,
        _ => Err(anyhow::anyhow!("churn SOCKET CERTS PROBE FIRST, or check SOCKET")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coracle-power: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What image `number` holds, in a file of that name.
fn content(number: u64) -> String {
    (0..LINES).map(|line| format!("{number} {}\n", line.wrapping_mul(number))).collect()
}

fn image(probe: &[u8], number: u64) -> BuiltImage {
    let layer = Layer::new().file("content", 0o644, content(number).as_bytes());
    ImageBuilder::probe(probe).layer(layer).layer(Layer::new().file(&format!("last-{number}"), 0o644, b"")).build()
}

fn reference(host: &str, number: u64) -> String {
    format!("{host}/power/n{number}:1")
}

/// The number in a reference; `None` for another image.
fn number_of(reference: &str) -> Option<u64> {
    reference.split_once("/power/n")?.1.split_once(':')?.0.parse().ok()
}

/// Pulls images and makes, uses and removes pods, three of four of which stay, and images, two of four.
async fn churn(socket: &Path, certs: &Path, probe: &str, first: &str) -> Result<()> {
    let first: u64 = first.parse().context("FIRST is a number")?;
    let probe = fs::read(probe)?;
    let registry = TinyRegistry::http(Access::Open);
    let hosts = certs.join(registry.host());
    fs::create_dir_all(&hosts)?;
    fs::write(hosts.join("hosts.toml"), format!("server = \"{}\"\n", registry.url()))?;
    let mut cri = Cri::connect(socket).await?;
    let teller = Teller::new();
    let beating = teller.clone();
    // On a thread of the runtime that no image is made on. Where it can tell nothing, the next line cannot either.
    let mut beats = JoinSet::new();
    beats.spawn(async move { beating.beat().await });
    for number in first.. {
        let wanted = reference(&registry.host(), number);
        registry.push(&format!("power/n{number}"), "1", &image(&probe, number));
        cri.pull(&wanted).await?;
        teller.tell("image", &wanted)?;
        let config = pod(&format!("p{number}"), Path::new(LOGS));
        let id = cri.run(&config).await?;
        teller.tell("pod", &id)?;
        cri.start(&id, &config, &container("c", &wanted, &["sleep", "forever"])).await?;
        if number % 4 == 3 {
            // From here on it may be gone, whether or not anybody hears of it.
            teller.tell("removing", &id)?;
            cri.remove(&id).await?;
            teller.tell("removed", &id)?;
            // One that nobody uses any more, and one that a container runs from.
            for number in [number, number - 1] {
                let unwanted = reference(&registry.host(), number);
                teller.tell("removing", &unwanted)?;
                cri.remove_image(&unwanted).await?;
                teller.tell("removed", &unwanted)?;
            }
        }
    }
    Ok(())
}

async fn check(socket: &Path) -> Result<()> {
    let told: Told = io::read_to_string(io::stdin())?.parse()?;
    let promised = told.promised();
    ensure!(!promised.is_empty(), "nothing was promised before this cut, at {}: it proves nothing", told.cut);
    let mut cri = Cri::connect(socket).await?;

    let pods = cri.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    for listed in &pods {
        ensure!(listed.state() == PodSandboxState::SandboxNotready, "pod {} is ready after a power cut", listed.id);
    }
    let containers = cri.runtime.list_containers(ListContainersRequest::default()).await?.into_inner().containers;
    for listed in &api::cri::containers(containers)? {
        ensure!(listed.state() == ContainerState::ContainerExited, "container {} is {:?}", listed.id, listed.state());
    }
    let listed: BTreeSet<_> = pods.iter().map(|pod| pod.id.clone()).collect();
    let images = cri.images.list_images(ListImagesRequest::default()).await?.into_inner().images;
    let tags: BTreeSet<_> = images.iter().flat_map(|image| image.repo_tags.clone()).collect();
    for (what, name, at) in &promised {
        let there = if *what == "pod" { listed.contains(*name) } else { tags.contains(*name) };
        ensure!(
            there,
            "{what} {name} was acknowledged at {at}, the last word came at {}, and it is not listed",
            told.cut
        );
    }
    for id in &listed {
        cri.remove(id).await.with_context(|| format!("remove pod {id}"))?;
    }
    let left = cri.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    ensure!(left.is_empty(), "pods are left after all were removed: {left:?}");

    let config = pod("whole", Path::new(LOGS));
    let id = cri.run(&config).await?;
    let mut whole = 0;
    for tag in &tags {
        let Some(number) = number_of(tag) else { continue };
        is_whole(&mut cri, &id, &config, tag, number).await.with_context(|| format!("image {tag}"))?;
        whole += 1;
    }
    cri.remove(&id).await?;
    ensure!(whole > 0, "no image was read");
    // tests/vm/power-cut adds the first number up.
    println!(
        "{} acknowledged things are there, {} pods could be removed, {whole} images are whole",
        promised.len(),
        listed.len()
    );
    Ok(())
}

/// Runs a container of the image and compares what it holds with what was pushed.
async fn is_whole(cri: &mut Cri, pod_id: &str, pod: &PodSandboxConfig, tag: &str, number: u64) -> Result<()> {
    let name = format!("n{number}");
    let config = container(&name, tag, &["cat", "/content", &format!("/last-{number}")]);
    let id = cri.start(pod_id, pod, &config).await?;
    let status = eventually_async(PATIENCE, "the container has read its image", || {
        let (mut cri, id) = (cri.clone(), id.clone());
        async move {
            let request = ContainerStatusRequest { container_id: id, verbose: false };
            let status = cri.runtime.container_status(request).await.map_err(|status| status.to_string())?;
            let status = status.into_inner().status.ok_or("no status")?;
            if status.state() == ContainerState::ContainerExited { Ok(status) } else { Err("it runs".to_owned()) }
        }
    })
    .await;
    ensure!(status.exit_code == 0, "a container that reads it ends with {}", status.exit_code);
    let log = fs::read_to_string(&status.log_path)?;
    // The next check writes into a log of this name again, and logs are appended to.
    fs::remove_file(&status.log_path)?;
    // An entry is `<time> <stream> <tag> <content>`, and no line here is long enough for two.
    let read: Option<Vec<&str>> = log.lines().map(|entry| entry.splitn(4, ' ').nth(3)).collect();
    let read = read.context("a line of the log is no entry")?;
    ensure!(read.into_iter().eq(content(number).lines()), "it does not hold what was pushed");
    Ok(())
}
