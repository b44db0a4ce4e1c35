//! Reads the answers of a program, in protocol version 1. `docs/environments.md` describes every message.

use std::{collections::HashSet, num::NonZeroUsize};

use polyphony_episode::{Next, Observation, Outcome, Reward, Role, Split, Task};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _},
};
use serde_json::{Map, Value};

use super::{
    call::{CallName, PROTOCOL},
    error::{ProcessFailure, excerpt},
};

/// An answer that belongs to its call and reports no error.
#[derive(Debug)]
pub(super) struct Answer {
    call: CallName,
    fields: Value,
    excerpt: String,
}

/// Reads an answer.
///
/// # Errors
/// If it is not a JSON object, belongs to another call, or reports an error.
pub(super) fn read(line: &[u8], call: CallName, id: u64) -> Result<Answer, ProcessFailure> {
    let excerpt = || excerpt(line);
    let value: Value =
        serde_json::from_slice(line).map_err(|error| match has_nan_or_infinity(line) {
            true => ProcessFailure::NotFinite {
                call,
                answer: excerpt(),
            },
            false => ProcessFailure::NotJson {
                call,
                reason: error.to_string(),
                answer: excerpt(),
            },
        })?;
    let Value::Object(mut fields) = value else {
        return Err(ProcessFailure::NotAllowed {
            call,
            reason: "an answer must be an object".to_owned(),
            answer: excerpt(),
        });
    };
    let answer_id = fields.shift_remove("id").unwrap_or(Value::Null);
    let error = fields.shift_remove("error");
    // A program that cannot read a call does not know its id.
    let belongs_to_call =
        answer_id.as_u64() == Some(id) || (error.is_some() && answer_id.is_null());
    if !belongs_to_call {
        return Err(ProcessFailure::OtherCall {
            call,
            id,
            answer: excerpt(),
        });
    }
    if let Some(error) = error {
        let message = match error {
            Value::String(message) => message,
            value => value.to_string(),
        };
        return Err(ProcessFailure::Reported { call, message });
    }
    Ok(Answer {
        call,
        fields: Value::Object(fields),
        excerpt: excerpt(),
    })
}

/// Whether an object contains `NaN` or `Infinity`, which Python's `json` writes for numbers that are not
/// finite.
fn has_nan_or_infinity(line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(line);
    // Once escapes are removed, the pieces between quotes are outside and inside strings in turn.
    let text = text.replace("\\\\", "").replace("\\\"", "");
    let mut outside_strings = text.split('"').step_by(2);
    text.trim_start().starts_with('{')
        && outside_strings.any(|piece| piece.contains("NaN") || piece.contains("Infinity"))
}

impl Answer {
    fn not_allowed(&self, reason: String) -> ProcessFailure {
        ProcessFailure::NotAllowed {
            call: self.call,
            reason,
            answer: self.excerpt.clone(),
        }
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, ProcessFailure> {
        T::deserialize(&self.fields).map_err(|error| self.not_allowed(error.to_string()))
    }

    /// The answer to the handshake.
    pub(super) fn hello(&self) -> Result<Hello, ProcessFailure> {
        // Another version may have other fields, so the version is checked before them.
        if let Some(protocol) = self.fields.get("protocol")
            && *protocol != PROTOCOL
        {
            return Err(self.not_allowed(format!(
                "it speaks protocol {protocol}, but Polyphony speaks protocol {PROTOCOL}"
            )));
        }
        let hello: Hello = self.parse()?;
        match hello.problem() {
            Some(reason) => Err(self.not_allowed(reason)),
            None => Ok(hello),
        }
    }

    /// The answer to `start`.
    pub(super) fn observations(&self, hello: &Hello) -> Result<Vec<Observation>, ProcessFailure> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct StartAnswer {
            observations: Vec<String>,
        }
        let answer: StartAnswer = self.parse()?;
        self.one_per_role(hello, answer.observations)
    }

    fn one_per_role(
        &self,
        hello: &Hello,
        texts: Vec<String>,
    ) -> Result<Vec<Observation>, ProcessFailure> {
        let (count, roles) = (texts.len(), hello.roles.len());
        if count != roles {
            return Err(self.not_allowed(format!(
                "`observations` holds {count} texts, but there are {roles} roles"
            )));
        }
        Ok(texts.into_iter().map(Observation::new).collect())
    }

