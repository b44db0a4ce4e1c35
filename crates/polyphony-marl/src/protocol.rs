//! Protocols: who reads whose answers before a joint action is complete, and in what words.
//!
//! The untrained baselines of the MAGRPO paper (arXiv 2508.04652) let agents answer one after the other,
//! or revise drafts. A protocol is a list of rounds with their texts, and you can write others.

use std::borrow::Cow;

use polyphony_episode::{Observation, Role};

/// Who reads whose answers before a joint action is complete.
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
    /// What a role reads.
    pub message: Message,
}

/// In which order roles answer in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All at once: nobody reads what another answers in this round.
    AtOnce,
    /// One after the other.
    InTurn,
}

/// What a role reads in a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// What the environment says, and nothing else.
    Observation,
    /// What the environment says, followed by the answers of the roles before this one.
    WithEarlierAnswers {
        /// The text of an answer, with `{role}` and `{answer}`.
        answer: Cow<'static, str>,
    },
    /// The last answers of all others, and then what to do with them.
    OtherAnswers {
        /// The text of an answer, with `{role}` and `{answer}`.
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
    /// Nobody reads another's answer, as in training.
    pub fn parallel() -> Self {
        Self {
            name: "parallel".into(),
            rounds: vec![Round {
                order: Order::AtOnce,
                message: Message::Observation,
            }],
        }
    }

    /// The agents answer one after the other, and each reads the answers before its own.
    pub fn pipeline() -> Self {
        Self {
            name: "pipeline".into(),
            rounds: vec![Round {
                order: Order::InTurn,
                message: Message::WithEarlierAnswers {
                    answer: "\n\nYour partner \"{role}\" has already answered:\n{answer}".into(),
                },
            }],
        }
    }

    /// Every agent writes a draft, reads the drafts of the others, and revises its own once.
    pub fn discussion() -> Self {
        let draft = Round {
            order: Order::AtOnce,
            message: Message::Observation,
        };
        let revision = Round {
            order: Order::AtOnce,
            message: Message::OtherAnswers {
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

    /// The protocols that ship.
    pub fn all() -> [Self; 3] {
        [Self::parallel(), Self::pipeline(), Self::discussion()]
    }

    /// The protocol with this name among those that ship.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|own| own.name == name)
    }
}

impl Message {
    /// What a role reads, given the last answer of each.
    pub(crate) fn to(
        &self,
        role: usize,
        roles: &[Role],
        observation: &Observation,
        answers: &[&str],
    ) -> Observation {
        let named = |other: usize, template: &str| {
            // The role's name comes first, because an answer may contain `{role}`.
            let text = template.replace("{role}", &roles[other].name);
            text.replace("{answer}", answers[other])
        };
        match self {
            Self::Observation => observation.clone(),
            Self::WithEarlierAnswers { answer } => {
                let earlier = (0..role).map(|other| named(other, answer));
                Observation::new(observation.text.to_string() + &earlier.collect::<String>())
            }
            Self::OtherAnswers {
                answer,
                request,
                request_in_larger_team,
            } => {
                let others = (0..roles.len()).filter(|other| *other != role);
                let text: String = others.map(|other| named(other, answer)).collect();
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

    fn read(message: &Message, role: usize, names: &[&str], answers: &[&str]) -> String {
        let roles: Vec<Role> = names.iter().copied().map(Role::new).collect();
        let told = Observation::new("Go.");
        message.to(role, &roles, &told, answers).text.to_string()
    }

    #[test]
    fn two_revise_so_that_the_two_go_together_and_more_so_that_all_do() {
        let discussion = Protocol::discussion();
        let revision = &discussion.rounds[1].message;
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
        let message = &pipeline.rounds[0].message;
        assert_eq!(
            read(message, 1, &["a", "b"], &["say {role}", ""]),
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
