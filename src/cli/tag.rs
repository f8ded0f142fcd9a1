//! `coracle tag`: an image gets another name. Says nothing, like its model.

use std::path::Path;

use api::coracle::v1::TagImageRequest;
use tonic::Code;

use crate::{arguments, daemon, error::Error, error::Result};

/// Tags.
pub(crate) async fn run(socket: &Path, arguments: arguments::Tag) -> Result<()> {
    let arguments::Tag { source, target } = arguments;
    let tagged = daemon::images(socket).await?.tag_image(TagImageRequest { source, target }).await;
    tagged.map(drop).map_err(Error::hinted(Code::NotFound, "`coracle images` lists what is here"))
}
