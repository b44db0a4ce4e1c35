//! The hub's protocol: which commit a revision is, which files it has, and what is in them.
//!
//! Requests that fail for a temporary reason are retried. Redirects are followed here: large files are on
//! other servers, which must not see the user's token.

use std::{thread, time::Duration};

use polyphony_http::{Address, Client, ClientConfig, HttpError, Request, Response, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::{model::HubModel, settings::HubSettings, snapshot::is_commit};
use crate::{digest::Sha256Digest, error::HubError};

/// The maximum length of an answer about a repository, in bytes.
const MOST_BYTES: u64 = 64 << 20;

/// How much of a refusal's body is read, in bytes.
const MOST_REFUSAL_BYTES: u64 = 1 << 16;

/// The maximum number of redirects.
const MOST_REDIRECTS: usize = 10;

/// The maximum number of pages of a list.
const MOST_PAGES: usize = 20;

/// The longest wait before a retry. If the hub asks for a longer one, there is no retry.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Why there is no usable answer from the hub.
#[derive(Debug)]
pub(super) enum Failure {
    /// There was no answer, or it broke off.
    Silence(HttpError),
    /// The request cannot be made.
    Request(HttpError),
    /// The hub refused.
    Refused(Refusal),
    /// The answer does not follow the protocol.
    Protocol {
        what: &'static str,
        source: Option<serde_json::Error>,
    },
    /// Something failed on this machine.
    Here(HubError),
}

/// A refusal by the hub.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) asked: Asked,
    pub(super) status: StatusCode,
    /// The hub's code for the reason, such as `RepoNotFound`.
    pub(super) code: Option<String>,
    pub(super) message: Option<String>,
    pub(super) retry_after: Option<Duration>,
}

/// What a request was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Revision,
    Files,
    Contents,
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        if error.is_silence() {
            Self::Silence(error)
        } else {
            Self::Request(error)
        }
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Here(error)
    }
}

/// A file that the repository has.
#[derive(Debug)]
pub(super) struct Listed {
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
struct Question<'a> {
    asked: Asked,
    address: Address,
    body: Option<&'a [u8]>,
    /// The first byte to fetch of a file.
    from: u64,
}

/// A client for one repository on the hub.
pub(super) struct HubClient<'a> {
    http: Client,
    settings: &'a HubSettings,
    endpoint: Address,
    repository: String,
}

impl<'a> HubClient<'a> {
    /// # Errors
    /// If the hub's address is malformed, or the environment names a proxy that cannot be used.
    pub(super) fn new(model: &HubModel, settings: &'a HubSettings) -> Result<Self, Failure> {
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
        let info: RevisionInfo = self.json(Asked::Revision, &path, None)?;
        info.sha
            .filter(|commit| is_commit(commit))
            .ok_or(Failure::Protocol {
                what: "the commit of a revision",
                source: None,
            })
    }

    /// The files among these that a commit has.
    pub(super) fn files(&self, commit: &str, names: &[&str]) -> Result<Vec<Listed>, Failure> {
        let path = format!("/api/models/{}/paths-info/{commit}", self.repository);
        let body = json!({"paths": names, "expand": false}).to_string();
        let entries: Vec<Entry> = self.json(Asked::Files, &path, Some(body.as_bytes()))?;
        let files = entries.into_iter().filter(|entry| entry.kind == "file");
        files.map(Entry::listed).collect()
    }

    /// The names of all files of a commit.
    pub(super) fn names(&self, commit: &str) -> Result<Vec<String>, Failure> {
        let path = format!(
            "/api/models/{}/tree/{commit}?recursive=true",
            self.repository
        );
        let mut next = Some(self.address(&path)?);
        let mut names = Vec::new();
        for _ in 0..MOST_PAGES {
            let Some(address) = next.take() else { break };
            let response = self.send(&Question {
                asked: Asked::Files,
                address: address.clone(),
                body: None,
                from: 0,
            })?;
            if let Some(link) = response.header("Link").and_then(next_page) {
                next = Some(address.join(link)?);
            }
            let entries: Vec<Entry> = read_json(response)?;
            let files = entries.into_iter().filter(|entry| entry.kind == "file");
            names.extend(files.map(|entry| entry.path));
        }
        Ok(names)
    }

