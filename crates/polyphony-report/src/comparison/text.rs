//! A comparison as text for a terminal.

use indexmap::IndexSet;

use super::Row;
use crate::table::table;

/// One table per environment.
pub fn comparison_text(rows: &[Row]) -> String {
    let environments: IndexSet<&str> = rows.iter().map(|row| row.environment.as_str()).collect();
    let mut text = String::new();
    for environment in environments {
        let rows: Vec<&Row> = rows
            .iter()
            .filter(|row| row.environment == environment)
            .collect();
        text += &format!("\n{}", environment_table(environment, &rows));
        for row in rows
            .iter()
            .filter(|row| (row.skipped_episodes, row.cut_episodes) != (0, 0))
        {
            text += &format!(
                "{}: {} episodes skipped and {} cut short because a prompt did not fit\n",
                row.method, row.skipped_episodes, row.cut_episodes
            );
        }
    }
    text + "\nTokens and seconds are per episode; seconds depend on the machine.\n"
}

fn environment_table(environment: &str, rows: &[&Row]) -> String {
    let header = [
        environment,
        "steps",
        "seeds",
        "tasks",
        "return",
        "95 % interval",
    ];
    let parts = rows[0].parts.keys().cloned();
    let roles: IndexSet<&String> = rows.iter().flat_map(|row| row.roles.keys()).collect();
    let rates: IndexSet<usize> = rows
        .iter()
        .flat_map(|row| row.pass_at.keys().copied())
        .collect();
    let cost = ["completion tokens", "prompt tokens", "seconds", "runs"].map(str::to_owned);
    let header: Vec<String> = header
        .map(str::to_owned)
        .into_iter()
        .chain(parts)
        .chain(roles.iter().map(|role| format!("return of {role}")))
        .chain(rates.iter().map(|k| format!("pass@{k}")))
        .chain(cost)
        .collect();
    let cells: Vec<Vec<String>> = rows.iter().map(|row| cells(row, &roles, &rates)).collect();
    table(&header, &cells)
}

fn cells(row: &Row, roles: &IndexSet<&String>, rates: &IndexSet<usize>) -> Vec<String> {
    let steps = row.step.map_or_else(String::new, |step| step.to_string());
    let begin = [
        row.method.clone(),
        steps,
        row.seeds.len().to_string(),
        format!("{} × {}", row.tasks, row.samples),
        format!("{:.2}", row.mean_return.mean),
        row.mean_return.interval_text(),
    ];
    let shown = |mean: Option<f64>| mean.map_or_else(String::new, |mean| format!("{mean:.2}"));
    let parts = row.parts.values().map(|part| shown(Some(part.mean)));
    let role = |role: &&String| shown(row.roles.get(*role).map(|estimate| estimate.mean));
    let rate = |k: &usize| shown(row.pass_at.get(k).map(|rate| rate.mean));
    let cost = [
        format!("{:.0}", row.completion_tokens),
        format!("{:.0}", row.prompt_tokens),
        format!("{:.2}", row.secs),
        row.runs.join(", "),
    ];
    begin
        .into_iter()
        .chain(parts)
        .chain(roles.iter().map(role))
        .chain(rates.iter().map(rate))
        .chain(cost)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        comparison::compare, evaluation::RoleReturn, fixture, run::Run, statistics::Estimate,
    };

    #[test]
    fn a_table_reports_skipped_episodes_and_leaves_unknown_values_blank() {
        let run = |name: &str, changes: &[&str], solved: Option<bool>| {
            let mut evaluation = fixture::evaluation(&[(1.0, "")]);
            evaluation.cut_episodes = usize::from(solved.is_none());
            evaluation.episodes[0].solved = solved;
            if solved.is_some() {
                let rate = Estimate::of_run(evaluation.pass_by_task(1));
                evaluation.pass_at.insert(1, rate);
            }
            Run {
                evaluations: vec![evaluation],
                ..fixture::run(name, fixture::COOP, changes)
            }
        };
        let runs = [
            run("a", &[], Some(true)),
            run("b", &["sampling.temperature=0.5"], None),
        ];
        let text = comparison_text(&compare(&runs).unwrap());
        let cells = |name: &str| {
            let line = text.lines().find(|line| line.trim_end().ends_with(name));
            let cells = line.unwrap().split("  ");
            cells.filter(|cell| !cell.trim().is_empty()).count()
        };
        assert_eq!(cells(" a"), cells(" b") + 1, "{text}");
        let note =
            "parallel (temperature: 0.5): 0 episodes skipped and 1 cut short because a prompt";
        assert!(
            text.contains(note) && text.matches("skipped").count() == 1,
            "{text}"
        );
    }

    #[test]
    fn returns_of_roles_are_columns_if_there_is_a_reward_per_role() {
        let mut run = Run {
            evaluations: vec![fixture::evaluation(&[(1.0, ""), (2.0, "")])],
            ..fixture::run("a", fixture::TLDR, &[])
        };
        for (episode, value) in run.evaluations[0].episodes.iter_mut().zip([0.5, 3.0]) {
            let role_return = RoleReturn {
                episode_return: value,
                ..RoleReturn::default()
            };
            episode.roles.insert("writer".to_owned(), role_return);
        }
        let text = comparison_text(&compare([&run]).unwrap());
        assert!(
            text.contains("return of writer") && text.contains("1.75"),
            "{text}"
        );
        // Not if an episode lacks it.
        run.evaluations[0].episodes[1].roles.clear();
        let text = comparison_text(&compare([&run]).unwrap());
        assert!(!text.contains("return of writer"), "{text}");
    }
}
