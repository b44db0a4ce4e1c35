//! The functions of the library that correspond to commands.

use polyphony::{
    Event, Observer, Program, Recipe, ResumeFrom, Stop,
    env::Writing,
    episode::Environment as _,
    hub::{Transfer, TransferPhase},
};
use polyphony_test_support::chat_model;

use crate::command::{TestDir, text};

fn recipe(dir: &TestDir) -> Recipe {
    chat_model(&dir.path("model"), 4096);
    let changes = [
        format!("team=Copies({:?})", text(&dir.path("model"))),
        "max_new_tokens=6".to_owned(),
        "evaluation.tasks=1".to_owned(),
        "algorithm.samples=2".to_owned(),
        "steps=2".to_owned(),
    ];
    Program::standard().load_recipe(None, &changes).unwrap()
}

#[test]
fn a_stopped_run_is_resumed_in_the_same_process() {
    let dir = TestDir::new();
    let (program, recipe) = (Program::standard(), recipe(&dir));
    let run = dir.path("run");
    let stop = Stop::new();
    stop.request();
    let stopped = program.train(&recipe, Some(&run), &stop, &mut ()).unwrap();
    assert_eq!((stopped.steps, stopped.after), (0, None));
    // A stop token belongs to one run, so the second run is not stopped.
    let resumed = program.resume(&run, &ResumeFrom::Newest, &[], &Stop::new(), &mut ());
    let resumed = resumed.unwrap();
    assert_eq!((resumed.steps, resumed.roles.len()), (2, 2));
    assert!(resumed.before.is_some() && resumed.after.is_some());

    let whole = dir.path("whole");
    program
        .train(&recipe, Some(&whole), &Stop::new(), &mut ())
        .unwrap();
    let rollouts = |name: &str| dir.read(&format!("{name}/rollouts.jsonl"));
    assert_eq!(rollouts("run"), rollouts("whole"));
}

#[cfg(target_os = "linux")]
#[test]
fn the_library_does_not_handle_ctrl_c() {
    let dir = TestDir::new();
    let recipe = recipe(&dir);
    let stop = Stop::new();
    stop.request();
    Program::standard()
        .train(&recipe, Some(&dir.path("run")), &stop, &mut ())
        .unwrap();
    // The signals for which this process has handlers, one bit each. Signal 1 has the lowest bit, and SIGINT
    // is signal 2.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let handled = lines.find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    let handled = u64::from_str_radix(handled.trim(), 16).unwrap();
    assert_eq!(handled & 0b10, 0, "{handled:x}");
}

/// An observer that collects the phases of downloads.
#[derive(Default)]
struct Phases(Vec<TransferPhase>);

impl Observer for Phases {
    fn on_event(&mut self, event: Event<'_>) {
        if let Event::Transfer(transfer) = event {
            self.0.push(transfer.phase);
        }
    }
}

#[test]
fn the_facade_re_exports_all_types_of_events() {
    let mut phases = Phases::default();
    phases.on_event(Event::Transfer(Transfer {
        file: "model.safetensors",
        total: 2,
        done: 1,
        phase: TransferPhase::Advanced,
    }));
    assert_eq!(phases.0, [TransferPhase::Advanced]);
    assert_eq!(Writing::tldr().roles().len(), 2);
}
