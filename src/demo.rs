//! `coracled demo`: a pod's whole life on a throwaway daemon, through the CRI socket, everything shown and cleaned up.
//!
//! It is a client of ourselves: what it shows a kubelet would see. It ends with another exit code than 0 when anything
//! is not as it says, and it proves what it left behind by looking at the host.

use std::{
    fs,
    io::{IsTerminal, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use api::cri::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatus, ContainerStatusRequest,
    CreateContainerRequest, ExecSyncRequest, ImageSpec, ListContainersRequest, ListPodSandboxRequest, PodSandboxConfig,
    PodSandboxMetadata, PodSandboxStatusRequest, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest,
    StopPodSandboxRequest, VersionRequest, runtime_service_client::RuntimeServiceClient,
};
use hyper_util::rt::TokioIo;
use kernel::process::{Pid, pidfd_open, pidfd_send_signal};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::{
    footprint::{Footprint, Marks},
    probe_image,
};

/// Name under which the built-in image is imported.
const IMAGE: &str = "localhost/coracle/probe:demo";
/// What the name of a demo's directory begins with; behind it comes a process id.
const HOME: &str = "coracle-demo-";
/// Where the web container listens.
const PORT: u16 = 8080;
const GREETING: &str = "hello from inside the pod";
/// Lines that the worker writes in all, and how many a second: it ends by itself while no daemon lives.
const LINES: usize = 100;
const LINES_A_SECOND: usize = 50;
/// Patience with anything that should take milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Arguments of the demo.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave daemon and pod running at the end, and say how to go on with crictl and how to end them.
    #[arg(long)]
    keep: bool,
    /// End a demo that was kept: its pods, its daemon, and all that they have made on this host.
    #[arg(long, value_name = "DIR", conflicts_with = "keep")]
    end: Option<PathBuf>,
}

/// Runs the demo and says how it went.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(async {
            ensure!(nix::unistd::geteuid().is_root(), "the demo makes containers: run it as root");
            match &arguments.end {
                Some(home) => end_kept(home).await,
                None => demo(arguments.keep).await,
            }
        }),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("\n  {}", Style::Red.paint(&format!("✗ {error:#}"))));
            ExitCode::FAILURE
        }
    }
}

/// A node of the demo's own, and what it has made so far.
struct Node {
    home: PathBuf,
    daemon: Daemon,
    pods: Vec<String>,
    containers: Vec<String>,
    network: network::Config,
}

/// The daemon of a demo.
enum Daemon {
    /// Started by this process, which learns how it ends.
    Ours(Child),
    /// Started by an earlier one, and kept.
    Kept(OwnedFd),
}

async fn demo(keep: bool) -> Result<()> {
    let home = PathBuf::from(format!("/run/{HOME}{}", std::process::id()));
    fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
    say(&format!(
        "\n  {} · a node of its own in {}\n",
        Style::Bold.paint(concat!("Coracle ", env!("CARGO_PKG_VERSION"))),
        home.display()
    ));
    let network = network::Config::apart(&home.to_string_lossy());
    let image = load_image(&home).await?;
    let daemon = start_daemon(&home, &network)?;
    let mut node = Node { home, daemon, pods: Vec::new(), containers: Vec::new(), network };
    let told = story(&mut node, &image).await;
    if keep && told.is_ok() {
        return say_how_to_go_on(&node);
    }
    let ended = node.end().await;
    told.and(ended)?;
    say(&format!("\n  {}\n", Style::Green.paint("✓ everything as promised")));
    Ok(())
}

/// Ends what `--keep` has left, whatever was made with it since.
async fn end_kept(home: &Path) -> Result<()> {
    let name = home.file_name().unwrap_or_default().to_string_lossy();
    let config = home.join("config.toml");
    ensure!(
        home.is_absolute() && name.starts_with(HOME) && config.is_file(),
        "{} is not the directory of a demo that was kept",
        home.display()
    );
    let mut settings: toml::Table = fs::read_to_string(&config)?.parse()?;
    let network = settings.remove("network").with_context(|| format!("no network in {}", config.display()))?;
    let network: network::Config = network.try_into()?;
    let daemon = match Daemon::kept(&home.join("coracle.sock")).await {
        Ok(daemon) => daemon,
        // It was killed: pods are ended by a daemon, so another one has to.
        Err(_) => start_daemon(home, &network)?,
    };
    let mut node = Node { home: home.to_owned(), daemon, pods: Vec::new(), containers: Vec::new(), network };
    let mut cri = node.connect().await?;
    let pods = cri.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    node.pods = pods.into_iter().map(|pod| pod.id).collect();
    let containers = cri.list_containers(ListContainersRequest::default()).await?.into_inner().containers;
    node.containers = api::cri::containers(containers)?.into_iter().map(|container| container.id).collect();
    drop(cri);
    node.end().await?;
    say(&format!("\n  {}\n", Style::Green.paint("✓ the demo has ended")));
    Ok(())
}

