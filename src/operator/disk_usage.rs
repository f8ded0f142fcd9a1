//! DiskUsage: what is in the store and for whom, in pages.

use std::sync::Arc;

use api::coracle::v1;
use images::{Held, ImageHeld, Images};

use crate::{door::Teller, error::Error};

/// Things of one message: each has the ids of its images, of which there may be hundreds.
const PAGE: usize = 50;

/// Tells it.
pub(crate) async fn answer(images: Arc<Images>, teller: Teller<v1::DiskUsageResponse>) -> Result<(), Error> {
    let held = images.holdings();
    for page in held.images.chunks(PAGE) {
        let images = page.iter().map(image).collect();
        teller.tell(v1::DiskUsageResponse { images, ..v1::DiskUsageResponse::default() }).await?;
    }
    for page in held.layers.chunks(PAGE) {
        let layers = page.iter().map(object).collect();
        teller.tell(v1::DiskUsageResponse { layers, ..v1::DiskUsageResponse::default() }).await?;
    }
    for page in held.blobs.chunks(PAGE) {
        let blobs = page.iter().map(object).collect();
        teller.tell(v1::DiskUsageResponse { blobs, ..v1::DiskUsageResponse::default() }).await?;
    }
    Ok(())
}

fn image(held: &ImageHeld) -> v1::ImageUsage {
    let image = &held.image;
    v1::ImageUsage {
        id: image.id.to_string(),
        names: image.tags.iter().chain(&image.digests).cloned().collect(),
        bytes: held.bytes,
        own_bytes: held.own_bytes,
        containers: held.containers as u64,
    }
}

fn object(held: &Held) -> v1::StoredObject {
    v1::StoredObject {
        digest: held.digest.to_string(),
        bytes: held.bytes,
        inodes: held.inodes,
        owners: held.owners.iter().map(ToString::to_string).collect(),
        in_use: held.in_use,
    }
}
