//! A training run whose models write programs that attack the judge, which is the sandbox's process that runs
//! the tests.

#![cfg(target_os = "linux")]

use polyphony::{
    Program, Recipe, Stop,
    env::Coding,
    episode::{
        Environment, EnvironmentError, EnvironmentSettings, JointAction, Observation, Outcome,
        Response, Role, Split, Task, Turn,
    },
};
use polyphony_test_support::chat_model;
use serde::{Deserialize, Serialize};

use crate::command::{TestDir, text};

/// The return values of this program are small while they are sent, but fill the memory of the process that
/// receives them.
const ATTACK: &str = r"
def f(n):
    if n == 0: return [set() for _ in range(838_000)]
    return [{None: None} if n % 2 else set() for _ in range(300_000)]
";

const RIGHT: &str = "def f(n): return n";

const TEST: &str = "def check(candidate):\n    for n in range(9):\n        answer = candidate(n)\n        \
                    assert answer == n\n";

/// The coding environment, except that the text of the agents only selects a program: about half of the
/// programs attack.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Attacked {
    workers: Option<usize>,
}

struct AttackedCoding(Box<dyn Environment>);

impl EnvironmentSettings for Attacked {
    fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
        let mut coding = Coding::default();
        coding.sandbox.workers = self.workers;
        Ok(Box::new(AttackedCoding(coding.build()?)))
    }
}

/// Whether a joint action selects the attack.
fn attacks(action: &JointAction) -> bool {
    let responses = action.responses.iter();
    let bytes = responses.flat_map(|response| response.text.bytes());
    bytes.map(u32::from).sum::<u32>() % 2 == 1
}

impl Environment for AttackedCoding {
    fn roles(&self) -> &[Role] {
        self.0.roles()
    }

    fn reward_parts(&self) -> &[String] {
        self.0.reward_parts()
    }

    fn tasks(&self, _: Split) -> Option<Vec<Task>> {
        let fields = [
            ("prompt", "def f(n):\n    \"\"\" n itself. \"\"\"\n"),
            ("entry_point", "f"),
            ("test", TEST),
        ];
        Some(vec![Task::new("t/same", fields)])
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        self.0.start(task)
    }

    fn step(
        &self,
        task: &Task,
        past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        let main = if attacks(action) { ATTACK } else { RIGHT };
        let programs = ["def aux(n): return n", main].map(Response::from_text);
        self.0.step(task, past, &JointAction::new(programs.into()))
    }
}

#[test]
fn a_run_survives_programs_that_fill_the_memory_of_the_judge() {
    let dir = TestDir::new();
    chat_model(&dir.path("model"), 4096);
    let recipe = format!(
        "(environment: Attacked, team: Copies({:?}), max_new_tokens: 6, steps: 2, \
         algorithm: Magrpo(samples: 4), updates: (learning_rate: 1e-3), evaluation: (tasks: 1))",
        text(&dir.path("model"))
    );
    let program = Program::standard().environment::<Attacked>("Attacked");
    let recipe = Recipe::from_ron(program.registry(), &recipe).unwrap();
    let run = dir.path("run");
    let trained = program.train(&recipe, Some(&run), &Stop::new(), &mut ());
    assert_eq!(trained.unwrap().steps, 2);

    let mut counts = [0, 0];
    for node in dir.read_lines("run/rollouts.jsonl") {
        for joint in node["joint_actions"].as_array().unwrap() {
            let picks = joint["picks"].as_array().unwrap().iter();
            let agents = node["agents"].as_array().unwrap().iter();
            let responses = picks.zip(agents).map(|(pick, agent)| {
                let pick = pick.as_u64().unwrap() as usize;
                Response::from_text(agent["responses"][pick]["text"].as_str().unwrap())
            });
            let is_attack = attacks(&JointAction::new(responses.collect()));
            // Both programs are valid Python; the attack passes no test.
            let tests = joint["parts"]["tests"].as_f64().unwrap();
            assert_eq!(tests, if is_attack { 0.0 } else { 1.0 }, "{joint}");
            counts[usize::from(is_attack)] += 1;
        }
    }
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
}
