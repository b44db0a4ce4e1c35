//! The proxies that the environment names.

use std::net::IpAddr;

use ureq::{Proxy, ProxyProtocol};

use crate::{address::Address, error::HttpError};

/// The way that a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To an `http://` address, or an `https://` one, without a proxy.
    PlainDirect,
    EncryptedDirect,
    /// The same through the scheme's proxy.
    PlainProxied,
    EncryptedProxied,
}

impl Route {
    pub(crate) const COUNT: usize = 4;
}

/// The proxies for the two schemes, and the hosts that are asked without one.
#[derive(Debug, Default)]
pub(crate) struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    exceptions: Vec<Exception>,
}

/// An entry of `NO_PROXY`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exception {
    Everything,
    /// The domain and all below it, in lower case and without a dot at the beginning.
    Domain(String),
    /// All addresses that begin with these bits.
    Network(IpAddr, u8),
}

impl Proxies {
    /// What these variables say. Names in capitals come before the same in small letters.
    ///
    /// # Errors
    /// If one names a proxy that cannot be used.
    pub(crate) fn from_variables(
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, HttpError> {
        let first = |names: &[&'static str]| {
            let set = |name: &&'static str| {
                let value = variable(name).filter(|value| !value.trim().is_empty());
                value.map(|value| (*name, value))
            };
            names.iter().find_map(set)
        };
        let proxy = |names: &[&'static str]| {
            let found = first(names).map(|(variable, value)| {
                let proxy = Proxy::new(value.trim());
                proxy.map_err(|source| HttpError::Proxy {
                    variable,
                    source: Box::new(source),
                })
            });
            found.transpose()
        };
        // Programs behind a web server get `HTTP_PROXY` from whoever sends a header `Proxy`.
        let behind_server = variable("REQUEST_METHOD").is_some();
        let http: &[&'static str] = if behind_server {
            &["http_proxy", "ALL_PROXY", "all_proxy"]
        } else {
            &["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
        };
        let exceptions = first(&["NO_PROXY", "no_proxy"]);
        let exceptions = exceptions.map_or_else(String::new, |(_, value)| value);
        Ok(Self {
            http: proxy(http)?,
            https: proxy(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])?,
            exceptions: exceptions.split(',').filter_map(Exception::read).collect(),
        })
    }

    /// The way to an address.
    pub(crate) fn route(&self, address: &Address) -> Route {
        let proxy = if address.is_https() {
            &self.https
        } else {
            &self.http
        };
        let host = address.host().trim_matches(['[', ']']);
        let proxied = proxy.is_some() && !self.exceptions.iter().any(|one| one.covers(host));
        match (address.is_https(), proxied) {
            (false, false) => Route::PlainDirect,
            (true, false) => Route::EncryptedDirect,
            (false, true) => Route::PlainProxied,
            (true, true) => Route::EncryptedProxied,
        }
    }

    /// The proxy on a way.
    pub(crate) fn proxy(&self, route: Route) -> Option<&Proxy> {
        match route {
            Route::PlainDirect | Route::EncryptedDirect => None,
            Route::PlainProxied => self.http.as_ref(),
            Route::EncryptedProxied => self.https.as_ref(),
        }
    }

    /// Whether a connection on a way is encrypted, or the one to its proxy.
    pub(crate) fn encrypts(&self, route: Route) -> bool {
        let to_proxy = self.proxy(route).map(Proxy::protocol);
        to_proxy == Some(ProxyProtocol::Https)
            || matches!(route, Route::EncryptedDirect | Route::EncryptedProxied)
    }
}

impl Exception {
    fn read(entry: &str) -> Option<Self> {
        let entry = entry.trim().to_ascii_lowercase();
        if entry == "*" {
            return Some(Self::Everything);
        }
        if let Some((address, bits)) = entry.split_once('/') {
            let network = (address.parse().ok()?, bits.parse().ok()?);
            return Some(Self::Network(network.0, network.1));
        }
        if let Ok(address) = entry.trim_matches(['[', ']']).parse() {
            return Some(Self::Network(address, u8::MAX));
        }
        let domain = entry.trim_start_matches('*').trim_start_matches('.');
        (!domain.is_empty()).then(|| Self::Domain(domain.to_owned()))
    }

