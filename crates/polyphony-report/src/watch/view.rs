//! Draws the live view.

use indexmap::IndexSet;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize as _},
    symbols::Marker,
    text::{Line, Span},
    widgets::{Axis, Block, Cell, Chart, Dataset, Gauge, GraphType, Paragraph, Row, Table},
};

use crate::{
    duration::duration_text,
    metrics::flat_values,
    run::Run,
    series::{Series, of_run, smoothed, window},
    statistics,
    visible::visible_line,
};

/// The number of steps over which the tables average.
const RECENT: usize = 5;

/// The style of the mean return of the steps.
const MEAN: Style = Style::new().fg(Color::Cyan);

/// The style of the return on held-out tasks.
const HELD_OUT: Style = Style::new().fg(Color::Yellow);

/// Draws a run. Its files may contain any number of roles and metrics. What does not fit on the screen is
/// left out early, so that it takes no time.
pub(super) fn draw(frame: &mut Frame<'_>, run: &Run) {
    let height = frame.area().height;
    let roles = u16::try_from(run.info.environment.roles.len()).unwrap_or(height);
    let agents_height = roles.saturating_add(3).min(height);
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Min(6),
        Constraint::Length(agents_height),
        Constraint::Length(1),
    ]);
    let [title, progress, middle, agents, keys] = areas.areas(frame.area());
    let [curve, parts] =
        Layout::horizontal([Constraint::Min(30), Constraint::Length(34)]).areas(middle);
    frame.render_widget(heading(run), title);
    frame.render_widget(gauge(run), progress);
    draw_returns(frame, run, curve);
    frame.render_widget(parts_table(run, parts), parts);
    frame.render_widget(agents_table(run, agents), agents);
    let help = match is_complete(run) {
        true => "q: quit",
        false => "q: quit; the run continues",
    };
    frame.render_widget(Line::from(help).dim(), keys);
}

fn heading(run: &Run) -> Paragraph<'static> {
    let speed = recent(run, "timing.tokens_per_sec")
        .map_or_else(String::new, |speed| format!(" · {speed:.0} tokens/s"));
    let returns: Vec<String> = run
        .evaluations
        .iter()
        .map(|evaluation| {
            format!(
                "{} at step {}",
                evaluation.mean_return,
                evaluation.step.unwrap_or_default()
            )
        })
        .collect();
    let first = Line::from(vec![
        shown(&run.path.display().to_string()).bold(),
        shown(&format!(
            " · {} on {}{}{speed}",
            run.training_method(),
            run.info.environment.label,
            ranks(run)
        )),
    ]);
    let held_out = match (returns.first(), returns.last()) {
        (Some(first), Some(last)) if returns.len() > 1 => format!("held out: {first}, {last}"),
        (Some(only), _) => format!("held out: {only}"),
        _ => "evaluating on held-out tasks".to_owned(),
    };
    Paragraph::new(vec![first, Line::from(held_out)])
}

/// How many ranks train the team, and how much of a step they communicate or wait on average; empty if there is only
/// one.
fn ranks(run: &Run) -> String {
    let Some(info) = &run.info.ranks else {
        return String::new();
    };
    let communication = (0..info.ranks)
        .map(|rank| recent(run, &format!("timing.rank_{rank}.communication_secs")))
        .collect::<Option<Vec<f64>>>();
    let share = match (communication, recent(run, "timing.step_secs")) {
        (Some(secs), Some(step)) if step > 0.0 => {
            let mean = secs.iter().sum::<f64>() / secs.len() as f64;
            format!(
                ", communicating or waiting for {:.0} %",
                100.0 * mean / step
            )
        }
        _ => String::new(),
    };
    format!(" · {} ranks{share}", info.ranks)
}

/// A text from the run's files, with control characters escaped. ratatui alone would drop them, and the
/// reader would not notice.
fn shown(text: &str) -> Span<'static> {
    Span::from(visible_line(text).into_owned())
}

/// The number of steps that are not done yet.
fn remaining_steps(run: &Run) -> usize {
    run.info.steps.saturating_sub(run.metrics.len())
}

/// Whether all steps and the evaluation after them are done.
fn is_complete(run: &Run) -> bool {
    remaining_steps(run) == 0 && run.evaluation_at(run.info.steps).is_some()
}

