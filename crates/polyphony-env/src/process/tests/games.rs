//! Programs that follow the protocol.

use std::{
    io::Write,
    num::NonZeroUsize,
    process::{Command, Stdio},
    thread,
};

use polyphony_episode::{
    EnvironmentError, EnvironmentSettings, FnEnvironment, Next, Observation, Reward, Role, Split,
    Turn,
};
use proptest::prelude::*;

use super::*;

/// The example's game in Rust.
fn number_plate() -> FnEnvironment {
    let fraction = |text: &str, matches: fn(&char) -> bool| {
        text.chars().filter(matches).count() as f64 / text.chars().count().max(1) as f64
    };
    let score = move |_: &Task, action: &JointAction| {
        let [letters, digits] = action.texts();
        let [first, second] = [letters, digits].map(|text| text.chars().count() as f64);
        Reward::new([
            ("letters", fraction(letters, char::is_ascii_alphabetic)),
            ("digits", fraction(digits, char::is_ascii_digit)),
            ("balance", first.min(second) / first.max(second).max(1.0)),
        ])
    };
    let observe = |task: &Task| -> Result<Vec<Observation>, EnvironmentError> {
        let town = task.field("town")?;
        let parts = ["letters", "digits"].into_iter();
        Ok(parts
            .map(|part| Observation::new(format!("{town}: {part}")))
            .collect())
    };
    FnEnvironment::new(
        ["letters", "digits"],
        ["letters", "digits", "balance"],
        score,
    )
    .with_observations(observe)
}

#[test]
fn the_same_game_in_rust_and_in_python_gives_equal_rewards() {
    let python = Process::new(["python3", NUMBER_PLATE]).build().unwrap();
    let rust = number_plate();
    assert_eq!(python.roles(), rust.roles());
    assert_eq!(python.reward_parts(), rust.reward_parts());
    assert_eq!(python.horizon(), rust.horizon());
    let tasks = python.tasks(Split::Train).unwrap();
    assert_eq!(
        (tasks.len(), python.tasks(Split::HeldOut).unwrap().len()),
        (4, 2)
    );
    for task in &tasks {
        assert_eq!(python.start(task).unwrap(), rust.start(task).unwrap());
    }
    let texts = ["[A-Z]{0,6}", "[0-9]{0,6}", "\\PC{0,12}", ".{0,8}"];
    let text = || {
        prop::sample::select(texts.to_vec())
            .prop_flat_map(|pattern| proptest::string::string_regex(pattern).unwrap())
    };
    let mut runner = proptest::test_runner::TestRunner::default();
    let result = runner.run(&(text(), text()), |(letters, digits)| {
        let action = action([&letters, &digits]);
        let [python, rust] = [&*python, &rust as &dyn Environment]
            .map(|environment| environment.step(&tasks[0], &[], &action).unwrap());
        prop_assert_eq!(python, rust);
        Ok(())
    });
    result.unwrap();
}

