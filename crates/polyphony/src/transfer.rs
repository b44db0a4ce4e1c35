//! The display of a download: a bar on a terminal, plain lines elsewhere.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use polyphony_hub::{Transfer, TransferPhase};
use polyphony_report::visible;

/// Time between plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(15);

/// The display of one file's download on standard error. It disappears when dropped.
#[derive(Debug)]
pub(crate) struct Display {
    bar: ProgressBar,
    /// When the last plain line was written; `None` on a terminal.
    last_line: Option<Instant>,
}

impl Display {
    /// Shows an event of a download. `display` is created when the download starts and dropped when it ends.
    pub(crate) fn show(display: &mut Option<Self>, transfer: Transfer<'_>) {
        match transfer.phase {
            TransferPhase::Started => {
                *display = Some(Self::start(transfer.file, transfer.total, transfer.done));
            }
            TransferPhase::Advanced => {
                if let Some(display) = display {
                    display.advance_to(transfer.done);
                }
            }
            TransferPhase::Ended => *display = None,
        }
    }

    /// Starts the display for a file of `total` bytes, of which the first `done` have been downloaded before.
    fn start(file: &str, total: u64, done: u64) -> Self {
        let is_plain = !std::io::stderr().is_terminal();
        let target = if is_plain {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let layout = "{prefix} [{bar:30}] {bytes}/{total_bytes} · {bytes_per_sec}, {eta} left";
        let style = ProgressStyle::with_template(layout);
        bar.set_style(
            style
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> "),
        );
        bar.set_prefix(visible(file).into_owned());
        bar.set_position(done);
        // Speed and time left are measured in this process only.
        bar.reset_eta();
        if is_plain {
            let resuming = if done > 0 {
                format!(", resuming after {}", HumanBytes(done))
            } else {
                String::new()
            };
            log::info!("downloading {file} ({}{resuming})", HumanBytes(total));
        }
        Self {
            bar,
            last_line: is_plain.then(Instant::now),
        }
    }

    /// Shows that this many bytes have been downloaded.
    fn advance_to(&mut self, bytes: u64) {
        self.bar.set_position(bytes);
        if let Some(last_line) = &mut self.last_line
            && last_line.elapsed() > LINE_INTERVAL
        {
            *last_line = Instant::now();
            let total = HumanBytes(self.bar.length().unwrap_or_default());
            log::info!("{}: {} of {total}", self.bar.prefix(), HumanBytes(bytes));
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