fn gauge(run: &Run) -> Gauge<'static> {
    let (done, steps) = (run.metrics.len(), run.info.steps);
    let status = match (remaining_steps(run), recent(run, "timing.step_secs")) {
        (0, _) if is_complete(run) => ", all done".to_owned(),
        (0, _) => ", evaluating on held-out tasks".to_owned(),
        (remaining, Some(secs)) => {
            format!(", {} left", duration_text(secs * remaining as f64))
        }
        (_, None) => String::new(),
    };
    let fraction = (done as f64 / steps.max(1) as f64).min(1.0);
    Gauge::default()
        .gauge_style(Style::new().fg(Color::Blue))
        .ratio(fraction)
        .label(format!("step {done} of {steps}{status}"))
}

/// Draws the mean return of every step, its moving average, and the returns on held-out tasks.
fn draw_returns(frame: &mut Frame<'_>, run: &Run, area: Rect) {
    let points = |series: &Series| -> Vec<(f64, f64)> {
        let drawn = series
            .iter()
            .filter_map(|(step, value)| Some((*step as f64, drawable(*value)?)));
        drawn.collect()
    };
    let returns = of_run(run, "return");
    let (each, smooth) = (
        points(&returns),
        points(&smoothed(&returns, window(std::slice::from_ref(&returns)))),
    );
    let held_out: Vec<(f64, f64)> = run
        .evaluations
        .iter()
        .filter_map(|evaluation| {
            let step = evaluation.step.unwrap_or_default() as f64;
            Some((step, drawable(evaluation.mean_return.mean)?))
        })
        .collect();
    let values = each.iter().chain(&held_out).map(|(_, value)| *value);
    let (low, high) = values.fold((0.0, 1.0f64), |(low, high): (f64, f64), value| {
        (low.min(value), high.max(value))
    });
    let last = (run.info.steps as f64).max(1.0);
    let data = vec![
        Dataset::default()
            .marker(Marker::Dot)
            .style(Style::new().dark_gray())
            .data(&each),
        Dataset::default()
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(MEAN)
            .data(&smooth),
        Dataset::default()
            .marker(Marker::Block)
            .style(HELD_OUT)
            .data(&held_out),
    ];
    let labels = |from: f64, to: f64, digits: usize| {
        [from, (from + to) / 2.0, to].map(|value| format!("{value:.digits$}"))
    };
    // The title serves as the legend, since a legend inside the chart would cover points.
    let title = Line::from(vec![
        Span::styled("return", MEAN),
        Span::from(" · "),
        Span::styled("held out", HELD_OUT),
    ]);
    let chart = Chart::new(data)
        .block(Block::bordered().title(title))
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

/// The largest value that is drawn. The chart multiplies values, and products of larger ones would be
/// infinite.
const LARGEST: f64 = 1e100;

/// The value within the range that can be drawn; `None` if it is not a number.
fn drawable(value: f64) -> Option<f64> {
    (!value.is_nan()).then(|| value.clamp(-LARGEST, LARGEST))
}

fn parts_table(run: &Run, area: Rect) -> Table<'static> {
    // At most half of the steps, so that no step is among both the first and the last.
    let steps = (run.metrics.len() / 2).clamp(1, RECENT);
    let title = match steps {
        1 => "single steps".to_owned(),
        _ => format!("means of {steps} steps"),
    };
    let names = run.metrics.last().into_iter().flat_map(|line| line.keys());
    let parts = names.filter_map(|name| name.strip_prefix("reward/").map(str::to_owned));
    let rows = parts.take(area.height.into()).map(|part| {
        let series = of_run(run, &format!("reward/{part}"));
        let cell = |mean: f64| match series.is_empty() {
            true => "–".to_owned(),
            false => format!("{mean:.2}"),
        };
        let first = mean(series.iter().take(steps));
        let last = mean(series.iter().rev().take(steps));
        let first = match run.metrics.len() {
            1 => "–".to_owned(),
            _ => cell(first),
        };
        Row::new([shown(&part), first.into(), cell(last).into()])
    });
    let widths = [
        Constraint::Min(12),
        Constraint::Length(7),
        Constraint::Length(7),
    ];
    Table::new(rows, widths)
        .header(Row::new(["part", "first", "last"]).bold())
        .block(Block::bordered().title(title))
}

/// Metrics of the agents that have a column, with the headers of the columns.
const AGENT_METRICS: [(&str, &str); 6] = [
    ("completion_length", "completion length"),
    ("truncated_fraction", "truncated"),
    ("zero_advantage_fraction", "zero advantage"),
    ("entropy", "entropy"),
    ("grad_norm", "gradient norm"),
    ("logprob_gap", "log-prob gap"),
];

