//! Builds the rooms in order and hands each what it needs; the only file that knows them all.
//!
//! Order: directories and their lock, the sockets (clients that come early wait in their queues), the monitor program,
//! the rooms from the lowest up, pods found again, then calls are answered until a signal ends it. Pods run on.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    net::TcpListener,
    os::{
        fd::{AsRawFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
            net::{SocketAddr, UnixDatagram, UnixListener as StdListener},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::{
        socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket},
        stat::{Mode, umask},
    },
};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};
use tracing::{info, warn};

use crate::{config::Config, measure};

/// Threads that answer calls: work that blocks goes elsewhere, so two keep up with any kubelet.
const WORKERS: usize = 2;

/// Heaps of all threads together: as many as there are threads that have work nearly always.
const HEAPS: i32 = WORKERS as i32;

/// Most threads that may wait in the kernel at once: pods whose mounts or disks are stuck hold one each.
const BLOCKING_THREADS: usize = 128;

/// How long calls under way may take to end after a signal.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(5);

/// Name of the variable that injects faults: `run.attach=fail,create.launch=kill-after`. For tests.
const FAULTS: &str = "CORACLED_FAULTS";

/// Name of the variable by which a service manager says where it wants to be told (sd_notify(3)).
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// Runs the node until SIGTERM or SIGINT.
pub(crate) fn run(config: Config) -> Result<()> {
    kernel::memory::share_heaps(HEAPS);
    // What we make is ours alone unless a mode says otherwise; whoever started us may have had another habit.
    umask(Mode::from_bits_truncate(0o022));
    for dir in [config.root(), config.state()] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(dir)
            .with_context(|| format!("make directory {}", dir.display()))?;
    }
    let _root_lock = disk::DirLock::take(config.root())?;
    let _state_lock = disk::DirLock::take(config.state())?;
    let listener = listen(&config.socket())?;
    let monitor_program = monitor_program(config.monitor.as_deref())?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(serve(config, listener, monitor_program))
}

async fn serve(config: Config, listener: StdListener, monitor_program: OwnedFd) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let socket = config.socket();
    let (root, state) = (config.root().to_owned(), config.state().to_owned());
    let metrics = metrics_listener(&config.metrics)?;

    let engine = Arc::new(engine::Engine::new(config.engine.clone()).context("look at what this kernel can do")?);
    engine.notes().iter().for_each(|note| warn!("{note}"));
    let (launcher, programs) = link::programs();
    let faults = faults()?;
    let images = images::Images::open_with(config.images.clone(), &root.join("images"), faults.clone());
    let images = images.context("open the image store")?;
    let images = Arc::new(images.with_programs(programs.clone()));
    let network = network::Network::with_programs(config.network.clone(), &root, &state, programs);
    let network = network.context("open the pods' network")?;
    network.notes().iter().for_each(|note| warn!("{note}"));
    let rooms = pods::Rooms {
        engine: engine.clone(),
        images: images.clone(),
        network: network.clone(),
        monitor_program,
        launcher,
    };
    let pods = pods::Pods::start(rooms, pods::Config { root, state, handlers: config.runtime.clone(), faults })
        .await
        .context("find the pods again")?;

    let about = cri::Config {
        root: config.root().to_owned(),
        state: config.state().to_owned(),
        handlers: config.runtime.handlers.keys().cloned().collect(),
    };
    let operator = operator::Operator::new(images.clone(), network.clone(), {
        let pods = pods.clone();
        Arc::new(move || pods.living())
    });
    // Held to the end: it answers for as long as calls are answered.
    let measure = measure::of(pods.clone(), network.clone());
    let _metrics = metrics.map(|listener| metrics::Endpoint::start(listener, measure));
    let cri = cri::Cri::new(pods.clone(), images, network, about);
    info!(socket = %socket.display(), version = env!("CARGO_PKG_VERSION"), "ready");
    let listener = UnixListener::from_std(listener).context("listen on the socket")?;
    if let Some(manager) = std::env::var_os(NOTIFY_SOCKET)
        && let Err(error) = tell_ready(&manager)
    {
        warn!(error = %error, "the service manager was not told that the node is ready");
    }
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping; pods run on");
    };
    cri.serve(listener, operator.routes(), stop, FAREWELL).await.context("serve the CRI")?;
    pods.leave().await;
    Ok(())
}

/// Where the metrics are told, if anywhere.
fn metrics_listener(config: &metrics::Config) -> Result<Option<metrics::Listener>> {
    let Some(address) = config.address()? else { return Ok(None) };
    let act = || format!("listen on {}", config.listen);
    let listener = match address {
        metrics::Address::Unix(path) => {
            metrics::Listener::Unix(UnixListener::from_std(listen(&path)?).with_context(act)?)
        }
        metrics::Address::Loopback(address) => {
            let listener = TcpListener::bind(address).with_context(act)?;
            listener.set_nonblocking(true).with_context(act)?;
            metrics::Listener::Loopback(tokio::net::TcpListener::from_std(listener).with_context(act)?)
        }
    };
    Ok(Some(listener))
}

/// What is to happen at the steps of whichever room.
fn faults() -> Result<fault::Faults> {
    fault::Faults::read(&std::env::var(FAULTS).unwrap_or_default(), steps()).context(FAULTS)
}