    /// The answer to `step`.
    pub(super) fn outcome(&self, hello: &Hello) -> Result<Outcome, ProcessFailure> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct StepAnswer {
            reward: Value,
            observations: Option<Vec<String>>,
            end: Option<bool>,
        }
        let answer: StepAnswer = self.parse()?;
        let reward = hello
            .reward(&answer.reward)
            .map_err(|reason| self.not_allowed(reason))?;
        let next = match (answer.observations, answer.end) {
            (Some(texts), None | Some(false)) => Next::Continue(self.one_per_role(hello, texts)?),
            (None, Some(true)) => Next::End,
            (Some(_), Some(true)) => {
                let reason = "it holds both `observations` and `\"end\": true`";
                return Err(self.not_allowed(reason.to_owned()));
            }
            (None, None | Some(false)) => {
                let reason =
                    "it holds neither `observations` for the next turn nor `\"end\": true`";
                return Err(self.not_allowed(reason.to_owned()));
            }
        };
        Ok(Outcome { reward, next })
    }
}

/// The answer to the handshake, in which the program describes its game.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hello {
    protocol: u32,
    #[serde(deserialize_with = "read_roles")]
    roles: Vec<HelloRole>,
    #[serde(deserialize_with = "read_parts")]
    pub(super) reward_parts: Vec<String>,
    #[serde(default = "one_turn", deserialize_with = "read_horizon")]
    pub(super) horizon: NonZeroUsize,
    /// Whether a reward is a list with one object per role.
    #[serde(default, deserialize_with = "read_per_role")]
    pub(super) per_role: bool,
    /// The total reward of one turn, not of the episode, at which a joint action has solved its task. If
    /// every role has its own reward, the mean over the roles counts.
    #[serde(default, deserialize_with = "read_solved_at")]
    pub(super) solved_at: Option<f64>,
    #[serde(default, skip_serializing, deserialize_with = "read_tasks")]
    tasks: HelloTasks,
    /// Anything else worth recording with a run.
    #[serde(default)]
    description: Value,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct HelloRole {
    name: String,
    #[serde(default)]
    system: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct HelloTasks {
    train: Option<Vec<Task>>,
    held_out: Option<Vec<Task>>,
}

/// Reads the value of a key. An error begins with what the value must be.
fn read_as<'de, D, T>(deserializer: D, allowed: &str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map_err(|error| D::Error::custom(format!("{allowed}: {error}")))
}

fn read_roles<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HelloRole>, D::Error> {
    let allowed =
        "`roles` must be a list of objects with a `name` and, optionally, a `system` message";
    read_as(deserializer, allowed)
}

fn read_parts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    read_as(deserializer, "`reward_parts` must be a list of texts")
}

fn read_horizon<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NonZeroUsize, D::Error> {
    let horizon = read_as(
        deserializer,
        "`horizon` must be a whole number of at least 1",
    )?;
    NonZeroUsize::new(horizon)
        .ok_or_else(|| D::Error::custom("`horizon` is 0, but must be at least 1"))
}

fn read_per_role<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    read_as(deserializer, "`per_role` must be true or false")
}

fn read_solved_at<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    read_as(deserializer, "`solved_at` must be a number")
}

fn read_tasks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HelloTasks, D::Error> {
    let allowed = "`tasks` must be an object with lists `train` and `held_out`, whose items are objects with \
                   an `id` and with `fields` (texts by name)";
    read_as(deserializer, allowed)
}

fn one_turn() -> NonZeroUsize {
    NonZeroUsize::MIN
}

impl Hello {
    pub(super) fn roles(&self) -> Vec<Role> {
        let role = |role: &HelloRole| Role {
            name: role.name.clone(),
            system: role.system.clone(),
        };
        self.roles.iter().map(role).collect()
    }

    pub(super) fn tasks(&self, split: Split) -> Option<&Vec<Task>> {
        match split {
            Split::Train => self.tasks.train.as_ref(),
            Split::HeldOut => self.tasks.held_out.as_ref(),
        }
    }

