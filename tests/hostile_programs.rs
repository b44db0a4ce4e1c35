//! A training run whose models write programs against the one that judges them.

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

use crate::command::{Place, text};

/// Its answers are small on the wire and fill the memory of whoever keeps them.
const ATTACK: &str = r"
def f(n):
    if n == 0: return [set() for _ in range(838_000)]
    return [{None: None} if n % 2 else set() for _ in range(300_000)]
";

const RIGHT: &str = "def f(n): return n";

const TEST: &str = "def check(candidate):\n    for n in range(9):\n        answer = candidate(n)\n        \
                    assert answer == n\n";

/// The coding environment for agents whose programs are chosen by what they say: every other one attacks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Attacked {
    workers: Option<usize>,
}

struct Playing(Box<dyn Environment>);

impl EnvironmentSettings for Attacked {
    fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
        let mut coding = Coding::default();
        coding.sandbox.workers = self.workers;
        Ok(Box::new(Playing(coding.build()?)))
    }
}

/// Whether the agents' answer stands for the attack.
fn attacks(action: &JointAction) -> bool {
    let bytes = action.responses.iter().flat_map(|one| one.text.bytes());
    bytes.map(u32::from).sum::<u32>() % 2 == 1
}

impl Environment for Playing {
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
        let written = ["def aux(n): return n", main].map(Response::from_text);
        self.0.step(task, past, &JointAction::new(written.into()))
    }
}

#[test]
fn a_run_goes_through_programs_that_fill_their_judges_memory() {
    let place = Place::new();
    chat_model(&place.path("model"), 4096);
    let recipe = format!(
        "(environment: Attacked, team: Copies({:?}), max_new_tokens: 6, steps: 2, \
         algorithm: Magrpo(samples: 4), updates: (learning_rate: 1e-3), evaluation: (tasks: 1))",
        text(&place.path("model"))
    );
    let program = Program::standard().environment::<Attacked>("Attacked");
    let recipe = Recipe::from_ron(program.registry(), &recipe).unwrap();
    let run = place.path("run");
    let trained = program.train(&recipe, Some(&run), &Stop::new(), &mut ());
    assert_eq!(trained.unwrap().steps, 2);

    let mut counts = [0, 0];
    for node in place.read_lines("run/rollouts.jsonl") {
        for joint in node["joint_actions"].as_array().unwrap() {
            let picks = joint["picks"].as_array().unwrap().iter();
            let agents = node["agents"].as_array().unwrap().iter();
            let said = picks.zip(agents).map(|(pick, agent)| {
                let pick = pick.as_u64().unwrap() as usize;
                Response::from_text(agent["responses"][pick]["text"].as_str().unwrap())
            });
            let attack = attacks(&JointAction::new(said.collect()));
            // Two functions that are defined and read by Python; the attack passes no test.
            let tests = joint["parts"]["tests"].as_f64().unwrap();
            assert_eq!(tests, if attack { 0.0 } else { 1.0 }, "{joint}");
            counts[usize::from(attack)] += 1;
        }
    }
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
}