#[test]
fn settings_reach_the_program() {
    let mut process = Process::new(["python3", NUMBER_PLATE]);
    process.settings.insert("balance".to_owned(), 3.into());
    let game = process.build().unwrap();
    let task = &game.tasks(Split::Train).unwrap()[0];
    let outcome = game.step(task, &[], &action(["AB", "12"])).unwrap();
    assert_eq!(outcome.reward.part("balance"), Some(3.0));
    process.settings.insert("gravity".to_owned(), 3.into());
    let message = with_sources(&process.build().err().unwrap());
    let expected = "reports an error in `hello`: ValueError: there is no setting `gravity`";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn turns_rewards_per_role_and_system_messages_are_passed_on() {
    let hello = r#"reply(protocol=1, horizon=2, per_role=True, solved_at=2, reward_parts=["length"],
            roles=[{"name": "a", "system": "Be brief."}, {"name": "b"}], description={"version": 3})"#;
    let step = r#"
        lengths = [len(one["text"]) for one in call["responses"]]
        reward = [{"length": length} for length in lengths]
        if call["past"]:
            assert call["past"][0]["observations"] == ["go", "go"], call
            before = [one["text"] for one in call["past"][0]["responses"]]
            assert before == ["\r\n", "b"], call
            reply(reward=reward, end=True)
        else:
            reply(reward=reward, observations=["again", "é\n"])"#;
    let game = program(hello, step).build().unwrap();
    assert_eq!(game.roles()[0], Role::new("a").with_system("Be brief."));
    assert_eq!(
        game.description().unwrap()["handshake"]["description"]["version"],
        3
    );
    let observations = game.start(&task()).unwrap();
    let first = action(["\r\n", "b"]);
    let outcome = game.step(&task(), &[], &first).unwrap();
    assert_eq!(
        outcome.reward,
        Reward::per_role([[("length", 2.0)], [("length", 1.0)]])
    );
    assert_eq!(game.is_solved(&outcome.reward), Some(false));
    let observations_after = ["again", "é\n"].map(Observation::new).into();
    assert_eq!(outcome.next, Next::Continue(observations_after));
    let past = [Turn {
        observations,
        action: first,
    }];
    let outcome = game
        .step(&task(), &past, &action(["four", "four"]))
        .unwrap();
    assert_eq!((outcome.reward.total(), outcome.next), (4.0, Next::End));
    assert_eq!(game.is_solved(&outcome.reward), Some(true));
}

#[test]
fn workers_answer_in_parallel() {
    // Each step waits for another step, which only another worker can answer.
    let folder = tempfile::tempdir().unwrap();
    let step = format!(
        r#"
        folder = {:?}
        open(os.path.join(folder, str(os.getpid())), "w").close()
        while len(os.listdir(folder)) < 2:
            time.sleep(0.001)
        {END}"#,
        folder.path()
    );
    let mut process = program(HELLO, &step);
    process.workers = NonZeroUsize::new(2).unwrap();
    let game = process.build().unwrap();
    assert_eq!(game.concurrency().get(), 2);
    thread::scope(|scope| {
        let steps = [0; 4].map(|_| scope.spawn(|| super::step(&*game)));
        for step in steps {
            step.join().unwrap().unwrap();
        }
    });
}

#[test]
fn messages_may_be_larger_than_a_pipe_in_both_directions() {
    let step = r#"
        noise = [sys.stderr.write("noise " * 100 + "\n") for _ in range(1000)]
        text = call["responses"][0]["text"]
        reply(reward={"x": len(text)}, observations=[text, text])"#;
    let hello = HELLO.replace("protocol=1,", "protocol=1, horizon=2,");
    let game = program(&hello, step).build().unwrap();
    let long = "é\"\n".repeat(1 << 18);
    let outcome = game.step(&task(), &[], &action([&long, ""])).unwrap();
    assert_eq!(outcome.reward.total(), f64::from(3 << 18));
    let Next::Continue(observations) = outcome.next else {
        panic!("there is a second turn")
    };
    assert!(*observations[1].text == *long);
}

/// The example gives the answers that the documentation shows.
#[test]
fn the_example_answers_as_documented() {
    let document = include_str!("../../../../../docs/environments.md");
    let (_, exchange) = document
        .split_once("An exchange, with calls after")
        .unwrap();
    let lines_after = |mark: &str| -> Vec<&str> {
        let lines = exchange
            .lines()
            .filter_map(|line| line.strip_prefix("    "));
        lines.filter_map(|line| line.strip_prefix(mark)).collect()
    };
    let (calls, answers) = (lines_after("> "), lines_after("< "));
    assert_eq!((calls.len(), answers.len()), (4, 4));
    let mut child = Command::new("python3")
        .arg(NUMBER_PLATE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all((calls.join("\n") + "\n").as_bytes())
        .unwrap();
    drop(stdin);
    let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(output.lines().count(), answers.len());
    for (answer, documented) in output.lines().zip(answers) {
        let [mut answer, documented] = [answer, documented]
            .map(|line| serde_json::from_str::<serde_json::Map<_, _>>(line).unwrap());
        // The documented handshake leaves out some optional keys.
        answer.retain(|key, _| documented.contains_key(key));
        assert_eq!(answer, documented);
    }
}
