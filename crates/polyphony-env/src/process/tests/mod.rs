//! Real programs, correct and wrong: small Python scripts that need only the standard library.

mod checking;
mod ending;
mod failures;
mod games;

use std::error::Error;

use polyphony_episode::{Environment, JointAction, Outcome, Response, Task};

use super::*;

/// The example that `docs/environments.md` explains.
const NUMBER_PLATE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/examples/process/number_plate.py"
);

/// The handshake of a game for two, in Python.
const HELLO: &str =
    r#"reply(protocol=1, roles=[{"name": "a"}, {"name": "b"}], reward_parts=["x"])"#;

/// The same handshake, with the program's process id under one more key.
fn hello_with_pid(key: &str) -> String {
    HELLO.replace("protocol=1,", &format!("protocol=1, {key}=os.getpid(),"))
}

/// A valid end of the game, in Python.
const END: &str = r#"reply(reward={"x": 1}, end=True)"#;

/// A program that runs this Python code for the handshake and for a step. `reply` answers the call.
fn program(hello: &str, step: &str) -> Process {
    let script = format!(
        r#"
import json, os, sys, time
for line in sys.stdin:
    call = json.loads(line)
    def reply(**answer):
        print(json.dumps({{"id": call["id"], **answer}}), flush=True)
    if call["call"] == "hello":
        {hello}
    elif call["call"] == "start":
        reply(observations=["go", "go"])
    else:
        {step}
"#
    );
    Process::new(["python3", "-c", &script])
}

fn task() -> Task {
    Task::new("t", [("text", "x")])
}

fn action(texts: [&str; 2]) -> JointAction {
    JointAction::new(texts.map(Response::from_text).into())
}

fn step(environment: &dyn Environment) -> Result<Outcome, String> {
    let outcome = environment.step(&task(), &[], &action(["a", "b"]));
    outcome.map_err(|error| with_sources(&error))
}

fn with_sources(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_sources(source)),
        None => error.to_string(),
    }
}