async fn story(node: &mut Node, image: &str) -> Result<()> {
    let begun = Instant::now();
    let mut cri = node.connect().await?;
    let version = cri.version(VersionRequest { version: "0.1.0".into() }).await?.into_inner();
    step(&format!("daemon answers ({} {})", version.runtime_name, version.runtime_version), begun);

    let begun = Instant::now();
    let sandbox = sandbox_config(&node.home);
    let request = RunPodSandboxRequest { config: Some(sandbox.clone()), runtime_handler: String::new() };
    let pod = cri.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
    step("RunPodSandbox", begun);
    node.pods.push(pod.clone());
    let status = PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: false };
    let status = cri.pod_sandbox_status(status).await?.into_inner().status.context("a pod without a status")?;
    let addresses = status.network.context("a pod without a network")?;
    let ip: IpAddr = addresses.ip.parse().context("the pod's address")?;
    let more: Vec<_> = addresses.additional_ips.iter().map(|ip| ip.ip.as_str()).collect();
    note(&format!("pod {} at {ip} {}", &pod[..12], more.join(" ")));

    let web = ["/probe", "http", &PORT.to_string(), GREETING].map(str::to_owned);
    let web = node.container(&mut cri, &pod, &sandbox, "web", image, &web).await?;
    let worker = ["/probe", "write-lines", &LINES_A_SECOND.to_string(), &LINES.to_string()].map(str::to_owned);
    let worker = node.container(&mut cri, &pod, &sandbox, "worker", image, &worker).await?;

    let begun = Instant::now();
    let page = get(SocketAddr::new(ip, PORT)).await?;
    ensure!(page.contains(GREETING), "the web container answered {page:?}");
    step(&format!("GET http://{ip}:{PORT}/ → {:?}", page.trim()), begun);

    let begun = Instant::now();
    let exec = ExecSyncRequest {
        container_id: web.clone(),
        cmd: ["/probe", "print", "exec works"].map(str::to_owned).to_vec(),
        timeout: 10,
    };
    let exec = cri.exec_sync(exec).await?.into_inner();
    ensure!(exec.exit_code == 0, "exec ended with {}: {}", exec.exit_code, String::from_utf8_lossy(&exec.stderr));
    step(&format!("ExecSync → {:?}", String::from_utf8_lossy(&exec.stdout).trim()), begun);

    let log = status_of(&mut cri, &worker).await?.log_path;
    let (last, _) = wait_for_lines(Path::new(&log), 3).await?;
    note(&format!("log of worker: {last}"));

    let before = status_of(&mut cri, &web).await?;
    node.daemon.end_with(Signal::SIGKILL)?;
    drop(cri);
    note("SIGKILL to the daemon");
    let page = get(SocketAddr::new(ip, PORT)).await?;
    ensure!(page.contains(GREETING), "without a daemon the web container answered {page:?}");
    note("the web container answers all the same; the worker writes on, and ends by itself");
    let (_, lines) = wait_for_lines(Path::new(&log), LINES).await?;
    ensure!(lines == LINES, "the worker wrote {LINES} lines, its log has {lines}");
    note(&format!("log of worker: all {LINES} lines; nobody needed a daemon to write them"));

    let begun = Instant::now();
    node.daemon = start_daemon(&node.home, &node.network)?;
    let mut cri = node.connect().await?;
    step("daemon started again, pods found", begun);
    let after = status_of(&mut cri, &web).await?;
    ensure!(after.state() == ContainerState::ContainerRunning, "the web container is {:?}", after.state());
    ensure!(after.started_at == before.started_at, "the web container was started twice");
    let ended = wait_for_exit(&mut cri, &worker).await?;
    ensure!(ended.exit_code == 0 && ended.reason == "Completed", "the worker: {} {}", ended.exit_code, ended.reason);
    note(&format!("web never noticed; worker: exit code {} ({}), known", ended.exit_code, ended.reason));
    Ok(())
}

