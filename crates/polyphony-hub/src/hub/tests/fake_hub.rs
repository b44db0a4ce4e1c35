//! A fake hub with one repository, in a thread of the test process.
//!
//! It answers as the real hub does: files in git are sent at once, and large files through a redirect to
//! another server, which must not see the user's token.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
};

use ring::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::{Value, json};

/// The repository `org/tiny` with one commit, to which `main` and `v1` refer.
#[derive(Clone, Default)]
pub(super) struct Repository {
    pub(super) commit: String,
    pub(super) files: BTreeMap<String, File>,
    pub(super) behaviour: Behaviour,
}

#[derive(Clone)]
pub(super) enum File {
    Git(Vec<u8>),
    Large(Vec<u8>),
}

/// How the hub differs from one that answers every request.
#[derive(Clone, Default)]
pub(super) enum Behaviour {
    #[default]
    Plain,
    /// Answers only requests with the token `hf_right`.
    Private,
    /// Shows the repository to everybody, but its files to nobody.
    Gated,
    /// Breaks off at this byte of every large file.
    BreaksOff(u64),
    /// Breaks off after this many bytes of every answer with a large file.
    Sends(u64),
    /// Breaks off after this many bytes of a large file. When it is asked for the rest, it sends the first
    /// byte of the file and breaks off again.
    StartsOver(u64),
    /// Sends whole files, whatever range is asked for.
    IgnoresRanges,
    /// Sends wrong contents for every file.
    Damages,
    /// Answers this many requests with this status and header, and later ones normally.
    Refuses(u32, &'static str, Option<(&'static str, &'static str)>),
    /// Answers with something that is not JSON.
    Garbles,
    /// Answers requests whose path contains this text with this attack.
    Attacks(&'static str, Attack),
}

/// The bytes of an answer, and what the server does after them.
#[derive(Clone)]
pub(super) struct Attack {
    pub(super) bytes: Vec<u8>,
    pub(super) then: Then,
}

/// What the server does after the bytes of an attack.
#[derive(Clone, Debug)]
pub(super) enum Then {
    /// Closes the connection.
    Close,
    /// Repeats this text until the client disconnects.
    Repeat(String),
    /// The same, one byte at a time.
    Drip(&'static str),
}

impl Attack {
    fn send(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.write_all(&self.bytes)?;
        match &self.then {
            Then::Close => Ok(()),
            Then::Repeat(text) => {
                let many = text.repeat(1 + (1 << 16) / text.len());
                loop {
                    stream.write_all(many.as_bytes())?;
                }
            }
            Then::Drip(text) => loop {
                for byte in text.bytes() {
                    stream.write_all(&[byte])?;
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            },
        }
    }
}

/// The running hub. It stops when dropped.
pub(super) struct FakeHub {
    address: SocketAddr,
    storage: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl FakeHub {
    pub(super) fn start(repository: Repository) -> Self {
        // The hub, and the server that stores large files.
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [address, storage] = [0, 1].map(|index| listeners[index].local_addr().unwrap());
        let mut hub = Self {
            address,
            storage,
            requests: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let refused = Arc::new(AtomicU32::new(0));
        for listener in listeners {
            let (requests, stop) = (Arc::clone(&hub.requests), Arc::clone(&hub.stop));
            let (repository, refused) = (repository.clone(), Arc::clone(&refused));
            hub.threads.push(std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    // Some tests disconnect early.
                    let _ = serve(stream.unwrap(), &repository, storage, &requests, &refused);
                }
            }));
        }
        hub
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests since the last call, as `METHOD path`, with the range if there was one.
    pub(super) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for address in [self.address, self.storage] {
            // Wakes the thread from waiting for a connection.
            let _ = TcpStream::connect(address);
        }
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    fn read(stream: &TcpStream) -> std::io::Result<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next());
        let path = path.unwrap_or_default();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length");
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        reader.read_exact(&mut body)?;
        Ok(Self {
            method,
            path: path.split('?').next().unwrap().to_owned(),
            headers,
            body,
        })
    }
}

/// An answer of which only the first `sent` bytes of the body are sent.
struct Answer {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    sent: usize,
}

impl Answer {
    fn new(status: &'static str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self {
            status,
            headers: Vec::new(),
            sent: body.len(),
            body,
        }
    }

    fn json(value: &Value) -> Self {
        Self::new("200 OK", value.to_string()).with("Content-Type", "application/json")
    }

    /// A refusal with the hub's code for it.
    fn refusal(status: &'static str, code: &str) -> Self {
        let answer = Self::new(status, json!({"error": "no, sorry"}).to_string());
        let answer = answer.with("X-Error-Code", code);
        answer.with("X-Error-Message", "no, sorry")
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

fn serve(
    mut stream: TcpStream,
    repository: &Repository,
    storage: SocketAddr,
    requests: &Mutex<Vec<String>>,
    refused: &AtomicU32,
) -> std::io::Result<()> {
    let request = Request::read(&stream)?;
    let Request { method, path, .. } = &request;
    let range = request.headers.get("range");
    let mut suffix = range.map_or(String::new(), |range| format!(" {range}"));
    if path.starts_with("/cdn/") && request.headers.contains_key("authorization") {
        suffix.push_str(" with the token");
    }
    requests
        .lock()
        .unwrap()
        .push(format!("{method} {path}{suffix}"));
    if let Behaviour::Attacks(part, attack) = &repository.behaviour
        && path.contains(part)
    {
        return attack.send(stream);
    }
    let answer = match repository.behaviour {
        Behaviour::Refuses(times, status, header)
            if refused.fetch_add(1, Ordering::SeqCst) < times =>
        {
            let answer = Answer::new(status, "out of order");
            match header {
                Some((name, value)) => answer.with(name, value),
                None => answer,
            }
        }
        Behaviour::Garbles => Answer::new("200 OK", "<html>"),
        _ => answer(&request, repository, storage),
    };
    let mut head = format!(
        "HTTP/1.1 {}\r\nConnection: close\r\nContent-Length: {}\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.write_all(&answer.body[..answer.sent])?;
    stream.flush()
}

fn answer(request: &Request, repository: &Repository, storage: SocketAddr) -> Answer {
    if let Some(digest) = request.path.strip_prefix("/cdn/") {
        return contents(request, repository, digest);
    }
    let token = request.headers.get("authorization").map(String::as_str);
    if matches!(repository.behaviour, Behaviour::Private) && token != Some("Bearer hf_right") {
        return Answer::refusal("401 Unauthorized", "RepoNotFound");
    }
    if let Some(rest) = request.path.strip_prefix("/api/models/org/tiny/") {
        return about(request, repository, rest);
    }
    let file = request.path.strip_prefix("/org/tiny/resolve/");
    let file = file.and_then(|file| file.strip_prefix(&format!("{}/", repository.commit)));
    match file {
        Some(file) => resolve(repository, file, storage),
        None => Answer::refusal("404 Not Found", "RepoNotFound"),
    }
}

/// The API's answers about revisions and files.
fn about(request: &Request, repository: &Repository, path: &str) -> Answer {
    let commit = &repository.commit;
    let entry = |path: &str| match &repository.files[path] {
        File::Git(contents) => json!({
            "type": "file", "path": path, "size": contents.len(), "oid": git_id(contents),
        }),
        File::Large(contents) => {
            let (size, oid) = (contents.len(), sha256(contents));
            let pointer = format!(
                "version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"
            );
            json!({
                "type": "file", "path": path, "size": size, "oid": git_id(pointer.as_bytes()),
                "lfs": {"oid": oid, "size": size, "pointerSize": pointer.len()},
            })
        }
    };
    match path.split_once('/') {
        Some(("revision", revision)) if ["main", "v1", commit].contains(&revision) => {
            Answer::json(&json!({"_id": "1", "id": "org/tiny", "sha": commit}))
        }
        Some(("revision", _)) => Answer::refusal("404 Not Found", "RevisionNotFound"),
        Some(("paths-info", revision)) if revision == commit => {
            assert_eq!(request.method, "POST");
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let paths = body["paths"].as_array().unwrap().iter();
            let paths = paths.map(|path| path.as_str().unwrap());
            let existing = paths.filter(|path| repository.files.contains_key(*path));
            Answer::json(&existing.map(entry).collect())
        }
        Some(("tree", revision)) if revision == commit => {
            let paths = repository.files.keys();
            Answer::json(&paths.map(|path| entry(path)).collect())
        }
        _ => Answer::refusal("404 Not Found", "RepoNotFound"),
    }
}

/// The answer to a request for a file of a commit: its contents, or a redirect to them.
fn resolve(repository: &Repository, file: &str, storage: SocketAddr) -> Answer {
    if matches!(repository.behaviour, Behaviour::Gated) {
        return Answer::refusal("403 Forbidden", "GatedRepo");
    }
    let Some(file) = repository.files.get(file) else {
        return Answer::refusal("404 Not Found", "EntryNotFound")
            .with("X-Repo-Commit", &repository.commit);
    };
    let answer = match file {
        File::Git(contents) if matches!(repository.behaviour, Behaviour::Damages) => {
            let mut damaged = contents.clone();
            damaged.reverse();
            Answer::new("200 OK", damaged)
        }
        File::Git(contents) => {
            Answer::new("200 OK", &contents[..]).with("ETag", format!("\"{}\"", git_id(contents)))
        }
        File::Large(contents) => {
            let digest = sha256(contents);
            Answer::new("302 Found", "")
                .with("Location", format!("http://{storage}/cdn/{digest}"))
                .with("X-Linked-ETag", format!("\"{digest}\""))
                .with("X-Linked-Size", contents.len().to_string())
        }
    };
    answer.with("X-Repo-Commit", &repository.commit)
}

/// The contents of a large file, or the requested range of them.
fn contents(request: &Request, repository: &Repository, digest: &str) -> Answer {
    let mut files = repository.files.values();
    let found = files.find_map(|file| match file {
        File::Large(contents) if sha256(contents) == digest => Some(contents),
        File::Large(_) | File::Git(_) => None,
    });
    let contents = found.unwrap();
    let range = request.headers.get("range").map(|range| {
        let first = range.strip_prefix("bytes=").unwrap();
        first.strip_suffix('-').unwrap().parse::<usize>().unwrap()
    });
    let is_continued = range.is_some_and(|start| start > 0);
    let ignores_ranges = matches!(
        repository.behaviour,
        Behaviour::IgnoresRanges | Behaviour::StartsOver(_)
    );
    let range = range.filter(|_| !ignores_ranges);
    let start = range.unwrap_or(0);
    if start > 0 && start >= contents.len() {
        return Answer::new("416 Range Not Satisfiable", "");
    }
    let mut answer = match range {
        Some(start) => {
            let whole = contents.len();
            Answer::new("206 Partial Content", &contents[start..]).with(
                "Content-Range",
                format!("bytes {start}-{}/{whole}", whole - 1),
            )
        }
        None => Answer::new("200 OK", &contents[..]),
    };
    match repository.behaviour {
        Behaviour::BreaksOff(end) => {
            answer.sent = (end as usize).clamp(start, contents.len()) - start
        }
        Behaviour::StartsOver(bytes) => answer.sent = if is_continued { 1 } else { bytes as usize },
        Behaviour::Sends(bytes) => answer.sent = answer.sent.min(bytes as usize),
        _ => {}
    }
    if matches!(repository.behaviour, Behaviour::Damages) {
        answer.body.reverse();
    }
    answer
}

pub(super) fn sha256(contents: &[u8]) -> String {
    digits(&SHA256, contents)
}

fn git_id(contents: &[u8]) -> String {
    let mut object = format!("blob {}\0", contents.len()).into_bytes();
    object.extend(contents);
    digits(&SHA1_FOR_LEGACY_USE_ONLY, &object)
}

fn digits(algorithm: &'static Algorithm, contents: &[u8]) -> String {
    let digest = digest(algorithm, contents);
    let bytes = digest.as_ref().iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}