    /// The first key that differs in the handshake of another worker. The description may differ, since
    /// nothing depends on it. The protocol cannot differ, since it was checked.
    pub(super) fn difference(&self, other: &Self) -> Option<&'static str> {
        let Self {
            protocol: _,
            roles,
            reward_parts,
            horizon,
            per_role,
            solved_at,
            tasks,
            description: _,
        } = self;
        let keys = [
            ("roles", *roles == other.roles),
            ("reward_parts", *reward_parts == other.reward_parts),
            ("horizon", *horizon == other.horizon),
            ("per_role", *per_role == other.per_role),
            ("solved_at", *solved_at == other.solved_at),
            ("tasks", *tasks == other.tasks),
        ];
        let mut differences = keys.into_iter().filter(|(_, is_same)| !is_same);
        differences.next().map(|(key, _)| key)
    }

    /// Why the handshake cannot be used; `None` if it can.
    fn problem(&self) -> Option<String> {
        let names: Vec<&str> = self.roles.iter().map(|role| role.name.as_str()).collect();
        let parts: Vec<&str> = self.reward_parts.iter().map(String::as_str).collect();
        let lists = [("roles", names), ("reward_parts", parts)];
        for (key, names) in lists {
            if names.is_empty() {
                return Some(format!("`{key}` is empty"));
            }
            if let Some(name) = duplicate(&names) {
                return Some(format!("`{key}` lists `{name}` twice"));
            }
        }
        let splits = [Split::Train, Split::HeldOut];
        splits.into_iter().find_map(|split| {
            let ids: Vec<&str> = self.tasks(split)?.iter().map(|task| &*task.id).collect();
            match duplicate(&ids) {
                Some(id) => Some(format!("`tasks` has the id `{id}` twice in `{split}`")),
                None if ids.is_empty() => Some(format!("`tasks` has no task in `{split}`")),
                None => None,
            }
        })
    }

    fn reward(&self, value: &Value) -> Result<Reward, String> {
        match (value, self.per_role) {
            (Value::Object(parts), false) => Ok(Reward::new(self.parts(parts)?)),
            (Value::Array(rewards), true) => {
                if rewards.len() != self.roles.len() {
                    return Err(format!(
                        "`reward` holds {} rewards, but there are {} roles",
                        rewards.len(),
                        self.roles.len()
                    ));
                }
                let parts_per_role = rewards.iter().map(|reward| match reward {
                    Value::Object(parts) => self.parts(parts),
                    _ => Err("each reward must be an object of parts".to_owned()),
                });
                Ok(Reward::per_role(
                    parts_per_role.collect::<Result<Vec<_>, _>>()?,
                ))
            }
            (_, false) => Err(
                "`reward` must be an object of parts; a list with one object per role needs \
                 `\"per_role\": true` in the handshake"
                    .to_owned(),
            ),
            (_, true) => Err(
                "`reward` must be a list with one object of parts per role, since the handshake has \
                 `\"per_role\": true`"
                    .to_owned(),
            ),
        }
    }

    fn parts<'a>(&self, parts: &'a Map<String, Value>) -> Result<Vec<(&'a str, f64)>, String> {
        let part = |(name, value): (&'a String, &Value)| {
            if !self.reward_parts.contains(name) {
                return Err(format!(
                    "the reward part `{name}` is not among the `reward_parts` of the handshake: {}",
                    self.reward_parts.join(", ")
                ));
            }
            let number = value
                .as_f64()
                .ok_or_else(|| format!("the reward part `{name}` is not a number"))?;
            let largest = Reward::LARGEST_PART;
            match (-largest..=largest).contains(&number) {
                true => Ok((name.as_str(), number)),
                false => Err(format!(
                    "the reward part `{name}` is {number:e}, but it must be a number from -{largest:e} to \
                     {largest:e}: scale or clip it"
                )),
            }
        };
        parts.iter().map(part).collect()
    }
}

fn duplicate<'a>(names: &[&'a str]) -> Option<&'a str> {
    let mut distinct = HashSet::new();
    names.iter().copied().find(|name| !distinct.insert(*name))
}

#[cfg(test)]
mod tests;
