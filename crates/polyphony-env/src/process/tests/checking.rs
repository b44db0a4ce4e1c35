//! Tests of [`check`], which tests programs.

use super::*;

/// Checks a program with one task; returns whether it is fine, and the report.
fn checked(process: &Process) -> (bool, String) {
    let report = check(process, Some(vec![task()])).unwrap();
    (report.is_fine(), report.to_string())
}

#[test]
fn the_example_is_fine_with_its_own_and_with_other_tasks() {
    let process = Process::new(["python3", NUMBER_PLATE]);
    let report = check(&process, None).unwrap();
    assert!(report.is_fine(), "{report}");
    let text = report.to_string();
    for expected in [
        "the handshake: roles letters, digits; one reward for all, with the parts letters, digits, \
         balance; at most 1 turns",
        "tasks of its own for `train`: 4",
        "the handshake is the same in another process",
        "control-character answers are scored the same every time",
        "a task without fields is refused: KeyError: 'town'",
        "it ends when its standard input is closed",
        "Nothing is wrong.",
    ] {
        assert!(text.contains(expected), "{text}\nlacks {expected}");
    }
    let report = check(&process, Some(vec![Task::new("Rom", [("town", "Rom")])])).unwrap();
    assert!(report.is_fine(), "{report}");
}

#[test]
fn problems_are_reported() {
    let endless = r#"reply(reward={"x": 1}, observations=["more", "more"])"#;
    let path = HELLO.replace(r#""name": "b""#, r#""name": "../b""#);
    let two_turns = HELLO.replace("protocol=1,", "protocol=1, horizon=2,");
    let mut stays = program(HELLO, END);
    stays.command[2].push_str("\nwhile True: time.sleep(1000)\n");
    for (process, expected) in [
        (
            program(
                HELLO,
                r#"call["n"] = 1; reply(reward={"x": time.time()}, end=True)"#,
            ),
            "is answered differently when it is repeated in the same process",
        ),
        (
            program(HELLO, r#"reply(reward={"x": os.getpid()}, end=True)"#),
            "is answered differently when it is repeated in another process",
        ),
        (
            program(HELLO, endless),
            "the episode continues after turn 1",
        ),
        (
            program(&two_turns, endless),
            "the episode continues after turn 2",
        ),
        (
            program(
                HELLO,
                r#"reply(reward={"x": len(call["responses"][0]["text"])}, end=len(call["responses"][0]["text"]) < 9)"#,
            ),
            "neither `observations`",
        ),
        (
            program(&hello_with_pid("solved_at"), END),
            "the handshake has a different value of `solved_at` in another process",
        ),
        (
            program(&path, END),
            "a recipe would refuse its handshake: it has a role \"../b\"",
        ),
        (stays, "does not end when its standard input is closed"),
    ] {
        let (is_fine, text) = checked(&process);
        assert!(
            !is_fine && text.contains(expected),
            "{text}\nlacks {expected}"
        );
        assert!(text.contains("WRONG"), "{text}");
    }
}

#[test]
fn a_problem_is_reported_once() {
    let first = "calls, first with empty answers to task `1` in turn 1: it";
    let fails = format!("if call['task']['id'] == '1' and not call['past']: 1 / 0\n        {END}");
    let noisy = HELLO.replace("reply(", "sys.stderr.write('ready\\n'); reply(");
    for (process, expected) in [
        // Each kind of answers to each task, and the last turn once more.
        (
            program(HELLO, r#"reply(reward={"z": 1}, end=True)"#),
            format!("19 {first} answered `step` with something that the protocol does not allow"),
        ),
        (
            program(HELLO, r#"reply(reward={"x": float("nan")}, end=True)"#),
            format!("19 {first} answered `step` with NaN or Infinity"),
        ),
        (
            program(HELLO, "1 / 0"),
            format!("19 {first} ended before it answered `step`: exit status: 1"),
        ),
        // Only one task, and its last turn once more.
        (
            program(&noisy, &fails),
            format!("7 {first} ended before it answered `step`: exit status: 1"),
        ),
    ] {
        let tasks = ["1", "2", "3"].map(|id| Task::new(id, [("text", "x")]));
        let text = check(&process, Some(tasks.into())).unwrap().to_string();
        assert!(text.contains(&expected), "{text}\nlacks {expected}");
        assert_eq!(text.matches("WRONG").count(), 1, "{text}");
        assert!(text.matches("ZeroDivisionError").count() < 2, "{text}");
        assert!(text.ends_with("1 thing is wrong.\n"), "{text}");
    }
}

#[test]
fn a_program_that_ends_once_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let step = format!(
        r#"
        mark = {:?}
        if not os.path.exists(mark):
            open(mark, "w").close()
            os._exit(5)
        {END}"#,
        folder.path().join("mark")
    );
    let (is_fine, text) = checked(&program(HELLO, &step));
    let expected = "1 call, with empty answers to task `t` in turn 1: it ended before it answered `step`: \
                    exit status: 5";
    assert!(!is_fine && text.contains(expected), "{text}");
}

#[test]
fn a_check_ends_after_ten_problems() {
    let process = program(HELLO, r#"reply(error=f"error {call['id']}")"#);
    let tasks = ["1", "2", "3"].map(|id| Task::new(id, [("text", "x")]));
    let text = check(&process, Some(tasks.into())).unwrap().to_string();
    assert_eq!(text.matches("WRONG").count(), 10, "{text}");
    let expected = "note   the check ended early, after 10 different problems";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn notes_are_not_problems() {
    let hello = HELLO.replace(
        "protocol=1,",
        r#"protocol=1, tasks={"train": [{"id": "1", "fields": {}}]},"#,
    );
    let hello = format!("sys.stderr.write('ready\\n'); {hello}");
    let report = check(&program(&hello, END), None).unwrap();
    let text = report.to_string();
    for expected in [
        "note   no tasks of its own for `held_out`: training needs tasks of both splits",
        "note   its standard error ends with\n       ready\n",
        "Nothing is wrong.",
    ] {
        assert!(text.contains(expected), "{text}\nlacks {expected}");
    }
    assert!(report.is_fine(), "{text}");
}

#[test]
fn the_description_may_depend_on_the_process() {
    let (is_fine, text) = checked(&program(&hello_with_pid("description"), END));
    assert!(is_fine, "{text}");
}

#[test]
fn a_program_without_tasks_needs_some() {
    let report = check(&program(HELLO, END), None).unwrap();
    assert!(!report.is_fine());
    assert!(
        report.to_string().contains("there are no tasks to play"),
        "{report}"
    );
    let (is_fine, text) = checked(&program(HELLO, END));
    assert!(is_fine, "{text}");
    let error = check(&program("print('hi')", END), None).unwrap_err();
    assert!(error.to_string().contains("is not JSON"), "{error}");
}
