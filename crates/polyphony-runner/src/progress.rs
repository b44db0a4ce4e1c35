//! What a user sees while a run works: a bar on a terminal, plain lines elsewhere.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use polyphony_marl::{Progress, StepReport};

/// The display of one phase of a run, on standard error.
#[derive(Debug)]
pub(crate) struct Display {
    bar: ProgressBar,
    plain: bool,
    sampled_tokens: usize,
    /// The highest reward of a joint action so far, and the level that it reached.
    best: (f64, &'static str),
    last_line: Instant,
}

/// The level of a reward none of whose parts was earned.
pub(crate) const NO_LEVEL: &str = "none";

/// Time between plain lines of a phase that has no natural ones.
const LINE_INTERVAL: Duration = Duration::from_secs(15);

impl Display {
    /// Starts a phase of `length` units, such as steps.
    pub(crate) fn start(title: &str, length: usize) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let target = if plain {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(length as u64), target);
        let layout = "{prefix} [{bar:30}] {pos}/{len} {msg} · {elapsed} gone, {eta} left";
        let style = ProgressStyle::with_template(layout);
        bar.set_style(
            style
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> "),
        );
        bar.set_prefix(title.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Self {
            bar,
            plain,
            sampled_tokens: 0,
            best: (f64::NEG_INFINITY, NO_LEVEL),
            last_line: Instant::now(),
        }
    }

    /// A phase goes on where it was stopped.
    pub(crate) fn resume(&mut self, done: usize, best: Option<(f64, &'static str)>) {
        self.bar.set_position(done as u64);
        self.bar.reset_eta();
        self.best = best.unwrap_or(self.best);
    }

    /// The highest reward of a joint action so far, and the level that it reached.
    pub(crate) fn best(&self) -> Option<(f64, &'static str)> {
        Some(self.best).filter(|best| best.0.is_finite())
    }

    /// Something happened within a step.
    pub(crate) fn within_step(&mut self, progress: Progress, agents: usize) {
        match progress {
            Progress::Sampled(tokens) => {
                self.sampled_tokens += tokens;
                self.bar
                    .set_message(format!("· sampling, {} tokens", self.sampled_tokens));
            }
            Progress::Updating(agent) => {
                self.bar
                    .set_message(format!("· updating agent {} of {agents}", agent + 1));
            }
        }
    }

    /// A training step is done. `best` is the highest reward of its joint actions, and the level
    /// that it reached.
    pub(crate) fn step_done(
        &mut self,
        step: usize,
        report: &StepReport,
        best: Option<(f64, &'static str)>,
    ) {
        self.sampled_tokens = 0;
        self.best = best
            .filter(|best| best.0 > self.best.0)
            .unwrap_or(self.best);
        let line = format!(
            "· return {:.3}, best {:.2} (level {}), {:.0} tokens/s",
            report.first_turn().mean_return,
            self.best.0,
            self.best.1,
            report.timing.tokens_per_sec
        );
        self.bar.set_position(step as u64);
        self.bar.set_message(line.clone());
        if self.plain {
            let left = self.bar.eta().as_secs();
            log::info!("step {step} of {} {line}, {left} s left", self.length());
        }
    }

    /// So many of the phase's units are done.
    pub(crate) fn advance_to(&mut self, done: usize) {
        self.bar.set_position(done as u64);
        if self.plain && (self.last_line.elapsed() > LINE_INTERVAL || done as u64 == self.length())
        {
            self.last_line = Instant::now();
            log::info!("{} {done} of {}", self.bar.prefix(), self.length());
        }
    }

    /// Makes room for another display while something else is done.
    pub(crate) fn suspend<T>(&self, other: impl FnOnce() -> T) -> T {
        self.bar.suspend(other)
    }

    fn length(&self) -> u64 {
        self.bar.length().unwrap_or_default()
    }

    /// Takes the bar away.
    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}
