//! An environment that is made from a function.

use std::{fmt, num::NonZeroUsize};

use crate::{
    Environment, EnvironmentError, JointAction, Observation, Outcome, Reward, Role, Task, Turn,
};

type Observe = dyn Fn(&Task) -> Result<Vec<Observation>, EnvironmentError> + Send + Sync;
type Score = dyn Fn(&Task, &JointAction) -> Result<Reward, EnvironmentError> + Send + Sync;

/// An environment of one turn whose reward is a function of the task and the joint action.
///
/// Every agent reads the task's field `prompt`, unless
/// [`with_observations`](FnEnvironment::with_observations) sets other observations.
///
/// ```
/// use polyphony_episode::{Environment, FnEnvironment, JointAction, Response, Reward, Task};
///
/// let rhyme = FnEnvironment::new(["first", "second"], ["rhyme"], |_task, action| {
///     let [first, second] = action.texts().map(|line| line.chars().rev().take(3));
///     Reward::new([("rhyme", f64::from(u8::from(first.eq(second))))])
/// });
/// let task = Task::new("1", [("prompt", "Write one line about the sea.")]);
/// assert_eq!(&*rhyme.start(&task)?[1].text, "Write one line about the sea.");
/// let lines = ["Waves that roll in the night", "Ships that wait for the light"];
/// let action = JointAction::new(lines.map(Response::from_text).into());
/// assert_eq!(rhyme.step(&task, &[], &action)?.reward.total(), 1.0);
/// # Ok::<(), polyphony_episode::EnvironmentError>(())
/// ```
pub struct FnEnvironment {
    roles: Vec<Role>,
    parts: Vec<String>,
    concurrency: NonZeroUsize,
    observe: Option<Box<Observe>>,
    score: Box<Score>,
}

impl FnEnvironment {
    /// An environment from its roles, the names of its reward's parts, and the function that scores.
    ///
    /// The function returns a [`Reward`], or a `Result<Reward, EnvironmentError>` if scoring can fail.
    pub fn new<R, P, S>(
        roles: impl IntoIterator<Item = R>,
        parts: impl IntoIterator<Item = P>,
        score: impl Fn(&Task, &JointAction) -> S + Send + Sync + 'static,
    ) -> Self
    where
        R: Into<Role>,
        P: Into<String>,
        S: Into<Result<Reward, EnvironmentError>>,
    {
        Self {
            roles: roles.into_iter().map(Into::into).collect(),
            parts: parts.into_iter().map(Into::into).collect(),
            concurrency: NonZeroUsize::MIN,
            observe: None,
            score: Box::new(move |task, action| score(task, action).into()),
        }
    }

    /// The same environment with observations from this function, which returns one per role.
    #[must_use]
    pub fn with_observations(
        self,
        observe: impl Fn(&Task) -> Result<Vec<Observation>, EnvironmentError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            observe: Some(Box::new(observe)),
            ..self
        }
    }

    /// The same environment, but its functions may be called from this many threads at once.
    #[must_use]
    pub fn with_concurrency(self, concurrency: NonZeroUsize) -> Self {
        Self {
            concurrency,
            ..self
        }
    }
}

impl fmt::Debug for FnEnvironment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = formatter.debug_struct("FnEnvironment");
        fields.field("roles", &self.roles);
        fields.field("parts", &self.parts);
        fields.finish_non_exhaustive()
    }
}

impl Environment for FnEnvironment {
    fn roles(&self) -> &[Role] {
        &self.roles
    }

    fn reward_parts(&self) -> &[String] {
        &self.parts
    }

    fn concurrency(&self) -> NonZeroUsize {
        self.concurrency
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        match &self.observe {
            Some(observe) => observe(task),
            None => {
                let prompt = Observation::new(task.field("prompt")?);
                Ok(vec![prompt; self.roles.len()])
            }
        }
    }

    fn step(
        &self,
        task: &Task,
        _past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        Ok(Outcome::end((self.score)(task, action)?))
    }
}

/// Lets a scoring function return a plain reward.
impl From<Reward> for Result<Reward, EnvironmentError> {
    fn from(reward: Reward) -> Self {
        Ok(reward)
    }
}

#[cfg(test)]
mod tests {
    use crate::Response;

    use super::*;

    fn answer(text: &str) -> JointAction {
        JointAction::new(vec![Response::from_text(text)])
    }

    #[test]
    fn agents_read_the_prompt_or_what_a_function_returns() {
        let game = FnEnvironment::new(["a", "b"], ["x"], |_, _| Reward::new([("x", 1.0)]));
        let task = Task::new("t", [("prompt", "Go."), ("town", "Ulm")]);
        let texts = |game: &FnEnvironment| -> Vec<String> {
            let observations = game.start(&task).unwrap();
            observations
                .iter()
                .map(|observation| observation.text.to_string())
                .collect()
        };
        assert_eq!(texts(&game), ["Go.", "Go."]);
        let game = game.with_observations(|task| {
            let town = task.field("town")?;
            Ok(["1", "2"]
                .map(|n| Observation::new(format!("{town} {n}")))
                .into())
        });
        assert_eq!(texts(&game), ["Ulm 1", "Ulm 2"]);
        let error = game.start(&Task::new("t", [("a", "b")])).unwrap_err();
        assert_eq!(error.to_string(), "task `t` has no field `town`; it has: a");
    }

    #[test]
    fn a_scoring_function_may_fail() {
        let score = |task: &Task, action: &JointAction| -> Result<Reward, EnvironmentError> {
            let expected = task.field("answer")?;
            let is_right = f64::from(u8::from(action.texts() == [expected]));
            Ok(Reward::new([("right", is_right)]))
        };
        let threads = NonZeroUsize::new(4).unwrap();
        let role = Role::new("solver").with_system("Be brief.");
        let game = FnEnvironment::new([role], ["right"], score).with_concurrency(threads);
        assert_eq!(game.concurrency(), threads);
        let task = Task::new("t", [("answer", "7")]);
        let outcome = game.step(&task, &[], &answer("7")).unwrap();
        assert_eq!(outcome, Outcome::end(Reward::new([("right", 1.0)])));
        let empty = Task::new("t", [("prompt", "7")]);
        assert!(game.step(&empty, &[], &answer("7")).is_err());
    }
}
