//! Whom we believe: the system's certificate authorities, read from files, and those that a host's configuration adds.

use std::{fs, path::Path, time::Duration};

use reqwest::{Certificate, Client, Identity, redirect};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::{
    Config, Error, Result,
    registry::hosts::{Host, is_loopback},
};

/// Where distributions keep the bundle of authorities, as Go looks for it. A static program has no other way to it.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Names another bundle, as OpenSSL and Go have it.
const BUNDLE_VARIABLE: &str = "SSL_CERT_FILE";
/// Redirects that are followed for one request.
const REDIRECTS: usize = 10;

/// The client for one host. Reads files: call it on a thread that may wait.
pub(crate) fn client(config: &Config, host: &Host) -> Result<Client> {
    let connect = host.dial_timeout.unwrap_or(Duration::from_secs(config.connect_timeout_s));
    let mut builder = Client::builder()
        .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(connect)
        .read_timeout(Duration::from_secs(config.idle_timeout_s))
        .redirect(redirect::Policy::limited(REDIRECTS))
        .referer(false)
        .tls_certs_only(authorities(host)?);
    if host.skip_verify {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    // As everywhere else, what is on this machine is not asked for through a proxy.
    if is_loopback(host.base.host_str().unwrap_or_default()) {
        builder = builder.no_proxy();
    }
    if let Some((certificate, key)) = host.client.first() {
        let mut pem = read(certificate)?;
        if let Some(key) = key {
            pem.push(b'\n');
            pem.extend(read(key)?);
        }
        let identity = Identity::from_pem(&pem).map_err(|_| Error::Hosts {
            path: certificate.clone(),
            why: "want a certificate and its key".to_owned(),
        })?;
        builder = builder.identity(identity);
    }
    builder.build().map_err(|error| Error::Hosts { path: host.name().into(), why: super::reason(error) })
}

fn authorities(host: &Host) -> Result<Vec<Certificate>> {
    let mut found = Vec::new();
    let named = std::env::var_os(BUNDLE_VARIABLE).map(Into::into);
    let bundle = named.or_else(|| BUNDLES.iter().map(|path| Path::new(path).to_owned()).find(|path| path.exists()));
    if let Some(bundle) = bundle
        && let Ok(pem) = fs::read(bundle)
    {
        // One odd certificate among the system's must not take the others with it.
        let readable = CertificateDer::pem_slice_iter(&pem).flatten();
        let usable = readable.filter(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok());
        found.extend(usable.filter_map(|certificate| Certificate::from_der(&certificate).ok()));
    }
    for path in &host.ca {
        let wrong = |_| Error::Hosts { path: path.clone(), why: "it is not a certificate in PEM form".to_owned() };
        let certificates = Certificate::from_pem_bundle(&read(path)?).map_err(wrong)?;
        if certificates.is_empty() {
            return Err(Error::Hosts { path: path.clone(), why: "it holds no certificate in PEM form".to_owned() });
        }
        found.extend(certificates);
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::Hosts { path: path.to_owned(), why: error.to_string() })
}
