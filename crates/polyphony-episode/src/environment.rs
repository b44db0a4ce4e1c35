//! The trait that a new environment implements.

use std::{num::NonZeroUsize, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Counter, EnvironmentError, JointAction, Observation, Reward, Role, Split, Task, Turn};

/// A cooperative task for a team of language models.
///
/// An environment holds no episode state, because [`Environment::step`] is given everything that happened
/// before. So one episode can branch into many, branches can be scored on several threads, and a
/// stored rollout can be scored again.
///
/// The caller guarantees that a joint action holds one response per role, and that no more threads
/// than [`Environment::concurrency`] call `start` or `step` at a time. A `Box`, an `Arc` or a reference
/// to an environment is an environment too.
pub trait Environment: Send + Sync {
    /// The roles of the team. One agent may play several of them.
    fn roles(&self) -> &[Role];

    /// The names of the parts that rewards may have, in the order in which reports show them.
    fn reward_parts(&self) -> &[String];

    /// The maximum number of turns of an episode, `H`. [`Environment::step`] must end the episode by then.
    fn horizon(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    /// How many threads may call [`Environment::start`] and [`Environment::step`] at once. Scoring
    /// runs on separate threads, so it may wait for programs or for the network.
    fn concurrency(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    /// The environment's own tasks of a split; `None` if this split needs a data set.
    fn tasks(&self, _split: Split) -> Option<Vec<Task>> {
        None
    }

    /// Totals that the environment has counted since it was built. How much each total grows in a training
    /// step becomes a metric. Every call must return the same keys.
    fn counters(&self) -> Vec<Counter> {
        Vec::new()
    }

    /// Additional information to save with a run, such as the version of a program that the environment
    /// uses.
    fn description(&self) -> Option<serde_json::Value> {
        None
    }

    /// Whether a joint action with this reward solves the task completely; `None` if the environment has
    /// no such notion. Evaluation counts a solved task as passed.
    fn is_solved(&self, _reward: &Reward) -> Option<bool> {
        None
    }

    /// What each agent reads first, one observation per role.
    ///
    /// # Errors
    /// If the task lacks something that the environment needs.
    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError>;

    /// Scores a joint action and decides how the episode continues. `past` holds the turns before it, on
    /// this branch of the episode.
    ///
    /// # Errors
    /// If scoring is impossible. A bad response is not an error: it earns a low reward.
    fn step(
        &self,
        task: &Task,
        past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError>;
}

/// The outcome of a joint action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What the joint action earned.
    pub reward: Reward,
    /// How the episode continues.
    pub next: Next,
}

/// How an episode continues after a turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Next {
    /// It is over.
    End,
    /// One new observation per role.
    Continue(Vec<Observation>),
}

impl Outcome {
    /// The episode is over.
    pub fn end(reward: Reward) -> Self {
        Self {
            reward,
            next: Next::End,
        }
    }

    /// The episode continues with one observation per role.
    pub fn continue_with(reward: Reward, observations: Vec<Observation>) -> Self {
        Self {
            reward,
            next: Next::Continue(observations),
        }
    }
}

/// Implements [`Environment`] for pointers to an environment by forwarding every method.
macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<E: Environment + ?Sized> Environment for $pointer {
            fn roles(&self) -> &[Role] {
                (**self).roles()
            }

            fn reward_parts(&self) -> &[String] {
                (**self).reward_parts()
            }

            fn horizon(&self) -> NonZeroUsize {
                (**self).horizon()
            }

            fn concurrency(&self) -> NonZeroUsize {
                (**self).concurrency()
            }

            fn tasks(&self, split: Split) -> Option<Vec<Task>> {
                (**self).tasks(split)
            }

            fn counters(&self) -> Vec<Counter> {
                (**self).counters()
            }

            fn description(&self) -> Option<serde_json::Value> {
                (**self).description()
            }

            fn is_solved(&self, reward: &Reward) -> Option<bool> {
                (**self).is_solved(reward)
            }

            fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
                (**self).start(task)
            }

            fn step(
                &self,
                task: &Task,
                past: &[Turn],
                action: &JointAction,
            ) -> Result<Outcome, EnvironmentError> {
                (**self).step(task, past, action)
            }
        }
    )*};
}

forward!(&E, Box<E>, Arc<E>);

#[cfg(test)]
mod tests {
    use crate::{MetricKey, Response};

    use super::*;

    /// Overrides every method with a value that is not the default.
    struct NonDefault {
        roles: [Role; 1],
        parts: [String; 1],
    }

    const THREE: NonZeroUsize = NonZeroUsize::new(3).unwrap();

    impl Environment for NonDefault {
        fn roles(&self) -> &[Role] {
            &self.roles
        }

        fn reward_parts(&self) -> &[String] {
            &self.parts
        }

        fn horizon(&self) -> NonZeroUsize {
            THREE
        }

        fn concurrency(&self) -> NonZeroUsize {
            THREE
        }

        fn tasks(&self, split: Split) -> Option<Vec<Task>> {
            (split == Split::Train).then(|| vec![Task::new("1", [("a", "b")])])
        }

        fn counters(&self) -> Vec<Counter> {
            vec![Counter::new(
                MetricKey::new("game/calls"),
                4.0,
                "calls",
                "Calls",
            )]
        }

        fn description(&self) -> Option<serde_json::Value> {
            Some(serde_json::json!({"version": 2}))
        }

        fn is_solved(&self, reward: &Reward) -> Option<bool> {
            Some(reward.total() > 0.0)
        }

        fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
            Ok(vec![Observation::new(task.field("a")?)])
        }

        fn step(
            &self,
            _task: &Task,
            past: &[Turn],
            action: &JointAction,
        ) -> Result<Outcome, EnvironmentError> {
            let [text] = action.texts();
            let length = (text.len() + past.len()) as f64;
            Ok(Outcome::end(Reward::new([("length", length)])))
        }
    }

    fn non_default() -> NonDefault {
        NonDefault {
            roles: [Role::new("one")],
            parts: ["length".to_owned()],
        }
    }

    fn check(environment: impl Environment) {
        assert_eq!(environment.roles().len(), 1);
        assert_eq!(environment.reward_parts(), ["length"]);
        assert_eq!(environment.horizon(), THREE);
        assert_eq!(environment.concurrency(), THREE);
        let tasks = environment.tasks(Split::Train).unwrap();
        assert_eq!(environment.tasks(Split::HeldOut), None);
        assert_eq!(environment.counters()[0].total, 4.0);
        assert_eq!(environment.description().unwrap()["version"], 2);
        assert_eq!(&*environment.start(&tasks[0]).unwrap()[0].text, "b");
        let action = JointAction::new(vec![Response::from_text("four")]);
        let outcome = environment.step(&tasks[0], &[], &action).unwrap();
        assert_eq!(outcome.reward.total(), 4.0);
        assert_eq!(environment.is_solved(&outcome.reward), Some(true));
    }

    #[test]
    fn pointers_forward_every_method() {
        let game = non_default();
        check(&game);
        check(game);
        check(Box::new(non_default()) as Box<dyn Environment>);
        check(Arc::new(non_default()));
        check(Arc::new(Box::new(non_default()) as Box<dyn Environment>));
    }
}
