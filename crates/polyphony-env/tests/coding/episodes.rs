//! Episodes of one turn and more.

use std::{
    error::Error,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    num::NonZeroUsize,
    sync::Arc,
    thread,
};

use polyphony_env::{
    CodingEnvironment, CodingSettings, Ending, ExpertSettings, Feedback, VisibleAsserts,
};
use polyphony_episode::{Environment, JointAction, Next, Observation, Outcome, Task, Turn};

use crate::{POOL, action, coding, double};

const WRONG: [&str; 2] = [
    "```python\ndef aux(x):\n    return 1\n```",
    "def double(x):\n    y = aux(x)\n    return y + 1",
];
const RIGHT: [&str; 2] = [
    "def aux(x):\n    return x",
    "def double(x):\n    y = aux(x)\n    return y + y",
];

fn settings(turns: usize, ending: Ending, feedback: Feedback) -> CodingSettings {
    CodingSettings {
        turns: NonZeroUsize::new(turns).unwrap(),
        ending,
        feedback,
        ..CodingSettings::default()
    }
}

/// Plays joint actions until the episode ends.
fn play(settings: CodingSettings, actions: &[JointAction]) -> Vec<Outcome> {
    let coding = coding(settings);
    let mut observations = coding.start(&double()).unwrap();
    let mut past = Vec::new();
    let mut outcomes = Vec::new();
    for action in actions {
        let outcome = coding.step(&double(), &past, action).unwrap();
        outcomes.push(outcome.clone());
        let Next::Continue(next) = outcome.next else {
            break;
        };
        past.push(Turn {
            observations: std::mem::replace(&mut observations, next),
            action: action.clone(),
        });
    }
    outcomes
}

#[test]
fn an_episode_has_as_many_turns_as_are_set() {
    let [wrong, right] = [WRONG, RIGHT].map(|[auxiliary, main]| action(auxiliary, main));
    let rows: [(usize, Ending, &[&JointAction], usize); 6] = [
        (1, Ending::AfterTurns, &[&wrong, &right], 1),
        (2, Ending::AfterTurns, &[&right, &right, &right], 2),
        (3, Ending::WhenSolved, &[&wrong, &right, &right], 2),
        (3, Ending::WhenSolved, &[&right, &right], 1),
        (2, Ending::WhenSolved, &[&wrong, &wrong, &wrong], 2),
        (3, Ending::AfterTurns, &[&wrong, &right, &wrong, &right], 3),
    ];
    for (turns, ending, actions, expected) in rows {
        let actions: Vec<JointAction> = actions.iter().map(|one| (*one).clone()).collect();
        let outcomes = play(settings(turns, ending, Feedback::Plain), &actions);
        assert_eq!(outcomes.len(), expected, "{turns} {ending:?}");
        for (outcome, action) in outcomes.iter().zip(&actions) {
            let is_right = *action == right;
            assert_eq!(outcome.reward.total() == 4.0, is_right, "{outcome:?}");
        }
        assert_eq!(outcomes.last().unwrap().next, Next::End);
    }
}

/// The observations of both agents after a wrong first turn.
fn second_observations(feedback: Feedback, visible_asserts: VisibleAsserts) -> Vec<Observation> {
    let settings = CodingSettings {
        visible_asserts,
        ..settings(2, Ending::AfterTurns, feedback)
    };
    let [auxiliary, main] = WRONG;
    let outcomes = play(settings, &[action(auxiliary, main)]);
    match outcomes.into_iter().next().unwrap().next {
        Next::Continue(observations) => observations,
        Next::End => panic!("the episode is over"),
    }
}

#[test]
fn every_feedback_mode_has_its_text() {
    let rows = [
        (
            Feedback::LevelFeedback,
            VisibleAsserts::All,
            "Your team's program was tested.
- `aux`: defined, and it returns a value.
- `double`: defined, and it returns a value.
- Syntax: correct.
- Tests: 1 of 3 passed.
  Failed, with `candidate` for `double`: assert candidate(2) == 4
  Reason: AssertionError
  Failed, with `candidate` for `double`: assert candidate('a') == 'aa'
  Reason: AssertionError
- Use of `aux`: `double` calls `aux` and uses its results.",
        ),
        (
            Feedback::LevelPassed,
            VisibleAsserts::All,
            "Your team's program was tested. What is right:
- Functions defined: yes
- Syntax: yes
- Tests: no
- Cooperation: yes",
        ),
        (
            Feedback::Passed,
            VisibleAsserts::default(),
            "Your team's program was tested. Tests passed: yes.",
        ),
        (
            Feedback::Passed,
            VisibleAsserts::All,
            "Your team's program was tested. Tests passed: no.",
        ),
        (
            Feedback::Plain,
            VisibleAsserts::All,
            "Look at your code again, and find what is wrong or could be better.",
        ),
    ];
    for (feedback, visible, expected) in rows {
        let observations = second_observations(feedback.clone(), visible);
        let requests = [
            "Write an improved `aux`, which `double` may call. Give its code only.",
            "Write an improved `double`, which may call `aux`. Give its code only.",
        ];
        for (observation, request) in observations.iter().zip(requests) {
            assert_eq!(*observation.text, format!("{expected}\n\n{request}"));
        }
        assert_eq!(observations.len(), 2);
        let again = second_observations(feedback, visible);
        assert_eq!(again, observations, "the same each time");
    }
}

