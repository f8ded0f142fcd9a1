//! RemoveImage: a name goes, and the image with its last one.

use api::coracle::v1;
use images::{Force, Images};

use crate::{answer::given, error::Error};

/// Removes what is meant.
pub(crate) async fn answer(request: v1::RemoveImageRequest, images: &Images) -> Result<v1::RemoveImageResponse, Error> {
    let name = given("name", request.name)?;
    let removed = images.untag(&name, if request.force { Force::Yes } else { Force::No }).await?;
    let deleted = removed.image.map(|id| id.to_string()).unwrap_or_default();
    Ok(v1::RemoveImageResponse { untagged: removed.names, deleted })
}
