//! One agent does the work of a whole team: the single-agent counterpart of another environment.

use std::{borrow::Borrow, num::NonZeroUsize, sync::Arc};

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
/// missing are empty, and what follows the last one's marker belongs to nobody.
pub struct Solo {
    team: Box<dyn Environment>,
    roles: [Role; 1],
}

impl Solo {
    /// The name of its one role.
    pub const ROLE: &str = "solo";

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
    fn join(&self, texts: &[impl Borrow<str>]) -> Observation {
        let body = texts.join(&format!("\n{MARKER}\n"));
        Observation::new(self.preamble() + &body)
    }

    /// One text a role.
    fn split(&self, text: &str) -> Vec<String> {
        let mut parts = vec![String::new(); self.team.roles().len()];
        let mut part = 0;
        for line in text.split_inclusive('\n') {
            match (is_marker(line), parts.get_mut(part)) {
                (true, _) => part += 1,
                (false, Some(own)) => own.push_str(line),
                (false, None) => break,
            }
        }
        for own in &mut parts {
            own.truncate(own.trim_end_matches(['\n', '\r']).len());
        }
        parts
    }

    /// The same turn as the team would have played it.
    fn team_turn(&self, turn: &Turn) -> Turn {
        let told = turn
            .observations
            .first()
            .map_or("", |one| &*one.text);
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

fn is_marker(line: &str) -> bool {
    line.trim() == MARKER
}

/// The text with its markers quoted, so that they separate nothing.
fn quoted(text: &str) -> String {
    let line = |line: &str| match is_marker(line) {
        true => format!("> {line}"),
        false => line.to_owned(),
    };
    text.split_inclusive('\n').map(line).collect()
}

impl Environment for Solo {
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
        let told = self.team.start(task)?;
        let texts: Vec<&str> = told.iter().map(|one| &*one.text).collect();
        if texts.iter().any(|text| text.lines().any(is_marker)) {
            return Err(EnvironmentError::failed(format!(
                "task `{}` has a line of {MARKER}, which separates the answers of a single agent: \
                 leave the task out",
                task.id
            )));
        }
        Ok(vec![self.join(&texts)])
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
            Next::Continue(told) => {
                // An outside model that is asked for feedback may say anything.
                let texts: Vec<String> = told.iter().map(|one| quoted(&one.text)).collect();
                Outcome::go_on(reward, vec![self.join(&texts)])
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use polyphony_episode::Reward;

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
                assert_eq!(
                    (&*told[0].text, &*told[1].text),
                    ("one\nx", "two\nx")
                );
                assert_eq!(before.action.texts(), ["a", "b"]);
                return Ok(Outcome::end(reward));
            }
            let advice = task.field("advice").unwrap_or_default();
            let told = [first, second].map(|text| Observation::new(format!("said {text}{advice}")));
            Ok(Outcome::go_on(reward, told.into()))
        }
    }

    fn solo() -> Solo {
        Solo::new(Box::new(Echo {
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
        let outcome = solo.step(&task, &[], &said("a\n[NEXT]\nb\n")).unwrap();
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
            action: said("a\n[NEXT]\nb\n"),
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
            ("\n a\n\n  [NEXT]  \r\nb\n\n", ["\n a", "b"]),
            ("a\n[NEXT]\nb\n[NEXT]\nc", ["a", "b"]),
            ("[NEXT]\nb", ["", "b"]),
            ("", ["", ""]),
        ] {
            assert_eq!(solo().split(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_task_with_the_marker_in_it_is_refused() {
        let task = Task::new("t", [("text", "x\n[NEXT]\ny")]);
        let message = solo().start(&task).unwrap_err().to_string();
        assert!(
            message.starts_with("task `t` has a line of [NEXT]"),
            "{message}"
        );
    }
}
