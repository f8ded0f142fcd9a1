//! The connection to the daemon.

use std::{io, path::Path};

use api::coracle::v1::{images_client::ImagesClient, system_client::SystemClient};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, Result};

/// Largest message from the daemon, bytes: a page of images with all their names.
const MESSAGE_MAX: usize = 16 << 20;

/// Connects.
pub(crate) async fn images(socket: &Path) -> Result<ImagesClient<Channel>> {
    Ok(ImagesClient::new(channel(socket).await?).max_decoding_message_size(MESSAGE_MAX))
}

/// The same for what is about the node and its store.
pub(crate) async fn system(socket: &Path) -> Result<SystemClient<Channel>> {
    Ok(SystemClient::new(channel(socket).await?).max_decoding_message_size(MESSAGE_MAX))
}

async fn channel(socket: &Path) -> Result<Channel> {
    let failed = |source| Error::Unreachable { socket: socket.to_owned(), source };
    // By ourselves, so that the kernel's own reason can be told.
    let stream = UnixStream::connect(socket).await.map_err(|error| failed(error.into()))?;
    let mut stream = Some(TokioIo::new(stream));
    let connect = tower::service_fn(move |_| {
        let stream = stream.take().ok_or_else(|| io::Error::other("the daemon has gone"));
        std::future::ready(stream)
    });
    // The address is never used: the connector has the connection.
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connect).await.map_err(|error| failed(error.into()))
}
