//! The live view of a run in the terminal. It reads the files that the run writes.

mod view;

use std::{
    fs,
    io::{self, IsTerminal as _, Stdout},
    path::Path,
    time::Duration,
};

use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
        execute, terminal,
    },
};

use crate::{
    error::{ReportError, Result},
    layout,
    run::{Run, check_training_run},
};

/// Time between two checks of the files.
const INTERVAL: Duration = Duration::from_secs(1);

/// Shows a training run until the user presses q or `should_stop`, which is called once per second, returns
/// true.
///
/// The terminal is restored when the view ends, for whatever reason.
///
/// # Errors
/// If the path is not a training run's directory, its files cannot be read, or there is no terminal.
pub fn watch(path: &Path, should_stop: &dyn Fn() -> bool) -> Result<()> {
    let mut shown_lengths = file_lengths(path);
    let mut run = Run::read(path)?;
    check_training_run(path)?;
    if !io::stdout().is_terminal() {
        return Err(ReportError::NoTerminal {
            path: path.to_owned(),
        });
    }
    let mut screen = Screen::take()?;
    while !should_stop() {
        let drawn = screen.terminal.draw(|frame| view::draw(frame, &run));
        drawn.map_err(failed("drawing"))?;
        if wants_to_leave()? {
            break;
        }
        // Reading parses all files, so it is done only if something is new.
        let lengths = file_lengths(path);
        if lengths != shown_lengths {
            shown_lengths = lengths;
            run = Run::read(path)?;
        }
    }
    Ok(())
}

/// For `map_err`: adds the action that failed.
fn failed(action: &'static str) -> impl Fn(io::Error) -> ReportError {
    move |source| ReportError::Terminal { action, source }
}

/// The terminal while the view uses it.
struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    // Dropped after the terminal, which may still write.
    _guard: Guard,
}

impl Screen {
    fn take() -> Result<Self> {
        let failed = failed("taking over the terminal");
        terminal::enable_raw_mode().map_err(&failed)?;
        // From here on, every return restores the terminal.
        let guard = Guard;
        execute!(io::stdout(), terminal::EnterAlternateScreen).map_err(&failed)?;
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout())).map_err(&failed)?;
        Ok(Self {
            terminal,
            _guard: guard,
        })
    }
}

/// Restores the terminal when dropped, even by a panic.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = terminal::disable_raw_mode();
        let _ = execute!(io::stdout(), terminal::LeaveAlternateScreen);
    }
}

/// The lengths of the files that a run appends to.
fn file_lengths(run: &Path) -> [Option<u64>; 2] {
    let length = |name| Some(fs::metadata(run.join(name)).ok()?.len());
    [layout::METRICS, layout::EVALUATIONS].map(length)
}

/// Waits for a key. Returns whether the key ends the view.
fn wants_to_leave() -> Result<bool> {
    if !event::poll(INTERVAL).map_err(failed("waiting for a key"))? {
        return Ok(false);
    }
    Ok(match event::read().map_err(failed("reading a key"))? {
        Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
            KeyCode::Char('q') | KeyCode::Esc => true,
            KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
            _ => false,
        },
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture, run_directory::RunDirectory};

    #[test]
    fn paths_that_cannot_be_watched_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let never = || false;
        let message = watch(folder.path(), &never).unwrap_err().to_string();
        assert!(
            message.contains("is not the directory of a run"),
            "{message}"
        );
        fs::write(folder.path().join(layout::RECIPE), fixture::TLDR).unwrap();
        let message = watch(folder.path(), &never).unwrap_err().to_string();
        assert!(message.contains("is not a training run"), "{message}");
        let run = folder.path().join("run");
        RunDirectory::create(Some(&run), fixture::TLDR, &fixture::info(1)).unwrap();
        // Standard output is a terminal if somebody runs this test by hand.
        if !io::stdout().is_terminal() {
            let message = watch(&run, &never).unwrap_err().to_string();
            assert_eq!(message, "there is no terminal to draw on");
        }
    }
}
