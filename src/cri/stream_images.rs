//! StreamImages: the same list as ListImages, in pieces.

use api::cri::v1::{StreamImagesRequest, StreamImagesResponse};
use images::Images;
use prost::Message;

use crate::{
    answer::chunk::{Pieces, pieces},
    error::Error,
    list_images,
    request::Host,
};

/// The list as of now.
pub(crate) fn answer(
    request: StreamImagesRequest,
    images: &Images,
    host: &Host,
) -> Result<Pieces<StreamImagesResponse>, Error> {
    let items = list_images::items(request.filter, images, host)?;
    Ok(pieces(items, Message::encoded_len, |images| StreamImagesResponse { images }))
}
