//! The protocols of baselines: who reads whose answers before a joint action is complete, and in what words.
//!
//! In the untrained baselines of the MAGRPO paper (arXiv 2508.04652) agents answer independently, answer one
//! after the other, or revise drafts. A protocol is a list of rounds with their texts, so you can write your
//! own. It has nothing to do with the wire protocol of `Process`, the environment that is a separate program.

use std::borrow::Cow;

use polyphony_episode::{Observation, Role};

/// Who reads whose answers in a baseline, before a joint action is complete. Evaluations of trained teams use
/// [`Protocol::parallel`], where agents answer as they do in training.
///
/// This is not the wire protocol of `Process`, the environment that is a separate program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Its name, in tables and files.
    pub name: Cow<'static, str>,
    /// The rounds of each turn. A role's last answer is its part of the joint action.
    pub rounds: Vec<Round>,
}

/// One round of answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// In which order the roles answer.
    pub order: Order,
    /// What each role reads before it answers.
    pub prompt: RoundPrompt,
}

/// In which order roles answer in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All at once: no role reads another's answer of this round.
    AtOnce,
    /// One after the other.
    InTurn,
}

/// What a role reads in a round before it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoundPrompt {
    /// The environment's observation, and nothing else.
    Observation,
    /// The environment's observation, followed by the answers of the roles before this one.
    WithEarlierAnswers {
        /// The text for each answer, in which `{role}` and `{answer}` are filled in.
        answer: Cow<'static, str>,
    },
    /// The last answers of all other roles, and then what to do with them.
    OtherAnswers {
        /// The text for each answer, in which `{role}` and `{answer}` are filled in.
        answer: Cow<'static, str>,
        /// What to do, in a team of two.
        request: Cow<'static, str>,
        /// What to do, in a larger team.
        request_in_larger_team: Cow<'static, str>,
    },
}

impl Default for Protocol {
    fn default() -> Self {
        Self::parallel()
    }
}

impl Protocol {
    /// No agent reads another's answer, as in training.
    pub fn parallel() -> Self {
        Self {
            name: "parallel".into(),
            rounds: vec![Round {
                order: Order::AtOnce,
                prompt: RoundPrompt::Observation,
            }],
        }
    }

    /// The agents answer one after the other, and each reads the answers before its own.
    pub fn pipeline() -> Self {
        Self {
            name: "pipeline".into(),
            rounds: vec![Round {
                order: Order::InTurn,
                prompt: RoundPrompt::WithEarlierAnswers {
                    answer: "\n\nYour partner \"{role}\" has already answered:\n{answer}".into(),
                },
            }],
        }
    }

    /// Every agent writes a draft, reads the drafts of the others, and revises its own once.
    pub fn discussion() -> Self {
        let draft = Round {
            order: Order::AtOnce,
            prompt: RoundPrompt::Observation,
        };
        let revision = Round {
            order: Order::AtOnce,
            prompt: RoundPrompt::OtherAnswers {
                answer: "Your partner \"{role}\" has answered:\n{answer}\n\n".into(),
                request: "Revise your own answer so that the two go well together. Write only the \
                          whole revised answer."
                    .into(),
                request_in_larger_team: "Revise your own answer so that all of them go well \
                                         together. Write only the whole revised answer."
                    .into(),
            },
        };
        Self {
            name: "discussion".into(),
            rounds: vec![draft, revision],
        }
    }

    /// The protocols that ship with this crate.
    pub fn all() -> [Self; 3] {
        [Self::parallel(), Self::pipeline(), Self::discussion()]
    }

    /// The protocol with this name among those that ship.
    pub fn named(name: &str) -> Option<Self> {
        Self::all()
            .into_iter()
            .find(|protocol| protocol.name == name)
    }
}

impl RoundPrompt {
    /// What a role reads, given the last answer of each role.
    pub(crate) fn to(
        &self,
        role: usize,
        roles: &[Role],
        observation: &Observation,
        answers: &[&str],
    ) -> Observation {
        let fill = |author: usize, template: &str| {
            // The role's name is filled in first, because an answer may contain `{role}`.
            let text = template.replace("{role}", &roles[author].name);
            text.replace("{answer}", answers[author])
        };
        match self {
            Self::Observation => observation.clone(),
            Self::WithEarlierAnswers { answer } => {
                let earlier = (0..role).map(|author| fill(author, answer));
                Observation::new(observation.text.to_string() + &earlier.collect::<String>())
            }
            Self::OtherAnswers {
                answer,
                request,
                request_in_larger_team,
            } => {
                let others = (0..roles.len()).filter(|other| *other != role);
                let text: String = others.map(|author| fill(author, answer)).collect();
                let request = match roles.len() {
                    0..=2 => request,
                    _ => request_in_larger_team,
                };
                Observation::new(text + request)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(prompt: &RoundPrompt, role: usize, names: &[&str], answers: &[&str]) -> String {
        let roles: Vec<Role> = names.iter().copied().map(Role::new).collect();
        let observation = Observation::new("Go.");
        let read = prompt.to(role, &roles, &observation, answers);
        read.text.to_string()
    }

    #[test]
    fn the_request_to_revise_depends_on_the_size_of_the_team() {
        let discussion = Protocol::discussion();
        let revision = &discussion.rounds[1].prompt;
        assert_eq!(
            read(revision, 1, &["a", "b"], &["one", "two"]),
            "Your partner \"a\" has answered:\none\n\nRevise your own answer so that the two go well \
             together. Write only the whole revised answer."
        );
        let three = read(revision, 1, &["a", "b", "c"], &["one", "two", "three"]);
        assert!(!three.contains("the two"), "{three}");
        assert!(
            three.contains("so that all of them go well together"),
            "{three}"
        );
        assert!(three.contains("three") && !three.contains("two"), "{three}");
    }

    #[test]
    fn an_answer_is_inserted_as_it_is() {
        let pipeline = Protocol::pipeline();
        let prompt = &pipeline.rounds[0].prompt;
        assert_eq!(
            read(prompt, 1, &["a", "b"], &["say {role}", ""]),
            "Go.\n\nYour partner \"a\" has already answered:\nsay {role}"
        );
    }

    #[test]
    fn protocols_are_found_by_name() {
        for protocol in Protocol::all() {
            assert_eq!(Protocol::named(&protocol.name), Some(protocol));
        }
        assert_eq!(Protocol::named("chorus"), None);
        assert_eq!(Protocol::default(), Protocol::parallel());
    }
}