    /// A file's contents from a byte on. An answer with status 200 begins at the first byte.
    pub(super) fn contents(
        &self,
        commit: &str,
        file: &str,
        from: u64,
    ) -> Result<Response, Failure> {
        let file: Vec<String> = file.split('/').map(encoded).collect();
        let path = format!("/{}/resolve/{commit}/{}", self.repository, file.join("/"));
        self.send(&Question {
            asked: Asked::Contents,
            address: self.address(&path)?,
            body: None,
            from,
        })
    }

    fn address(&self, path: &str) -> Result<Address, Failure> {
        let address = format!("{}{path}", self.settings.endpoint).parse();
        address.map_err(Failure::Request)
    }

    fn json<T: DeserializeOwned>(
        &self,
        asked: Asked,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<T, Failure> {
        read_json(self.send(&Question {
            asked,
            address: self.address(path)?,
            body,
            from: 0,
        })?)
    }

    /// The answer to a request, after retries if needed.
    fn send(&self, question: &Question<'_>) -> Result<Response, Failure> {
        let mut backoff = self.settings.first_wait;
        let mut tries = 0;
        loop {
            let outcome = self.follow(question).and_then(|response| {
                if response.status().is_success() {
                    Ok(response)
                } else {
                    Err(refusal(question.asked, response))
                }
            });
            let pause = match &outcome {
                Err(Failure::Silence(_)) => backoff,
                Err(Failure::Refused(refusal)) if may_pass(refusal.status) => {
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
    fn follow(&self, question: &Question<'_>) -> Result<Response, Failure> {
        let mut address = question.address.clone();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = match question.body {
                Some(body) => Request::post(&address, "application/json", body),
                None => Request::get(&address),
            };
            if question.asked == Asked::Contents {
                // Sizes and ranges refer to the bytes as they are stored.
                request = request.header("Accept-Encoding", "identity");
            }
            if question.from > 0 {
                request = request.header("Range", format!("bytes={}-", question.from));
            }
            // Other servers must not see the token.
            if let (Some(token), true) = (&self.settings.token, address.same_origin(&self.endpoint))
            {
                request = request.bearer(token);
            }
            let response = self.http.send(&request)?;
            match response.header("Location") {
                Some(location) if response.status().is_redirection() => {
                    address = address.join(location)?;
                }
                _ => return Ok(response),
            }
        }
        Err(Failure::Protocol {
            what: "redirects without end",
            source: None,
        })
    }
}

impl Entry {
    fn listed(self) -> Result<Listed, Failure> {
        let contents = match &self.lfs {
            Some(large) => large.oid.parse().ok().map(Contents::Large),
            None => is_commit(&self.oid).then(|| Contents::Git(self.oid.clone())),
        };
        Ok(Listed {
            bytes: self.lfs.map_or(self.size, |large| large.size),
            // It becomes the name of a file in the cache, so it must be a digest.
            contents: contents.ok_or(Failure::Protocol {
                what: "the digest of a file",
                source: None,
            })?,
            path: self.path,
        })
    }
}

/// Whether a status may be temporary.
fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

fn read_json<T: DeserializeOwned>(response: Response) -> Result<T, Failure> {
    let text = response.read_up_to(MOST_BYTES)?;
    serde_json::from_slice(&text).map_err(|source| Failure::Protocol {
        what: "JSON",
        source: Some(source),
    })
}

/// Reads a refusal. Its body may break off.
fn refusal(asked: Asked, response: Response) -> Failure {
    let header = |name: &str| response.header(name).map(str::to_owned);
    let (code, message) = (header("X-Error-Code"), header("X-Error-Message"));
    let seconds = header("Retry-After").and_then(|value| value.trim().parse().ok());
    let status = response.status();
    let body = response.read_up_to(MOST_REFUSAL_BYTES).unwrap_or_default();
    let in_body = || {
        let body: serde_json::Value = serde_json::from_slice(&body).ok()?;
        Some(body["error"].as_str()?.to_owned())
    };
    Failure::Refused(Refusal {
        asked,
        status,
        code,
        message: message.or_else(in_body),
        retry_after: seconds.map(Duration::from_secs),
    })
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
