//! The single-agent counterpart of a team environment: one agent does the work of the whole team.

use std::{num::NonZeroUsize, sync::Arc};

use polyphony_episode::{
    Counter, Environment, EnvironmentError, JointAction, Next, Observation, Outcome, Response,
    Reward, Role, Split, Task, Turn,
};

/// Separates two answers; it stands alone on its line.
const MARKER: &str = "[NEXT]";

/// Wraps a team environment for one agent, which writes the answers of all roles. This is the baseline
/// that shows whether a team does better than one agent with the same information and the same reward.
///
/// The agent gets the observations of all roles, one after the other. It separates its answers by
/// lines of `[NEXT]`. Missing answers are empty, and text after a marker that follows the last answer is
/// ignored. If an observation has a line that looks like the marker, the line is quoted with `> `, so that
/// splitting restores every text exactly.
pub struct SingleAgent {
    team: Box<dyn Environment>,
    roles: [Role; 1],
}

impl SingleAgent {
    /// The name of its only role.
    pub const ROLE: &str = "single";

    /// Wraps an environment for a team.
    pub fn new(team: Box<dyn Environment>) -> Self {
        let instructions: Vec<&str> = team
            .roles()
            .iter()
            .filter_map(|role| role.system.as_deref())
            .collect();
        let role = Role::new(Self::ROLE);
        let role = match instructions.is_empty() {
            true => role,
            false => role.with_system(instructions.join("\n\n")),
        };
        Self {
            team,
            roles: [role],
        }
    }

    fn preamble(&self) -> String {
        format!(
            "Below are the tasks of {} people, one after the other, with lines of {MARKER} between \
             them. Do all of them: write your answers in the same order, with a line of {MARKER} \
             between two of them.\n\n",
            self.team.roles().len()
        )
    }

    /// The observations of all roles as one observation.
    fn join(&self, observations: &[Observation]) -> Observation {
        let texts = observations.iter().map(|one| &*one.text);
        Observation::new(self.preamble() + &join(texts))
    }

    /// One text per role.
    fn split(&self, text: &str) -> Vec<String> {
        split(text, self.team.roles().len())
    }

    /// The turn as the wrapped environment expects it: one observation and one response per role.
    fn team_turn(&self, turn: &Turn) -> Turn {
        let text = turn.observations.first().map_or("", |one| &*one.text);
        let text = text.strip_prefix(&self.preamble()).unwrap_or(text);
        Turn {
            observations: self.split(text).into_iter().map(Observation::new).collect(),
            action: self.team_action(&turn.action),
        }
    }

    fn team_action(&self, action: &JointAction) -> JointAction {
        let response = &action.responses[0];
        let part = |text: String| Response {
            text: text.into(),
            tokens: Arc::default(),
            finish: response.finish,
        };
        JointAction::new(self.split(&response.text).into_iter().map(part).collect())
    }
}

/// The prefix that quotes a line that looks like the marker but belongs to a text.
const QUOTE: &str = "> ";

/// Joins texts with lines of the marker between them. [`split`] restores them exactly.
fn join<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let texts: Vec<String> = texts.map(quote).collect();
    texts.join(&format!("\n{MARKER}\n"))
}

/// Splits a text into `count` texts. Missing texts are empty. The marker after the last text and everything
/// that follows it are dropped.
fn split(text: &str, count: usize) -> Vec<String> {
    let mut parts = vec![String::new(); count];
    let mut index = 0;
    for line in text.split_inclusive('\n') {
        let Some(part) = parts.get_mut(index) else {
            break;
        };
        if is_marker(line) {
            // The line end before the marker belongs to the separator.
            part.truncate(part.strip_suffix('\n').unwrap_or(part).len());
            index += 1;
        } else {
            part.push_str(unquote(line));
        }
    }
    parts
}

fn is_marker(line: &str) -> bool {
    line.trim() == MARKER
}