impl Node {
    fn socket(&self) -> PathBuf {
        self.home.join("coracle.sock")
    }

    async fn connect(&self) -> Result<RuntimeServiceClient<Channel>> {
        let socket = self.socket();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let path = socket.clone();
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            match Endpoint::from_static("http://localhost").connect_with_connector(connector).await {
                Ok(channel) => return Ok(RuntimeServiceClient::new(channel)),
                Err(error) if Instant::now() > deadline => {
                    let log = fs::read_to_string(self.home.join("daemon.log")).unwrap_or_default();
                    return Err(error).with_context(|| format!("connect to the daemon; its log:\n{log}"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    }

    async fn container(
        &mut self,
        cri: &mut RuntimeServiceClient<Channel>,
        pod: &str,
        sandbox: &PodSandboxConfig,
        name: &str,
        image: &str,
        command: &[String],
    ) -> Result<String> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() }),
            command: command.to_vec(),
            log_path: format!("{name}.log"),
            ..ContainerConfig::default()
        };
        let begun = Instant::now();
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox.clone()),
        };
        let id = cri.create_container(request).await?.into_inner().container_id;
        step(&format!("CreateContainer {name}"), begun);
        self.containers.push(id.clone());
        let begun = Instant::now();
        cri.start_container(StartContainerRequest { container_id: id.clone() }).await?;
        step(&format!("StartContainer {name}"), begun);
        Ok(id)
    }

    /// Removes everything and proves that it is gone.
    async fn end(mut self) -> Result<()> {
        if let Ok(mut cri) = self.connect().await {
            for pod in self.pods.clone() {
                let begun = Instant::now();
                cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.clone() }).await?;
                step("StopPodSandbox", begun);
                let begun = Instant::now();
                cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod }).await?;
                step("RemovePodSandbox", begun);
            }
        }
        self.daemon.end_with(Signal::SIGTERM)?;
        let network = network::Network::open(self.network.clone(), &self.home.join("root"), &self.home.join("state"))?;
        network.dismantle().await.context("take the demo's bridge down")?;
        drop(network);
        fs::remove_dir_all(&self.home).with_context(|| format!("delete {}", self.home.display()))?;
        let directories = [self.home.clone()];
        let marks = Marks {
            directories: &directories,
            bridge: &self.network.bridge,
            netns_dir: &self.network.netns_dir,
            pods: &self.pods,
            containers: &self.containers,
        };
        // The launcher ends by itself once the daemon has said goodbye: a moment, not a promise of the daemon's exit.
        let deadline = Instant::now() + PATIENCE;
        let mut left = Footprint::find(&marks);
        while !left.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
            left = Footprint::find(&marks);
        }
        note(&format!("left on this host: {left}"));
        ensure!(left.is_empty(), "something is left: {left:#?}");
        Ok(())
    }
}

impl Daemon {
    /// The process that serves the socket.
    async fn kept(socket: &Path) -> Result<Self> {
        let peer = UnixStream::connect(socket).await?.peer_cred()?.pid().context("a daemon without a process id")?;
        Ok(Self::Kept(pidfd_open(Pid(peer)).context("open the daemon's process")?))
    }

    /// Sends the signal and waits until the daemon has ended: of SIGTERM without a fault, as far as we can know.
    fn end_with(&mut self, signal: Signal) -> Result<()> {
        match self {
            Self::Ours(child) => {
                pidfd_send_signal(pidfd_open(Pid(child.id().cast_signed()))?.as_fd(), signal as i32)?;
                let status = child.wait().context("wait for the daemon")?;
                ensure!(signal == Signal::SIGKILL || status.success(), "the daemon ended with {status}");
            }
            Self::Kept(pidfd) => {
                pidfd_send_signal(pidfd.as_fd(), signal as i32).context("signal the daemon")?;
                let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
                let ready = poll(&mut ended, PollTimeout::try_from(PATIENCE)?).context("wait for the daemon")?;
                ensure!(ready == 1, "the daemon still runs {PATIENCE:?} after {signal}");
            }
        }
        Ok(())
    }
}

