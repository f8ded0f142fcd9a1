//! `coracle explain-pull`: whom a pull would ask, in which order, with what, and what each says. Nothing is fetched.

use std::{
    io::{Write, stdout},
    path::Path,
    time::Duration,
};

use api::coracle::v1::{
    CredentialKind, CredentialSource, ExplainPullRequest, ExplainPullResponse, ExplainedHost, HostAnswer,
};
use serde_json::json;

use crate::{
    arguments::{self, Format},
    daemon,
    error::{Error, Result},
    pull, text,
};

/// Explains. That no host has the image is told by the exit code, too.
pub(crate) async fn run(socket: &Path, arguments: arguments::ExplainPull) -> Result<()> {
    let arguments::ExplainPull { reference, offline, format, login } = arguments;
    let credentials = login.username.map(pull::credentials).transpose()?;
    let request = ExplainPullRequest { reference, credentials, offline };
    let told = daemon::images(socket).await?.explain_pull(request).await.map_err(Error::refused)?.into_inner();
    let shown = match format {
        Format::Table => page(&told),
        Format::Json => format!("{}\n", object(&told)),
    };
    stdout().lock().write_all(shown.as_bytes()).map_err(Error::output)?;
    let answers: Vec<_> = told.hosts.iter().filter_map(|host| host.answer.as_ref()).collect();
    // Nobody was asked, or somebody has it.
    let fine = offline || answers.iter().any(|answer| !answer.digest.is_empty());
    if fine { Ok(()) } else { Err(Error::Told) }
}

fn page(told: &ExplainPullResponse) -> String {
    let mut page = text::clean(&told.reference) + "\n";
    let by = if told.configured_by.is_empty() { "its name alone" } else { &told.configured_by };
    page += &format!("as {} says, a pull would ask:\n", text::clean(by));
    for (n, host) in told.hosts.iter().enumerate() {
        page += &format!("{}. {}\n", n + 1, text::clean(&host.address));
        for (what, told) in lines(host) {
            page += &format!("   {what:<13}{}\n", text::clean(&told));
        }
    }
    page
}

/// What is told of a host, each with its name.
fn lines(host: &ExplainedHost) -> Vec<(&'static str, String)> {
    let mut lines = vec![("for", purpose(host).to_owned())];
    if host.skip_verify {
        lines.push(("TLS", "any certificate is taken (skip_verify)".to_owned()));
    }
    for (what, files) in [("authorities", &host.authorities), ("certificates", &host.certificates)] {
        if !files.is_empty() {
            lines.push((what, files.join(", ")));
        }
    }
    if !host.headers.is_empty() {
        lines.push(("headers", host.headers.join(", ")));
    }
    if !host.proxy.is_empty() {
        lines.push(("proxy", host.proxy.clone()));
    }
    lines.push(("credentials", source(host.credentials.as_ref())));
    lines.push(("answer", host.answer.as_ref().map_or_else(|| "not asked".to_owned(), answer)));
    lines
}

fn purpose(host: &ExplainedHost) -> &'static str {
    match (host.resolve, host.pull) {
        (true, true) => "tags and content",
        (true, false) => "tags",
        (false, true) => "content",
        (false, false) => "nothing",
    }
}

fn source(source: Option<&CredentialSource>) -> String {
    let Some(source) = source else { return "none".to_owned() };
    match source.kind() {
        CredentialKind::None => "none".to_owned(),
        CredentialKind::Request => "of this request".to_owned(),
        CredentialKind::Entry => format!("{} of {}", source.name, source.file),
        CredentialKind::Helper => format!("of docker-credential-{}, named by {}", source.name, source.file),
    }
}

fn answer(answer: &HostAnswer) -> String {
    let took = Duration::from_micros(answer.took_us).as_millis();
    if answer.digest.is_empty() {
        return format!("{} (after {took} ms)", answer.why_not);
    }
    let media_type = if answer.media_type.is_empty() { "of no type" } else { &answer.media_type };
    format!("{} ({media_type}, after {took} ms)", answer.digest)
}

fn object(told: &ExplainPullResponse) -> serde_json::Value {
    let kind = |kind: CredentialKind| match kind {
        CredentialKind::None => "none",
        CredentialKind::Request => "request",
        CredentialKind::Entry => "entry",
        CredentialKind::Helper => "helper",
    };
    let host = |host: &ExplainedHost| {
        let source = host.credentials.clone().unwrap_or_default();
        json!({
            "Host": host.host,
            "Address": host.address,
            "Pull": host.pull,
            "Resolve": host.resolve,
            "SkipVerify": host.skip_verify,
            "Authorities": host.authorities,
            "Certificates": host.certificates,
            "Headers": host.headers,
            "Proxy": host.proxy,
            "Credentials": { "Kind": kind(source.kind()), "File": source.file, "Name": source.name },
            "Answer": host.answer.as_ref().map(|answer| json!({
                "Digest": answer.digest,
                "MediaType": answer.media_type,
                "WhyNot": answer.why_not,
                "TookMicroseconds": answer.took_us,
            })),
        })
    };
    json!({
        "Reference": told.reference,
        "ConfiguredBy": told.configured_by,
        "Hosts": told.hosts.iter().map(host).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_whom_with_what_and_what_came_of_it() {
        let mirror = ExplainedHost {
            address: "https://mirror.example/v2/".into(),
            pull: true,
            skip_verify: true,
            headers: vec!["x-team".into()],
            credentials: Some(CredentialSource {
                kind: CredentialKind::Helper.into(),
                file: "/root/.docker/config.json".into(),
                name: "cloud".into(),
            }),
            ..ExplainedHost::default()
        };
        let registry = ExplainedHost {
            address: "https://r.example/v2/".into(),
            pull: true,
            resolve: true,
            answer: Some(HostAnswer { why_not: "HTTP 404: \x1b[2J".into(), took_us: 12_000, ..HostAnswer::default() }),
            ..ExplainedHost::default()
        };
        let told = ExplainPullResponse {
            reference: "r.example/x:1".into(),
            configured_by: "/etc/coracle/certs.d/r.example/hosts.toml".into(),
            hosts: vec![mirror, registry],
        };
        assert_eq!(
            page(&told),
            "r.example/x:1\n\
             as /etc/coracle/certs.d/r.example/hosts.toml says, a pull would ask:\n\
             1. https://mirror.example/v2/\n   \
                for          content\n   \
                TLS          any certificate is taken (skip_verify)\n   \
                headers      x-team\n   \
                credentials  of docker-credential-cloud, named by /root/.docker/config.json\n   \
                answer       not asked\n\
             2. https://r.example/v2/\n   \
                for          tags and content\n   \
                credentials  none\n   \
                answer       HTTP 404: \u{fffd}[2J (after 12 ms)\n"
        );
        let object = object(&told);
        assert_eq!(object["Hosts"][0]["Credentials"]["Kind"], "helper");
        assert_eq!(object["Hosts"][0]["Answer"], serde_json::Value::Null);
        assert_eq!(object["Hosts"][1]["Answer"]["TookMicroseconds"], 12_000);
    }
}
