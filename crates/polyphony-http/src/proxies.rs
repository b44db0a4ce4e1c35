//! The proxies that the environment variables name.

use std::net::IpAddr;

use ureq::{Proxy, ProxyProtocol};

use crate::{address::Address, error::HttpError};

/// The route that a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To an `http://` address, without a proxy.
    PlainDirect,
    /// To an `https://` address, without a proxy.
    EncryptedDirect,
    /// To an `http://` address, through the proxy for this scheme.
    PlainProxied,
    /// To an `https://` address, through the proxy for this scheme.
    EncryptedProxied,
}

impl Route {
    pub(crate) const COUNT: usize = 4;
}

/// The proxies for the two schemes, and the hosts that are reached without a proxy.
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
    /// The domain and all its subdomains, in lower case and without a leading dot.
    Domain(String),
    /// All addresses that begin with this many bits of this address.
    Network(IpAddr, u8),
}

impl Proxies {
    /// Reads the proxies from variables. Names in upper case take precedence over names in lower case.
    ///
    /// # Errors
    /// If a variable names a proxy that cannot be used.
    pub(crate) fn from_variables(
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, HttpError> {
        let first = |names: &[&'static str]| {
            let non_empty = |name: &&'static str| {
                let value = variable(name).filter(|value| !value.trim().is_empty());
                value.map(|value| (*name, value))
            };
            names.iter().find_map(non_empty)
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
        // In a CGI program, a request's header `Proxy` sets `HTTP_PROXY`, so this variable cannot be trusted.
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
            exceptions: exceptions.split(',').filter_map(Exception::parse).collect(),
        })
    }

    /// The route to an address.
    pub(crate) fn route(&self, address: &Address) -> Route {
        let proxy = if address.is_https() {
            &self.https
        } else {
            &self.http
        };
        let host = address.host().trim_matches(['[', ']']);
        let is_exception = self.exceptions.iter().any(|entry| entry.covers(host));
        let proxied = proxy.is_some() && !is_exception;
        match (address.is_https(), proxied) {
            (false, false) => Route::PlainDirect,
            (true, false) => Route::EncryptedDirect,
            (false, true) => Route::PlainProxied,
            (true, true) => Route::EncryptedProxied,
        }
    }

    /// The proxy of a route.
    pub(crate) fn proxy(&self, route: Route) -> Option<&Proxy> {
        match route {
            Route::PlainDirect | Route::EncryptedDirect => None,
            Route::PlainProxied => self.http.as_ref(),
            Route::EncryptedProxied => self.https.as_ref(),
        }
    }

    /// Whether a route uses TLS, to the server or to the proxy.
    pub(crate) fn encrypts(&self, route: Route) -> bool {
        let to_proxy = self.proxy(route).map(Proxy::protocol);
        to_proxy == Some(ProxyProtocol::Https)
            || matches!(route, Route::EncryptedDirect | Route::EncryptedProxied)
    }
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
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
                let prefix = host.strip_suffix(domain.as_str());
                prefix.is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'))
            }
            Self::Network(network, bits) => match (network, host.parse()) {
                (IpAddr::V4(network), Ok(IpAddr::V4(host))) => {
                    let host_bits = 32u32.saturating_sub(u32::from(*bits));
                    let difference = u32::from(*network) ^ u32::from(host);
                    u64::from(difference) >> host_bits == 0
                }
                (IpAddr::V6(network), Ok(IpAddr::V6(host))) => {
                    let host_bits = 128u32.saturating_sub(u32::from(*bits));
                    let difference = u128::from(*network) ^ u128::from(host);
                    difference.checked_shr(host_bits).unwrap_or(0) == 0
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
    fn exceptions_are_reached_directly() {
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
