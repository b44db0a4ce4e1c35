//! Tests of the client against servers in this process.

use std::{
    error::Error as _,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::*;
use crate::proxies::Proxies;

/// A server that sends each of these answers over a new connection, and returns the heads of the requests.
/// With `keeps_open` it keeps the last connection open until the client disconnects.
struct Server {
    address: SocketAddr,
    thread: JoinHandle<Vec<String>>,
}

impl Server {
    fn start(answers: &[&str], keeps_open: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answers: Vec<String> = answers.iter().map(|&answer| answer.to_owned()).collect();
        let thread = thread::spawn(move || {
            let mut heads = Vec::new();
            let mut stream = None;
            for answer in answers {
                let (new, _) = listener.accept().unwrap();
                heads.push(head(&new));
                (&new).write_all(answer.as_bytes()).unwrap();
                stream = Some(new);
            }
            if let (true, Some(mut stream)) = (keeps_open, stream) {
                let _ = stream.read(&mut [0]);
            }
            heads
        });
        Self { address, thread }
    }

    /// A server that sends these bytes and then repeats this text until the client disconnects. A slow
    /// server sends single bytes.
    fn without_end(start: &str, text: &str, slow: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (start, text) = (start.to_owned(), text.repeat(if slow { 1 } else { 10_000 }));
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let heads = vec![head(&stream)];
            let mut sent = stream.write_all(start.as_bytes());
            while sent.is_ok() {
                if slow {
                    sent = text.bytes().try_for_each(|byte| {
                        thread::sleep(Duration::from_millis(1));
                        stream.write_all(&[byte])
                    });
                } else {
                    sent = stream.write_all(text.as_bytes());
                }
            }
            heads
        });
        Self { address, thread }
    }

    fn page(&self) -> Address {
        format!("http://{}/page?x=1", self.address).parse().unwrap()
    }
}

fn head(stream: &TcpStream) -> String {
    let mut lines = BufReader::new(stream).lines();
    let mut head = String::new();
    while let Some(Ok(line)) = lines.next()
        && !line.is_empty()
    {
        head.push_str(&line);
        head.push('\n');
    }
    head
}

fn config() -> ClientConfig {
    ClientConfig {
        total_timeout: Some(Duration::from_secs(60)),
        ..ClientConfig::default()
    }
}

#[test]
fn an_answer_is_returned_whatever_its_status() {
    let rows = [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-A: b\r\n\r\nbody",
            200,
            "body",
        ),
        (
            "HTTP/1.1 404 Not Found\r\nX-A: b\r\nContent-Length: 0\r\n\r\n",
            404,
            "",
        ),
        (
            "HTTP/1.1 302 Found\r\nX-A: b\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n",
            302,
            "",
        ),
        (
            "HTTP/1.1 500 X\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
            500,
            "body",
        ),
    ];
    for (answer, status, body) in rows {
        let server = Server::start(&[answer], false);
        let page = server.page();
        let request = Request::get(&page).bearer("secret").header("X-C", "d");
        let response = Client::direct(config()).send(&request).unwrap();
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(response.header("x-a"), Some("b"));
        assert_eq!(response.read_up_to(100).unwrap(), body.as_bytes());
        let heads = server.thread.join().unwrap();
        let head = heads[0].to_ascii_lowercase();
        assert!(head.starts_with("get /page?x=1 http/1.1\n"), "{head}");
        for line in [
            "authorization: bearer secret",
            "x-c: d",
            "user-agent: polyphony/",
        ] {
            assert!(head.contains(line), "{head}");
        }
        assert!(!head.contains("accept-encoding: gzip"), "{head}");
    }
}

