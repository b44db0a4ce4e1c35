//! The hub's protocol: finds the commit of a revision, lists its files, and fetches their contents.
//!
//! Requests that fail for a temporary reason are retried. Redirects are followed here, because large files
//! are on other servers, which must not see the user's token.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::{Duration, Instant},
};

use polyphony_http::{Address, Client, ClientConfig, HttpError, Request, Response, StatusCode};
use serde::{
    Deserialize,
    de::{DeserializeOwned, Error as _},
};
use serde_json::json;

use super::{
    model::{HubModel, is_gguf, is_path},
    settings::HubConfig,
    snapshot::is_commit,
};
use crate::{digest::Sha256Digest, error::HubError};

/// The maximum length of an answer about a repository, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// How much of a refusal's body is read, in bytes.
const MAX_REFUSAL_BYTES: u64 = 1 << 16;

/// The maximum number of redirects.
const MAX_REDIRECTS: usize = 10;

/// The maximum number of pages of a list that are read, and of names that are taken from them.
const MAX_PAGES: usize = 20;
const MAX_NAMES: usize = 1000;

/// The maximum length of a quotation from the hub's answer in an error, in characters.
const MAX_QUOTED: usize = 500;

/// The longest wait before a retry. If the hub asks for a longer wait, the request is not retried.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Why there is no usable answer from the hub.
#[derive(Debug)]
pub(super) enum Failure {
    /// The hub did not answer, or its answer broke off.
    NoAnswer(HttpError),
    /// The request is invalid.
    Request(HttpError),
    /// The hub refused.
    Refused(Refusal),
    /// The answer does not follow the protocol.
    Protocol {
        /// The part of the answer that is missing or wrong.
        what: &'static str,
        source: Option<serde_json::Error>,
    },
    /// An operation on this machine failed.
    Local(HubError),
}

/// A refusal by the hub.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) kind: RequestKind,
    pub(super) status: StatusCode,
    /// The hub's code for the reason, such as `RepoNotFound`.
    pub(super) code: Option<String>,
    pub(super) message: Option<String>,
    pub(super) retry_after: Option<Duration>,
}

/// What a request was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    Revision,
    Files,
    Contents,
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        if error.is_transient() {
            Self::NoAnswer(error)
        } else {
            Self::Request(error)
        }
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Local(error)
    }
}

/// A file of the repository.
#[derive(Debug)]
pub(super) struct RemoteFile {
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) contents: Contents,
}

/// How a file's contents are identified and checked.
#[derive(Debug)]
pub(super) enum Contents {
    /// In the repository itself: a small file with its git object id.
    Git(String),
    /// Stored separately, under its SHA-256 digest.
    Large(Sha256Digest),
}

impl Contents {
    /// The name of the file in the cache.
    pub(super) fn blob(&self) -> &str {
        match self {
            Self::Git(id) => id,
            Self::Large(digest) => digest.as_str(),
        }
    }
}

/// An entry in the hub's list of files.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    #[serde(alias = "sha256")]
    oid: String,
    size: u64,
}

#[derive(Deserialize)]
struct RevisionInfo {
    sha: Option<String>,
}

/// One request, before redirects.
struct HubRequest<'a> {
    kind: RequestKind,
    address: Address,
    body: Option<&'a [u8]>,
    /// The first byte of a file to fetch.
    first_byte: u64,
    /// The time by which the answer must be complete; `None` for the usual limit.
    deadline: Option<Instant>,
}

/// A client for one repository on the hub.
pub(super) struct HubClient<'a> {
    http: Client,
    settings: &'a HubConfig,
    endpoint: Address,
    repository: String,
}

impl<'a> HubClient<'a> {
    /// # Errors
    /// If the hub's address is malformed, or the environment names a proxy that cannot be used.
    pub(super) fn new(model: &HubModel, settings: &'a HubConfig) -> Result<Self, Failure> {
        Ok(Self {
            http: Client::new(ClientConfig::default())?,
            settings,
            endpoint: settings.endpoint.parse().map_err(Failure::Request)?,
            repository: model.repository(),
        })
    }

    /// The commit of a branch, a tag or a commit hash.
    pub(super) fn commit(&self, revision: &str) -> Result<String, Failure> {
        let path = format!(
            "/api/models/{}/revision/{}?expand=sha",
            self.repository,
            encoded(revision)
        );
        let info: RevisionInfo = self.json(RequestKind::Revision, &path, None)?;
        info.sha
            .filter(|commit| is_commit(commit))
            .ok_or(Failure::Protocol {
                what: "the commit of a revision",
                source: None,
            })
    }

