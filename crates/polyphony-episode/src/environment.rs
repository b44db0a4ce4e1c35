//! The trait that a new environment implements.

use std::{num::NonZeroUsize, sync::Arc};

use crate::{Counter, EnvironmentError, JointAction, Observation, Reward, Role, Split, Task, Turn};

/// A cooperative task for a team of language models.
///
/// An environment holds no episode state: [`Environment::step`] is given everything that happened
/// before. So one episode can branch into many, branches can be scored on several threads, and a
/// stored rollout can be scored again.
///
/// The caller guarantees that a joint action holds one response per role, and that no more threads
/// than [`Environment::concurrency`] call `start` or `step` at a time. A box, an `Arc` or a reference
/// of an environment is an environment too.
pub trait Environment: Send + Sync {
    /// The agents' roles. Their number is the team's size.
    fn roles(&self) -> &[Role];

    /// The names of the parts that rewards may have, in the order of reports.
    fn reward_parts(&self) -> &[String];

    /// The most turns of an episode, `H`: by then [`Environment::step`] ends it.
    fn horizon(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    /// How many threads may call [`Environment::start`] and [`Environment::step`] at once. Scoring
    /// runs on threads of its own, so it may wait for programs or for the network.
    fn concurrency(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    /// Tasks of its own, where it needs no data set; `None` where it has none of this kind.
    fn tasks(&self, _split: Split) -> Option<Vec<Task>> {
        None
    }

    /// What it has counted since it was built. The growth of each total over a training step becomes
    /// a metric. The keys stay the same from the first call to the last.
    fn counters(&self) -> Vec<Counter> {
        Vec::new()
    }

    /// What else is worth keeping with a run, such as the version of a program that it uses.
    fn description(&self) -> Option<serde_json::Value> {
        None
    }

    /// Whether a joint action with this reward solves the task completely; `None` where the
    /// environment has no such notion. Evaluation counts it as passed.
    fn is_solved(&self, _reward: &Reward) -> Option<bool> {
        None
    }

    /// What each agent reads first, one observation per role.
    ///
    /// # Errors
    /// If the task lacks something that the environment needs.
    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError>;

    /// Scores a joint action and decides what comes next. `past` holds the turns before it, on
    /// this branch of the episode.
    ///
    /// # Errors
    /// If scoring is impossible. A bad response is not an error but a low reward.
    fn step(
        &self,
        task: &Task,
        past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError>;
}

/// What a joint action led to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What it earned.
    pub reward: Reward,
    /// How the episode continues.
    pub next: Next,
}

/// How an episode continues after a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// A pointer to an environment is one as well; every method is passed on.
macro_rules! pass_on {
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

pass_on!(&E, Box<E>, Arc<E>);

#[cfg(test)]
mod tests {
    use crate::{MetricKey, Response};

    use super::*;

    /// Answers every method with something that is not the default.
    struct Odd {
        roles: [Role; 1],
        parts: [String; 1],
    }

    const THREE: NonZeroUsize = NonZeroUsize::new(3).unwrap();

    impl Environment for Odd {
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
            (split == Split::Train).then(|| vec![Task::new("own", [("a", "b")])])
        }

        fn counters(&self) -> Vec<Counter> {
            vec![Counter::new(
                MetricKey::new("odd/calls"),
                4.0,
                "calls",
                "Calls",
            )]
        }

        fn description(&self) -> Option<serde_json::Value> {
            Some(serde_json::json!({"odd": true}))
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

    fn odd() -> Odd {
        Odd {
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
        assert_eq!(environment.description().unwrap()["odd"], true);
        assert_eq!(&*environment.start(&tasks[0]).unwrap()[0].text, "b");
        let action = JointAction::new(vec![Response::from_text("four")]);
        let outcome = environment.step(&tasks[0], &[], &action).unwrap();
        assert_eq!(outcome.reward.total(), 4.0);
        assert_eq!(environment.is_solved(&outcome.reward), Some(true));
    }

    #[test]
    fn pointers_pass_every_method_on() {
        let game = odd();
        check(&game);
        check(game);
        check(Box::new(odd()) as Box<dyn Environment>);
        check(Arc::new(odd()));
        check(Arc::new(Box::new(odd()) as Box<dyn Environment>));
    }
}
