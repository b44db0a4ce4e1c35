//! Testing programs.

use super::*;

/// Checks a program with one task; returns whether it is fine, and the report.
fn checked(process: &Process) -> (bool, String) {
    let report = check(process, Some(vec![task()])).unwrap();
    (report.is_fine(), report.to_string())
}

#[test]
fn the_example_is_fine_with_its_own_tasks_and_others() {
    let process = Process::new(["python3", NUMBER_PLATE]);
    let report = check(&process, None).unwrap();
    assert!(report.is_fine(), "{report}");
    let text = report.to_string();
    for expected in [
        "the handshake: roles letters, digits; one reward for all, of the parts letters, digits, \
         balance; at most 1 turns",
        "tasks of its own for `train`: 4",
        "the handshake is the same in another process",
        "control-character answers are scored the same every time",
        "a task without fields: task `without fields`:",
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
        (program(HELLO, endless), "task `t` continues after turn 1"),
        (
            program(&two_turns, endless),
            "task `t` continues after turn 2",
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
