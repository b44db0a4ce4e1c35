//! Every message of the protocol, valid and invalid.

use polyphony_episode::{JointAction, Response, Turn};

use super::{super::call::Call, *};

fn hello_from(json: &str) -> Result<Hello, String> {
    let answer =
        read(json.as_bytes(), CallName::Hello, 0).map_err(|failure| failure.to_string())?;
    answer.hello().map_err(|failure| failure.to_string())
}

fn hello(per_role: bool) -> Hello {
    hello_from(&format!(
        r#"{{"id": 0, "protocol": 1, "roles": [{{"name": "a", "system": "Be brief."}}, {{"name": "b"}}],
            "reward_parts": ["x", "y"], "horizon": 2, "per_role": {per_role}, "solved_at": 1.5}}"#
    ))
    .unwrap()
}

#[test]
fn calls_are_lines_of_json() {
    let task = Task::new("t", [("town", "Ulm\n")]);
    let action = |text: &str| {
        let mut response = Response::from_text(text);
        response.tokens = [1, 2].into();
        JointAction::new(vec![response])
    };
    let past = [Turn {
        observations: vec![Observation::new("go")],
        action: action("\"A\""),
    }];
    let settings = serde_json::json!({"digits": 4});
    let settings = settings.as_object().unwrap();
    let last = action("é");
    let hello = Call::Hello {
        protocol: PROTOCOL,
        settings,
    };
    let rows = [
        (
            hello,
            r#"{"id":7,"call":"hello","protocol":1,"settings":{"digits":4}}"#,
        ),
        (
            Call::Start { task: &task },
            r#"{"id":7,"call":"start","task":{"id":"t","fields":{"town":"Ulm\n"}}}"#,
        ),
        (
            Call::step(&task, &past, &last),
            concat!(
                r#"{"id":7,"call":"step","task":{"id":"t","fields":{"town":"Ulm\n"}},"#,
                r#""past":[{"observations":["go"],"responses":[{"text":"\"A\"","finish":"stop"}]}],"#,
                r#""responses":[{"text":"é","finish":"stop"}]}"#
            ),
        ),
    ];
    for (call, expected) in rows {
        let line = String::from_utf8(call.line(7)).unwrap();
        assert_eq!(line, format!("{expected}\n"));
    }
}

#[test]
fn the_handshake_describes_the_game() {
    let hello = hello(false);
    let roles = [Role::new("a").with_system("Be brief."), Role::new("b")];
    assert_eq!(hello.roles(), roles);
    assert_eq!((hello.horizon.get(), hello.solved_at), (2, Some(1.5)));
    assert_eq!(hello.tasks(Split::Train), None);

    let hello = hello_from(
        r#"{"id": 0, "protocol": 1, "roles": [{"name": "a"}], "reward_parts": ["x"],
            "tasks": {"train": [{"id": "1", "fields": {"town": "Ulm"}}]}, "description": {"v": 3}}"#,
    )
    .unwrap();
    assert_eq!(hello.horizon.get(), 1);
    let ulm = Task::new("1", [("town", "Ulm")]);
    assert_eq!(hello.tasks(Split::Train), Some(&vec![ulm]));
    assert_eq!(hello.tasks(Split::HeldOut), None);
}

