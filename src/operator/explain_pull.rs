//! ExplainPull: whom a pull would ask, with what, and what they say; nothing is fetched.

use std::path::PathBuf;

use api::coracle::v1;
use images::{Asking, Attempt, CredentialSource, HostAnswer, HostExplained, Images};

use crate::{error::Error, pull_image};

/// Explains.
pub(crate) async fn answer(request: v1::ExplainPullRequest, images: &Images) -> Result<v1::ExplainPullResponse, Error> {
    let credentials = pull_image::credentials(request.credentials)?;
    let asking = if request.offline { Asking::Nobody } else { Asking::Everybody };
    let told = images.explain(&request.reference, credentials, asking).await?;
    Ok(v1::ExplainPullResponse {
        reference: told.reference,
        configured_by: told.from.map(shown).unwrap_or_default(),
        hosts: told.hosts.into_iter().map(host).collect(),
    })
}

fn host(host: HostExplained) -> v1::ExplainedHost {
    let name = host.host.clone();
    v1::ExplainedHost {
        host: host.host,
        address: host.address,
        pull: host.pull,
        resolve: host.resolve,
        skip_verify: host.skip_verify,
        authorities: host.authorities.into_iter().map(shown).collect(),
        certificates: host.certificates.into_iter().map(shown).collect(),
        headers: host.headers,
        proxy: host.proxy.unwrap_or_default(),
        credentials: Some(source(host.credentials)),
        answer: host.answer.map(|answer| said(&name, answer)),
    }
}

fn source(source: CredentialSource) -> v1::CredentialSource {
    let (kind, file, name) = match source {
        CredentialSource::None => (v1::CredentialKind::None, PathBuf::new(), String::new()),
        CredentialSource::Request => (v1::CredentialKind::Request, PathBuf::new(), String::new()),
        CredentialSource::Entry { file, key } => (v1::CredentialKind::Entry, file, key),
        CredentialSource::Helper { file, name } => (v1::CredentialKind::Helper, file, name),
    };
    v1::CredentialSource { kind: kind.into(), file: shown(file), name }
}

fn said(host: &str, answer: HostAnswer) -> v1::HostAnswer {
    let mut told = v1::HostAnswer {
        took_us: u64::try_from(answer.took.as_micros()).unwrap_or(u64::MAX),
        ..v1::HostAnswer::default()
    };
    match answer.found {
        Ok((digest, media_type)) => {
            (told.digest, told.media_type) = (digest.to_string(), media_type.unwrap_or_default());
        }
        Err(outcome) => {
            // In the words of a failed pull, which name the host first.
            let text = Attempt { host: host.to_owned(), outcome }.to_string();
            told.why_not = text.strip_prefix(&format!("{host}: ")).unwrap_or(&text).to_owned();
        }
    }
    told
}

fn shown(path: PathBuf) -> String {
    path.display().to_string()
}
