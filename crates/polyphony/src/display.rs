//! What a user sees while a run works: a bar on a terminal, plain lines elsewhere.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use polyphony_marl::Progress;
use polyphony_runner::{Best, Event, Observer};

use crate::transfer;

/// Shows a run on standard error, the phase that began last in front.
#[derive(Debug, Default)]
pub(crate) struct Display {
    phases: Vec<Phase>,
    /// The download that is shown, if there is one.
    transfer: Option<transfer::Display>,
}

impl Observer for Display {
    fn on_event(&mut self, event: Event<'_>) {
        if let Event::Transfer(transfer) = event {
            return transfer::Display::show(&mut self.transfer, transfer);
        }
        if let Event::Begun {
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
            Event::Begun { .. } | Event::Transfer(_) => {}
            Event::Within { progress, agents } => phase.within_step(progress, agents),
            Event::Step {
                done,
                mean_return,
                best,
                tokens_per_sec,
            } => phase.step_done(done, mean_return, best, tokens_per_sec),
            Event::Advanced { done } => phase.advance_to(done),
            Event::Ended => {
                phase.bar.finish_and_clear();
                self.phases.pop();
                if let Some(outer) = self.phases.last() {
                    outer.bar.set_draw_target(target());
                }
            }
        }
    }
}

/// Units of work, such as the steps of a run.
#[derive(Debug)]
struct Phase {
    bar: ProgressBar,
    plain: bool,
    sampled_tokens: usize,
    last_line: Instant,
    /// The units that were done when this process began with the phase, and the time of that.
    began: (usize, Instant),
    /// The time left, as far as it is known, for the end of a line.
    left: String,
}

/// Time between plain lines of a phase that has no natural ones.
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
        let layout = "{prefix} [{bar:30}] {pos}/{len}{msg} · {elapsed} gone";
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
            plain: !std::io::stderr().is_terminal(),
            sampled_tokens: 0,
            last_line: Instant::now(),
            began: (done, Instant::now()),
            left: String::new(),
        }
    }

    fn within_step(&mut self, progress: Progress, agents: usize) {
        let now = match progress {
            Progress::Sampled(tokens) => {
                self.sampled_tokens += tokens;
                format!("sampling, {} tokens", self.sampled_tokens)
            }
            Progress::Updating(agent) => format!("updating agent {} of {agents}", agent + 1),
        };
        self.bar.set_message(format!(" · {now}{}", self.left));
    }

    fn step_done(
        &mut self,
        step: usize,
        mean_return: f64,
        best: Option<&Best>,
        tokens_per_sec: f64,
    ) {
        self.sampled_tokens = 0;
        self.move_to(step);
        let best = best.map_or_else(String::new, |best| {
            let level = best.level.as_deref().unwrap_or("none");
            format!(", best {:.2} (level {level})", best.reward)
        });
        let line = format!(
            " · return {mean_return:.3}{best}, {tokens_per_sec:.0} tokens/s{}",
            self.left
        );
        if self.plain {
            log::info!("step {step} of {}{line}", self.length());
        }
        self.bar.set_message(line);
    }

    fn advance_to(&mut self, done: usize) {
        self.move_to(done);
        self.bar.set_message(self.left.clone());
        if self.plain && (self.last_line.elapsed() > LINE_INTERVAL || done as u64 == self.length())
        {
            self.last_line = Instant::now();
            let (title, length) = (self.bar.prefix(), self.length());
            log::info!("{title} {done} of {length}{}", self.left);
        }
    }

    fn move_to(&mut self, done: usize) {
        self.bar.set_position(done as u64);
        let (before, since) = self.began;
        let units = [before, done, self.length() as usize];
        self.left = secs_left(units, since.elapsed())
            .map_or_else(String::new, |secs| format!(" · {} left", in_words(secs)));
    }

    fn length(&self) -> u64 {
        self.bar.length().unwrap_or_default()
    }
}

/// The seconds that a phase still takes at the pace it has had so far, from the units that were done
/// when it began, that are done now, and that there are; `None` before the first and after the last.
fn secs_left([before, done, length]: [usize; 3], elapsed: Duration) -> Option<f64> {
    let own = done.checked_sub(before).filter(|own| *own > 0)?;
    let rest = length.checked_sub(done).filter(|rest| *rest > 0)?;
    Some(elapsed.as_secs_f64() / own as f64 * rest as f64)
}

/// A length of time, to the minute where it is long.
pub(crate) fn in_words(secs: f64) -> String {
    let minutes = (secs / 60.0).round() as u64;
    match minutes {
        0..2 => format!("{secs:.0} s"),
        2..120 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_goes_by_what_this_process_has_done() {
        let minute = Duration::from_secs(60);
        assert_eq!(secs_left([0, 3, 9], minute), Some(120.0));
        assert_eq!(secs_left([40, 41, 44], minute), Some(180.0));
        for units in [[0, 0, 9], [40, 40, 44], [0, 9, 9], [0, 10, 9]] {
            assert_eq!(secs_left(units, minute), None);
        }
    }

    #[test]
    fn lengths_of_time_are_as_exact_as_they_are_of_use() {
        for (secs, words) in [
            (5.4, "5 s"),
            (89.0, "89 s"),
            (600.0, "10 min"),
            (9000.0, "2 h 30 min"),
        ] {
            assert_eq!(in_words(secs), words);
        }
    }
}
