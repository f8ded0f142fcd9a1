//! PullImage: asks the registry, and fetches what is missing. Whether to ask at all the kubelet has decided.

use api::cri::v1::{AuthConfig, PullImageRequest, PullImageResponse};
use images::{AuthFields, Credentials, Images};

use crate::{
    error::Error,
    field::Field,
    request::{Host, image, text},
};

/// Longest credential, bytes: tokens of some clouds are several KiB, headers end long before this.
const CREDENTIAL_MAX: usize = 64 << 10;

/// Pulls the image; the answer is its id. The pod it is wanted for changes nothing here.
pub(crate) async fn answer(
    request: PullImageRequest,
    images: &Images,
    host: &Host,
) -> Result<PullImageResponse, Error> {
    let name = image::named(request.image, host)?;
    let credentials = credentials(request.auth)?;
    let id = images.pull(&name, credentials).await?;
    Ok(PullImageResponse { image_ref: id.to_string() })
}

fn credentials(auth: Option<AuthConfig>) -> Result<Option<Credentials>, Error> {
    let Some(auth) = auth else { return Ok(None) };
    let field = Field::root("auth");
    Ok(Credentials::read(AuthFields {
        username: secret(&field.at("username"), auth.username)?,
        password: secret(&field.at("password"), auth.password)?,
        auth: secret(&field.at("auth"), auth.auth)?,
        server_address: secret(&field.at("server_address"), auth.server_address)?,
        identity_token: secret(&field.at("identity_token"), auth.identity_token)?,
        registry_token: secret(&field.at("registry_token"), auth.registry_token)?,
    })?)
}

/// Becomes part of a header: one line. A refusal must not repeat it.
fn secret(field: &Field<'_>, value: String) -> Result<String, Error> {
    let length = value.len();
    if length > CREDENTIAL_MAX || value.chars().any(char::is_control) {
        let want = format!("one line of at most {CREDENTIAL_MAX} bytes");
        return Err(Error::invalid(field, format_args!("a secret of {length} bytes"), want));
    }
    text::text(field, value, CREDENTIAL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_credential_is_refused_by_field_and_never_repeated() {
        let auth = AuthConfig { password: "hunter2\r\nX-Evil: 1".into(), ..Default::default() };
        let error = credentials(Some(auth)).err().unwrap().to_string();
        assert!(error.starts_with("auth.password: "), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        assert!(credentials(Some(AuthConfig::default())).unwrap().is_none(), "all empty is anonymous");
    }
}
