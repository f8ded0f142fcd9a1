//! TagImage: an image gets another name.

use api::coracle::v1;
use images::Images;
use model::ImageRef;

use crate::{answer::given, error::Error};

/// Tags the image.
pub(crate) async fn answer(request: v1::TagImageRequest, images: &Images) -> Result<v1::TagImageResponse, Error> {
    let source = given("source", request.source)?;
    let tag: ImageRef = request.target.parse()?;
    let image = images.tag(&source, &tag).await?;
    Ok(v1::TagImageResponse { id: image.id.to_string(), tag: tag.to_string() })
}
