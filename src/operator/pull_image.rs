//! PullImage: asks the registry, fetches what is missing, and tells how far it is.

use std::sync::Arc;

use api::coracle::v1::{self, pull_image_response::News};
use images::{AuthFields, Credentials, Images, Watch};
use model::ImageRef;

use crate::{answer, door::Teller, error::Error};

/// Longest user name or password, bytes: tokens of some clouds are several KiB, headers end long before this.
const CREDENTIAL_MAX: usize = 64 << 10;

/// Pulls the image.
pub(crate) async fn answer(
    request: v1::PullImageRequest,
    images: Arc<Images>,
    teller: Teller<v1::PullImageResponse>,
) -> Result<(), Error> {
    let reference: ImageRef = request.reference.parse()?;
    let credentials = credentials(request.credentials)?;
    let watch = Watch::default();
    let pull = images.pull_watched(&reference, credentials, &watch);
    let message = |progress| v1::PullImageResponse { news: Some(News::Progress(progress)) };
    let pulled = answer::watched(pull, &watch, &teller, message).await?;
    let done = v1::PullDone {
        id: pulled.id.to_string(),
        reference: reference.to_string(),
        digest: pulled.root.to_string(),
        was_here: pulled.was_here,
    };
    teller.tell(v1::PullImageResponse { news: Some(News::Done(done)) }).await
}

/// Who asks, as far as the request says.
pub(crate) fn credentials(given: Option<v1::Credentials>) -> Result<Option<Credentials>, Error> {
    let Some(v1::Credentials { username, password }) = given else { return Ok(None) };
    if username.is_empty() {
        return Err(Error::Invalid { field: "credentials.username", want: "a name" });
    }
    // Becomes part of a header: one line. A refusal must not repeat it.
    let is_line = |text: &str| text.len() <= CREDENTIAL_MAX && !text.chars().any(char::is_control);
    if !is_line(&username) || !is_line(&password) {
        return Err(Error::Invalid { field: "credentials", want: "a name and a password of one line each" });
    }
    let fields = AuthFields { username, password, ..AuthFields::default() };
    Ok(Credentials::read(fields)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_a_name_and_a_line_and_never_repeated() {
        let read = |username: &str, password: &str| {
            credentials(Some(v1::Credentials { username: username.into(), password: password.into() }))
        };
        assert!(credentials(None).unwrap().is_none());
        assert!(read("ann", "secret").unwrap().is_some());
        for (username, password) in [("", "hunter2"), ("ann", "hunter2\r\nX-Evil: 1"), ("hunter2\n", "x")] {
            let refused = read(username, password).unwrap_err().to_string();
            assert!(!refused.contains("hunter2"), "{refused}");
        }
    }
}
