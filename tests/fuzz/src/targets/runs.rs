//! The records of a run, which reports and `resume` read again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use polyphony::{Recipe, ResumeFrom, Stop};
use polyphony_report::{Run, compare, comparison_text, is_control, page};
use polyphony_test_support::chat_model;

use super::recipes::program;
use crate::check;

/// Two steps of two small agents, which take one second in all.
const RECIPE: &str = r#"(
    seed: 7,
    environment: Tldr,
    train: File(path: "POSTS", fields: {"post": "body"}),
    held_out: File(path: "POSTS", fields: {"post": "body"}),
    team: Copies("MODEL"),
    max_new_tokens: 6,
    algorithm: Magrpo(samples: 2),
    steps: 2,
    tasks_per_step: 1,
    evaluation: (tasks: 1, samples: 1),
    checkpoints: (every: 1, keep: 1),
)"#;

/// The records that an input may replace. The first byte of the input selects one.
const RECORDS: [&str; 8] = [
    "recipe.ron",
    "run.json",
    "metrics.jsonl",
    "metrics.json",
    "rollouts.jsonl",
    "evaluations.jsonl",
    "environment.json",
    "tensorboard/events.out.tfevents.polyphony",
];

/// The records that `resume` checks. The first byte of the input selects one.
const RESUME_RECORDS: [&str; 6] = [
    "checkpoints/step-000002/state.ron",
    "recipe.ron",
    "metrics.jsonl",
    "rollouts.jsonl",
    "evaluations.jsonl",
    "tensorboard/events.out.tfevents.polyphony",
];

/// Makes a run in `folder/run`, with copies of all records in `folder/whole`. Its model is removed
/// afterwards, so nothing can be trained.
pub(super) fn make_run(folder: &Path) {
    let (model, posts) = (folder.join("model"), folder.join("posts.jsonl"));
    chat_model(&model, 4096);
    fs::write(
        &posts,
        "{\"body\": \"my cat sat\"}\n{\"body\": \"he ran\"}\n",
    )
    .unwrap();
    let recipe = RECIPE
        .replace("POSTS", posts.to_str().unwrap())
        .replace("MODEL", model.to_str().unwrap());
    let recipe = Recipe::from_ron(program().registry(), &recipe).unwrap();
    let run = folder.join("run");
    let stop = Stop::new();
    program()
        .train(&recipe, Some(&run), &stop, &mut ())
        .unwrap();
    fs::remove_dir_all(&model).unwrap();
    for name in RECORDS
        .iter()
        .chain(&RESUME_RECORDS)
        .filter(|name| run.join(name).is_file())
    {
        let copy = folder.join("whole").join(name);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(run.join(name), copy).unwrap();
    }
}

/// Reads a run with one record replaced, and puts the original back.
fn with_replaced(folder: &Path, names: &[&str], bytes: &[u8], read: impl FnOnce(&Path)) {
    let Some((first, contents)) = bytes.split_first() else {
        return;
    };
    let name = names[usize::from(*first) % names.len()];
    let run = folder.join("run");
    let (path, original): (PathBuf, PathBuf) = (run.join(name), folder.join("whole").join(name));
    fs::write(&path, contents).unwrap();
    read(&run);
    match original.is_file() {
        true => drop(fs::copy(original, path).unwrap()),
        false => fs::remove_file(path).unwrap(),
    }
}

/// One record of a run, read by `compare` and `report`. The first byte of the input selects it.
pub(super) fn run(folder: &Path, bytes: &[u8]) {
    with_replaced(folder, &RECORDS, bytes, |run| {
        let outcome = Run::read(run);
        let text = outcome.and_then(|run| Ok(comparison_text(&compare([&run])?)));
        for outcome in [text, page(&[run])] {
            match outcome {
                Ok(text) => assert_eq!(text.find(is_hostile), None, "at {}", around(&text)),
                Err(error) => check::message(&error.to_string()),
            }
        }
    });
}

/// Whether a character could control a terminal, or change the direction of the text around it.
fn is_hostile(character: char) -> bool {
    is_control(character) && !matches!(character, '\n' | '\t')
}

fn around(text: &str) -> String {
    let at = text.find(is_hostile).unwrap_or_default();
    let before: String = text[..at].chars().rev().take(80).collect();
    let before: String = before.chars().rev().collect();
    format!(
        "{:?}",
        before + &text[at..].chars().take(20).collect::<String>()
    )
}

/// One record that `resume` checks before it reads a model. Whatever it contains, the run cannot be resumed,
/// because its model has been removed.
pub(super) fn checkpoint(folder: &Path, bytes: &[u8]) {
    with_replaced(folder, &RESUME_RECORDS, bytes, |run| {
        let overrides = ["steps=3".to_owned()];
        let newest = &ResumeFrom::Newest;
        match program().resume(run, newest, &overrides, &Stop::new(), &mut ()) {
            Ok(_) => panic!("a run without a model was resumed"),
            Err(error) => check::message(&format!("{error:#}")),
        }
    });
}