/// Metrics of most algorithms that get no column.
const HIDDEN_METRICS: [&str; 11] = [
    "return",
    "advantage_std",
    "gradient_steps",
    "learning_rate",
    "skipped_groups",
    "skipped_updates",
    "ratio",
    "approx_kl",
    "clip_fraction",
    "kl",
    "reward",
];

/// The width of a column.
const COLUMN: u16 = 13;

fn agents_table(run: &Run, area: Rect) -> Table<'static> {
    let common = AGENT_METRICS.map(|(name, header)| (name.to_owned(), header.to_owned()));
    let of_algorithm = algorithm_metrics(run).into_iter();
    let of_algorithm = of_algorithm.map(|name| (name.clone(), name));
    let columns: Vec<(String, String)> = common
        .into_iter()
        .chain(of_algorithm)
        .take(usize::from(area.width / COLUMN) + 1)
        .collect();
    let roles = run.info.environment.roles.iter();
    let rows = roles.take(area.height.into()).map(|role| {
        let cell = |(name, _): &(String, String)| match recent(run, &format!("{role}/{name}")) {
            Some(value) => short_number(value),
            None => "–".to_owned(),
        };
        let cells = columns.iter().map(cell).map(Cell::from);
        Row::new(std::iter::once(Cell::from(shown(role))).chain(cells))
    });
    let header = columns.iter().map(|(_, header)| header.as_str());
    let header = Row::new(std::iter::once("agent").chain(header).map(shown));
    let lengths = columns.iter().map(|(_, header)| {
        let length = header.chars().count().min(area.width.into()) as u16;
        Constraint::Length(length.max(COLUMN))
    });
    Table::new(rows, std::iter::once(Constraint::Min(12)).chain(lengths))
        .header(header.bold())
        .block(Block::bordered().title(format!("means of the last {RECENT} steps")))
}

/// The metrics per agent that are specific to this algorithm.
fn algorithm_metrics(run: &Run) -> IndexSet<String> {
    let names = run.metrics.last().into_iter().flat_map(flat_values);
    let roles = run.info.environment.role_names();
    let keys = names.map(|(name, _)| run.catalog.key(&name, &roles));
    let is_known = |name: &str| {
        AGENT_METRICS.iter().any(|(known, _)| *known == name) || HIDDEN_METRICS.contains(&name)
    };
    let of_roles =
        keys.filter(|key| key.role.is_some() && key.turn.is_none() && key.part.is_none());
    of_roles
        .filter(|key| !key.is_timing() && !is_known(&key.name))
        .map(|key| key.name.into_owned())
        .collect()
}

/// A number with about three significant digits.
fn short_number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 0.001 => format!("{value:.1e}"),
        size if size < 10.0 => format!("{value:.3}"),
        _ => format!("{value:.1}"),
    }
}

