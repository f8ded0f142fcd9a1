//! Both services on one socket, and whatever else is served there.

use std::{
    future::Future,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use api::cri::v1::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer};
use futures_util::stream;
use images::Images;
use network::Network;
use pods::Pods;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::oneshot,
};
use tokio_stream::Stream;
use tonic::{service::Routes, transport::Server};

use crate::{Config, kept_out::KeptOut, request::Host, version};

/// Largest message either way, bytes: what every client of the contract allows itself, and containerd too.
const MESSAGE_MAX: usize = 16 << 20;

/// Descriptors that no connection may take: whoever is connected has to be able to stop and remove.
const KEPT_DESCRIPTORS: u64 = 64;

/// After a connection could not be taken, for want of descriptors or memory, until the next attempt.
const PAUSE: Duration = Duration::from_millis(100);

/// The services. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Cri {
    pub(crate) pods: Pods,
    pub(crate) images: Arc<Images>,
    pub(crate) network: Network,
    pub(crate) host: Arc<Host>,
    pub(crate) config: Arc<Config>,
}

impl Cri {
    /// The face of these rooms. Looks once at what this host's kernel confines with.
    pub fn new(pods: Pods, images: Arc<Images>, network: Network, config: Config) -> Self {
        let host = Arc::new(Host {
            handlers: std::iter::once(version::RUNTIME.to_owned()).chain(config.handlers.iter().cloned()).collect(),
            // Mounted where SELinux is on, permissive or not; a file of the kernel's where AppArmor is.
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            apparmor: std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y")),
        });
        Self { pods, images, network, host, config: Arc::new(config) }
    }

    /// Answers calls until `stop`, then lets those under way end, but no longer than `farewell`. Calls of other
    /// contracts go to `others`.
    pub async fn serve(
        self,
        listener: UnixListener,
        others: Routes,
        stop: impl Future<Output = ()> + Send,
        farewell: Duration,
    ) -> Result<(), tonic::transport::Error> {
        let runtime = RuntimeServiceServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        let images =
            ImageServiceServer::new(self).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
        let (stopping, stopped) = oneshot::channel::<()>();
        let signal = async move {
            stop.await;
            // Nobody listens any more once the server has ended by itself.
            let _ = stopping.send(());
        };
        let serve = Server::builder()
            .add_routes(others)
            .add_service(runtime)
            .add_service(images)
            .serve_with_incoming_shutdown(connections(listener), signal);
        let patience = async move {
            let _ = stopped.await;
            tokio::time::sleep(farewell).await;
        };
        tokio::select! {
            ended = serve => ended,
            () = patience => Ok(()),
        }
    }
}

/// Whoever connects. A want of descriptors ends no server: a connection that would take the last is closed, and one
/// that cannot be taken waits in the socket's queue.
fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    stream::unfold((listener, KeptOut::default()), async |(listener, mut kept_out)| {
        loop {
            match listener.accept().await {
                Ok((connection, _)) if kernel::descriptor::left().is_ok_and(|left| left >= KEPT_DESCRIPTORS) => {
                    if let Some(times) = kept_out.is_over() {
                        tracing::info!(times, "clients are let in again");
                    }
                    return Some((Ok(connection), (listener, kept_out)));
                }
                Ok(_) if kept_out.one_more(Instant::now()) => {
                    tracing::warn!("clients are sent away: hardly any file descriptor is left");
                }
                Ok(_) => {}
                Err(error) => {
                    if kept_out.one_more(Instant::now()) {
                        tracing::warn!(%error, "clients wait: their connections cannot be taken");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    })
}
