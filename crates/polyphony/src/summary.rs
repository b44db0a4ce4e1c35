//! The summary after a training run: the results before and after, an example, and commands to run next.

use std::{fmt::Write as _, path::Path};

use polyphony_report::before_and_after;
use polyphony_runner::Trained;

/// The summary of a run.
pub(crate) fn of(trained: &Trained) -> String {
    text(trained, &program())
}

/// The path of this program, as the user can type it in the current directory.
pub(crate) fn program() -> String {
    let program = std::env::args().next().unwrap_or_default();
    let current_dir = std::env::current_dir().unwrap_or_default();
    let path = Path::new(&program);
    path.strip_prefix(current_dir)
        .unwrap_or(path)
        .display()
        .to_string()
}

fn text(trained: &Trained, program: &str) -> String {
    let Trained {
        run,
        steps,
        recipe,
        roles,
        before,
        after,
        agents,
    } = trained;
    let run = run.display();
    let plural = if *steps == 1 { "" } else { "s" };
    let mut text = format!("\nTrained {steps} step{plural}.\n");
    if let (Some(before), Some(after)) = (before, after) {
        text += &before_and_after(before, after, roles);
    }
    if *steps < recipe.steps || after.is_none() {
        let _ = writeln!(text, "\nContinue the run:\n  {program} resume {run}");
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
        temperature = recipe.sampling.temperature,
        next = recipe.seed.wrapping_add(1),
    );
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use polyphony_runner::Recipe;

    use super::*;
    use crate::standard::registry;

    #[test]
    fn the_summary_lists_the_next_commands() {
        let trained = Trained {
            run: PathBuf::from("runs/x"),
            steps: 5,
            recipe: Recipe::load(&registry(), None, &[]).unwrap(),
            roles: vec!["a".to_owned(), "b".to_owned()],
            before: None,
            after: None,
            agents: vec![PathBuf::from("runs/x/agents/a")],
        };
        let text = text(&trained, "bin/polyphony");
        for part in [
            "Trained 5 steps.",
            "bin/polyphony generate --model runs/x/agents/a --temperature 0.7",
            "bin/polyphony resume runs/x",
            "bin/polyphony train runs/x/recipe.ron --set seed=2",
        ] {
            assert!(text.contains(part), "{text}\nlacks: {part}");
        }
    }
}
