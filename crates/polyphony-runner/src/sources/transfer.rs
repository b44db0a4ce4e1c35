//! What a user sees of a download: a bar on a terminal, plain lines elsewhere.

use std::{
    io::IsTerminal as _,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(15);

/// The display of one file's download, on standard error. It goes when dropped.
#[derive(Debug)]
pub(super) struct Transfer {
    bar: ProgressBar,
    /// When the last plain line was; nothing on a terminal, which has the bar.
    last_line: Option<Mutex<Instant>>,
}

impl Transfer {
    /// Starts the display of a file of so many bytes, of which the first `have` are there already.
    pub(super) fn start(file: &str, bytes: u64, have: u64) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let target = if plain {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(bytes), target);
        let layout = "{prefix} [{bar:30}] {bytes}/{total_bytes} · {bytes_per_sec}, {eta} left";
        let style = ProgressStyle::with_template(layout);
        bar.set_style(
            style
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> "),
        );
        bar.set_prefix(file.to_owned());
        bar.set_position(have);
        // Speed and time left speak of what is loaded now.
        bar.reset_eta();
        if plain {
            let from = if have > 0 {
                format!(", going on after {}", HumanBytes(have))
            } else {
                String::new()
            };
            log::info!("downloading {file} ({}{from})", HumanBytes(bytes));
        }
        Self {
            bar,
            last_line: plain.then(|| Mutex::new(Instant::now())),
        }
    }

    /// So many bytes are there.
    pub(super) fn at(&self, bytes: u64) {
        self.bar.set_position(bytes);
        let Some(last_line) = &self.last_line else {
            return;
        };
        // A thread that panicked while it held the time has not spoilt it.
        let mut last_line = last_line.lock().unwrap_or_else(|held| held.into_inner());
        if last_line.elapsed() > LINE_INTERVAL {
            *last_line = Instant::now();
            let total = HumanBytes(self.bar.length().unwrap_or_default());
            log::info!("{}: {} of {total}", self.bar.prefix(), HumanBytes(bytes));
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