    /// The files with these names, as far as a commit contains them.
    pub(super) fn files(&self, commit: &str, names: &[&str]) -> Result<Vec<RemoteFile>, Failure> {
        let path = format!("/api/models/{}/paths-info/{commit}", self.repository);
        let body = json!({"paths": names, "expand": false}).to_string();
        let entries: Vec<Entry> = self.json(RequestKind::Files, &path, Some(body.as_bytes()))?;
        let files = entries.into_iter().filter(|entry| entry.kind == "file");
        files.map(Entry::remote_file).collect()
    }

    /// The names of a commit's GGUF files, for an error message. If there are very many, some are left out.
    pub(super) fn gguf_names(&self, commit: &str) -> Result<Vec<String>, Failure> {
        let path = format!(
            "/api/models/{}/tree/{commit}?recursive=true",
            self.repository
        );
        let mut next = Some(self.address(&path)?);
        let mut names = Vec::new();
        for _ in 0..MAX_PAGES {
            let Some(address) = next.take() else { break };
            let response = self.send(&HubRequest {
                kind: RequestKind::Files,
                address: address.clone(),
                body: None,
                first_byte: 0,
                deadline: None,
            })?;
            if let Some(link) = response.header("Link").and_then(next_page) {
                next = Some(self.joined(&address, link)?);
            }
            let entries: Vec<Entry> = self.read_json(response)?;
            let files = entries.into_iter().filter(|entry| entry.kind == "file");
            let paths = files.map(|entry| entry.path);
            names.extend(paths.filter(|path| is_gguf(path) && is_path(path)));
            if names.len() >= MAX_NAMES {
                break;
            }
        }
        Ok(names.iter().map(|name| self.quotable(name)).collect())
    }

    /// The contents of a file, starting at `first_byte`. They must be read before the deadline. An answer
    /// with status 200 begins at the start of the file, whatever `first_byte` is.
    pub(super) fn contents(
        &self,
        commit: &str,
        file: &str,
        first_byte: u64,
        deadline: Instant,
    ) -> Result<Response, Failure> {
        let file: Vec<String> = file.split('/').map(encoded).collect();
        let path = format!("/{}/resolve/{commit}/{}", self.repository, file.join("/"));
        self.send(&HubRequest {
            kind: RequestKind::Contents,
            address: self.address(&path)?,
            body: None,
            first_byte,
            deadline: Some(deadline),
        })
    }

    fn address(&self, path: &str) -> Result<Address, Failure> {
        let address = format!("{}{path}", self.settings.endpoint).parse();
        address.map_err(Failure::Request)
    }

    fn json<T: DeserializeOwned>(
        &self,
        kind: RequestKind,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<T, Failure> {
        self.read_json(self.send(&HubRequest {
            kind,
            address: self.address(path)?,
            body,
            first_byte: 0,
            deadline: None,
        })?)
    }

    /// The answer to a request, after retries if needed.
    fn send(&self, request: &HubRequest<'_>) -> Result<Response, Failure> {
        let mut backoff = self.settings.first_wait;
        let mut tries = 0;
        loop {
            let outcome = self.follow(request).and_then(|response| {
                if response.status().is_success() {
                    Ok(response)
                } else {
                    Err(self.refusal(request.kind, response))
                }
            });
            let pause = match &outcome {
                Err(Failure::NoAnswer(_)) => backoff,
                Err(Failure::Refused(refusal)) if is_temporary(refusal.status) => {
                    refusal.retry_after.unwrap_or_default().max(backoff)
                }
                _ => return outcome,
            };
            if tries == self.settings.retries || pause > LONGEST_WAIT {
                return outcome;
            }
            thread::sleep(pause);
            backoff *= 2;
            tries += 1;
        }
    }

    /// The answer at the end of a chain of redirects.
    fn follow(&self, request: &HubRequest<'_>) -> Result<Response, Failure> {
        let mut address = request.address.clone();
        let usual_deadline = || Instant::now() + self.settings.time_limit;
        let deadline = request.deadline.unwrap_or_else(usual_deadline);
        for _ in 0..=MAX_REDIRECTS {
            let mut message = match request.body {
                Some(body) => Request::post(&address, "application/json", body),
                None => Request::get(&address),
            };
            message = message.within(deadline.saturating_duration_since(Instant::now()));
            if request.kind == RequestKind::Contents {
                // Sizes and ranges refer to the bytes as they are stored.
                message = message.header("Accept-Encoding", "identity");
            }
            if request.first_byte > 0 {
                message = message.header("Range", format!("bytes={}-", request.first_byte));
            }
            // Other servers must not see the token.
            if let (Some(token), true) = (&self.settings.token, address.same_origin(&self.endpoint))
            {
                message = message.bearer(token);
            }
            let response = self.http.send(&message)?;
            match response.header("Location") {
                Some(location) if response.status().is_redirection() => {
                    address = self.joined(&address, location)?;
                }
                _ => return Ok(response),
            }
        }
        Err(Failure::Protocol {
            what: "more than 10 redirects",
            source: None,
        })
    }

    /// Resolves a reference in an answer, such as a redirect. A server of the hub has no reason to lead from
    /// https to http, to this machine or to a link-local address, so such references are refused. Only a hub
    /// that is itself on this machine, or at the same link-local address, may lead there.
    fn joined(&self, address: &Address, reference: &str) -> Result<Address, Failure> {
        let next = address.join(reference).ok().filter(|next| {
            let endpoint = self.endpoint.host();
            let is_allowed = match host_scope(next.host()) {
                HostScope::Anywhere => true,
                HostScope::ThisMachine => host_scope(endpoint) == HostScope::ThisMachine,
                HostScope::LinkLocal => next.host() == endpoint,
            };
            is_allowed && (next.is_https() || !address.is_https())
        });
        next.ok_or(Failure::Protocol {
            what: "a redirect from https to http, to this machine or a link-local address, or to something \
                   other than HTTP",
            source: None,
        })
    }

    fn read_json<T: DeserializeOwned>(&self, response: Response) -> Result<T, Failure> {
        let text = response.read_up_to(MAX_BYTES + 1)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(Failure::Protocol {
                what: "more than 16 MiB of JSON",
                source: None,
            });
        }
        serde_json::from_slice(&text).map_err(|error| {
            // The parser's error may quote the answer, which may repeat the token.
            let quotable = self.quotable(&error.to_string());
            Failure::Protocol {
                what: "JSON",
                source: Some(serde_json::Error::custom(quotable)),
            }
        })
    }