#[test]
fn a_wrong_handshake_says_what_is_wrong() {
    let rest = r#""roles": [{"name": "a"}], "reward_parts": ["x"]"#;
    let with = |extra: &str| format!(r#"{{"id": 0, "protocol": 1, {rest}, {extra}}}"#);
    let rows = [
        (
            format!(r#"{{"id": 0, {rest}}}"#),
            "missing field `protocol`",
        ),
        (
            format!(r#"{{"id": 0, "protocol": 2, {rest}}}"#),
            "it speaks protocol 2, but Polyphony speaks protocol 1",
        ),
        (
            // The error names the version and not the key, which another version may have.
            format!(r#"{{"id": 0, "rules": [], "protocol": 2, {rest}}}"#),
            "it speaks protocol 2, but Polyphony speaks protocol 1",
        ),
        (
            format!(r#"{{"id": 0, "protocol": "1", {rest}}}"#),
            "it speaks protocol \"1\", but",
        ),
        (
            with(r#""horizon": 0"#),
            "`horizon` is 0, but must be at least 1",
        ),
        (
            with(r#""horizon": -1"#),
            "`horizon` must be a whole number of at least 1: invalid value",
        ),
        (
            with(r#""per_role": 1"#),
            "`per_role` must be true or false: invalid type",
        ),
        (
            with(r#""solved_at": "1""#),
            "`solved_at` must be a number: invalid type",
        ),
        (
            with(r#""tasks": [{"id": "1", "fields": {}}]"#),
            "`tasks` must be an object with lists `train` and `held_out`, whose items are objects with an \
             `id` and with `fields` (texts by name): invalid type",
        ),
        (
            with(r#""tasks": {"train": ["Ulm"]}"#),
            "(texts by name): invalid type: string \"Ulm\", expected an object",
        ),
        (with(r#""horizont": 2"#), "unknown field `horizont`"),
        (
            with(r#""tasks": {"train": []}"#),
            "`tasks` has no task in `train`",
        ),
        (
            with(
                r#""tasks": {"held_out": [{"id": "1", "fields": {}}, {"id": "1", "fields": {}}]}"#,
            ),
            "`tasks` has the id `1` twice in `held_out`",
        ),
        (
            r#"{"id": 0, "protocol": 1, "roles": [], "reward_parts": ["x"]}"#.to_owned(),
            "`roles` is empty",
        ),
        (
            r#"{"id": 0, "protocol": 1, "roles": [{"name": "a"}], "reward_parts": ["x", "x"]}"#
                .to_owned(),
            "`reward_parts` lists `x` twice",
        ),
        (
            r#"{"id": 0, "protocol": 1, "roles": ["a"], "reward_parts": ["x"]}"#.to_owned(),
            "`roles` must be a list of objects with a `name` and, optionally, a `system` message: invalid \
             type: string \"a\", expected an object;",
        ),
        (
            r#"{"id": 0, "protocol": 1, "roles": [{"label": "a"}], "reward_parts": ["x"]}"#
                .to_owned(),
            "a `system` message: unknown field `label`",
        ),
        (
            r#"{"id": 0, "protocol": 1, "roles": [{"name": "a"}], "reward_parts": "x"}"#.to_owned(),
            "`reward_parts` must be a list of texts: invalid type: string \"x\"",
        ),
    ];
    for (text, expected) in rows {
        let message = hello_from(&text).unwrap_err();
        assert!(message.contains(expected), "{message}\nlacks {expected}");
        assert!(
            message.contains("`hello`") && message.contains("the answer was \""),
            "{message}"
        );
    }
}

#[test]
fn only_the_description_may_differ_between_workers() {
    let with = |extra: &str| {
        let json = format!(
            r#"{{"id": 0, "protocol": 1, "roles": [{{"name": "a"}}], "reward_parts": ["x"], {extra}}}"#
        );
        hello_from(&json).unwrap()
    };
    let first = with(r#""description": 1"#);
    let rows = [
        (r#""description": {"pid": 7}"#, None),
        (r#""horizon": 1, "per_role": false"#, None),
        (r#""horizon": 2"#, Some("horizon")),
        (r#""per_role": true"#, Some("per_role")),
        (r#""solved_at": 1"#, Some("solved_at")),
        (
            r#""tasks": {"train": [{"id": "1", "fields": {}}]}"#,
            Some("tasks"),
        ),
    ];
    for (extra, key) in rows {
        assert_eq!(first.difference(&with(extra)), key, "{extra}");
    }
    assert_eq!(first.difference(&hello(false)), Some("roles"));
}

fn step(per_role: bool, answer: &str) -> Result<Outcome, String> {
    let answer =
        read(answer.as_bytes(), CallName::Step, 3).map_err(|failure| failure.to_string())?;
    answer
        .outcome(&hello(per_role))
        .map_err(|failure| failure.to_string())
}

#[test]
fn rewards_are_shared_or_per_role() {
    let shared = Reward::new([("y", 1.0), ("x", -0.5)]);
    let end = r#"{"id": 3, "reward": {"y": 1, "x": -0.5}, "end": true}"#;
    assert_eq!(step(false, end), Ok(Outcome::end(shared.clone())));
    let next = r#"{"id": 3, "reward": {"y": 1, "x": -0.5}, "observations": ["go", "stop"]}"#;
    let observations = ["go", "stop"].map(Observation::new).into();
    assert_eq!(
        step(false, next),
        Ok(Outcome::continue_with(shared, observations))
    );
    let per_role = Reward::per_role([vec![("x", 0.5)], vec![]]);
    let end = r#"{"id": 3, "reward": [{"x": 0.5}, {}], "end": true}"#;
    assert_eq!(step(true, end), Ok(Outcome::end(per_role)));
}

#[test]
fn a_wrong_step_says_what_is_wrong() {
    let rows = [
        (false, r#""end": true"#, "missing field `reward`"),
        (
            false,
            r#""reward": 1, "end": true"#,
            "`reward` must be an object of parts",
        ),
        (
            false,
            r#""reward": [{}, {}], "end": true"#,
            "needs `\"per_role\": true` in the handshake",
        ),
        (
            true,
            r#""reward": {"x": 1}, "end": true"#,
            "a list with one object of parts per role",
        ),
        (
            true,
            r#""reward": [{}], "end": true"#,
            "holds 1 rewards, but there are 2 roles",
        ),
        (
            true,
            r#""reward": [1, 2], "end": true"#,
            "each reward must be an object",
        ),
        (
            false,
            r#""reward": {"z": 1}, "end": true"#,
            "the reward part `z` is not among the `reward_parts` of the handshake: x, y",
        ),
        (
            false,
            r#""reward": {"x": "1"}, "end": true"#,
            "the reward part `x` is not a number",
        ),
        (
            false,
            r#""reward": {"x": null}, "end": true"#,
            "the reward part `x` is not a number",
        ),
        (
            false,
            r#""reward": {"x": -1e308}, "end": true"#,
            "the reward part `x` is -1e308, but it must be a number from -1e30 to 1e30: scale or clip it",
        ),
        (false, r#""reward": {"x": 1}"#, "neither `observations`"),
        (
            false,
            r#""reward": {}, "end": false"#,
            "neither `observations`",
        ),
        (
            false,
            r#""reward": {}, "end": true, "observations": ["", ""]"#,
            "both `observations`",
        ),
        (
            false,
            r#""reward": {}, "observations": ["a"]"#,
            "holds 1 texts, but there are 2 roles",
        ),
        (
            false,
            r#""reward": {}, "observation": "a""#,
            "unknown field `observation`",
        ),
        (
            false,
            r#""reward": {"x": NaN}, "end": true"#,
            "answered `step` with NaN or Infinity, which JSON does not have: every number must be finite, \
             rewards too",
        ),
        (
            false,
            r#""reward": {"x": -Infinity}, "end": true"#,
            "with NaN or Infinity",
        ),
        (
            // Here NaN occurs only inside strings.
            false,
            r#""reward": {"\"NaN": 1, "y\\": Nan}, "end": true"#,
            "is not JSON (expected",
        ),
        (
            false,
            r#""reward": {"x": 1e999}, "end": true"#,
            "is not JSON (number out of range",
        ),
    ];
    for (per_role, fields, expected) in rows {
        let message = step(per_role, &format!(r#"{{"id": 3, {fields}}}"#)).unwrap_err();
        assert!(message.contains(expected), "{message}\nlacks {expected}");
        assert!(message.contains("`step`"), "{message}");
    }
}

#[test]
fn an_answer_belongs_to_its_call() {
    let message = |text: &str| step(false, text).unwrap_err();
    for answer in [
        r#"{"id": 2, "end": true}"#,
        r#"{"end": true}"#,
        r#"{"id": "3"}"#,
    ] {
        let message = message(answer);
        assert!(
            message.contains("`step`, which has the id 3, with"),
            "{message}"
        );
    }
    assert!(message("[1]").contains("an answer must be an object"));
    for line in ["hello", "loss: NaN"] {
        let message = message(line);
        assert!(message.contains("is not JSON"), "{message}");
    }
}

#[test]
fn a_program_may_report_an_error() {
    let message = |text: &str| step(false, text).unwrap_err();
    let expected = "reports an error in `step`: no town";
    assert_eq!(message(r#"{"id": 3, "error": "no town"}"#), expected);
    assert_eq!(message(r#"{"error": "no town"}"#), expected);
    assert!(message(r#"{"id": 9, "error": "no town"}"#).contains("which has the id 3"));
}
