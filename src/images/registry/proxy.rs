//! Which proxy stands before an address: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of the daemon's
//! environment, in capitals or not.

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use crate::{Error, Result, registry::hosts::is_loopback};

/// The proxies of the environment.
#[derive(Debug)]
pub(crate) struct Proxies(Matcher);

impl Proxies {
    /// As the environment has them now.
    pub(crate) fn of_the_environment() -> Self {
        Self(Matcher::from_env())
    }

    /// The proxy for an address, with the credentials for it. As everywhere else, what is on this machine is not asked
    /// for through one.
    pub(crate) fn before(&self, url: &Url) -> Option<Url> {
        if is_loopback(url.host_str().unwrap_or_default()) {
            return None;
        }
        let found = self.0.intercept(&url.as_str().parse().ok()?)?;
        let mut proxy: Url = found.uri().to_string().parse().ok()?;
        if let Some((name, password)) = found.basic_auth().and_then(|header| credentials(header.to_str().ok()?)) {
            proxy.set_username(&name).ok()?;
            proxy.set_password(Some(&password)).ok()?;
        }
        Some(proxy)
    }

    /// Refuses a proxy that we cannot speak to: going past it would be what nobody wants.
    pub(crate) fn check(&self, url: &Url) -> Result<()> {
        for scheme in ["http", "https"] {
            let mut url = url.clone();
            let _ = url.set_scheme(scheme);
            if let Some(proxy) = self.before(&url)
                && !matches!(proxy.scheme(), "http" | "https")
            {
                let why = format!("a proxy that speaks {} cannot be used; want http or https", proxy.scheme());
                return Err(Error::Hosts { path: "HTTPS_PROXY".into(), why });
            }
        }
        Ok(())
    }
}

/// `Basic dTpw` → `u`, `p`.
fn credentials(header: &str) -> Option<(String, String)> {
    let decoded = STANDARD.decode(header.strip_prefix("Basic ")?).ok()?;
    let (name, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_decides_but_for_this_machine() {
        let matcher = Matcher::builder()
            .https("http://u:p%40q@proxy.example:3128")
            .http("plain.example:8080")
            .no("inside.example,10.0.0.0/8")
            .build();
        let proxies = Proxies(matcher);
        for (url, wanted) in [
            ("https://r.io/v2/", Some("http://u:p%40q@proxy.example:3128/")),
            ("http://r.io/v2/", Some("http://plain.example:8080/")),
            ("https://a.inside.example/", None),
            ("https://10.1.2.3/", None),
            ("https://127.0.0.1:5000/", None),
            ("http://localhost/", None),
            ("https://[::1]/", None),
        ] {
            let url: Url = url.parse().unwrap();
            assert_eq!(proxies.before(&url).as_ref().map(Url::as_str), wanted, "{url}");
            proxies.check(&url).unwrap();
        }
    }

    #[test]
    fn a_proxy_that_we_do_not_speak_to_is_refused_and_not_passed_by() {
        let proxies = Proxies(Matcher::builder().https("socks5://proxy.example").build());
        let refused = proxies.check(&"http://r.io/".parse().unwrap()).unwrap_err();
        assert!(refused.to_string().contains("socks5"), "{refused}");
    }
}
