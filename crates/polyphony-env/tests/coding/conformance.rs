//! The rewards of recorded responses, and of the data sets' own solutions.

use std::{fs::File, io::BufReader, io::Read};

use flate2::bufread::GzDecoder;
use polyphony_env::{CodingEnvironment, CodingSettings, Definition, Embedded, EmbeddedSet};
use polyphony_episode::{Environment, Task, TaskSource};
use serde::Deserialize;

use crate::{HUMAN_EVAL, HUMAN_EVAL_FILE, action, assess, coding, human_eval, in_parallel};

#[derive(Deserialize)]
struct ScoredResponses {
    task_id: String,
    case: String,
    aux: String,
    main: String,
    reward: f64,
}

#[test]
fn every_conformance_row_matches() {
    let rows: Vec<ScoredResponses> = include_str!("../../fixtures/coding.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 300);
    let coding = coding(CodingSettings::default());
    in_parallel(&rows, |row| {
        let task = human_eval(&row.task_id);
        let action = action(&row.aux, &row.main);
        let reward = coding.step(task, &[], &action).unwrap().reward;
        assert!(
            (reward.total() - row.reward).abs() < 1e-6,
            "{}, {}: {reward:?}, expected {}",
            row.task_id,
            row.case,
            row.reward
        );
    });
}

/// A problem with its solution, which the environment never reads.
#[derive(Deserialize)]
struct SolvedProblem {
    task_id: String,
    prompt: String,
    canonical_solution: String,
}

#[test]
fn every_canonical_solution_passes_all_its_tests() {
    let mut text = String::new();
    let file = BufReader::new(File::open(HUMAN_EVAL_FILE).unwrap());
    GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let problems: Vec<SolvedProblem> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((problems.len(), HUMAN_EVAL.len()), (164, 164));
    in_parallel(&problems, |problem| {
        let id = &problem.task_id;
        let solution = format!("{}{}", problem.prompt, problem.canonical_solution);
        let assessment = assess(human_eval(id), "", &solution);
        assert!(assessment.is_solved(), "{id}: {assessment:?}");
        assert_eq!(assessment.entry, Definition::Returns, "{id}");
    });
}

#[test]
fn every_reference_pair_of_the_embedded_problems_earns_the_highest_reward() {
    let coding = coding(CodingSettings::default());
    let tasks: Vec<Task> = [EmbeddedSet::CoopTrain, EmbeddedSet::CoopHeldOut]
        .into_iter()
        .flat_map(|set| Embedded(set).load().unwrap())
        .collect();
    assert_eq!(tasks.len(), 48);
    in_parallel(&tasks, |task| {
        let action = action(
            &task.fields["reference_aux"],
            &task.fields["reference_main"],
        );
        let reward = coding.step(task, &[], &action).unwrap().reward;
        assert_eq!(
            reward.total(),
            CodingEnvironment::MAX_REWARD,
            "{}: {reward:?}",
            task.id
        );
    });
}

#[test]
fn every_problem_is_shown_with_its_signature() {
    let coding = coding(CodingSettings::default());
    for task in &*HUMAN_EVAL {
        let observations = coding.start(task).unwrap();
        let begin = format!("beginning with `def {}(", task.fields["entry_point"]);
        let main = &observations[1].text;
        assert!(main.contains(&begin) && main.contains(":`. "), "{main}");
    }
}
