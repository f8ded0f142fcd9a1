//! ListImages: all of them, or those that a name means.

use std::sync::Arc;

use api::coracle::v1;
use images::{Image, Images};
use model::ImageRef;

use crate::{answer, door::Teller, error::Error};

/// Images of one message.
const PAGE: usize = 100;

/// Tells them.
pub(crate) async fn answer(
    request: v1::ListImagesRequest,
    images: Arc<Images>,
    teller: Teller<v1::ListImagesResponse>,
) -> Result<(), Error> {
    let found = found(&request.name, &images)?;
    for page in found.chunks(PAGE) {
        teller.tell(v1::ListImagesResponse { images: page.to_vec() }).await?;
    }
    Ok(())
}

fn found(name: &str, images: &Images) -> Result<Vec<v1::Image>, Error> {
    if name.is_empty() {
        return Ok(images.list().iter().map(|image| answer::image(image, |_| true)).collect());
    }
    let listed = images.list();
    let mut found: Vec<v1::Image> = match Wanted::read(name) {
        Some(wanted) => listed.iter().filter_map(|image| wanted.of(image)).collect(),
        None => Vec::new(),
    };
    // A name before an id that begins so, as everywhere.
    if found.is_empty()
        && let Some(image) = images.find(name)?
    {
        found.push(answer::image(&image, |_| true));
    }
    Ok(found)
}

/// What a name in a list means.
struct Wanted {
    reference: ImageRef,
    /// It has no tag and no digest: every one of the repository is meant.
    whole_repository: bool,
}

impl Wanted {
    fn read(name: &str) -> Option<Self> {
        let last = name.rsplit('/').next().unwrap_or_default();
        Some(Self { reference: name.parse().ok()?, whole_repository: !last.contains([':', '@']) })
    }

    /// The image with the names that are meant; `None` when none is.
    fn of(&self, image: &Image) -> Option<v1::Image> {
        let (whole, repository) = (self.reference.to_string(), self.reference.name());
        let is_tagged = image.tags.contains(&whole);
        let is_meant = |name: &str| match name.parse::<ImageRef>() {
            // With a tag, the digests that it may have come by.
            Ok(own) if self.whole_repository || (is_tagged && own.tag().is_none()) => own.name() == repository,
            _ => name == whole,
        };
        let told = answer::image(image, is_meant);
        (!told.tags.is_empty() || !told.digests.is_empty()).then_some(told)
    }
}
