//! Kills runs with SIGKILL at random moments, once or several times per run.

use std::process::{Command, Stdio};

use super::*;

/// Random numbers that are good enough to choose moments (a linear congruential generator, Knuth's MMIX).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Starts a command, waits until its run has this many steps, and kills it after this many more iterations of
/// the waiting loop. If the command ends before, returns the number of iterations until then.
fn run_and_kill(mut command: Command, run: &Path, steps: usize, iterations: u64) -> Option<u64> {
    let mut running = command.stderr(Stdio::null()).spawn().unwrap();
    let metrics = run.join("metrics.jsonl");
    let done =
        || fs::read(&metrics).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count());
    let mut iteration = 0;
    while iteration < iterations {
        std::thread::yield_now();
        if running.try_wait().unwrap().is_some() {
            return Some(iteration);
        }
        iteration += u64::from(steps == 0 || done() >= steps);
    }
    // The command may have ended by now.
    let _ = running.kill();
    running.wait().unwrap();
    None
}

/// Kills and resumes runs of the recipe with these changes, and compares their records with those of a whole
/// run.
fn check_kills(more: &[&str], kills: usize, seed: u64) {
    let dir = test_dir();
    let whole = train_whole(&dir, more);
    let counted = [&["train", "recipe.ron", "--run-dir", "counted"], more].concat();
    // The iterations from the first step to the end.
    let iterations =
        run_and_kill(dir.command(&counted), &dir.path("counted"), 1, u64::MAX).unwrap();
    // Each kill comes within about two steps after a random step. Iterations are not counted over the whole
    // run, because their number differs between runs on a busy machine.
    let iterations = 2 * iterations / STEPS as u64 + 1;
    let mut dice = Dice(seed);
    let mut kills_left = kills;
    let mut stopped_early = 0;
    for number in 0.. {
        let run = format!("run-{number}");
        let train = [&["train", "recipe.ron", "--run-dir", &run], more].concat();
        let mut attempt = dir.command(&train);
        // Some runs are killed again while they are resumed.
        while kills_left > 0 {
            kills_left -= 1;
            let steps = dice.below(STEPS as u64) as usize;
            let iterations_to_end =
                run_and_kill(attempt, &dir.path(&run), steps, dice.below(iterations));
            stopped_early += usize::from(iterations_to_end.is_none());
            attempt = match dir.path(&run).join("recipe.ron").exists() {
                true => dir.command(&["resume", &run]),
                // The run had not started, but may have created its directory.
                false => dir.command(&train),
            };
            if dice.below(2) == 0 {
                break;
            }
        }
        let outcome = attempt.output().unwrap();
        let log = String::from_utf8(outcome.stderr).unwrap();
        assert!(
            outcome.status.success() || log.contains(" is complete: "),
            "{run}: {log}"
        );
        RunRecords::read(&dir, &run).check(&whole, &run);
        let names = checkpoints(&dir.path(&run));
        assert_eq!(names, ["step-000006", "step-000007"], "{run}");
        if kills_left == 0 {
            if stopped_early >= kills / 4 || number >= 4 * kills {
                break;
            }
            // On a busy machine a run may end before it is killed: try another one.
            kills_left = 1;
        }
    }
    assert!(stopped_early >= kills / 4, "{stopped_early} of {kills}");
}

#[test]
fn a_killed_run_resumes_as_if_it_had_never_stopped() {
    check_kills(&[], 12, 1);
}

#[test]
fn a_killed_run_of_adapters_resumes_as_if_it_had_never_stopped() {
    check_kills(&["--set", "fine_tuning=Lora(rank: 2)"], 8, 2);
}

#[test]
fn a_killed_run_with_8_bit_moments_resumes_as_if_it_had_never_stopped() {
    check_kills(&["--set", "updates.moments=Int8"], 6, 3);
}
