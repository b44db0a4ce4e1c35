//! The addresses of requests.

use std::{fmt, str::FromStr};

use ureq::http::Uri;

use crate::error::HttpError;

/// An absolute `http://` or `https://` address without a user name.
///
/// ```
/// use polyphony_http::Address;
///
/// let page: Address = "https://example.org/a/b?c=d".parse()?;
/// assert_eq!((page.path(), page.query()), ("/a/b", Some("c=d")));
/// assert_eq!(page.join("../e")?.to_string(), "https://example.org/e");
/// assert!("example.org".parse::<Address>().is_err());
/// # Ok::<(), polyphony_http::HttpError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(Uri);

impl Address {
    /// Whether the connection is encrypted.
    pub fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// The host: a name, an IPv4 address, or an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        self.0.host().unwrap_or_default()
    }

    /// The port; if the address has none, the default port of the scheme.
    pub fn port(&self) -> u16 {
        let default = if self.is_https() { 443 } else { 80 };
        self.0.port_u16().unwrap_or(default)
    }

    /// The path, which begins with a slash.
    pub fn path(&self) -> &str {
        self.0.path()
    }

    /// The query: the part after the question mark.
    pub fn query(&self) -> Option<&str> {
        self.0.query()
    }

    /// Whether another address is on the same server: scheme, host and port are equal.
    pub fn same_origin(&self, other: &Self) -> bool {
        self.is_https() == other.is_https()
            && self.host().eq_ignore_ascii_case(other.host())
            && self.port() == other.port()
    }

    /// The same address with another path, which begins with a slash, and the same query.
    ///
    /// # Errors
    /// If the path contains characters that have to be percent-encoded.
    pub fn with_path(&self, path: &str) -> Result<Self, HttpError> {
        let query = self
            .query()
            .map_or_else(String::new, |query| format!("?{query}"));
        format!("{}{path}{query}", self.origin()).parse()
    }

    /// The same address without its query, which may hold secrets.
    #[must_use]
    pub fn without_query(&self) -> Self {
        // Parsing cannot fail, because the same path was parsed before.
        let shorter = format!("{}{}", self.origin(), self.path()).parse();
        shorter.unwrap_or_else(|_| self.clone())
    }

    /// Resolves a reference, such as a `Location` header, against this address.
    ///
    /// # Errors
    /// If the reference is malformed or has another scheme than `http` and `https`.
    pub fn join(&self, reference: &str) -> Result<Self, HttpError> {
        let reference = reference.split('#').next().unwrap_or_default();
        let end = reference.find(['/', '?']).unwrap_or(reference.len());
        if reference[..end].contains(':') {
            return reference.parse();
        }
        if let Some(rest) = reference.strip_prefix("//") {
            let scheme = if self.is_https() { "https" } else { "http" };
            return format!("{scheme}://{rest}").parse();
        }
        let origin = self.origin();
        let (path, query) = match reference.split_once('?') {
            Some((path, query)) => (path, format!("?{query}")),
            None => (reference, String::new()),
        };
        let path = match path {
            "" => self.path().to_owned(),
            path if path.starts_with('/') => without_dots(path),
            path => {
                let folder = self
                    .path()
                    .rsplit_once('/')
                    .map_or("", |(folder, _)| folder);
                without_dots(&format!("{folder}/{path}"))
            }
        };
        format!("{origin}{path}{query}").parse()
    }

    /// The scheme, host and port, as they were written.
    fn origin(&self) -> String {
        let scheme = if self.is_https() { "https" } else { "http" };
        let authority = self
            .0
            .authority()
            .map_or("", |authority| authority.as_str());
        format!("{scheme}://{authority}")
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }
}

/// The path with `.` and `..` resolved.
fn without_dots(path: &str) -> String {
    let mut resolved = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            "." | ".." => {
                if part == ".." {
                    resolved.pop();
                }
                if last {
                    resolved.push("");
                }
            }
            part => resolved.push(part),
        }
    }
    format!("/{}", resolved.join("/"))
}

impl FromStr for Address {
    type Err = HttpError;

    /// # Errors
    /// If the text does not begin with `http://` or `https://`, contains a user's name, or is malformed.
    fn from_str(text: &str) -> Result<Self, HttpError> {
        let wrong = |reason: &str| HttpError::Address {
            text: without_secrets(text),
            reason: reason.to_owned(),
        };
        let has_scheme = |scheme: &str| {
            let start = text.get(..scheme.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        };
        if !has_scheme("http://") && !has_scheme("https://") {
            return Err(wrong("it does not begin with http:// or https://"));
        }
        let uri: Uri = text.parse().map_err(|error| wrong(&format!("{error}")))?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(wrong("it contains a user's name"));
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err(wrong("it has no host"));
        }
        Ok(Self(uri))
    }
}

/// A text without parts that might be secret: the user's name and the query.
fn without_secrets(text: &str) -> String {
    let shown = text.split('?').next().unwrap_or_default();
    shown.rsplit('@').next().unwrap_or_default().to_owned()
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invalid_addresses_are_refused_without_repeating_secrets() {
        let rows = [
            ("", "does not begin with http:// or https://"),
            ("localhost:8080/v1", "does not begin with http://"),
            ("ftp://a.b/", "does not begin with http://"),
            ("https://user:word@a.b/", "it contains a user's name"),
            ("http://", "`http://` is not"),
            ("http:///a?word", "`http:///a` is not"),
            ("http://a b/", "`http://a b/` is not"),
        ];
        for (text, expected) in rows {
            let message = text.parse::<Address>().unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
            assert!(!message.contains("word"), "{message}");
        }
    }

    #[test]
    fn references_are_resolved_against_their_page() {
        let page: Address = "https://a.b:8443/c/d?e=f".parse().unwrap();
        let rows = [
            ("http://x.y/z?q#r", "http://x.y/z?q"),
            ("//x.y/z", "https://x.y/z"),
            ("/z", "https://a.b:8443/z"),
            ("z", "https://a.b:8443/c/z"),
            ("./z/../y", "https://a.b:8443/c/y"),
            ("../../z", "https://a.b:8443/z"),
            ("..", "https://a.b:8443/"),
            ("?g=h:i", "https://a.b:8443/c/d?g=h:i"),
            ("", "https://a.b:8443/c/d"),
        ];
        for (reference, expected) in rows {
            assert_eq!(page.join(reference).unwrap().to_string(), expected);
        }
        assert!(page.join("ftp://x.y/").is_err());
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let page: Address = "https://A.b/c".parse().unwrap();
        for (other, same) in [
            ("https://a.b:443/x", true),
            ("http://a.b:443/", false),
            ("https://a.b:444/", false),
            ("https://a.b.c/", false),
        ] {
            assert_eq!(page.same_origin(&other.parse().unwrap()), same, "{other}");
        }
    }

    proptest! {
        #[test]
        fn joining_never_leaves_the_origin_by_a_path(path in "[a-z./]{0,20}") {
            let page: Address = "http://a.b/c/d".parse().unwrap();
            prop_assume!(!path.starts_with("//"));
            let joined = page.join(&path).unwrap();
            prop_assert!(page.same_origin(&joined));
            prop_assert!(!joined.path().split('/').any(|part| part == ".."));
        }
    }
}