#[test]
fn a_body_is_sent_with_its_type() {
    let server = Server::start(&["HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"], false);
    let page = server.page();
    let request = Request::post(&page, "application/json", b"{}");
    let response = Client::direct(config()).send(&request).unwrap();
    assert_eq!(response.read_up_to(2).unwrap(), b"ab");
    let head = server.thread.join().unwrap().remove(0).to_ascii_lowercase();
    assert!(head.starts_with("post "), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(head.contains("content-length: 2"), "{head}");
}

#[test]
fn what_breaks_off_or_takes_too_long_is_transient() {
    let broken = Server::start(&["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody"], false);
    let page = broken.page();
    let response = Client::direct(config()).send(&Request::get(&page)).unwrap();
    broken.thread.join().unwrap();
    let error = response.read_up_to(100).unwrap_err();
    assert!(error.is_transient() && !error.is_timeout(), "{error:?}");

    let slow = ClientConfig {
        total_timeout: Some(Duration::from_millis(50)),
        ..config()
    };
    let unsteady = ClientConfig {
        read_timeout: Duration::from_millis(50),
        ..config()
    };
    for config in [slow, unsteady] {
        let silent = Server::start(&[""], true);
        let page = silent.page();
        let error = Client::direct(config.clone())
            .send(&Request::get(&page))
            .unwrap_err();
        assert!(error.is_transient() && error.is_timeout(), "{error:?}");
        silent.thread.join().unwrap();

        let stalls = Server::start(&["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody"], true);
        let page = stalls.page();
        let client = Client::direct(config);
        let response = client.send(&Request::get(&page)).unwrap();
        let error = response.read_up_to(100).unwrap_err();
        assert!(error.is_transient() && error.is_timeout(), "{error:?}");
        stalls.thread.join().unwrap();
    }

    let nowhere = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let page = format!("http://{nowhere}/").parse().unwrap();
    let error = Client::direct(config())
        .send(&Request::get(&page))
        .unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let cause = error.source().unwrap().to_string();
    assert!(cause.contains("refused"), "{cause}");

    let page = "http://no-such-host.invalid/".parse().unwrap();
    let error = Client::direct(config())
        .send(&Request::get(&page))
        .unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}

#[test]
fn endless_answers_end_at_the_limits() {
    let rows = [
        ("", "HTTP/1.1 200 OK and so on "),
        ("HTTP/1.1 200 OK\r\n", "X-A: b\r\n"),
        ("HTTP/1.1 200 OK\r\nX-A: ", "bbbbbbbb"),
        ("", "HTTP/1.1 100 Continue\r\n\r\n"),
        ("HTTP/1.1 200 OK\r\n\r\n", "body"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n",
            "body",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "4\r\nbody\r\n",
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "f"),
    ];
    for (start, text) in rows {
        for slow in [true, false] {
            let server = Server::without_end(start, text, slow);
            let page = server.page();
            let client = Client::direct(ClientConfig::default());
            let limit = Duration::from_millis(if slow { 100 } else { 60_000 });
            let request = Request::get(&page).within(limit);
            let outcome = client.send(&request);
            let outcome = outcome.and_then(|response| response.read_up_to(100_000));
            match outcome {
                Ok(body) => assert!(!slow && body.len() == 100_000, "{start}{text}"),
                Err(error) => {
                    assert!(error.is_transient(), "{start}{text}: {error:?}");
                    assert_eq!(error.is_timeout(), slow, "{start}{text}: {error:?}");
                }
            }
            server.thread.join().unwrap();
        }
    }
}

#[test]
fn a_compressed_body_is_not_decompressed() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nbomb";
    let server = Server::start(&[answer], false);
    let page = server.page();
    let response = Client::direct(config()).send(&Request::get(&page)).unwrap();
    assert_eq!(response.read_up_to(100).unwrap(), b"bomb");
}

#[test]
fn a_header_that_spans_lines_is_refused() {
    let page = "http://127.0.0.1:9/".parse().unwrap();
    let request = Request::get(&page).bearer("a\r\nX-Evil: b");
    let error = Client::direct(config()).send(&request).unwrap_err();
    assert!(matches!(error, HttpError::Request(_)), "{error:?}");
}

#[test]
fn a_proxy_connects_to_the_host() {
    // This proxy connects to no server: it answers the request itself.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let connect = head(&stream);
        (&stream).write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let request = head(&stream);
        (&stream)
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .unwrap();
        [connect, request]
    });
    let variables =
        move |name: &str| (name == "HTTP_PROXY").then(|| format!("http://me:word@{address}"));
    let client = Client::with_proxies(config(), Proxies::from_variables(&variables).unwrap());
    let page = "http://no-such-host.invalid/page".parse().unwrap();
    let response = client.send(&Request::get(&page)).unwrap();
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    let [connect, request] = proxy.join().unwrap();
    assert!(
        connect.starts_with("CONNECT no-such-host.invalid:80 HTTP/1.1\n"),
        "{connect}"
    );
    assert!(
        connect.contains("Proxy-Authorization: Basic bWU6d29yZA=="),
        "{connect}"
    );
    assert!(request.starts_with("GET /page HTTP/1.1\n"), "{request}");

    let refusing = Server::start(
        &["HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"],
        false,
    );
    let address = refusing.address;
    let variables = move |name: &str| (name == "HTTP_PROXY").then(|| address.to_string());
    let client = Client::with_proxies(config(), Proxies::from_variables(&variables).unwrap());
    let error = client.send(&Request::get(&page)).unwrap_err();
    assert!(matches!(error, HttpError::ProxyRefused(_)), "{error:?}");
    assert!(error.is_transient());
}
