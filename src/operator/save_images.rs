//! SaveImages: images leave as an archive, at the pace of whoever takes it.

use std::sync::Arc;

use api::coracle::v1;
use images::Images;

use crate::{door::Teller, error::Error};

/// Most images of one archive.
const MOST: usize = 1000;

/// Writes the archive.
pub(crate) async fn answer(
    request: v1::SaveImagesRequest,
    images: Arc<Images>,
    teller: Teller<v1::SaveImagesResponse>,
) -> Result<(), Error> {
    let names = request.names;
    if names.is_empty() || names.len() > MOST || names.iter().any(String::is_empty) {
        return Err(Error::Invalid { field: "names", want: "1 to 1000 images" });
    }
    let mut export = images.export(names).await?;
    let mut total_bytes = export.bytes();
    while let Some(chunk) = export.next().await? {
        teller.tell(v1::SaveImagesResponse { total_bytes: std::mem::take(&mut total_bytes), chunk }).await?;
    }
    Ok(())
}
