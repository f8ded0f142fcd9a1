//! ListImages: the images of the store, or the one that a filter names. From memory.

use api::cri::v1::{Image, ImageFilter, ListImagesRequest, ListImagesResponse};
use images::Images;

use crate::{
    answer,
    error::Error,
    request::{Host, image},
};

/// The list.
pub(crate) fn answer(request: ListImagesRequest, images: &Images, host: &Host) -> Result<ListImagesResponse, Error> {
    Ok(ListImagesResponse { images: items(request.filter, images, host)? })
}

/// Images that the filter names; a name that no image has, or could have, gives none.
pub(crate) fn items(filter: Option<ImageFilter>, images: &Images, host: &Host) -> Result<Vec<Image>, Error> {
    let found = match image::picked(filter, host)? {
        None => images.list(),
        Some(name) => images.find(&name)?.into_iter().collect(),
    };
    Ok(found.iter().map(|image| answer::image::image(image)).collect())
}