fn expert(base_url: &str, key_variable: Option<&str>) -> Feedback {
    Feedback::ExpertEdits(ExpertSettings {
        base_url: base_url.to_owned(),
        model: "coder".to_owned(),
        key_variable: key_variable.map(str::to_owned),
        timeout_secs: 10.try_into().unwrap(),
        retries: 0,
        temperature: None,
        seed: None,
    })
}

/// Answers one chat completion, and returns the request.
fn answer_one(listener: &TcpListener, status: &str, content: &str) -> String {
    let (mut stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line).unwrap() > 2 {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut request = vec![0; length];
    reader.read_exact(&mut request).unwrap();
    let message = serde_json::json!({"role": "assistant", "content": content});
    let body = serde_json::json!({"choices": [{"message": message}]}).to_string();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    String::from_utf8(request).unwrap()
}

/// Plays a wrong first turn while an outside model answers once; also returns the model's request.
fn play_with_expert(status: &str, content: &str) -> (Result<Outcome, String>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let feedback = expert(
        &format!("http://{}/v1", listener.local_addr().unwrap()),
        None,
    );
    let coding = coding(settings(2, Ending::AfterTurns, feedback));
    let [auxiliary, main] = WRONG;
    thread::scope(|scope| {
        let request = scope.spawn(|| answer_one(&listener, status, content));
        let outcome = coding.step(&double(), &[], &action(auxiliary, main));
        (
            outcome.map_err(|error| with_sources(&error)),
            request.join().unwrap(),
        )
    })
}

/// An error with all its sources.
fn with_sources(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_sources(source)),
        None => error.to_string(),
    }
}

#[test]
fn an_expert_has_a_suggestion_for_each_agent() {
    let content = r#"{"main": "Add y to itself.", "auxiliary": "Return x."}"#;
    let (outcome, request) = play_with_expert("200 OK", content);
    let expected = [
        "Return x.\n\nWrite an improved `aux`, which `double` may call. Give its code only.",
        "Add y to itself.\n\nWrite an improved `double`, which may call `aux`. Give its code only.",
    ];
    let outcome = outcome.unwrap();
    assert_eq!(
        outcome.next,
        Next::Continue(expected.map(Observation::new).into())
    );
    assert!(outcome.reward.total() > 1.5);
    // The only visible assert passes.
    for part in ["Twice x.", "return y + 1", "1 of 1 passed"] {
        assert!(request.contains(part), "{request}\nlacks {part}");
    }
}

#[test]
fn an_expert_that_fails_is_an_error_and_no_reward() {
    let (outcome, _) = play_with_expert("401 Unauthorized", "no");
    let error = outcome.unwrap_err();
    assert!(
        error.starts_with("task `t/double`: there is no feedback: the expert at http://127.0.0.1:"),
        "{error}"
    );
    let invalid = settings(2, Ending::AfterTurns, expert("localhost", None));
    let error = CodingEnvironment::new(Arc::clone(&POOL), invalid)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("`localhost`"), "{error}");
}

#[test]
fn the_first_observations_give_each_agent_its_part() {
    let coding = coding(CodingSettings::default());
    let names: Vec<&str> = coding.roles().iter().map(|role| &*role.name).collect();
    assert_eq!(names, ["auxiliary", "main"]);
    let observations = coding.start(&double()).unwrap();
    let expected = [
        "Problem:
def double(x):
    \"\"\" Twice x. \"\"\"

Write a Python function `aux` that helps to solve this problem: it does one useful part of the \
work and returns the result. Your teammate writes `double`, which may call your `aux`.
Give the code of `aux` only, beginning with `def aux(`. Put imports inside the function.",
        "Problem:
def double(x):
    \"\"\" Twice x. \"\"\"

Write the Python function `double` that solves this problem. Your teammate writes a helper \
function `aux(...)`, which your code may call. Do not write `aux` yourself.
Give the code of `double` only, beginning with `def double(x):`. Put imports inside the function.",
    ];
    let texts: Vec<&str> = observations.iter().map(|one| &*one.text).collect();
    assert_eq!(texts, expected);
}

#[test]
fn tests_that_assert_nothing_are_an_error() {
    let coding = coding(CodingSettings::default());
    let [auxiliary, main] = RIGHT;
    let rows = [
        (
            "def check(candidate):\n    assert True\n",
            "task `t/1`: `test` asserts nothing that depends on the candidate; \
             give its `check` function an assert or leave the task out",
        ),
        (
            "assert True\n",
            "task `t/1`: `test` defines no function `check(candidate)`, \
             which must contain the asserts",
        ),
    ];
    for (test, expected) in rows {
        let fields = [
            ("prompt", "Double x."),
            ("entry_point", "double"),
            ("test", test),
        ];
        let error = coding.step(&Task::new("t/1", fields), &[], &action(auxiliary, main));
        assert_eq!(error.unwrap_err().to_string(), expected);
    }
    let fields = [
        ("prompt", "Double x."),
        ("entry_point", "double"),
        ("test", "def check(c:\n"),
    ];
    let error = coding.step(&Task::new("t/1", fields), &[], &action(auxiliary, main));
    let error = with_sources(&error.unwrap_err());
    assert!(
        error.starts_with("task `t/1` cannot be scored: the tests cannot be run: "),
        "{error}"
    );
}
