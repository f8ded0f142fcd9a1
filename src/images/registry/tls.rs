//! Whom we believe: the system's certificate authorities, read from files, and those that a host's configuration adds.
//! And who we are to those who ask: the certificates of the configuration.

use std::{
    cell::OnceCell,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use reqwest::{Client, Proxy, redirect};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};
use url::Url;

use crate::{
    Config, Error, Result,
    registry::{answer::reason, hosts::Host, proxy::Proxies},
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

/// What the clients for the hosts of one name have in common.
#[derive(Debug)]
pub(crate) struct Clients<'a> {
    config: &'a Config,
    proxies: Arc<Proxies>,
    provider: Arc<CryptoProvider>,
    /// The system's authorities, once they were needed.
    system: OnceCell<Arc<RootCertStore>>,
}

/// The clients for one host: for itself, and for the servers that it names, which are not shown who we are.
#[derive(Debug)]
pub(crate) struct HostClients {
    base: Url,
    itself: Client,
    others: Client,
}

impl HostClients {
    /// Whether an address is at the host: the same protocol, name and port.
    pub(crate) fn is_itself(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// The client for an address.
    pub(crate) fn to(&self, url: &Url) -> &Client {
        if self.is_itself(url) { &self.itself } else { &self.others }
    }
}

/// Whether a client has our certificates, where the configuration of its host has some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Certified {
    Yes,
    No,
}

impl<'a> Clients<'a> {
    /// Reads nothing yet.
    pub(crate) fn new(config: &'a Config) -> Self {
        Self {
            config,
            proxies: Arc::new(Proxies::of_the_environment()),
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            system: OnceCell::new(),
        }
    }

    /// The proxies that the clients go through.
    pub(crate) fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// The clients for one host. Reads files: call it on a thread that may wait. They follow no redirects: who is sent
    /// on must decide what to show to whom.
    pub(crate) fn of(&self, host: &Host) -> Result<HostClients> {
        self.proxies.check(&host.base)?;
        let itself = self.client(host, Certified::Yes)?;
        let others = if host.client.is_empty() { itself.clone() } else { self.client(host, Certified::No)? };
        Ok(HostClients { base: host.base.clone(), itself, others })
    }

    fn client(&self, host: &Host, certified: Certified) -> Result<Client> {
        let connect = host.dial_timeout.unwrap_or(Duration::from_secs(self.config.connect_timeout_s));
        let proxies = self.proxies.clone();
        Client::builder()
            .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(connect)
            .read_timeout(Duration::from_secs(self.config.idle_timeout_s))
            .redirect(redirect::Policy::none())
            .referer(false)
            // A connection for each download, so that one that stands still can be left and another be made: over
            // HTTP/2 all would share one, and what is asked again would go the same dead way.
            .http1_only()
            .proxy(Proxy::custom(move |url| proxies.before(url)))
            .tls_backend_preconfigured(self.tls(host, certified)?)
            .build()
            .map_err(|error| Error::Hosts { path: host.name().into(), why: reason(error) })
    }

    fn tls(&self, host: &Host, certified: Certified) -> Result<ClientConfig> {
        let wrong = |error: rustls::Error| Error::Hosts { path: host.name().into(), why: error.to_string() };
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(wrong)?;
        let builder = if host.skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(TakeAny(self.provider.clone())))
        } else {
            builder.with_root_certificates(self.authorities(host)?)
        };
        let mut config = if host.client.is_empty() || certified == Certified::No {
            builder.with_no_client_auth()
        } else {
            let ours = host.client.iter().map(|(certificate, key)| self.identity(certificate, key.as_deref()));
            builder.with_client_cert_resolver(Arc::new(Identities(ours.collect::<Result<_>>()?)))
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn authorities(&self, host: &Host) -> Result<Arc<RootCertStore>> {
        let system = self.system.get_or_init(|| Arc::new(system_authorities()));
        if host.ca.is_empty() {
            return Ok(system.clone());
        }
        let mut all = RootCertStore::clone(system);
        for path in &host.ca {
            let certificates = certificates(path, &read(path)?)?;
            for certificate in certificates {
                let why = "it holds a certificate that cannot be an authority".to_owned();
                all.add(certificate).map_err(|_| Error::Hosts { path: path.clone(), why })?;
            }
        }
        Ok(Arc::new(all))
    }

    /// Our own certificate; without a file of its own the key is beside it.
    fn identity(&self, path: &Path, key: Option<&Path>) -> Result<Arc<CertifiedKey>> {
        let pem = read(path)?;
        let certificates = certificates(path, &pem)?;
        let (key_path, key_pem) = match key {
            Some(key) => (key, read(key)?),
            None => (path, pem),
        };
        let wrong = |why: &str| Error::Hosts { path: key_path.to_owned(), why: why.to_owned() };
        let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| wrong("it holds no private key in PEM form"))?;
        let key = self.provider.key_provider.load_private_key(key).map_err(|_| wrong("its key cannot be used"))?;
        Ok(Arc::new(CertifiedKey::new(certificates, key)))
    }
}

fn system_authorities() -> RootCertStore {
    let mut found = RootCertStore::empty();
    let named = std::env::var_os(BUNDLE_VARIABLE).map(Into::into);
    let bundle: Option<PathBuf> =
        named.or_else(|| BUNDLES.iter().map(|path| Path::new(path).to_owned()).find(|path| path.exists()));
    if let Some(bundle) = bundle
        && let Ok(pem) = fs::read(bundle)
    {
        // One odd certificate among the system's must not take the others with it.
        found.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    }
    found
}

/// The certificates of a file; at least one.
fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = |why: &str| Error::Hosts { path: path.to_owned(), why: why.to_owned() };
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|_| wrong("it is not a certificate in PEM form"))?;
    if found.is_empty() {
        return Err(wrong("it holds no certificate in PEM form"));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::Hosts { path: path.to_owned(), why: error.to_string() })
}

/// Our own certificates: the one from an authority that the server names, else the first that it can check at all.
#[derive(Debug)]
struct Identities(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for Identities {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = || self.0.iter().filter(|ours| ours.key.choose_scheme(schemes).is_some());
        // The name of whoever signed a certificate stands in it, byte by byte as the server sends it.
        let named = |ours: &Arc<CertifiedKey>| {
            ours.cert.iter().any(|certificate| authorities.iter().any(|name| contains(certificate, name)))
        };
        usable().find(|ours| named(ours)).or_else(|| usable().next()).cloned()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && bytes.windows(part.len()).any(|window| window == part)
}

/// `skip_verify`: whoever answers is believed to be the host.
#[derive(Debug)]
struct TakeAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TakeAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
