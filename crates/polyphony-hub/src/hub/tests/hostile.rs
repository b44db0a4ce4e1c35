//! Tests against a malicious hub. Every request must end with an error that names the model and does not
//! contain the token, and nothing that counts as complete may remain in the cache.

use super::{
    fake_hub::{Attack, Then},
    *,
};

const TOKEN: &str = "hf_0123456789-secret";

/// A small model, whose weights arrive in one read.
fn small_model() -> Repository {
    repository(&[
        ("config.json", b"{}".to_vec()),
        ("model.safetensors", vec![7; 1000]),
    ])
}

/// A complete answer with these headers and this body.
fn answer(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Attack {
    let length = body.as_ref().len();
    let head = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    Attack {
        bytes: [head.as_bytes(), body.as_ref()].concat(),
        then: Then::Close,
    }
}

fn json_text(text: &str) -> Attack {
    answer("200 OK", "", text)
}

/// These bytes, and what follows them.
fn raw(bytes: &str, then: Then) -> Attack {
    Attack {
        bytes: bytes.as_bytes().to_vec(),
        then,
    }
}

fn repeat(text: &str) -> Then {
    Then::Repeat(text.to_owned())
}

/// The error that a user sees who requests `org/tiny` from a hub that attacks requests for paths with `part`.
fn attacked(part: &'static str, attack: Attack, time_limit: Duration) -> String {
    let cache = tempfile::tempdir().unwrap();
    let hub = FakeHub::start(Repository {
        behaviour: Behaviour::Attacks(part, attack),
        ..small_model()
    });
    let settings = HubConfig {
        token: Some(TOKEN.to_owned()),
        time_limit,
        ..settings(&hub.endpoint(), cache.path())
    };
    let error = obtain("org/tiny", &settings).unwrap_err();
    let shown = chain(&error);
    assert!(shown.starts_with("`hub:org/tiny` could not be"), "{shown}");
    assert!(!shown.contains(TOKEN), "{shown}");
    assert!(!format!("{error:?}").contains(TOKEN), "{error:?}");
    assert!(shown.len() < 4000, "{} bytes: {shown:.300}", shown.len());
    check_nothing_complete(cache.path());
    shown.replace(&hub.endpoint(), "HUB")
}

/// Checks that a cache contains no revision, and no file whose contents differ from the digest in its name.
fn check_nothing_complete(cache: &Path) {
    assert!(!folder(cache).join("refs").exists());
    let Ok(blobs) = fs::read_dir(folder(cache).join("blobs")) else {
        return;
    };
    let config = small_model().files["config.json"].clone();
    let File::Git(config) = config else {
        panic!("the configuration is in git");
    };
    for blob in blobs {
        let path = blob.unwrap().path();
        let unfinished = path.to_string_lossy().ends_with(".polyphony.incomplete");
        assert!(unfinished || fs::read(&path).unwrap() == config, "{path:?}");
    }
}

const ANSWERS: [&str; 3] = ["/revision/", "/paths-info/", "/resolve/"];
const LONG: Duration = Duration::from_secs(60);

#[test]
fn slow_answers_end_at_the_time_limit() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\n";
    let rows = [
        raw("", Then::Drip("HTTP/1.1 200 OK and so on ")),
        raw(HEAD, Then::Drip("X-A: b\r\n")),
        raw("", Then::Drip("HTTP/1.1 100 Continue\r\n\r\n")),
        raw("HTTP/1.1 200 OK\r\n\r\n", Then::Drip(" ")),
        raw(
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
            Then::Drip(" "),
        ),
        raw(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Then::Drip("1\r\n \r\n"),
        ),
    ];
    for row in rows {
        for part in ANSWERS.into_iter().chain(["/cdn/"]) {
            let shown = attacked(part, row.clone(), Duration::from_millis(150));
            // An answer of unlimited length may exceed its size before its time.
            let expected = ["the hub does not answer (", "the size and the digest"];
            let found = expected.iter().any(|expected| shown.contains(expected));
            assert!(found, "{part}: {shown}");
        }
    }
}

