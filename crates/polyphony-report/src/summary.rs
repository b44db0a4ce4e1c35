//! The results of a run, as text for a terminal.

use std::fmt::Write as _;

use crate::{evaluation::EvaluationRecord, table::table, visible::visible};

/// Characters of a response that the summary shows.
const SHOWN: usize = 400;

/// A table of results before and after training, and as an example the task whose return changed by the
/// median. `roles` are the names of the roles.
pub fn before_and_after<R: AsRef<str>>(
    before: &EvaluationRecord,
    after: &EvaluationRecord,
    roles: &[R],
) -> String {
    let (earlier, later) = (before.estimates(), after.estimates());
    let both = earlier.into_iter().filter_map(|(name, before)| {
        let after = *later.get(&name)?;
        Some((name, [before, after]))
    });
    let rows: Vec<Vec<String>> = both
        .map(|(name, estimates)| {
            let cells = estimates.map(|estimate| {
                let mean = format!("{:.3}", estimate.mean);
                [mean, estimate.interval_text()]
            });
            std::iter::once(name)
                .chain(cells.into_iter().flatten())
                .collect()
        })
        .collect();
    let header = ["held-out tasks", "before", "95 %", "after", "95 %"].map(str::to_owned);
    let mut text = format!("\n{}", table(&header, &rows));
    // The median change is neither the best nor the worst example.
    let mut pairs: Vec<_> = before.episodes.iter().zip(&after.episodes).collect();
    pairs.sort_by(|(a, b), (c, d)| {
        (b.episode_return - a.episode_return).total_cmp(&(d.episode_return - c.episode_return))
    });
    let Some((first, last)) = pairs.get(pairs.len() / 2) else {
        return text;
    };
    let _ = writeln!(text, "\nTask `{}`", first.task);
    for (when, episode) in [("before", first), ("after", last)] {
        // The return is that of all turns, but only the responses of the last turn are shown.
        let turn = match episode.turns.len() {
            0 | 1 => String::new(),
            turns => format!(", here turn {turns} of {turns}"),
        };
        let _ = writeln!(
            text,
            "  {when} training, return {:.2}{turn}:",
            episode.episode_return
        );
        for (role, response) in roles.iter().zip(episode.turns.last().into_iter().flatten()) {
            let _ = writeln!(text, "    {}: {}", role.as_ref(), shorten(response));
        }
    }
    text
}

/// The first characters of a response, on one line. Control characters are escaped.
fn shorten(response: &str) -> String {
    let words: Vec<&str> = response.split_whitespace().collect();
    let line = words.join(" ");
    let line = visible(&line);
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn shows_results_and_the_median_example() {
        let evaluation = |values: [f64; 3]| {
            let texts = values.map(|value| format!("says\n{value}"));
            let episodes: Vec<(f64, &str)> = values
                .into_iter()
                .zip(texts.iter().map(String::as_str))
                .collect();
            fixture::evaluation(&episodes)
        };
        let (before, after) = (evaluation([1.0, 1.0, 1.0]), evaluation([3.0, 1.5, 0.0]));
        let text = before_and_after(&before, &after, &["a", "b"]);
        let expected = "
held-out tasks  before         95 %  after         95 %
return           1.000  1.00 … 1.00  1.500  0.00 … 3.00
  style          0.500  0.50 … 0.50  0.750  0.00 … 1.50

Task `t1`
  before training, return 1.00:
    a: says 1
    b: says 1
  after training, return 1.50:
    a: says 1.5
    b: says 1.5
";
        assert_eq!(text, expected);
    }

    #[test]
    fn of_several_turns_the_last_one_is_shown() {
        let mut evaluation = fixture::evaluation(&[(1.0, "first")]);
        let turns = &mut evaluation.episodes[0].turns;
        turns.push(vec!["second".to_owned(); 2]);
        let text = before_and_after(&evaluation, &evaluation, &["a", "b"]);
        let expected =
            "  after training, return 1.00, here turn 2 of 2:\n    a: second\n    b: second\n";
        assert!(text.ends_with(expected), "{text}");
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
