//! A live view of a run in the terminal, from the files that it writes.

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ratatui::{
    Frame,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize as _},
    symbols::Marker,
    text::{Line, Span},
    widgets::{Axis, Block, Cell, Chart, Dataset, Gauge, GraphType, Paragraph, Row, Table},
};

use crate::{
    progress::in_words,
    run_files::{self, Run},
    series::{Series, of_run, smoothed, window},
    statistics,
};

/// Time between two looks at the files.
const INTERVAL: Duration = Duration::from_secs(1);

/// Steps whose figures are averaged for the tables.
const RECENT: usize = 5;

/// Shows a run until the user presses q.
///
/// # Errors
/// If the path is no run's directory, its files cannot be read, or there is no terminal.
pub(crate) fn watch(path: &Path) -> Result<()> {
    let mut seen = lengths(path);
    let mut run = Run::read(path)?;
    let instead = format!("`polyphony compare {}` has its figures", path.display());
    run_files::check_training_run(path, &instead)?;
    ensure!(
        io::stdout().is_terminal(),
        "there is no terminal to draw on: `polyphony report {}` writes a page",
        path.display()
    );
    let mut terminal = ratatui::try_init().context("taking over the terminal")?;
    let outcome = loop {
        let drawn = terminal.draw(|frame| draw(frame, &run)).context("drawing");
        let left = drawn.and_then(|_| wants_to_leave());
        match left {
            Ok(false) => {}
            Ok(true) => break Ok(()),
            Err(error) => break Err(error),
        }
        // All of it is parsed, so only where there is something new.
        if lengths(path) == seen {
            continue;
        }
        seen = lengths(path);
        match Run::read(path) {
            Ok(now) => run = now,
            Err(error) => break Err(error),
        }
    };
    ratatui::restore();
    outcome
}

/// The lengths of the files that change.
fn lengths(run: &Path) -> [Option<u64>; 2] {
    let length = |name| Some(fs::metadata(run.join(name)).ok()?.len());
    [run_files::METRICS, run_files::EVALUATIONS].map(length)
}

/// Waits for a key; whether it was one of those that end the view.
fn wants_to_leave() -> Result<bool> {
    if !event::poll(INTERVAL).context("waiting for a key")? {
        return Ok(false);
    }
    Ok(match event::read().context("reading a key")? {
        Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
            KeyCode::Char('q') | KeyCode::Esc => true,
            KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
            _ => false,
        },
        _ => false,
    })
}

fn draw(frame: &mut Frame<'_>, run: &Run) {
    let roles = run.recipe.environment.roles().len() as u16;
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Min(6),
        Constraint::Length(roles + 3),
        Constraint::Length(1),
    ]);
    let [title, progress, middle, agents, keys] = areas.areas(frame.area());
    let [curve, parts] =
        Layout::horizontal([Constraint::Min(30), Constraint::Length(34)]).areas(middle);
    frame.render_widget(heading(run), title);
    frame.render_widget(gauge(run), progress);
    draw_returns(frame, run, curve);
    frame.render_widget(parts_table(run), parts);
    frame.render_widget(agents_table(run), agents);
    let leave = match is_complete(run) {
        true => "q leaves",
        false => "q leaves; the run goes on",
    };
    frame.render_widget(Line::from(leave).dim(), keys);
}

fn heading(run: &Run) -> Paragraph<'static> {
    let speed = recent(run, "timing.tokens_per_sec")
        .map_or_else(String::new, |speed| format!(" · {speed:.0} tokens/s"));
    let judged: Vec<String> = run
        .evaluations
        .iter()
        .map(|evaluation| {
            format!(
                "{} at step {}",
                evaluation.returns,
                evaluation.step.unwrap_or_default()
            )
        })
        .collect();
    let first = Line::from(vec![
        Span::from(run.path.display().to_string()).bold(),
        Span::from(format!(
            " · {} on {}{speed}",
            run.training_method(),
            run.recipe.environment.name()
        )),
    ]);
    let held_out = match (judged.first(), judged.last()) {
        (Some(first), Some(last)) if judged.len() > 1 => format!("held out: {first}, {last}"),
        (Some(only), _) => format!("held out: {only}"),
        _ => "held-out tasks are being played".to_owned(),
    };
    Paragraph::new(vec![first, Line::from(held_out)])
}