#[test]
fn endless_answers_are_not_read_forever() {
    let rows = [
        raw("", repeat("HTTP/1.1 200 OK and so on ")),
        raw("HTTP/1.1 200 OK\r\n", repeat("X-A: b\r\n")),
        raw("HTTP/1.1 200 OK\r\nX-A: ", repeat("bbbbbbbbbbbbbbbb")),
        raw("HTTP/1.1 200 OK\r\n\r\n", repeat("                ")),
        raw(
            "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n",
            repeat("                "),
        ),
        raw(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            repeat(&format!("1000\r\n{}\r\n", " ".repeat(4096))),
        ),
        raw(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            repeat("f"),
        ),
        raw("HTTP/1.1 404 Not Found\r\n\r\n", repeat("                ")),
    ];
    for row in rows {
        for part in ANSWERS.into_iter().chain(["/cdn/"]) {
            attacked(part, row.clone(), LONG);
        }
    }
    let endless = raw("HTTP/1.1 200 OK\r\n\r\n", repeat("                "));
    let shown = attacked("/revision/", endless, LONG);
    assert!(
        shown.contains("HUB does not answer like a hub (more than 16 MiB"),
        "{shown}"
    );
}

#[test]
fn wrong_answers_are_refused() {
    let entries = |path: &str, size: &str, oid: &str| {
        let entry = format!(r#"{{"type":"file","path":"{path}","size":{size},"oid":"{oid}"}}"#);
        json_text(&format!("[{entry}]"))
    };
    let not_a_hub = "HUB does not answer like a hub (";
    let rows = [
        ("/revision/", json_text("{\"sha\": \"../../x\"}"), not_a_hub),
        ("/revision/", json_text("{\"sha\": null}"), not_a_hub),
        ("/revision/", json_text(""), not_a_hub),
        ("/revision/", json_text(&"[".repeat(100_000)), not_a_hub),
        (
            "/revision/",
            json_text(&"{\"a\":".repeat(100_000)),
            not_a_hub,
        ),
        (
            "/revision/",
            json_text(&format!("{{\"sha\": {{\"{TOKEN}\": 1}}}}")),
            not_a_hub,
        ),
        ("/revision/", json_text(&format!("\"{TOKEN}\"")), "<token>"),
        (
            "/revision/",
            json_text(&format!("\"{}\"", "é".repeat(100_000))),
            not_a_hub,
        ),
        (
            "/revision/",
            raw("HTTP/1.1 204 No Content\r\n\r\n", Then::Close),
            not_a_hub,
        ),
        ("/paths-info/", json_text(&"[".repeat(100_000)), not_a_hub),
        (
            "/paths-info/",
            entries("config.json", "1", "../../x"),
            "(the digest of a file)",
        ),
        (
            "/paths-info/",
            entries("config.json", "-1", COMMIT),
            not_a_hub,
        ),
        (
            "/paths-info/",
            entries("../../config.json", "1", COMMIT),
            "no config.json",
        ),
        (
            "/paths-info/",
            entries("/config.json", "1", COMMIT),
            "no config.json",
        ),
        ("/paths-info/", entries("", "1", COMMIT), "no config.json"),
        (
            "/paths-info/",
            entries("config.json\\u0000", "1", COMMIT),
            "no config.json",
        ),
        (
            "/paths-info/",
            entries("config.json", "1000000000000", COMMIT),
            "config.json has 1000000000000 bytes or more, but at most 67108864 are fetched",
        ),
        (
            "/resolve/",
            answer(
                "206 Partial Content",
                "Content-Range: bytes 9-10/11\r\n",
                "[]",
            ),
            "size and the digest",
        ),
        (
            "/resolve/",
            answer("200 OK", "Content-Encoding: gzip\r\n", [31, 139]),
            "size and the digest",
        ),
        (
            "/resolve/",
            answer("200 OK", "ETag: \"0\"\r\n", "[]"),
            "size and the digest",
        ),
        (
            "/resolve/",
            answer("200 OK", "", "{} "),
            "size and the digest",
        ),
        (
            "/resolve/",
            raw("HTTP/1.1 204 No Content\r\n\r\n", Then::Close),
            "size and the digest",
        ),
    ];
    for (part, attack, expected) in rows {
        let shown = attacked(part, attack, LONG);
        assert!(shown.contains(expected), "{shown} lacks {expected}");
    }
}

#[test]
fn refusals_and_redirects_end_and_do_not_repeat_the_token() {
    let redirect = |location: &str| answer("302 Found", &format!("Location: {location}\r\n"), "");
    let echo = format!("X-Error-Message: you are {TOKEN}\r\n");
    let not_followed = "(a redirect from https to http, to this machine or a link-local address";
    let rows = [
        (redirect("?again"), "(more than 10 redirects)"),
        (redirect("file:///etc/passwd"), not_followed),
        (redirect("http://169.254.169.254/latest"), not_followed),
        (redirect(&format!("gopher://{TOKEN}/")), not_followed),
        (answer("302 Found", "", ""), "the hub answered 302 Found"),
        (answer("304 Not Modified", "", ""), "304 Not Modified"),
        (answer("401 Unauthorized", &echo, ""), "you are <token>"),
        (answer("403 Forbidden", &echo, ""), "you are <token>"),
        (answer("404 Not Found", &echo, ""), ""),
        (answer("418 I'm a teapot", &echo, ""), "you are <token>"),
        (
            answer("418 I'm a teapot", "", json!({"error": TOKEN}).to_string()),
            "<token>",
        ),
        (
            answer(
                "418 I'm a teapot",
                "",
                json!({"error": "é".repeat(30_000)}).to_string(),
            ),
            "éé…",
        ),
        (
            answer("429 Too Many Requests", "Retry-After: 1000000000\r\n", ""),
            "try again in 1000000000 s",
        ),
        (
            answer(
                "429 Too Many Requests",
                &format!("Retry-After: 1{}\r\n", "0".repeat(30)),
                "",
            ),
            "try again later",
        ),
        (
            raw(&format!("{TOKEN}\r\n\r\n"), Then::Close),
            "does not answer",
        ),
        (
            raw(&format!("HTTP/1.1 200 OK\r\n{TOKEN}\r\n\r\n"), Then::Close),
            "does not answer",
        ),
        (
            raw(
                &format!("HTTP/1.1 200 OK\r\nContent-Length: {TOKEN}\r\n\r\n"),
                Then::Close,
            ),
            "",
        ),
        (
            raw(
                &format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{TOKEN}\r\n"),
                Then::Close,
            ),
            "",
        ),
        (raw("", Then::Close), "does not answer"),
    ];
    for (attack, expected) in rows {
        for part in ANSWERS {
            let shown = attacked(part, attack.clone(), LONG);
            assert!(shown.contains(expected), "{part}: {shown} lacks {expected}");
        }
    }
}

#[test]
fn single_bytes_do_not_count_as_progress() {
    let cache = tempfile::tempdir().unwrap();
    let hub = FakeHub::start(Repository {
        behaviour: Behaviour::Sends(1),
        ..tiny_model()
    });
    let mut settings = settings(&hub.endpoint(), cache.path());
    settings.retries = 2;
    obtain("org/tiny", &settings).unwrap_err();
    let requests = hub.requests();
    let attempts = requests
        .iter()
        .filter(|request| request.starts_with("GET /cdn/"));
    assert_eq!(attempts.count(), 3);
    let snapshot = folder(cache.path()).join("snapshots").join(COMMIT);
    assert!(!snapshot.join("model.safetensors").exists());
}

#[test]
fn parts_of_different_files_are_not_joined() {
    let cache = tempfile::tempdir().unwrap();
    for behaviour in [Behaviour::BreaksOff(250_000), Behaviour::Damages] {
        let model = Repository {
            behaviour,
            ..repository(&[("a.gguf", weights())])
        };
        let hub = FakeHub::start(model);
        let error = obtain("org/tiny/a.gguf", &settings(&hub.endpoint(), cache.path()));
        let shown = chain(&error.unwrap_err());
        assert!(shown.contains("a.gguf"), "{shown}");
    }
    let blobs = fs::read_dir(folder(cache.path()).join("blobs")).unwrap();
    assert_eq!(blobs.count(), 0, "nothing damaged stays");
}

#[test]
fn an_index_names_plain_files_and_not_too_many() {
    let names = ["", ".", "..", "/x", "a/b", "a\\b", "C:\\x", "a\0b", "a\nb"];
    let long = "a".repeat(300);
    let mut rows: Vec<(String, &str)> = names
        .into_iter()
        .chain([&*long])
        .map(|name| {
            let index = json!({"weight_map": {"a": name}});
            (index.to_string(), "which is not a file in the same folder")
        })
        .collect();
    let many: serde_json::Map<_, _> = (0..10_001)
        .map(|shard| (format!("t{shard}"), json!(format!("{shard}.safetensors"))))
        .collect();
    let many = json!({"weight_map": many}).to_string();
    rows.push((many, "names more than 10000 files"));
    rows.push((" ".repeat((16 << 20) + 1), "has more than 16777216 bytes"));
    rows.push(("[".repeat(100_000), "is not the index of a model"));
    rows.push(("{\"a\":".repeat(100_000), "is not the index of a model"));
    for (index, expected) in rows {
        let cache = tempfile::tempdir().unwrap();
        let hub = FakeHub::start(repository(&[
            ("config.json", b"{}".to_vec()),
            ("model.safetensors.index.json", index.into_bytes()),
        ]));
        let error = obtain("org/tiny", &settings(&hub.endpoint(), cache.path())).unwrap_err();
        assert!(
            chain(&error).contains(expected),
            "{error:?} lacks {expected}"
        );
        assert!(!folder(cache.path()).join("refs").exists());
    }
}

#[test]
#[cfg(unix)]
fn an_index_in_the_cache_that_has_no_end_is_not_read() {
    let cache = tempfile::tempdir().unwrap();
    let snapshot = folder(cache.path()).join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(snapshot.join("config.json"), "{}").unwrap();
    let index = snapshot.join("model.safetensors.index.json");
    let pipe = |path: &Path| {
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    };
    let device = |path: &Path| std::os::unix::fs::symlink("/dev/zero", path).unwrap();
    for make in [&pipe as &dyn Fn(&Path), &device] {
        make(&index);
        let alone = HubConfig::offline(cache.path().to_owned());
        obtain(&format!("org/tiny@{COMMIT}"), &alone).unwrap_err();
        assert_eq!(cached_models(&alone).unwrap(), []);
        fs::remove_file(&index).unwrap();
    }
}

#[test]
fn a_hint_at_other_files_is_limited() {
    let names: Vec<String> = (0..2000)
        .map(|file| format!("{file}-{TOKEN}.gguf"))
        .collect();
    let files: Vec<_> = names.iter().map(|name| (&**name, vec![1])).collect();
    let hub = FakeHub::start(repository(&files));
    let cache = tempfile::tempdir().unwrap();
    let mut settings = settings(&hub.endpoint(), cache.path());
    settings.token = Some(TOKEN.to_owned());
    let shown = chain(&obtain("org/tiny", &settings).unwrap_err());
    assert!(shown.contains("-<token>.gguf, …)"), "{shown}");
    assert!(!shown.contains(TOKEN) && shown.len() < 2000, "{shown}");
}
