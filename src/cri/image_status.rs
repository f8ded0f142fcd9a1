//! ImageStatus: one image under any of its names. That there is none is an answer, not an error.

use std::collections::BTreeMap;

use api::cri::v1::{ImageStatusRequest, ImageStatusResponse};
use images::Images;

use crate::{
    answer,
    error::Error,
    request::{Host, image},
};

/// The status of the image.
pub(crate) fn answer(request: ImageStatusRequest, images: &Images, host: &Host) -> Result<ImageStatusResponse, Error> {
    let name = image::named(request.image, host)?;
    let Some(image) = images.find(&name)? else { return Ok(ImageStatusResponse::default()) };
    Ok(ImageStatusResponse {
        image: Some(answer::image::image(&image)),
        info: if request.verbose { answer::image::info(&image) } else { BTreeMap::new() },
    })
}
