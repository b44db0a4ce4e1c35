//! The coding environment with a real sandbox: conformance, hostile responses, whole episodes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod conformance;
mod episodes;
mod responses;

use std::{
    sync::{Arc, LazyLock},
    thread,
};

use polyphony_env::{Assessment, CodingEnvironment, CodingSettings, Problems};
use polyphony_episode::{JointAction, Response, Task, TaskSource};
use polyphony_sandbox::{Pool, SandboxConfig};

/// All tests share one sandbox, as all threads of a run do.
static POOL: LazyLock<Arc<Pool>> =
    LazyLock::new(|| Arc::new(Pool::start(&SandboxConfig::default()).unwrap()));

/// The 164 problems, without their solutions.
static HUMAN_EVAL: LazyLock<Vec<Task>> = LazyLock::new(|| {
    let source = Problems {
        path: HUMAN_EVAL_FILE.into(),
        skip: 0,
        limit: None,
        bounds: polyphony_env::DataBounds::default(),
    };
    source.load().unwrap()
});

const HUMAN_EVAL_FILE: &str = "fixtures/HumanEval.jsonl.gz";

fn coding(settings: CodingSettings) -> CodingEnvironment {
    CodingEnvironment::new(Arc::clone(&POOL), settings).unwrap()
}

fn human_eval(id: &str) -> &'static Task {
    HUMAN_EVAL.iter().find(|task| task.id == id).unwrap()
}

/// A problem with three asserts: to double a number.
fn double() -> Task {
    let test = "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(2) == 4\n    \
                assert candidate('a') == 'aa'\n";
    let prompt = "def double(x):\n    \"\"\" Twice x. \"\"\"\n";
    Task::new(
        "t/double",
        [
            ("prompt", prompt),
            ("entry_point", "double"),
            ("test", test),
        ],
    )
}

fn assess(task: &Task, auxiliary: &str, main: &str) -> Assessment {
    let coding = coding(CodingSettings::default());
    coding.assess(task, auxiliary, main).unwrap()
}

fn action(auxiliary: &str, main: &str) -> JointAction {
    JointAction::new([auxiliary, main].map(Response::from_text).into())
}

/// Applies `work` to every item, on as many threads as the machine has cores.
fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let threads = thread::available_parallelism().map_or(1, |cores| cores.get());
    let chunk = items.len().div_ceil(threads);
    thread::scope(|scope| {
        for part in items.chunks(chunk) {
            scope.spawn(|| part.iter().for_each(&work));
        }
    });
}