    /// Reads a refusal, whose body may be incomplete.
    fn refusal(&self, kind: RequestKind, response: Response) -> Failure {
        let header = |name: &str| response.header(name).map(str::to_owned);
        let (code, message) = (header("X-Error-Code"), header("X-Error-Message"));
        let seconds = header("Retry-After").and_then(|value| value.trim().parse().ok());
        let status = response.status();
        let body = response.read_up_to(MAX_REFUSAL_BYTES).unwrap_or_default();
        let message_in_body = || {
            let body: serde_json::Value = serde_json::from_slice(&body).ok()?;
            Some(body["error"].as_str()?.to_owned())
        };
        let message = message.or_else(message_in_body);
        Failure::Refused(Refusal {
            kind,
            status,
            code,
            message: message.map(|message| self.quotable(&message)),
            retry_after: seconds.map(Duration::from_secs),
        })
    }

    /// A text from the hub in a form that an error may quote: shortened, and without the token, which the hub
    /// knows and may repeat.
    fn quotable(&self, text: &str) -> String {
        let text = match &self.settings.token {
            Some(token) => text.replace(token, "<token>"),
            None => text.to_owned(),
        };
        match text.char_indices().nth(MAX_QUOTED) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}

/// The machines that can be reached under a host's name or address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HostScope {
    Anywhere,
    /// Only this machine.
    ThisMachine,
    /// Machines on the same link, which include the metadata services of clouds.
    LinkLocal,
}

fn host_scope(host: &str) -> HostScope {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host == "localhost" || host.ends_with(".localhost") {
        return HostScope::ThisMachine;
    }
    let Ok(ip) = host.parse::<IpAddr>() else {
        return match is_number(&host) {
            // The system also accepts addresses such as `2130706433` and `0x7f.1`. No hub uses such names.
            true => HostScope::ThisMachine,
            false => HostScope::Anywhere,
        };
    };
    let ip = match ip {
        IpAddr::V6(ip) => embedded_v4(ip).map_or(ip.into(), IpAddr::V4),
        IpAddr::V4(_) => ip,
    };
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip == CLOUD_METADATA,
    };
    match ip {
        _ if is_link_local => HostScope::LinkLocal,
        _ if ip.is_loopback() || ip.is_unspecified() => HostScope::ThisMachine,
        _ => HostScope::Anywhere,
    }
}

/// Whether the last part of a name is a number. No top-level domain is a number.
fn is_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    match last.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|digit| digit.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|digit| digit.is_ascii_digit()),
    }
}

/// The IPv4 address that is embedded in an IPv6 address: mapped (`::ffff:…`), compatible (`::…`), or
/// translated (`64:ff9b::…`, RFC 6052).
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let low = Ipv4Addr::from_bits(ip.to_bits() as u32);
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(low),
        // `::` and `::1` are not embedded IPv4 addresses.
        [0, 0, 0, 0, 0, 0, ..] if low.to_bits() > 1 => Some(low),
        _ => None,
    }
}

/// The IPv6 address of Amazon's metadata service, which is outside of the link-local range.
const CLOUD_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

