//! The display of a run's progress: a bar on a terminal, plain lines elsewhere.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use polyphony_marl::Progress;
use polyphony_report::{duration_text, visible};
use polyphony_runner::{BestAction, Event, Observer};

use crate::transfer;

/// Shows the progress of the innermost phase of a run on standard error.
#[derive(Debug, Default)]
pub(crate) struct Display {
    phases: Vec<Phase>,
    /// The current download, if there is one.
    transfer: Option<transfer::Display>,
}

impl Observer for Display {
    fn on_event(&mut self, event: Event<'_>) {
        if let Event::Transfer(transfer) = event {
            return transfer::Display::show(&mut self.transfer, transfer);
        }
        if let Event::PhaseStarted {
            title,
            length,
            done,
        } = event
        {
            if let Some(outer) = self.phases.last() {
                outer.bar.set_draw_target(ProgressDrawTarget::hidden());
            }
            self.phases.push(Phase::new(title, length, done));
            return;
        }
        let Some(phase) = self.phases.last_mut() else {
            return;
        };
        match event {
            Event::PhaseStarted { .. } | Event::Transfer(_) => {}
            Event::StepProgress { progress, agents } => phase.within_step(progress, agents),
            Event::StepDone {
                done,
                mean_return,
                best,
                turns,
                tokens_per_sec,
            } => {
                let best = best.map_or_else(String::new, |best| best_text(best, turns));
                phase.step_done(done, mean_return, &best, tokens_per_sec);
            }
            Event::PhaseAdvanced { done } => phase.advance_to(done),
            Event::PhaseEnded => {
                phase.bar.finish_and_clear();
                self.phases.pop();
                if let Some(outer) = self.phases.last() {
                    outer.bar.set_draw_target(target());
                }
            }
        }
    }
}

/// A phase of work with a number of units, such as the steps of a run.
#[derive(Debug)]
struct Phase {
    bar: ProgressBar,
    is_plain: bool,
    completion_tokens: usize,
    last_line: Instant,
    /// The units that were done when this process started the phase, and the time of that start.
    start: (usize, Instant),
    /// The remaining time, as the end of a line; empty if it is not known.
    time_left: String,
}

/// Time between plain lines of a phase without steps.
const LINE_INTERVAL: Duration = Duration::from_secs(15);

fn target() -> ProgressDrawTarget {
    match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    }
}

impl Phase {
    fn new(title: &str, length: usize, done: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(length as u64), target());
        let layout = "{prefix} [{bar:30}] {pos}/{len}{msg} · {elapsed} elapsed";
        let style = ProgressStyle::with_template(layout);
        bar.set_style(
            style
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> "),
        );
        bar.set_prefix(title.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar.set_position(done as u64);
        Self {
            bar,
            is_plain: !std::io::stderr().is_terminal(),
            completion_tokens: 0,
            last_line: Instant::now(),
            start: (done, Instant::now()),
            time_left: String::new(),
        }
    }

    fn within_step(&mut self, progress: Progress, agents: usize) {
        let activity = match progress {
            Progress::Sampled(tokens) => {
                self.completion_tokens += tokens;
                format!("sampling, {} tokens", self.completion_tokens)
            }
            Progress::RolloutDone => "learning".to_owned(),
            Progress::Updating(agent) => format!("updating agent {} of {agents}", agent + 1),
        };
        self.bar
            .set_message(format!(" · {activity}{}", self.time_left));
    }

    fn step_done(&mut self, step: usize, mean_return: f64, best: &str, tokens_per_sec: f64) {
        self.completion_tokens = 0;
        self.move_to(step);
        let line = format!(
            " · return {mean_return:.3}{best}, {tokens_per_sec:.0} tokens/s{}",
            self.time_left
        );
        if self.is_plain {
            log::info!("step {step} of {}{line}", self.length());
        }
        self.bar.set_message(line);
    }

    fn advance_to(&mut self, done: usize) {
        self.move_to(done);
        self.bar.set_message(self.time_left.clone());
        let is_line_due = self.last_line.elapsed() > LINE_INTERVAL || done as u64 == self.length();
        if self.is_plain && is_line_due {
            self.last_line = Instant::now();
            let (title, length) = (self.bar.prefix(), self.length());
            log::info!("{title} {done} of {length}{}", self.time_left);
        }
    }

    fn move_to(&mut self, done: usize) {
        self.bar.set_position(done as u64);
        let (done_at_start, started) = self.start;
        let units = [done_at_start, done, self.length() as usize];
        self.time_left = secs_left(units, started.elapsed()).map_or_else(String::new, |secs| {
            format!(" · {} left", duration_text(secs))
        });
    }

    fn length(&self) -> u64 {
        self.bar.length().unwrap_or_default()
    }
}

/// The best joint action of a run, as part of a line. If episodes have several turns, the line calls it the
/// best turn: its reward is that of one turn, while the mean return beside it is that of whole episodes. The
/// brackets contain the last part of its reward that is not 0.
fn best_text(best: &BestAction, turns: usize) -> String {
    let label = if turns > 1 { "best turn" } else { "best" };
    let last_part = best.last_part.as_deref().unwrap_or("none");
    format!(
        ", {label} {:.2} (last part: {})",
        best.reward,
        visible(last_part)
    )
}

/// The seconds that a phase still takes at its current pace. The arguments are the units that were done when
/// this process started the phase, the units that are done now, all units, and the time since that start.
/// `None` before the first and after the last unit of this process.
fn secs_left([done_at_start, done, length]: [usize; 3], elapsed: Duration) -> Option<f64> {
    let done_here = done.checked_sub(done_at_start).filter(|units| *units > 0)?;
    let remaining = length.checked_sub(done).filter(|units| *units > 0)?;
    Some(elapsed.as_secs_f64() / done_here as f64 * remaining as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_estimated_from_this_process() {
        let minute = Duration::from_secs(60);
        assert_eq!(secs_left([0, 3, 9], minute), Some(120.0));
        assert_eq!(secs_left([40, 41, 44], minute), Some(180.0));
        for units in [[0, 0, 9], [40, 40, 44], [0, 9, 9], [0, 10, 9]] {
            assert_eq!(secs_left(units, minute), None);
        }
    }

    #[test]
    fn the_best_of_several_turns_is_called_a_turn() {
        let best = |last_part: Option<&str>| BestAction {
            reward: 2.0,
            last_part: last_part.map(str::to_owned),
        };
        let overlap = best(Some("overlap"));
        assert_eq!(best_text(&overlap, 1), ", best 2.00 (last part: overlap)");
        assert_eq!(
            best_text(&overlap, 2),
            ", best turn 2.00 (last part: overlap)"
        );
        assert_eq!(best_text(&best(None), 1), ", best 2.00 (last part: none)");
    }
}