/// The mean of a metric over the last steps, if there are values.
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
    use crate::{evaluation::EvaluationRecord, fixture, info::RanksInfo};

    fn run(steps: usize) -> Run {
        let line = |step: usize| {
            let line = json!({
                "step": step,
                "return": step as f64 / 10.0,
                "reward/style": 0.25,
                "reward/level": null,
                "summarizer/grad_norm": 3.5,
                "summarizer/entropy": 1.25,
                "elaborator/value_loss": 0.125,
                "timing": {"step_secs": 30.0, "tokens_per_sec": 99.0},
            });
            line.as_object().unwrap().clone()
        };
        Run {
            metrics: (1..=steps).map(line).collect(),
            evaluations: vec![fixture::evaluation(&[(1.5, "")])],
            ..fixture::run("tldr-1", fixture::TLDR, &[])
        }
    }

    fn shown(run: &Run, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, run)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_run_is_shown_at_every_stage() {
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
            // A metric of this algorithm only.
            "value_loss",
            "0.125",
            "return · held out",
            "means of 5 steps",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let mut trained = run(40);
        let text = shown(&trained, 120, 30);
        for part in ["step 40 of 40, evaluating on held-out tasks", "continues"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        trained.evaluations.push(EvaluationRecord {
            step: Some(40),
            ..fixture::evaluation(&[(2.5, "")])
        });
        let text = shown(&trained, 120, 30);
        assert!(text.contains("step 40 of 40, all done"), "{text}");
        assert!(!text.contains("continues"), "{text}");
        let text = shown(&run(0), 120, 30);
        for part in ["runs/tldr-1 · MAGRPO on tldr", "step 0 of 40"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn several_ranks_are_shown_with_the_time_in_which_they_wait() {
        let mut run = run(10);
        run.info.ranks = Some(RanksInfo {
            ranks: 2,
            ..RanksInfo::default()
        });
        let waiting = json!({
            "step_secs": 30.0,
            "rank_0.communication_secs": 3.0,
            "rank_1.communication_secs": 9.0,
        });
        for line in &mut run.metrics {
            line.insert("timing".to_owned(), waiting.clone());
        }
        let text = shown(&run, 120, 30);
        let expected = "tldr · 2 ranks, communicating or waiting for 20 %";
        assert!(text.contains(expected), "{text}");
        // A number in a file cannot keep the view busy.
        run.info.ranks = Some(RanksInfo {
            ranks: usize::MAX,
            ..RanksInfo::default()
        });
        assert!(shown(&run, 120, 30).contains("ranks"));
    }

    #[test]
    fn the_first_steps_are_not_the_last() {
        for (steps, title, means) in [
            (1, "single steps", "–       0.25"),
            (2, "single steps", "0.25    0.25"),
            (4, "means of 2 steps", "0.25    0.25"),
            (9, "means of 4 steps", "0.25    0.25"),
        ] {
            let text = shown(&run(steps), 120, 30);
            let row = format!("style            {means}");
            for part in [title, row.as_str()] {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
    }

    #[test]
    fn names_do_not_control_the_terminal() {
        let mut run = run(10);
        run.path = "runs/\u{1b}[2J".into();
        run.info.environment.label = "\u{202e}rldt".to_owned();
        run.info.environment.roles = vec!["a\u{7f}".to_owned()];
        let last = run.metrics.last_mut().unwrap();
        last.insert("reward/\u{9b}".to_owned(), json!(1.0));
        last.insert("a\u{7f}/\u{7}".to_owned(), json!(1.0));
        let text = shown(&run, 160, 30);
        for part in [
            "\\u{1b}[2J",
            "\\u{202e}rldt",
            "a\\u{7f}",
            "\\u{9b}",
            "\\u{7}",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(
            !text.contains(|c: char| c != '\n' && crate::is_control(c)),
            "{text}"
        );
    }

    #[test]
    fn any_run_is_drawn() {
        let empty = Run::default();
        let set_roles = |run: &mut Run, roles: usize| {
            let roles = (0..roles).map(|role| format!("role {role}"));
            run.info.environment.roles = roles.collect();
        };
        let no_steps = {
            let mut run = run(10);
            run.info.steps = 0;
            run
        };
        let no_roles = {
            let mut run = run(10);
            set_roles(&mut run, 0);
            run
        };
        let many = [65_533, 70_000].map(|roles| {
            let mut run = run(10);
            set_roles(&mut run, roles);
            let last = run.metrics.last_mut().unwrap();
            for name in 0..1000 {
                last.insert(format!("role 0/metric {name}"), json!(1));
                last.insert(format!("reward/part {name}"), json!(1));
            }
            run
        });
        let huge = {
            let mut run = run(3);
            run.info.steps = usize::MAX;
            for (line, value) in run.metrics.iter_mut().zip([f64::MAX, f64::MIN, 1.0]) {
                line.insert("return".to_owned(), json!(value));
                line.insert("step".to_owned(), json!(u64::MAX));
                line.insert("timing".to_owned(), json!({"step_secs": value}));
            }
            let means = [f64::NAN, f64::INFINITY, f64::MIN];
            run.evaluations = means
                .map(|mean| {
                    let mut evaluation = fixture::evaluation(&[(1.5, "")]);
                    evaluation.mean_return.mean = mean;
                    evaluation.step = Some(usize::MAX);
                    evaluation
                })
                .into();
            run
        };
        for run in [empty, no_steps, no_roles, huge].iter().chain(&many) {
            for (width, height) in [(1, 1), (20, 5), (120, 30)] {
                shown(run, width, height);
            }
        }
    }

    #[test]
    fn small_terminals_work() {
        for (width, height) in [(1, 1), (20, 5), (60, 12)] {
            shown(&run(10), width, height);
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (3.2e-5, "3.2e-5"),
            (0.25, "0.250"),
            (-124.06, "-124.1"),
        ] {
            assert_eq!(short_number(value), text);
        }
    }
}