impl Entry {
    fn remote_file(self) -> Result<RemoteFile, Failure> {
        let contents = match &self.lfs {
            Some(large) => large.oid.parse().ok().map(Contents::Large),
            None => is_commit(&self.oid).then(|| Contents::Git(self.oid.clone())),
        };
        Ok(RemoteFile {
            bytes: self.lfs.map_or(self.size, |large| large.size),
            // The digest becomes the name of a file in the cache, so anything else is refused.
            contents: contents.ok_or(Failure::Protocol {
                what: "the digest of a file",
                source: None,
            })?,
            path: self.path,
        })
    }
}

/// Whether a status may be temporary.
fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// The address of the next page in a `Link` header.
fn next_page(link: &str) -> Option<&str> {
    link.split(',').find_map(|part| {
        let (address, relation) = part.split_once(';')?;
        let address = address.trim().strip_prefix('<')?.strip_suffix('>')?;
        relation.contains("rel=\"next\"").then_some(address)
    })
}

/// A text as one segment of a URL's path.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_encoded() {
        for (text, expected) in [
            ("main", "main"),
            ("refs/pr/1", "refs%2Fpr%2F1"),
            ("a b+ü", "a%20b%2B%C3%BC"),
        ] {
            assert_eq!(encoded(text), expected);
        }
    }

    #[test]
    fn addresses_of_this_machine_and_its_network_are_recognised() {
        let rows = [
            ("huggingface.co", HostScope::Anywhere),
            ("10.0.0.5", HostScope::Anywhere),
            ("[2606:4700::1]", HostScope::Anywhere),
            ("localhost", HostScope::ThisMachine),
            ("LOCALHOST.", HostScope::ThisMachine),
            ("a.localhost", HostScope::ThisMachine),
            ("127.9.9.9", HostScope::ThisMachine),
            ("0.0.0.0", HostScope::ThisMachine),
            ("[::1]", HostScope::ThisMachine),
            ("[::ffff:127.0.0.1]", HostScope::ThisMachine),
            ("169.254.169.254", HostScope::LinkLocal),
            ("[::ffff:169.254.169.254]", HostScope::LinkLocal),
            ("[fe80::1]", HostScope::LinkLocal),
            ("[fd00:ec2::254]", HostScope::LinkLocal),
            ("2130706433", HostScope::ThisMachine),
            ("0xa9fea9fe", HostScope::ThisMachine),
            ("169.254.0xa9fe", HostScope::ThisMachine),
            ("127.1", HostScope::ThisMachine),
            ("0177.0.0.1", HostScope::ThisMachine),
            ("cdn.0xffice", HostScope::Anywhere),
            ("1.example", HostScope::Anywhere),
            ("[64:ff9b::169.254.169.254]", HostScope::LinkLocal),
            ("[::169.254.169.254]", HostScope::LinkLocal),
            ("[::127.0.0.1]", HostScope::ThisMachine),
            ("[64:ff9b::8.8.8.8]", HostScope::Anywhere),
        ];
        for (host, expected) in rows {
            assert_eq!(host_scope(host), expected, "{host}");
        }
    }

    #[test]
    fn references_that_drop_encryption_or_lead_to_this_machine_are_refused() {
        let model = HubModel::parse("org/tiny").unwrap();
        let mut settings = HubConfig::offline("cache".into());
        let rows = [
            ("https://hub.example", "/next", true),
            ("https://hub.example", "https://cdn.example/file", true),
            ("https://hub.example", "https://10.0.0.5/file", true),
            ("https://hub.example", "http://hub.example/next", false),
            ("https://hub.example", "http://cdn.example/file", false),
            ("https://hub.example", "https://localhost/file", false),
            ("http://hub.example", "http://cdn.example/file", true),
            ("http://hub.example", "http://127.0.0.1:22/", false),
            ("http://hub.example", "http://169.254.169.254/latest", false),
            ("http://127.0.0.1:1", "http://localhost:2/file", true),
            ("http://127.0.0.1:1", "http://169.254.169.254/latest", false),
            ("http://hub.example", "file:///etc/passwd", false),
            ("http://hub.example", "gopher://hub.example/", false),
            ("http://hub.example", "http://user:word@cdn.example/", false),
        ];
        for (endpoint, reference, expected) in rows {
            settings.endpoint = endpoint.to_owned();
            let client = HubClient::new(&model, &settings).unwrap();
            let joined = client.joined(&endpoint.parse().unwrap(), reference);
            assert_eq!(joined.is_ok(), expected, "{endpoint} {reference}");
        }
    }

    #[test]
    fn the_next_page_is_found() {
        let rows = [
            ("<https://a.b/c?d>; rel=\"next\"", Some("https://a.b/c?d")),
            ("</p>; rel=\"prev\", </n>; rel=\"next\"", Some("/n")),
            ("</p>; rel=\"prev\"", None),
            ("", None),
        ];
        for (link, expected) in rows {
            assert_eq!(next_page(link), expected);
        }
    }
}