/// Steps that are not done yet.
fn left(run: &Run) -> usize {
    run.recipe.steps.saturating_sub(run.metrics.len())
}

/// Whether all steps are done, and the held-out tasks after them.
fn is_complete(run: &Run) -> bool {
    left(run) == 0 && run.evaluation_at(run.recipe.steps).is_some()
}

fn gauge(run: &Run) -> Gauge<'static> {
    let (done, steps) = (run.metrics.len(), run.recipe.steps);
    let left = match (left(run), recent(run, "timing.step_secs")) {
        (0, _) if is_complete(run) => ", all done".to_owned(),
        (0, _) => ", held-out tasks are being played".to_owned(),
        (left, Some(secs)) => format!(", {} left", in_words(secs * left as f64)),
        (_, None) => String::new(),
    };
    let share = (done as f64 / steps as f64).clamp(0.0, 1.0);
    Gauge::default()
        .gauge_style(Style::new().fg(Color::Blue))
        .ratio(share)
        .label(format!("step {done} of {steps}{left}"))
}

/// The mean return of every step, smoothed, with the held-out tasks.
fn draw_returns(frame: &mut Frame<'_>, run: &Run, area: Rect) {
    let points = |series: &Series| -> Vec<(f64, f64)> {
        series
            .iter()
            .map(|(step, value)| (*step as f64, *value))
            .collect()
    };
    let returns = of_run(run, "return");
    let (each, smooth) = (
        points(&returns),
        points(&smoothed(&returns, window(std::slice::from_ref(&returns)))),
    );
    let judged: Vec<(f64, f64)> = run
        .evaluations
        .iter()
        .map(|evaluation| {
            (
                evaluation.step.unwrap_or_default() as f64,
                evaluation.returns.mean,
            )
        })
        .collect();
    let values = each.iter().chain(&judged).map(|(_, value)| *value);
    let (low, high) = values.fold((0.0, 1.0f64), |(low, high): (f64, f64), value| {
        (low.min(value), high.max(value))
    });
    let last = (run.recipe.steps as f64).max(1.0);
    let data = vec![
        Dataset::default()
            .marker(Marker::Dot)
            .style(Style::new().dark_gray())
            .data(&each),
        Dataset::default()
            .name("return")
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Style::new().cyan())
            .data(&smooth),
        Dataset::default()
            .name("held out")
            .marker(Marker::Block)
            .style(Style::new().yellow())
            .data(&judged),
    ];
    let labels = |from: f64, to: f64, digits: usize| {
        [from, (from + to) / 2.0, to].map(|value| format!("{value:.digits$}"))
    };
    let chart = Chart::new(data)
        .block(Block::bordered().title("return"))
        .x_axis(
            Axis::default()
                .bounds([0.0, last])
                .labels(labels(0.0, last, 0)),
        )
        .y_axis(
            Axis::default()
                .bounds([low, high])
                .labels(labels(low, high, 1)),
        );
    frame.render_widget(chart, area);
}

fn parts_table(run: &Run) -> Table<'static> {
    let names = run.metrics.last().into_iter().flat_map(|line| line.keys());
    let parts = names.filter_map(|name| name.strip_prefix("reward/").map(str::to_owned));
    let rows = parts.map(|part| {
        let series = of_run(run, &format!("reward/{part}"));
        let shown = |mean: f64| match series.is_empty() {
            true => "–".to_owned(),
            false => format!("{mean:.2}"),
        };
        let begin = mean(series.iter().take(RECENT));
        let now = mean(series.iter().rev().take(RECENT));
        Row::new([part, shown(begin), shown(now)])
    });
    let widths = [
        Constraint::Min(12),
        Constraint::Length(7),
        Constraint::Length(7),
    ];
    Table::new(rows, widths)
        .header(Row::new(["part", "first", "last"]).bold())
        .block(Block::bordered().title(format!("means of {RECENT} steps")))
}

