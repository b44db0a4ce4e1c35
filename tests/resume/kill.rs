//! SIGKILL at random moments, once or twice per run.

use std::process::{Command, Stdio};

use super::*;

/// Random numbers enough to choose moments (a linear congruential generator, Knuth's MMIX).
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

/// Starts a command, waits until its run has this many steps, and kills it after this many more turns of a
/// loop; returns how many turns there were if it ended before.
fn run_and_kill(mut command: Command, run: &Path, steps: usize, turns: u64) -> Option<u64> {
    let mut running = command.stderr(Stdio::null()).spawn().unwrap();
    let metrics = run.join("metrics.jsonl");
    let done =
        || fs::read(&metrics).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count());
    let mut turn = 0;
    while turn < turns {
        std::thread::yield_now();
        if running.try_wait().unwrap().is_some() {
            return Some(turn);
        }
        turn += u64::from(steps == 0 || done() >= steps);
    }
    // It may have ended by now.
    let _ = running.kill();
    running.wait().unwrap();
    None
}

/// Kills runs of the recipe with these changes, and compares what is left in the end.
fn check_kills(more: &[&str], kills: usize, seed: u64) {
    let place = place();
    let whole = train_whole(&place, more);
    let counted = [&["train", "recipe.ron", "--run-dir", "counted"], more].concat();
    // From its first step to its end.
    let turns = run_and_kill(place.command(&counted), &place.path("counted"), 1, u64::MAX).unwrap();
    // On a busy machine, the number of turns differs between runs: most kills come within a step or two.
    let turns = 2 * turns / STEPS as u64 + 1;
    let mut dice = Dice(seed);
    let mut left = kills;
    let mut stopped_early = 0;
    for number in 0.. {
        let run = format!("run-{number}");
        let train = [&["train", "recipe.ron", "--run-dir", &run], more].concat();
        let mut attempt = place.command(&train);
        // Some runs are killed again while they are resumed.
        while left > 0 {
            left -= 1;
            let steps = dice.below(STEPS as u64) as usize;
            let ended = run_and_kill(attempt, &place.path(&run), steps, dice.below(turns));
            stopped_early += usize::from(ended.is_none());
            attempt = match place.path(&run).join("recipe.ron").exists() {
                true => place.command(&["resume", &run]),
                // The run had not begun, but may have left a directory.
                false => place.command(&train),
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
        Left::read(&place, &run).check(&whole, &run);
        let kept = checkpoints(&place.path(&run));
        assert_eq!(kept, ["step-000006", "step-000007"], "{run}");
        if left == 0 {
            if stopped_early >= kills / 4 || number >= 4 * kills {
                break;
            }
            // On a busy machine a run may end before its turn comes: another is tried.
            left = 1;
        }
    }
    assert!(stopped_early >= kills / 4, "{stopped_early} of {kills}");
}

#[test]
fn a_killed_run_continues_as_if_it_had_never_stopped() {
    check_kills(&[], 12, 1);
}

#[test]
fn a_killed_run_of_adapters_continues_as_if_it_had_never_stopped() {
    check_kills(&["--set", "fine_tuning=Lora(rank: 2)"], 8, 2);
}