    fn covers(&self, host: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Domain(domain) => {
                let host = host.to_ascii_lowercase();
                let above = host.strip_suffix(domain.as_str());
                above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
            }
            Self::Network(network, bits) => match (network, host.parse()) {
                (IpAddr::V4(network), Ok(IpAddr::V4(host))) => {
                    let rest = 32u32.saturating_sub(u32::from(*bits));
                    let differ = u32::from(*network) ^ u32::from(host);
                    u64::from(differ) >> rest == 0
                }
                (IpAddr::V6(network), Ok(IpAddr::V6(host))) => {
                    let rest = 128u32.saturating_sub(u32::from(*bits));
                    let differ = u128::from(*network) ^ u128::from(host);
                    differ.checked_shr(rest).unwrap_or(0) == 0
                }
                _ => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies, HttpError> {
        Proxies::from_variables(&|name| {
            let found = variables.iter().find(|variable| variable.0 == name);
            found.map(|variable| variable.1.to_owned())
        })
    }

    fn check(variables: &[(&str, &str)], address: &str, expected: Option<&str>) {
        let proxies = proxies(variables).unwrap();
        let route = proxies.route(&address.parse().unwrap());
        let found = proxies.proxy(route).map(|proxy| proxy.uri().to_string());
        let found = found.as_deref().map(|uri| uri.trim_end_matches('/'));
        assert_eq!(found, expected, "{variables:?} {address}");
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let both = [("HTTP_PROXY", "http://p:1"), ("https_proxy", "http://s:2")];
        check(&both, "http://a.b/", Some("http://p:1"));
        check(&both, "https://a.b/", Some("http://s:2"));
        check(
            &[("ALL_PROXY", "all:3")],
            "https://a.b/",
            Some("http://all:3"),
        );
        check(
            &[("all_proxy", "socks5h://all:3")],
            "http://a.b/",
            Some("socks5h://all:3"),
        );
        check(&[("HTTPS_PROXY", " ")], "https://a.b/", None);
        check(&[("HTTP_PROXY", "http://p:1")], "https://a.b/", None);
        let server = [("HTTP_PROXY", "http://p:1"), ("REQUEST_METHOD", "GET")];
        check(&server, "http://a.b/", None);
    }

    #[test]
    fn exceptions_are_asked_directly() {
        let rows = [
            ("a.b", "http://a.b/", true),
            ("a.b", "http://x.a.b:80/", true),
            (".a.b", "http://A.B/", true),
            ("*.a.b", "http://x.a.b/", true),
            ("a.b", "http://ba.b/", false),
            ("x , a.b", "http://a.b/", true),
            ("*", "http://a.b/", true),
            ("", "http://a.b/", false),
            (",", "http://a.b/", false),
            ("10.1.2.3", "http://10.1.2.3/", true),
            ("10.1.2.3", "http://10.1.2.4/", false),
            ("10.1.0.0/16", "http://10.1.2.4:8080/", true),
            ("10.1.0.0/16", "http://10.2.2.4/", false),
            ("0.0.0.0/0", "http://10.2.2.4/", true),
            ("::1", "http://[::1]/", true),
            ("fd00::/8", "http://[fd12::1]/", true),
            ("fd00::/8", "http://[fe80::1]/", false),
            ("::/0", "http://[fe80::1]/", true),
        ];
        for (exceptions, address, direct) in rows {
            let variables = [("HTTP_PROXY", "http://p:1"), ("NO_PROXY", exceptions)];
            check(&variables, address, (!direct).then_some("http://p:1"));
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_named_without_its_password() {
        let error = proxies(&[("HTTPS_PROXY", "gopher://me:word@p")]).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("`HTTPS_PROXY`"), "{message}");
        assert!(!message.contains("word"), "{message}");
    }
}
