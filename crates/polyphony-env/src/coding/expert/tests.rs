//! Tests of the outside model's client against an endpoint in the test process.

use std::{
    num::NonZeroU64,
    sync::{Arc, Mutex},
};

use super::*;

mod server;

use server::{Answer, Server, completion};

const KEY: &str = "sk-0123456789-secret";
const GOOD: &str = r#"{"main": "Return x.", "aux": "Double it."}"#;
const REVIEW: Review<'_> = Review {
    problem: "def f(x):\n    \"\"\"Doubles x.\"\"\"\n",
    drafts: &[
        Draft {
            role: "aux",
            function: "aux",
            response: "def aux(x):\n    return x\n",
        },
        Draft {
            role: "main",
            function: "f",
            response: " \n",
        },
    ],
    findings: "`f` is not defined.\n",
};

fn settings(base_url: String) -> ExpertSettings {
    ExpertSettings {
        base_url,
        model: "coder".to_owned(),
        key_variable: Some("EXPERT_KEY".to_owned()),
        timeout_secs: NonZeroU64::MIN,
        retries: 2,
        temperature: Some(0.0),
        seed: Some(7),
    }
}

/// An expert whose waits take no time and are recorded, in seconds.
struct TestExpert {
    inner: Expert,
    waits: Arc<Mutex<Vec<u64>>>,
}

impl TestExpert {
    fn new(settings: &ExpertSettings, timeout: Duration) -> Self {
        let waits: Arc<Mutex<Vec<u64>>> = Arc::default();
        let record = Arc::clone(&waits);
        let wait = move |time: Duration| record.lock().unwrap().push(time.as_secs());
        let key = Key::read("EXPERT_KEY", Some(format!("{KEY}\n"))).unwrap();
        let inner = Expert::build(settings, Some(key), timeout, Box::new(wait)).unwrap();
        Self { inner, waits }
    }

    fn at(server: &Server) -> Self {
        Self::new(&settings(server.base_url()), Duration::from_secs(60))
    }

    /// The suggestions, or the error as a user sees it, with `URL` for the endpoint.
    fn suggest(&self) -> Result<Vec<String>, String> {
        let outcome = self.inner.suggest(&REVIEW);
        outcome.map_err(|error| {
            let message = error.to_string();
            assert!(!message.contains(KEY), "{message}");
            message.replace(&self.inner.url.to_string(), "URL")
        })
    }

    fn waits(&self) -> Vec<u64> {
        self.waits.lock().unwrap().clone()
    }
}

#[test]
fn the_request_is_a_chat_completion_and_the_answer_has_one_suggestion_per_agent() {
    let server = Server::start([Answer::text(GOOD)]);
    let expert = TestExpert::at(&server);
    let expected = ["Double it.", "Return x."].map(str::to_owned);
    assert_eq!(expert.suggest(), Ok(expected.into()));
    assert_eq!((expert.inner.retries(), expert.waits()), (0, vec![]));

    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].line, "POST /v1/chat/completions");
    let headers = &requests[0].headers;
    assert_eq!(headers["authorization"], format!("Bearer {KEY}"));
    assert_eq!(headers["content-type"], "application/json");
    let messages = json!([
        {"role": "system", "content": prompt::SYSTEM},
        {"role": "user", "content": REVIEW.message()},
    ]);
    assert_eq!(
        requests[0].body,
        json!({"model": "coder", "messages": messages, "temperature": 0.0, "seed": 7})
    );
}

#[test]
fn what_the_settings_leave_out_is_not_sent() {
    let server = Server::start([Answer::text(GOOD)]);
    let settings = ExpertSettings {
        key_variable: None,
        timeout_secs: NonZeroU64::MAX,
        temperature: None,
        seed: None,
        ..settings(server.base_url())
    };
    let expert = Expert::new(&settings).unwrap();
    expert.suggest(&REVIEW).unwrap();
    let request = server.requests().remove(0);
    assert_eq!(request.headers.get("authorization"), None);
    let keys: Vec<&String> = request.body.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["model", "messages"]);
}