/// Whether a line is the marker, quoted any number of times.
fn is_quoted_marker(line: &str) -> bool {
    is_marker(line) || line.strip_prefix(QUOTE).is_some_and(is_quoted_marker)
}

/// The text with its markers quoted; markers that are quoted already get one more level.
fn quote(text: &str) -> String {
    let line = |line| match is_quoted_marker(line) {
        true => format!("{QUOTE}{line}"),
        false => line.to_owned(),
    };
    text.split_inclusive('\n').map(line).collect()
}

/// The line as it was before [`quote`].
fn unquote(line: &str) -> &str {
    match line.strip_prefix(QUOTE) {
        Some(rest) if is_quoted_marker(rest) => rest,
        _ => line,
    }
}

impl Environment for SingleAgent {
    fn roles(&self) -> &[Role] {
        &self.roles
    }

    fn reward_parts(&self) -> &[String] {
        self.team.reward_parts()
    }

    fn horizon(&self) -> NonZeroUsize {
        self.team.horizon()
    }

    fn concurrency(&self) -> NonZeroUsize {
        self.team.concurrency()
    }

    fn tasks(&self, split: Split) -> Option<Vec<Task>> {
        self.team.tasks(split)
    }

    fn counters(&self) -> Vec<Counter> {
        self.team.counters()
    }

    fn description(&self) -> Option<serde_json::Value> {
        self.team.description()
    }

    fn is_solved(&self, reward: &Reward) -> Option<bool> {
        self.team.is_solved(reward)
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        Ok(vec![self.join(&self.team.start(task)?)])
    }