/// The names of all steps.
fn steps() -> impl Iterator<Item = &'static str> + Clone {
    let pods = pods::Step::ALL.iter().map(|step| step.name());
    pods.chain(images::Step::ALL.iter().map(|step| step.name()))
}

/// The socket, for root and its group. One left by a daemon that is gone is replaced.
fn listen(path: &Path) -> Result<StdListener> {
    let act = || format!("listen on {}", path.display());
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(act)?;
    // Held from the look to the bind: of two daemons that find the same socket left over, the second finds the first's.
    let turn = Flock::lock(File::open(parent).with_context(act)?, FlockArg::LockExclusive);
    let _turn = turn.map_err(|(_, errno)| errno).with_context(act)?;
    if is_left_over(path)? {
        fs::remove_file(path).with_context(act)?;
    }
    let before = umask(Mode::from_bits_truncate(0o117));
    let listener = StdListener::bind(path).with_context(act);
    umask(before);
    let listener = listener?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).with_context(act)?;
    listener.set_nonblocking(true).with_context(act)?;
    Ok(listener)
}

/// Whether a socket lies at the path that nobody answers on any more. One that somebody answers on, and whatever is no
/// socket, is refused: our locks speak of our directories only, and the settings may name any path.
fn is_left_over(path: &Path) -> Result<bool> {
    let act = || format!("see what is at {}", path.display());
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => bail!("{} exists and is not a socket: move it away, or listen elsewhere", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(act),
    }
    // Without waiting: a daemon that hangs has a full queue, and a connection would wait with it.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let caller = socket(AddressFamily::Unix, SockType::Stream, flags, None).with_context(act)?;
    match connect(caller.as_raw_fd(), &UnixAddr::new(path).with_context(act)?) {
        Err(Errno::ECONNREFUSED) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Ok(()) | Err(Errno::EAGAIN) => bail!("another daemon answers on {}", path.display()),
        Err(errno) => Err(errno).with_context(act),
    }
}

/// Tells a service manager that calls are answered: units that are ordered behind ours wait for it. A name that begins
/// with `@` is one of the abstract kind.
fn tell_ready(manager: &OsStr) -> io::Result<()> {
    let address = match manager.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(manager)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}

/// The monitor program as a sealed copy in memory: what runs beside containers cannot be changed by any of them, nor by
/// an upgrade of the file.
fn monitor_program(configured: Option<&Path>) -> Result<OwnedFd> {
    let path = match configured {
        Some(path) => path.to_owned(),
        None => beside_ourselves("coracle-monitor")?,
    };
    let mut file = File::open(&path).with_context(|| format!("open the monitor program {}", path.display()))?;
    kernel::memfd::sealed_program(c"coracle-monitor", &mut file)
        .with_context(|| format!("copy the monitor program {}", path.display()))
}

fn beside_ourselves(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find our own program")?;
    Ok(own.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn only_a_socket_that_nobody_answers_on_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/coracle.sock");
        let first = listen(&path).unwrap();
        assert!(listen(&path).unwrap_err().to_string().contains("another daemon answers on"));
        UnixStream::connect(&path).unwrap();
        drop(first);
        listen(&path).unwrap();

        let (file, link, datagrams) = (dir.path().join("file"), dir.path().join("link"), dir.path().join("datagrams"));
        fs::write(&file, "somebody's").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let _other = UnixDatagram::bind(&datagrams).unwrap();
        for path in [&file, &link, &datagrams, &dir.path().to_owned()] {
            let refused = listen(path).unwrap_err().to_string();
            assert!(refused.contains(&path.display().to_string()), "{refused}");
        }
        assert_eq!(fs::read_to_string(&link).unwrap(), "somebody's");
        assert!(fs::symlink_metadata(&datagrams).unwrap().file_type().is_socket());
    }

    #[test]
    fn of_many_that_find_the_same_socket_left_over_one_gets_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coracle.sock");
        for _ in 0..20 {
            drop(StdListener::bind(&path).unwrap());
            let start = std::sync::Barrier::new(8);
            let got: Vec<_> = std::thread::scope(|scope| {
                let many: Vec<_> = (0..8)
                    .map(|_| {
                        scope.spawn(|| {
                            start.wait();
                            listen(&path)
                        })
                    })
                    .collect();
                many.into_iter().filter_map(|one| one.join().unwrap().ok()).collect()
            });
            assert_eq!(got.len(), 1);
            UnixStream::connect(&path).unwrap();
            got[0].accept().unwrap();
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn every_step_of_whichever_room_has_a_name_of_its_own() {
        let mut names: Vec<_> = steps().collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), steps().count());
    }

    #[test]
    fn a_service_manager_is_told_at_a_path_and_at_an_abstract_name() {
        let dir = std::env::temp_dir().join(format!("coracled-notify-{}", std::process::id()));
        let name = format!("@{}", dir.display());
        let abstract_one = SocketAddr::from_abstract_name(&name[1..]).unwrap();
        for (address, manager) in
            [(SocketAddr::from_pathname(&dir).unwrap(), dir.as_os_str()), (abstract_one, OsStr::new(&name))]
        {
            let socket = UnixDatagram::bind_addr(&address).unwrap();
            tell_ready(manager).unwrap();
            let mut told = [0; 16];
            let length = socket.recv(&mut told).unwrap();
            assert_eq!(&told[..length], b"READY=1");
        }
        fs::remove_file(&dir).unwrap();
        assert!(tell_ready(dir.as_os_str()).is_err());
    }
}