fn agents_table(run: &Run) -> Table<'static> {
    let figures = [
        "response_tokens",
        "truncated_share",
        "zero_advantage_share",
        "entropy",
        "gradient_norm",
        "logprob_gap",
    ];
    let names = run.metrics.last().into_iter().flat_map(|line| line.keys());
    let agents = names.filter_map(|name| name.strip_suffix("/gradient_norm").map(str::to_owned));
    let rows = agents.map(|agent| {
        let cells = figures.map(|figure| match recent(run, &format!("{agent}/{figure}")) {
            Some(value) => in_short(value),
            None => "–".to_owned(),
        });
        Row::new(
            [agent]
                .into_iter()
                .chain(cells)
                .map(Cell::from)
                .collect::<Vec<_>>(),
        )
    });
    let header = [
        "agent",
        "tokens",
        "cut off",
        "no advantage",
        "entropy",
        "gradient",
        "log-prob gap",
    ];
    let widths = [Constraint::Min(12)]
        .into_iter()
        .chain([Constraint::Length(13); 6]);
    Table::new(rows, widths)
        .header(Row::new(header).bold())
        .block(Block::bordered().title(format!("means of the last {RECENT} steps")))
}

/// A figure with about three digits that say something.
fn in_short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 0.001 => format!("{value:.1e}"),
        size if size < 10.0 => format!("{value:.3}"),
        _ => format!("{value:.1}"),
    }
}

/// The mean of a metric over the last steps, if they have it.
fn recent(run: &Run, name: &str) -> Option<f64> {
    let series = of_run(run, name);
    (!series.is_empty()).then(|| mean(series.iter().rev().take(RECENT)))
}

fn mean<'a>(values: impl Iterator<Item = &'a (usize, f64)>) -> f64 {
    statistics::mean(&values.map(|(_, value)| *value).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};
    use serde_json::json;

    use super::*;
    use crate::evaluation::{self, Evaluation};

    fn run(steps: usize) -> Run {
        let line = |step: usize| {
            let line = json!({
                "step": step,
                "return": step as f64 / 10.0,
                "reward/style": 0.25,
                "reward/level": null,
                "summarizer/gradient_norm": 3.5,
                "summarizer/entropy": 1.25,
                "timing": {"step_secs": 30.0, "tokens_per_sec": 99.0},
            });
            line.as_object().unwrap().clone()
        };
        Run {
            metrics: (1..=steps).map(line).collect(),
            evaluations: vec![evaluation::fixture(&[(1.5, String::new())])],
            ..run_files::fixture("tldr-1", "tldr-smollm2", &[])
        }
    }

    fn shown(run: &Run, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, run)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_run_is_shown_as_far_as_it_is() {
        let text = shown(&run(10), 120, 30);
        for part in [
            "runs/tldr-1 · MAGRPO on tldr · 99 tokens/s",
            "held out: 1.500",
            // 30 steps are left, of 30 seconds each.
            "step 10 of 40, 15 min left",
            "summarizer",
            "1.250",
            "style            0.25    0.25",
            "level            –       –",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let mut trained = run(40);
        let text = shown(&trained, 120, 30);
        for part in ["step 40 of 40, held-out tasks are being played", "goes on"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        trained.evaluations.push(Evaluation {
            step: Some(40),
            ..evaluation::fixture(&[(2.5, String::new())])
        });
        let text = shown(&trained, 120, 30);
        assert!(text.contains("step 40 of 40, all done"), "{text}");
        assert!(!text.contains("goes on"), "{text}");
        let text = shown(&run(0), 120, 30);
        for part in ["runs/tldr-1 · MAGRPO on tldr", "step 0 of 40"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn small_terminals_are_no_trouble() {
        for (width, height) in [(1, 1), (20, 5), (60, 12)] {
            shown(&run(10), width, height);
        }
    }

    #[test]
    fn figures_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (3.2e-5, "3.2e-5"),
            (0.25, "0.250"),
            (-124.06, "-124.1"),
        ] {
            assert_eq!(in_short(value), text);
        }
    }
}
