//! An endpoint with prepared answers, which runs in a thread of the test process.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::JoinHandle,
};

use serde_json::{Value, json};

/// What the endpoint does with one request.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Answers with a status line's text, a header, and a body.
    Reply(&'static str, Option<(&'static str, String)>, String),
    /// Answers, but closes the connection before the body's last byte.
    BreakOff(String),
    /// Sends the first half of an answer and waits until the other side gives up.
    Stall(String),
    /// Waits until the other side gives up.
    Silence,
    /// Sends the first text, and then the second again and again until the other side gives up.
    Endless(String, String),
    /// Like `Endless`, but one byte at a time.
    Drip(String, String),
}

impl Answer {
    /// A chat completion with this text.
    pub(super) fn text(content: &str) -> Self {
        Self::Reply("200 OK", None, completion(content))
    }

    /// A refusal.
    pub(super) fn refusal(status: &'static str, body: &str) -> Self {
        Self::Reply(status, None, body.to_owned())
    }

    pub(super) fn with(self, name: &'static str, value: &str) -> Self {
        match self {
            Self::Reply(status, _, body) => Self::Reply(status, Some((name, value.into())), body),
            answer => answer,
        }
    }
}

/// The body of a chat completion with this text.
pub(super) fn completion(content: &str) -> String {
    let message = json!({"role": "assistant", "content": content});
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    json!({"id": "c1", "object": "chat.completion", "choices": [choice]}).to_string()
}

/// A request that the endpoint received.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The method and the path with its query.
    pub(super) line: String,
    /// By lower-case name.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Value,
}

/// The running endpoint.
pub(super) struct Server {
    address: SocketAddr,
    thread: JoinHandle<Vec<Request>>,
}

impl Server {
    /// Gives each request the next of these answers, and closes after the last one.
    pub(super) fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut answers: VecDeque<Answer> = answers.into_iter().collect();
        let thread = std::thread::spawn(move || {
            let mut requests = Vec::new();
            while let Some(answer) = answers.pop_front() {
                let (stream, _) = listener.accept().unwrap();
                let Some(request) = read(&stream) else {
                    // A connection without a request comes from `requests`: the test is over.
                    break;
                };
                requests.push(request);
                reply(stream, &answer);
            }
            requests
        });
        Self { address, thread }
    }

    pub(super) fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The requests in order. Answers that were not requested are dropped.
    pub(super) fn requests(self) -> Vec<Request> {
        // Wakes the thread if it waits for another request.
        drop(TcpStream::connect(self.address));
        self.thread.join().unwrap()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    if reader.read_line(&mut first).unwrap() == 0 {
        return None;
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    Some(Request {
        line: first.trim_end().trim_end_matches(" HTTP/1.1").to_owned(),
        headers,
        body: serde_json::from_slice(&body).unwrap(),
    })
}

fn reply(mut stream: TcpStream, answer: &Answer) {
    let head = |status: &str, length: usize, header: String| {
        format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{header}\r\n"
        )
    };
    // Write errors are ignored: some tests disconnect early on purpose.
    match answer {
        Answer::Reply(status, header, body) => {
            let header = header.as_ref();
            let header = header.map(|(name, value)| format!("{name}: {value}\r\n"));
            let head = head(status, body.len(), header.unwrap_or_default());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
        Answer::BreakOff(body) => {
            let head = head("200 OK", body.len() + 1, String::new());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
        Answer::Stall(body) => {
            let head = head("200 OK", body.len() + 1, String::new());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
            wait_for_the_end(&mut stream);
        }
        Answer::Silence => wait_for_the_end(&mut stream),
        Answer::Endless(start, text) => {
            let mut sent = stream.write_all(start.as_bytes());
            while sent.is_ok() {
                sent = stream.write_all(text.repeat(1000).as_bytes());
            }
        }
        Answer::Drip(start, text) => {
            let mut sent = stream.write_all(start.as_bytes());
            while sent.is_ok() {
                sent = text.bytes().try_for_each(|byte| {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    stream.write_all(&[byte])
                });
            }
        }
    }
}

fn wait_for_the_end(stream: &mut TcpStream) {
    // Returns once the other side closes, with no bytes or an error.
    let _ = stream.read(&mut [0]);
}
