//! One agent does the work of a whole team: the single-agent counterpart of another environment.

use std::{num::NonZeroUsize, sync::Arc};

use polyphony_episode::{
    Counter, Environment, EnvironmentError, JointAction, Next, Observation, Outcome, Response,
    Reward, Role, Split, Task, Turn,
};

/// Stands alone on the line between two answers.
const MARKER: &str = "[NEXT]";

/// Another environment for one agent, which writes what all of its roles would.
///
/// The agent is told what each role would be, one after the other, and separates its answers by lines
/// of `[NEXT]`; so it has the same content before it, and earns the same reward. Answers that are
/// missing are empty, and what follows the last one's marker belongs to nobody. A line of a text that
/// looks like the marker is quoted with `> `, so that texts come out as they went in.
pub struct SingleAgent {
    team: Box<dyn Environment>,
    roles: [Role; 1],
}

impl SingleAgent {
    /// The name of its one role.
    pub const ROLE: &str = "single";

    /// The counterpart of an environment for a team.
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

    /// What the roles would be told, as one observation.
    fn join(&self, observations: &[Observation]) -> Observation {
        let texts = observations.iter().map(|one| &*one.text);
        Observation::new(self.preamble() + &join(texts))
    }

    /// One text per role.
    fn split(&self, text: &str) -> Vec<String> {
        split(text, self.team.roles().len())
    }

    /// The same turn as the team would have played it.
    fn team_turn(&self, turn: &Turn) -> Turn {
        let told = turn.observations.first().map_or("", |one| &*one.text);
        let told = told.strip_prefix(&self.preamble()).unwrap_or(told);
        Turn {
            observations: self.split(told).into_iter().map(Observation::new).collect(),
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

/// What stands before a line of a text that is a marker, so that it separates nothing.
const QUOTE: &str = "> ";

/// Texts with lines of the marker between them. [`split`] gives them back as they are.
fn join<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = texts.map(quoted).collect();
    quoted.join(&format!("\n{MARKER}\n"))
}

/// So many texts. Those that are missing are empty, and what follows the last one's marker is left out.
fn split(text: &str, count: usize) -> Vec<String> {
    let mut parts = vec![String::new(); count];
    let mut part = 0;
    for line in text.split_inclusive('\n') {
        let Some(own) = parts.get_mut(part) else {
            break;
        };
        if is_marker(line) {
            // This line end belongs to the separator.
            own.truncate(own.strip_suffix('\n').unwrap_or(own).len());
            part += 1;
        } else {
            own.push_str(unquoted(line));
        }
    }
    parts
}

fn is_marker(line: &str) -> bool {
    line.trim() == MARKER
}

/// Whether a line is the marker, quoted as often as may be.
fn is_quoted_marker(line: &str) -> bool {
    is_marker(line) || line.strip_prefix(QUOTE).is_some_and(is_quoted_marker)
}

/// The text with its markers quoted, those that were quoted before once more.
fn quoted(text: &str) -> String {
    let line = |line| match is_quoted_marker(line) {
        true => format!("{QUOTE}{line}"),
        false => line.to_owned(),
    };
    text.split_inclusive('\n').map(line).collect()
}

/// The line as it was before it was quoted.
fn unquoted(line: &str) -> &str {
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
            Next::Continue(told) => Outcome::go_on(reward, vec![self.join(&told)]),
        })
    }
}

#[cfg(test)]
mod tests {
    use polyphony_episode::Reward;
    use proptest::prelude::*;

    use super::*;

    /// Two roles, two turns; says what it was given.
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
            if let [before] = past {
                let told = &before.observations;
                assert_eq!((&*told[0].text, &*told[1].text), ("one\nx", "two\nx"));
                assert_eq!(before.action.texts(), ["a", "b"]);
                return Ok(Outcome::end(reward));
            }
            let advice = task.field("advice").unwrap_or_default();
            let told = [first, second].map(|text| Observation::new(format!("said {text}{advice}")));
            Ok(Outcome::go_on(reward, told.into()))
        }
    }

    fn solo() -> SingleAgent {
        SingleAgent::new(Box::new(Echo {
            roles: ["a", "b"].map(Role::new),
            parts: ["length".to_owned()],
        }))
    }

    fn said(text: &str) -> JointAction {
        JointAction::new(vec![Response::from_text(text)])
    }

    #[test]
    fn one_agent_is_told_and_earns_what_a_team_would() {
        let (solo, task) = (solo(), Task::new("t", [("text", "x")]));
        let first = solo.start(&task).unwrap();
        assert_eq!(first.len(), 1);
        assert!(
            first[0].text.ends_with("\n\none\nx\n[NEXT]\ntwo\nx"),
            "{}",
            first[0].text
        );
        let outcome = solo.step(&task, &[], &said("a\n[NEXT]\nb")).unwrap();
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
            action: said("a\n[NEXT]\nb"),
        }];
        let last = solo.step(&task, &past, &said("long\n[NEXT]\n")).unwrap();
        assert_eq!((last.reward.total(), last.next), (400.0, Next::End));
    }

    #[test]
    fn markers_in_what_an_outside_model_says_separate_nothing() {
        let task = Task::new("t", [("text", "x"), ("advice", "\n [NEXT]\nso")]);
        let outcome = solo().step(&task, &[], &said("a\n[NEXT]\nb")).unwrap();
        let Next::Continue(told) = outcome.next else {
            panic!("there are two turns")
        };
        let expected = "said a\n>  [NEXT]\nso\n[NEXT]\nsaid b\n>  [NEXT]\nso";
        assert!(told[0].text.ends_with(expected), "{}", told[0].text);
    }

    #[test]
    fn answers_are_cut_at_lines_of_the_marker_alone() {
        for (text, expected) in [
            ("a\n[NEXT]\nb", ["a", "b"]),
            ("a [NEXT] b", ["a [NEXT] b", ""]),
            ("\n a\n\n  [NEXT]  \r\nb\n\n", ["\n a\n", "b\n\n"]),
            ("a\r\n[NEXT]\r\n> [NEXT]\nb", ["a\r", "[NEXT]\nb"]),
            ("a\n[NEXT]\nb\n[NEXT]\nc", ["a", "b"]),
            ("[NEXT]\nb", ["", "b"]),
            ("", ["", ""]),
        ] {
            assert_eq!(solo().split(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_past_turn_is_given_to_the_team_as_it_was() {
        let text = "x\n > [NEXT]\n> [NEXT]\n[NEXT]\r\ny\r\n\n";
        let (solo, task) = (solo(), Task::new("t", [("text", text)]));
        let observations = solo.start(&task).unwrap();
        let turn = Turn {
            observations,
            action: said("a\n[NEXT]\nb\n"),
        };
        let team_turn = solo.team_turn(&turn);
        assert_eq!(team_turn.observations, solo.team.start(&task).unwrap());
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
