//! Images as requests name them.

use api::cri::v1;
use model::ImageRequest;

use super::{Host, text};
use crate::{error::Error, field::Field};

/// Longest name of an image, bytes: a host, a path of 255, a tag of 128 and a digest, with room.
const NAME_MAX: usize = 4096;

/// The image of a container.
pub(crate) fn request(field: &Field<'_>, spec: Option<v1::ImageSpec>, host: &Host) -> Result<ImageRequest, Error> {
    let spec = text::present(field, spec)?;
    let image = name(&field.at("image"), spec.image)?;
    handler(field, spec.runtime_handler, host)?;
    Ok(ImageRequest {
        image,
        user_specified: text::text(&field.at("user_specified_image"), spec.user_specified_image, NAME_MAX)?,
        annotations: text::echoed(&field.at("annotations"), spec.annotations)?,
    })
}

/// The image that a call is about.
pub(crate) fn named(spec: Option<v1::ImageSpec>, host: &Host) -> Result<String, Error> {
    let field = Field::root("image");
    let spec = text::present(&field, spec)?;
    handler(&field, spec.runtime_handler, host)?;
    name(&field.at("image"), spec.image)
}

/// The image that a filter picks; `None` picks all.
pub(crate) fn picked(filter: Option<v1::ImageFilter>, host: &Host) -> Result<Option<String>, Error> {
    let field = Field::root("filter");
    let Some(spec) = filter.and_then(|filter| filter.image) else { return Ok(None) };
    handler(&field.at("image"), spec.runtime_handler, host)?;
    if spec.image.is_empty() {
        return Ok(None);
    }
    name(&field.at("image").at("image"), spec.image).map(Some)
}

fn name(field: &Field<'_>, image: String) -> Result<String, Error> {
    let image = text::text(field, image, NAME_MAX)?;
    if image.is_empty() || image.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Error::invalid(field, image, "an image's id or reference"));
    }
    Ok(image)
}

/// There is one store, whatever the handler; an unknown one is a mistake all the same.
fn handler(field: &Field<'_>, handler: String, host: &Host) -> Result<(), Error> {
    if host.has_handler(&handler) {
        return Ok(());
    }
    let want = format!("one of the configured runtime handlers: {}", host.handlers.join(", "));
    Err(Error::invalid(&field.at("runtime_handler"), handler, want))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_name_and_a_known_handler() {
        let spec = |image: &str| v1::ImageSpec { image: image.into(), ..Default::default() };
        let host = Host::plain();
        assert_eq!(named(Some(spec("busybox")), &host).unwrap(), "busybox");
        for wrong in ["", " ", "a\0b", "a b", &"x".repeat(5000)] {
            assert!(named(Some(spec(wrong)), &host).is_err(), "{wrong:?}");
        }
        assert!(named(None, &host).is_err());
        assert!(named(Some(v1::ImageSpec { runtime_handler: "kata".into(), ..spec("a") }), &host).is_err());
        assert_eq!(picked(None, &host).unwrap(), None);
        let empty = v1::ImageFilter { image: Some(spec("")) };
        assert_eq!(picked(Some(empty), &host).unwrap(), None);
    }
}