#[test]
fn the_message_shows_everything_that_was_given() {
    let expected = "\
The problem:

def f(x):
    \"\"\"Doubles x.\"\"\"

Programmer \"aux\" was to write the function `aux`, and answered:

def aux(x):
    return x

Programmer \"main\" was to write the function `f`, and answered:

(nothing)

How it fared:

`f` is not defined.

Answer with your edits in this form: {\"aux\": \"…\", \"main\": \"…\"}";
    assert_eq!(REVIEW.message(), expected);
}

#[test]
fn suggestions_are_found_in_whatever_stands_around_them() {
    let rows = [
        (format!("```json\n{GOOD}\n```"), ["Double it.", "Return x."]),
        (
            format!("Use {{}} or {{x}} here:\n{GOOD}\nThat is {{all}}."),
            ["Double it.", "Return x."],
        ),
        (
            format!("<think>{{\"aux\": 1}}</think>{{\"edits\": {GOOD}}}"),
            ["Double it.", "Return x."],
        ),
        (
            r#"{"Aux ": ["one", "two"], "MAIN": null, "more": 3}"#.to_owned(),
            ["one\ntwo", "Your function needs no edit."],
        ),
        (
            r#"{"aux": "  a\n  b \n", "main": "é {\"x\": 1}"}"#.to_owned(),
            ["a\n  b", "é {\"x\": 1}"],
        ),
    ];
    for (content, expected) in rows {
        let found = answer::suggestions(&completion(&content), &REVIEW);
        assert_eq!(found, Ok(expected.map(str::to_owned).into()), "{content}");
    }
}

#[test]
fn what_is_no_suggestion_is_named() {
    let cut = completion("{\"aux\": \"Dou").replace("stop", "length");
    let rows = [
        (
            "<html>".to_owned(),
            "it is not a chat completion (expected value at line 1 column 1)",
        ),
        (
            r#"{"error": "busy"}"#.to_owned(),
            "it is not a chat completion (missing field `choices` at line 1 column 17)",
        ),
        (
            r#"{"choices": []}"#.to_owned(),
            "its list of choices is empty",
        ),
        (
            r#"{"choices": [{"message": {"content": null, "refusal": "No."}}]}"#.to_owned(),
            "its text contains no complete JSON object",
        ),
        (
            completion("Looks good!"),
            "its text contains no complete JSON object",
        ),
        (
            cut,
            "its text contains no complete JSON object, and was cut at the endpoint's length limit",
        ),
        (
            completion(r#"{"aux": "x"} or {"note": "y"}"#),
            "its JSON has no `main`",
        ),
        (
            completion(r#"{"aux": "x", "main": 5}"#),
            "`main` in its JSON is not a text",
        ),
        (
            completion(r#"{"aux": ["x", 1], "main": "y"}"#),
            "`aux` in its JSON is not a text",
        ),
    ];
    for (body, expected) in rows {
        let found = answer::suggestions(&body, &REVIEW);
        assert_eq!(found, Err(expected.to_owned()), "{body}");
    }
}

#[test]
fn an_answer_that_makes_no_sense_is_asked_for_again_with_another_seed() {
    let server = Server::start([
        Answer::text("Well."),
        Answer::text("Hm."),
        Answer::text(GOOD),
    ]);
    let expert = TestExpert::at(&server);
    assert!(expert.suggest().is_ok());
    assert_eq!((expert.inner.retries(), expert.waits()), (2, vec![1, 2]));
    let seeds = server
        .requests()
        .into_iter()
        .map(|request| request.body["seed"].clone());
    assert_eq!(seeds.collect::<Vec<_>>(), [7, 8, 9]);

    let garbage = Answer::refusal("200 OK", "<p>\0 x </p>");
    let server = Server::start([garbage.clone(), garbage.clone(), garbage]);
    let message = TestExpert::at(&server).suggest().unwrap_err();
    let expected = "the expert at URL answered without a suggestion for every agent: it is not a \
                    chat completion (expected value at line 1 column 1); it answered: <p>\\u{0} x </p>; \
                    another `model` may follow the instructions better (tried 3×)";
    assert_eq!(message, expected);
}

#[test]
fn permanent_refusals_fail_at_once_and_say_what_would_help() {
    let body = format!("{{\"error\": {{\"message\": \"not\n this way: {KEY}\"}}}}");
    let rows = [
        (
            "401 Unauthorized",
            "the environment variable `EXPERT_KEY` contains a key",
        ),
        (
            "403 Forbidden",
            "the environment variable `EXPERT_KEY` contains a key",
        ),
        ("404 Not Found", "check that the server knows `model`"),
        ("400 Bad Request", "if it refuses `temperature` or `seed`"),
        (
            "301 Moved Permanently",
            "the new address is http://b/v1?<key>; set `base_url` to it only if you trust it",
        ),
        (
            "418 I'm a teapot",
            "see the endpoint's documentation of this status",
        ),
    ];
    for (status, advice) in rows {
        let refusal =
            Answer::refusal(status, &body).with("Location", &format!("http://b/v1?{KEY}"));
        let server = Server::start([refusal, Answer::text(GOOD)]);
        let expert = TestExpert::at(&server);
        let message = expert.suggest().unwrap_err();
        let start = format!(
            "the expert at URL answered {status}: {{\"error\": {{\"message\": \"not this way: \
             <key>\"}}}}; "
        );
        assert!(message.starts_with(&start), "{message}");
        assert!(message.contains(advice), "{message}");
        assert!(message.ends_with(" (tried 1×)"), "{message}");
        assert_eq!(server.requests().len(), 1, "{status}");
    }
    let echo = format!("{{\"choices\": \"{KEY}\"}}");
    let server = Server::start(vec![Answer::refusal("200 OK", &echo); 3]);
    let message = TestExpert::at(&server).suggest().unwrap_err();
    assert!(
        message.contains("invalid type: string \"<key>\""),
        "{message}"
    );
    // A control character splits the key. Leaving this character out would make the key whole again.
    let (first, last) = KEY.split_at(4);
    let server = Server::start([Answer::refusal(
        "404 Not Found",
        &format!("{first}\u{1}{last}"),
    )]);
    let message = TestExpert::at(&server).suggest().unwrap_err();
    assert!(
        !message.contains(KEY) && message.contains("\\u{1}"),
        "{message}"
    );
    let long = "x".repeat(2 << 20);
    let server = Server::start(vec![Answer::refusal("200 OK", &long); 3]);
    let message = TestExpert::at(&server).suggest().unwrap_err();
    assert!(
        message.contains("it has more than 1048576 bytes"),
        "{message}"
    );
    assert!(error::advice(StatusCode::UNAUTHORIZED, None, None).contains("`key_variable`"));
}

#[test]
fn waits_double_and_are_no_shorter_than_asked_for() {
    let busy = |header: Option<&'static str>| {
        let answer = Answer::refusal("429 Too Many Requests", "slow down");
        match header {
            Some(seconds) => answer.with("Retry-After", seconds),
            None => answer,
        }
    };
    let rows: [(&[Answer], &[u64]); 5] = [
        (&[busy(Some("9"))], &[9]),
        (&[busy(None), busy(None)], &[1, 2]),
        (&[busy(Some("3")), busy(Some("0"))], &[3, 2]),
        (&[busy(Some("Fri, 31 Dec 2027 23:59:59 GMT"))], &[1]),
        (&[Answer::refusal("503 Service Unavailable", "")], &[1]),
    ];
    for (answers, waits) in rows {
        let server = Server::start(answers.iter().cloned().chain([Answer::text(GOOD)]));
        let expert = TestExpert::at(&server);
        assert!(expert.suggest().is_ok(), "{answers:?}");
        assert_eq!(expert.waits(), waits, "{answers:?}");
        assert_eq!(expert.inner.retries(), waits.len() as u64);
        let requests = server.requests();
        assert_eq!(requests.len(), waits.len() + 1);
        assert!(requests.iter().all(|request| request.body["seed"] == 7));
    }

    let server = Server::start([busy(Some("3600")), Answer::text(GOOD)]);
    let expert = TestExpert::at(&server);
    let message = expert.suggest().unwrap_err();
    let expected = "the expert at URL answered 429 Too Many Requests: slow down; it asks to wait \
                    3600 s: send fewer requests, wait, or raise `retries` (tried 1×)";
    assert_eq!(message, expected);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_server_out_of_order_is_given_up_after_the_retries() {
    let broken = Answer::refusal("500 Internal Server Error", "");
    let server = Server::start(vec![broken; 3].into_iter().chain([Answer::text(GOOD)]));
    let expert = TestExpert::at(&server);
    let expected = "the expert at URL answered 500 Internal Server Error: (nothing); try again \
                    later, or raise `retries` (tried 3×)";
    assert_eq!(expert.suggest(), Err(expected.to_owned()));
    assert_eq!((expert.inner.retries(), expert.waits()), (2, vec![1, 2]));
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn silence_ends_with_the_time_limit() {
    let rows = [Answer::Silence, Answer::Stall(completion(GOOD))];
    for answer in rows {
        let server = Server::start([answer]);
        let settings = ExpertSettings {
            retries: 0,
            ..settings(server.base_url())
        };
        let expert = TestExpert::new(&settings, Duration::from_millis(50));
        let expected = "the expert at URL gave no complete answer within 50ms; raise \
                        `timeout_secs`, or check whether the server is overloaded (tried 1×)";
        assert_eq!(expert.suggest(), Err(expected.to_owned()));
    }
}

#[test]
fn an_endpoint_without_end_is_left() {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    const HUGE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
    let rows = [
        ("", "HTTP/1.1 200 OK and so on "),
        ("HTTP/1.1 200 OK\r\n", "X-A: b\r\n"),
        ("", "HTTP/1.1 100 Continue\r\n\r\n"),
        ("HTTP/1.1 200 OK\r\n\r\n", "body"),
        ("HTTP/1.1 503 Busy\r\n\r\n", "body"),
        (CHUNKED, "4\r\nbody\r\n"),
        (HUGE, "body"),
    ];
    for (start, text) in rows {
        let (start, text) = (start.to_owned(), text.to_owned());
        let drip = Answer::Drip(start.clone(), text.clone());
        let endless = Answer::Endless(start.clone(), text.clone());
        for (answer, millis) in [(drip, 100), (endless, 60_000)] {
            let server = Server::start([answer]);
            let settings = ExpertSettings {
                retries: 0,
                ..settings(server.base_url())
            };
            let expert = TestExpert::new(&settings, Duration::from_millis(millis));
            let message = expert.suggest().unwrap_err();
            assert!(message.starts_with("the expert at URL "), "{message}");
            assert!(message.len() < 1000, "{message}");
            let in_time = !message.contains("gave no complete answer within");
            assert_eq!(in_time, millis == 60_000, "{start}{text}: {message}");
        }
    }
}

#[test]
fn nothing_in_an_answer_does_harm() {
    let deep = ["[".repeat(100_000), "{\"a\":".repeat(100_000)];
    let rows = [
        Answer::refusal("200 OK", &deep[0]),
        Answer::refusal("200 OK", &deep[1]),
        Answer::text(&deep[0]),
        Answer::text(&deep[1][..50_000]),
        Answer::text(&"{ ".repeat(100_000)),
        Answer::text("{\"\u{1b}[2J\": 1, \"aux\": 1}"),
        Answer::refusal(
            "200 OK",
            &format!("{{\"choices\": \"{}\"}}", "x".repeat(500_000)),
        ),
        Answer::refusal("204 No Content", ""),
        Answer::refusal("302 Found", ""),
        Answer::refusal("302 Found", "").with("Location", "file:///etc/passwd"),
        Answer::refusal("302 Found", "").with("Location", &"x".repeat(10_000)),
        Answer::refusal("302 Found", "").with("Location", "http://169.254.169.254/latest"),
        Answer::refusal("429 Too Many Requests", "").with("Retry-After", "1000000000"),
        Answer::refusal("429 Too Many Requests", "").with("Retry-After", &"9".repeat(40)),
    ];
    for answer in rows {
        let server = Server::start(vec![answer.clone(); 3]);
        let expert = TestExpert::at(&server);
        let message = expert.suggest().unwrap_err();
        assert!(message.starts_with("the expert at URL "), "{message}");
        assert!(
            message.len() < 2000,
            "{} bytes: {message:.500}",
            message.len()
        );
        assert!(!message.contains(char::is_control), "{message:?}");
        assert!(
            expert.waits().iter().all(|wait| *wait <= 2),
            "{:?}",
            expert.waits()
        );
    }
}

#[test]
fn a_server_that_is_not_there_or_breaks_off_is_tried_again() {
    let server = Server::start([Answer::BreakOff(completion(GOOD)), Answer::text(GOOD)]);
    let expert = TestExpert::at(&server);
    assert!(expert.suggest().is_ok());
    assert_eq!(expert.waits(), [1]);

    let gone = Server::start([]);
    let expert = TestExpert::at(&gone);
    gone.requests();
    let message = expert.suggest().unwrap_err();
    let [start, end] = [
        "the expert at URL cannot be reached: the connection failed: ",
        "; check that `base_url` is right, that the server runs, and that this machine has a network \
         connection (tried 3×)",
    ];
    assert!(
        message.starts_with(start) && message.ends_with(end),
        "{message}"
    );
    assert!(message.contains("refused"), "{message}");
}

#[test]
fn no_answer_is_read_or_shown_without_end() {
    let flood = format!(
        "{}{}",
        " ".repeat(MAX_ANSWER_BYTES as usize),
        completion(GOOD)
    );
    let long = Answer::refusal("400 Bad Request", &"é".repeat(500));
    let server = Server::start([Answer::Reply("200 OK", None, flood), long]);
    let message = TestExpert::at(&server).suggest().unwrap_err();
    let shown = format!("answered 400 Bad Request: {}…; ", "é".repeat(300));
    assert!(message.contains(&shown), "{message}");
}

#[test]
fn addresses_are_read_strictly() {
    let rows = [
        (
            "http://localhost:8080/v1",
            Ok("http://localhost:8080/v1/chat/completions"),
        ),
        ("https://a.b/v1/", Ok("https://a.b/v1/chat/completions")),
        ("https://a.b", Ok("https://a.b/chat/completions")),
        (
            "https://a.b/x?version=2",
            Ok("https://a.b/x/chat/completions?version=2"),
        ),
        (
            "localhost:8080/v1",
            Err("does not begin with http:// or https://"),
        ),
        (
            "a.b/v1",
            Err("`a.b/v1` is not a `base_url` of an expert: it does not begin with http://"),
        ),
        ("", Err("`` is not a `base_url`")),
        (
            "https://u:word@a.b/v1?token=word",
            Err("`a.b/v1` is not a `base_url` of an expert: it contains"),
        ),
        (
            "https://a.b/v1/chat/completions/",
            Err("leave out `/chat/completions`"),
        ),
    ];
    for (base, expected) in rows {
        let found = settings::completions_url(base).map_err(|error| error.to_string());
        match (found, expected) {
            (Ok(url), Ok(expected)) => assert_eq!(url.to_string(), expected),
            (Err(error), Err(expected)) => {
                assert!(error.contains(expected), "{error}");
                assert!(!error.contains("word"), "{error}");
            }
            (found, expected) => panic!("{base}: {found:?}, but expected {expected:?}"),
        }
    }
}

#[test]
fn a_query_is_sent_but_never_shown() {
    let server = Server::start([Answer::refusal("404 Not Found", "")]);
    let settings = settings(format!("{}?token=word", server.base_url()));
    let expert = TestExpert::new(&settings, Duration::from_secs(60));
    let message = expert.inner.suggest(&REVIEW).unwrap_err().to_string();
    assert!(!message.contains("word"), "{message}");
    let line = &server.requests()[0].line;
    assert_eq!(line, "POST /v1/chat/completions?token=word");

    let gone = Server::start([]);
    let settings = self::settings(format!("{}?token=word", gone.base_url()));
    gone.requests();
    let expert = TestExpert::new(&settings, Duration::from_secs(60));
    let message = expert.inner.suggest(&REVIEW).unwrap_err().to_string();
    assert!(!message.contains("word"), "{message}");
}

#[test]
fn the_key_comes_from_the_named_variable_and_is_never_shown() {
    let named = |variable: &str| ExpertSettings {
        key_variable: Some(variable.to_owned()),
        ..settings("http://localhost/v1".to_owned())
    };
    // Cargo sets this one for tests.
    let expert = Expert::new(&named("CARGO_PKG_NAME")).unwrap();
    assert_eq!(expert.key.as_ref().unwrap().reveal(), "polyphony-env");
    assert!(!format!("{expert:?} {:?}", expert.key).contains("polyphony-env"));

    let error = Expert::new(&named("NO_SUCH_VARIABLE"))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("the environment variable `NO_SUCH_VARIABLE` is not set"),
        "{error}"
    );
    let rows = [
        ("  ", "is not set, or empty"),
        ("a b", "does not contain a valid key"),
        ("ä", "does not contain a valid key"),
    ];
    for (value, expected) in rows {
        let error = Key::read("EXPERT_KEY", Some(value.to_owned()))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`EXPERT_KEY`") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn settings_are_read_strictly() {
    let rows = [
        (r#"(base_url: "b", model: "m")"#, Ok(())),
        (
            r#"(base_url: "b", model: "m", seed: None, temperature: None)"#,
            Ok(()),
        ),
        (r#"(base_url: "b")"#, Err("model")),
        (r#"(base_url: "b", model: "m", retry: 3)"#, Err("retry")),
        (
            r#"(base_url: "b", model: "m", timeout_secs: 0)"#,
            Err("nonzero"),
        ),
        (r#"(base_url: "b", model: "m", key: "sk")"#, Err("key")),
    ];
    for (text, expected) in rows {
        let found = ron::from_str::<ExpertSettings>(text).map_err(|error| error.to_string());
        match (found, expected) {
            (Ok(settings), Ok(())) => {
                let written = ron::to_string(&settings).unwrap();
                assert_eq!(ron::from_str(&written), Ok(settings));
            }
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
            (found, expected) => panic!("{text}: {found:?}, but expected {expected:?}"),
        }
    }
    let defaults: ExpertSettings = ron::from_str(rows[0].0).unwrap();
    let ExpertSettings {
        key_variable,
        timeout_secs,
        retries,
        temperature,
        seed,
        ..
    } = defaults;
    assert_eq!((key_variable, timeout_secs.get(), retries), (None, 60, 4));
    assert_eq!((temperature, seed), (Some(0.0), Some(0)));
}
