//! LoadImages: an archive comes in chunks, becomes blobs as it comes, and images when it is whole.

use std::sync::Arc;

use api::coracle::v1::{self, load_images_response::News};
use images::{Images, Watch};
use tokio_util::task::AbortOnDropHandle;
use tonic::Streaming;

use crate::{
    answer,
    chunks::{Feed, chunks},
    door::Teller,
    error::Error,
};

/// Largest message, bytes: a chunk of 1 MiB and what is around it.
pub(crate) const MESSAGE_MAX: usize = (1 << 20) + 64;

/// Loads the archive.
pub(crate) async fn answer(
    archive: Streaming<v1::LoadImagesRequest>,
    images: Arc<Images>,
    teller: Teller<v1::LoadImagesResponse>,
) -> Result<(), Error> {
    let (feed, chunks) = chunks();
    // Dropped with this future: then the reader finds the archive torn, and ends.
    let feeding = AbortOnDropHandle::new(tokio::spawn(pour(archive, feed)));
    let mut import = images.read_archive(chunks).await?;
    drop(feeding);
    let message = |news| v1::LoadImagesResponse { news: Some(news) };
    loop {
        let watch = Watch::default();
        let next = import.next(&watch);
        let next = answer::watched(next, &watch, &teller, |progress| message(News::Progress(progress))).await?;
        let Some(loaded) = next else { return Ok(()) };
        let loaded = v1::LoadedImage { id: loaded.image.id.to_string(), names: loaded.names };
        teller.tell(message(News::Loaded(loaded))).await?;
    }
}

async fn pour(mut archive: Streaming<v1::LoadImagesRequest>, feed: Feed) {
    loop {
        match archive.message().await {
            Ok(Some(request)) => {
                if !feed.give(request.chunk).await {
                    return;
                }
            }
            Ok(None) => return feed.end().await,
            // The client went away: the archive is torn.
            Err(_) => return,
        }
    }
}