/// The built-in image: our static probe program and nothing else. It enters as any archive does.
async fn load_image(home: &Path) -> Result<String> {
    let begun = Instant::now();
    let probe = std::env::current_exe()?.with_file_name("coracle-probe");
    let program = fs::read(&probe).with_context(|| format!("read {}", probe.display()))?;
    let images = images::Images::open(images::Config::default(), &home.join("root/images"))?;
    let archive = probe_image::archive(IMAGE, "/probe", &program)?;
    let imported = images.import(std::io::Cursor::new(archive)).await?;
    let image = imported.first().context("the archive holds no image")?;
    step(&format!("image loaded: {IMAGE} ({:.1} MB)", image.size as f64 / 1e6), begun);
    Ok(image.id.to_string())
}

fn start_daemon(home: &Path, network: &network::Config) -> Result<Daemon> {
    let config = home.join("config.toml");
    let mut table = toml::Table::new();
    table.insert("network".into(), toml::Value::try_from(network)?);
    fs::write(&config, toml::to_string(&table)?)?;
    let log = fs::OpenOptions::new().create(true).append(true).open(home.join("daemon.log"))?;
    Command::new(std::env::current_exe()?)
        .arg("--config")
        .arg(&config)
        .arg("--root")
        .arg(home.join("root"))
        .arg("--state")
        .arg(home.join("state"))
        .arg("--listen")
        .arg(format!("unix://{}", home.join("coracle.sock").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map(Daemon::Ours)
        .context("start coracled")
}

fn sandbox_config(home: &Path) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "demo".into(),
            uid: "0d3a0000-0000-4000-8000-000000000001".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: "demo".into(),
        log_directory: home.join("logs").display().to_string(),
        ..PodSandboxConfig::default()
    }
}

fn say_how_to_go_on(node: &Node) -> Result<()> {
    let program = std::env::current_exe()?;
    // What has to be root here has to be root in the next line too.
    let sudo = if std::env::var_os("SUDO_USER").is_some() { "sudo " } else { "" };
    say(&format!(
        "\n  {}, and left running\n\n  \
         look around:  {sudo}crictl --runtime-endpoint unix://{} pods\n  \
         end it all:   {sudo}{} demo --end {}\n",
        Style::Green.paint("✓ everything as promised"),
        node.socket().display(),
        program.display(),
        node.home.display()
    ));
    Ok(())
}

async fn status_of(cri: &mut RuntimeServiceClient<Channel>, id: &str) -> Result<ContainerStatus> {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    cri.container_status(request).await?.into_inner().status.context("a container without a status")
}

async fn wait_for_exit(cri: &mut RuntimeServiceClient<Channel>, id: &str) -> Result<ContainerStatus> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = status_of(cri, id).await?;
        if status.state() == ContainerState::ContainerExited {
            return Ok(status);
        }
        ensure!(Instant::now() < deadline, "the container is still {:?}", status.state());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The last line of a log once it has `want` lines, and how many it has.
async fn wait_for_lines(log: &Path, want: usize) -> Result<(String, usize)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        let count = text.lines().count();
        if count >= want {
            return Ok((text.lines().last().unwrap_or_default().to_owned(), count));
        }
        if Instant::now() > deadline {
            bail!("{} has {count} lines after {PATIENCE:?}, want {want}", log.display());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The body of `GET /`, over the pod's address, from the host.
async fn get(address: SocketAddr) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let asked = tokio::task::spawn_blocking(move || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            write!(stream, "GET / HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        match asked.await? {
            Ok(answer) => return Ok(answer.split_once("\r\n\r\n").map_or(answer.clone(), |(_, body)| body.to_owned())),
            // The program may not listen yet: its start is not its readiness.
            Err(error) if Instant::now() > deadline => return Err(error).with_context(|| format!("GET {address}")),
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

fn step(what: &str, begun: Instant) {
    let took = format!("{:>9.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    say(&format!("  {what:<58} {}", Style::Cyan.paint(&took)));
}

fn note(what: &str) {
    say(&format!("    {}", Style::Dim.paint(what)));
}

#[allow(clippy::print_stdout, reason = "the demo speaks to the person who ran it")]
fn say(line: &str) {
    println!("{line}");
}

/// How a terminal shows a word, by its number there (ECMA-48).
#[derive(Debug, Clone, Copy)]
enum Style {
    Bold = 1,
    Dim = 2,
    Red = 31,
    Green = 32,
    Cyan = 36,
}

impl Style {
    /// The text in this style on a terminal, and plain elsewhere.
    fn paint(self, text: &str) -> String {
        if std::io::stdout().is_terminal() { format!("\x1b[{}m{text}\x1b[0m", self as u8) } else { text.to_owned() }
    }
}
