//! RemoveImage: an image loses all its names, and the disk its bytes. What is gone is success.

use api::cri::v1::{RemoveImageRequest, RemoveImageResponse};
use images::Images;

use crate::{
    error::Error,
    request::{Host, image},
};

/// Removes the image.
pub(crate) async fn answer(
    request: RemoveImageRequest,
    images: &Images,
    host: &Host,
) -> Result<RemoveImageResponse, Error> {
    let name = image::named(request.image, host)?;
    images.remove(&name).await?;
    Ok(RemoveImageResponse {})
}