    fn step(
        &self,
        task: &Task,
        past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        let past: Vec<Turn> = past.iter().map(|turn| self.team_turn(turn)).collect();
        let Outcome { reward, next } = self.team.step(task, &past, &self.team_action(action))?;
        Ok(match next {
            Next::End => Outcome::end(reward),
            Next::Continue(observations) => {
                Outcome::continue_with(reward, vec![self.join(&observations)])
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use polyphony_episode::Reward;
    use proptest::prelude::*;

    use super::*;

    /// Two roles, two turns; its observations repeat the responses.
    struct Echo {
        roles: [Role; 2],
        parts: [String; 1],
    }

    impl Environment for Echo {
        fn roles(&self) -> &[Role] {
            &self.roles
        }

        fn reward_parts(&self) -> &[String] {
            &self.parts
        }

        fn horizon(&self) -> NonZeroUsize {
            const { NonZeroUsize::new(2).unwrap() }
        }

        fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
            let text = task.field("text")?;
            Ok(["one", "two"]
                .map(|n| Observation::new(format!("{n}\n{text}")))
                .into())
        }

        fn step(
            &self,
            task: &Task,
            past: &[Turn],
            action: &JointAction,
        ) -> Result<Outcome, EnvironmentError> {
            let [first, second] = action.texts();
            let length = (first.len() * 100 + second.len()) as f64;
            let reward = Reward::new([("length", length)]);
            if let [first_turn] = past {
                let [one, two] = &first_turn.observations[..] else {
                    panic!("there are two roles")
                };
                assert_eq!((&*one.text, &*two.text), ("one\nx", "two\nx"));
                assert_eq!(first_turn.action.texts(), ["a", "b"]);
                return Ok(Outcome::end(reward));
            }
            let advice = task.field("advice").unwrap_or_default();
            let echoes =
                [first, second].map(|text| Observation::new(format!("said {text}{advice}")));
            Ok(Outcome::continue_with(reward, echoes.into()))
        }
    }

    fn single_agent() -> SingleAgent {
        SingleAgent::new(Box::new(Echo {
            roles: ["a", "b"].map(Role::new),
            parts: ["length".to_owned()],
        }))
    }

    fn action(text: &str) -> JointAction {
        JointAction::new(vec![Response::from_text(text)])
    }

    #[test]
    fn one_agent_gets_the_observations_and_the_reward_of_the_team() {
        let (single, task) = (single_agent(), Task::new("t", [("text", "x")]));
        let first = single.start(&task).unwrap();
        assert_eq!(first.len(), 1);
        assert!(
            first[0].text.ends_with("\n\none\nx\n[NEXT]\ntwo\nx"),
            "{}",
            first[0].text
        );
        let outcome = single.step(&task, &[], &action("a\n[NEXT]\nb")).unwrap();
        assert_eq!(outcome.reward.total(), 101.0);
        let Next::Continue(second) = outcome.next else {
            panic!("there are two turns")
        };
        assert!(
            second[0].text.ends_with("said a\n[NEXT]\nsaid b"),
            "{}",
            second[0].text
        );
        let past = [Turn {
            observations: first,
            action: action("a\n[NEXT]\nb"),
        }];
        let last = single
            .step(&task, &past, &action("long\n[NEXT]\n"))
            .unwrap();
        assert_eq!((last.reward.total(), last.next), (400.0, Next::End));
    }

    #[test]
    fn markers_in_the_text_of_an_outside_model_do_not_separate() {
        let task = Task::new("t", [("text", "x"), ("advice", "\n [NEXT]\nso")]);
        let outcome = single_agent()
            .step(&task, &[], &action("a\n[NEXT]\nb"))
            .unwrap();
        let Next::Continue(observations) = outcome.next else {
            panic!("there are two turns")
        };
        let expected = "said a\n>  [NEXT]\nso\n[NEXT]\nsaid b\n>  [NEXT]\nso";
        let text = &observations[0].text;
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn answers_are_split_only_at_lines_that_are_the_marker() {
        for (text, expected) in [
            ("a\n[NEXT]\nb", ["a", "b"]),
            ("a [NEXT] b", ["a [NEXT] b", ""]),
            ("\n a\n\n  [NEXT]  \r\nb\n\n", ["\n a\n", "b\n\n"]),
            ("a\r\n[NEXT]\r\n> [NEXT]\nb", ["a\r", "[NEXT]\nb"]),
            ("a\n[NEXT]\nb\n[NEXT]\nc", ["a", "b"]),
            ("[NEXT]\nb", ["", "b"]),
            ("", ["", ""]),
        ] {
            assert_eq!(single_agent().split(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_past_turn_reaches_the_team_environment_unchanged() {
        let text = "x\n > [NEXT]\n> [NEXT]\n[NEXT]\r\ny\r\n\n";
        let (single, task) = (single_agent(), Task::new("t", [("text", text)]));
        let observations = single.start(&task).unwrap();
        let turn = Turn {
            observations,
            action: action("a\n[NEXT]\nb\n"),
        };
        let team_turn = single.team_turn(&turn);
        assert_eq!(team_turn.observations, single.team.start(&task).unwrap());
        assert_eq!(team_turn.action.texts(), ["a", "b\n"]);
    }

    /// Texts of lines that look like separators, with every kind of line end.
    fn text() -> impl Strategy<Value = String> {
        let lines = [
            "[NEXT]",
            " [NEXT]\t",
            "> [NEXT]",
            "> > [NEXT]",
            ">[NEXT]",
            "",
            "a",
            " > [NEXT]",
        ];
        let line = (
            prop::sample::select(lines.to_vec()),
            "[ \\n\r]{0,2}|\r\n|\n",
        );
        let lines =
            prop::collection::vec(line.prop_map(|(line, end)| format!("{line}{end}")), 0..6);
        lines.prop_map(|lines| lines.concat())
    }

    proptest! {
        #[test]
        fn texts_that_are_joined_are_split_as_they_were(texts in prop::collection::vec(text(), 1..5)) {
            let joined = join(texts.iter().map(String::as_str));
            prop_assert_eq!(split(&joined, texts.len()), texts);
        }

        #[test]
        fn any_texts_are_split_as_they_were(texts in prop::collection::vec(".{0,12}", 1..5)) {
            let joined = join(texts.iter().map(String::as_str));
            prop_assert_eq!(split(&joined, texts.len()), texts);
        }
    }
}
