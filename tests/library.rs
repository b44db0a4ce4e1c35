//! The same as the command, as functions.

use polyphony::{
    Event, Observer, Program, Recipe, ResumeFrom, Stop,
    env::Writing,
    episode::Environment as _,
    hub::{Transfer, TransferPhase},
};
use polyphony_test_support::chat_model;

use crate::command::{Place, text};

fn recipe(place: &Place) -> Recipe {
    chat_model(&place.path("model"), 4096);
    let changes = [
        format!("team=Copies({:?})", text(&place.path("model"))),
        "max_new_tokens=6".to_owned(),
        "evaluation.tasks=1".to_owned(),
        "algorithm.samples=2".to_owned(),
        "steps=2".to_owned(),
    ];
    Program::standard().load_recipe(None, &changes).unwrap()
}

#[test]
fn a_stopped_run_is_resumed_in_the_same_process() {
    let place = Place::new();
    let (program, recipe) = (Program::standard(), recipe(&place));
    let run = place.path("run");
    let stop = Stop::new();
    stop.request();
    let stopped = program.train(&recipe, Some(&run), &stop, &mut ()).unwrap();
    assert_eq!((stopped.steps, stopped.after), (0, None));
    // A token belongs to one run: that the first was stopped is nothing to the second.
    let resumed = program.resume(&run, &ResumeFrom::Newest, &[], &Stop::new(), &mut ());
    let resumed = resumed.unwrap();
    assert_eq!((resumed.steps, resumed.roles.len()), (2, 2));
    assert!(resumed.before.is_some() && resumed.after.is_some());

    let whole = place.path("whole");
    program
        .train(&recipe, Some(&whole), &Stop::new(), &mut ())
        .unwrap();
    let rollouts = |name: &str| place.read(&format!("{name}/rollouts.jsonl"));
    assert_eq!(rollouts("run"), rollouts("whole"));
}

#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_is_left_to_whoever_calls() {
    let place = Place::new();
    let recipe = recipe(&place);
    let stop = Stop::new();
    stop.request();
    Program::standard()
        .train(&recipe, Some(&place.path("run")), &stop, &mut ())
        .unwrap();
    // The signals that this process has handlers for, the first in the lowest bit; SIGINT is the second.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let handled = lines.find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    let handled = u64::from_str_radix(handled.trim(), 16).unwrap();
    assert_eq!(handled & 0b10, 0, "{handled:x}");
}

/// The phases of the downloads that it was told of.
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
fn one_dependency_has_all_types_that_events_show() {
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
