//! What a finished run tells: what changed, an example, and what to type next.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use polyphony_episode::Role;

use crate::{evaluation::Evaluation, recipe::Recipe, table::table};

/// Characters of a response that the summary shows.
const SHOWN: usize = 400;

/// What there is to tell of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished<'a> {
    pub(crate) run: &'a Path,
    /// Steps that are done.
    pub(crate) steps: usize,
    /// Steps that there are to do.
    pub(crate) of: usize,
    /// Held-out tasks before and after, unless interrupted.
    pub(crate) before: Option<&'a Evaluation>,
    pub(crate) after: Option<&'a Evaluation>,
    /// The recipe that it followed.
    pub(crate) recipe: &'a Recipe,
    /// One role an agent.
    pub(crate) roles: &'a [Role],
    /// Where each agent was saved.
    pub(crate) agents: &'a [PathBuf],
}

/// Writes the summary to standard error.
pub(crate) fn tell(finished: Finished<'_>) {
    // Nobody is left to tell where standard error is closed.
    let _ = io::stderr()
        .lock()
        .write_all(text(finished, &program()).as_bytes());
}

/// This program as it can be typed from the current directory.
fn program() -> String {
    let started = std::env::args().next().unwrap_or_default();
    let here = std::env::current_dir().unwrap_or_default();
    let path = Path::new(&started);
    path.strip_prefix(here)
        .unwrap_or(path)
        .display()
        .to_string()
}

fn text(finished: Finished<'_>, program: &str) -> String {
    let Finished {
        run,
        steps,
        of,
        before,
        after,
        recipe,
        roles,
        agents,
    } = finished;
    let plural = if steps == 1 { "" } else { "s" };
    let mut text = format!("\nTrained {steps} step{plural}.\n");
    if let (Some(before), Some(after)) = (before, after) {
        add(&mut text, before, after, roles);
    }
    if steps < of || after.is_none() {
        let run = run.display();
        let _ = writeln!(text, "\nGo on with what is left:\n  {program} resume {run}");
    }
    text.push_str("\nThe agents are in\n");
    for agent in agents {
        let _ = writeln!(text, "  {}", agent.display());
    }
    let _ = writeln!(
        text,
        "metrics, rollouts and evaluations in\n  {run}\n\nTalk to an agent:\n  {program} generate \
         --model {} --temperature {temperature} --prompt \"…\"\nSee what the run did:\n  {program} report {run}\nTrain again with \
         other values:\n  {program} train {run}/recipe.ron --set seed={next}",
        agents
            .first()
            .map_or_else(String::new, |agent| agent.display().to_string()),
        run = run.display(),
        temperature = recipe.sampling.temperature,
        next = recipe.seed.wrapping_add(1),
    );
    text
}

/// Figures before and after, and the task with the middle change of return as an example.
fn add(text: &mut String, before: &Evaluation, after: &Evaluation, roles: &[Role]) {
    let (earlier, later) = (before.estimates(), after.estimates());
    let both = earlier.into_iter().filter_map(|(name, before)| {
        let after = *later.get(&name)?;
        Some((name, [before, after]))
    });
    let rows: Vec<Vec<String>> = both
        .map(|(name, estimates)| {
            let cells = estimates.map(|own| [format!("{:.3}", own.mean), own.interval_text()]);
            std::iter::once(name)
                .chain(cells.into_iter().flatten())
                .collect()
        })
        .collect();
    let header = ["held-out tasks", "before", "95 %", "after", "95 %"].map(str::to_owned);
    let _ = write!(text, "\n{}", table(&header, &rows));
    // The middle one of all changes: neither the best nor the worst that could be shown.
    let mut pairs: Vec<_> = before.episodes.iter().zip(&after.episodes).collect();
    pairs.sort_by(|(a, b), (c, d)| (b.value - a.value).total_cmp(&(d.value - c.value)));
    let Some((first, last)) = pairs.get(pairs.len() / 2) else {
        return;
    };
    let _ = writeln!(text, "\nTask `{}`", first.task);
    for (when, played) in [("before", first), ("after", last)] {
        let _ = writeln!(text, "  {when} training, return {:.2}:", played.value);
        for (role, response) in roles.iter().zip(played.turns.last().into_iter().flatten()) {
            let _ = writeln!(text, "    {}: {}", role.name, shorten(response));
        }
    }
}

/// The first characters of a response, on one line. What would control the terminal is escaped.
fn shorten(response: &str) -> String {
    let words: Vec<&str> = response.split_whitespace().collect();
    let shown = |character: char| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    let line: String = words.join(" ").chars().map(shown).collect();
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(values: [f64; 3]) -> Evaluation {
        crate::evaluation::fixture(&values.map(|value| (value, format!("says\n{value}"))))
    }

    #[test]
    fn shows_figures_and_the_middle_example() {
        let (before, after) = (evaluation([1.0, 1.0, 1.0]), evaluation([3.0, 1.5, 0.0]));
        let agents = [PathBuf::from("runs/x/agents/a")];
        let finished = Finished {
            run: Path::new("runs/x"),
            steps: 5,
            of: 9,
            before: Some(&before),
            after: Some(&after),
            recipe: &Recipe::load(None, &[]).unwrap(),
            roles: &["a", "b"].map(Role::new),
            agents: &agents,
        };
        let text = text(finished, "bin/polyphony");
        let figures = "\
held-out tasks  before         95 %  after         95 %
return           1.000  1.00 … 1.00  1.500  0.00 … 3.00
  style          0.500  0.50 … 0.50  0.750  0.00 … 1.50
";
        assert!(text.contains(figures), "{text}");
        assert!(
            text.contains("Task `t1`") && text.contains("b: says 1.5"),
            "{text}"
        );
        assert!(
            text.contains("bin/polyphony generate --model runs/x/agents/a --temperature 0.7"),
            "{text}"
        );
        assert!(text.contains("bin/polyphony resume runs/x"), "{text}");
    }

    #[test]
    fn responses_do_not_control_the_terminal() {
        assert_eq!(shorten("one\u{1b}[2J\n\u{7}two"), "one\\u{1b}[2J \\u{7}two");
    }

    #[test]
    fn long_responses_are_cut_at_a_character() {
        let shown = shorten(&"ä".repeat(500));
        assert_eq!(shown.chars().count(), SHOWN + 1);
    }
}
