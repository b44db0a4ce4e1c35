//! Two agents solve a Python problem together: one writes a helper function, the other writes the
//! function that is tested.

mod assessment;
mod counters;
mod expert;
mod extract;
mod feedback;
mod function;
mod problem;
mod program;
mod prompts;
mod python;
mod settings;
mod setup;

use std::{num::NonZeroUsize, sync::Arc};

use polyphony_episode::{
    Counter, Environment, EnvironmentError, JointAction, Observation, Outcome, Reward, Role, Task,
    Turn,
};
use polyphony_sandbox::{Pool, ProgramResult, Verdict};
use serde_json::{Value, json};

pub use self::{
    assessment::{Assessment, Definition, ProgramRun},
    expert::{Draft, Expert, ExpertError, ExpertFailure, ExpertSettings, Review},
    function::{EntryBody, HelperResults, HelperUse},
    program::LocatedSyntaxError,
    settings::{CodingSettings, Ending, Feedback, VisibleAsserts},
    setup::{Coding, start_pool},
};
use self::{
    feedback::{ReportKind, ask_again, shorten},
    function::Function,
    problem::{HELPER, Problem},
    program::{Assembled, assemble},
};

/// Longer responses are cut to this many characters before an outside model sees them.
const MAX_DRAFT_CHARS: usize = 8000;

/// The coding environment: two agents, one turn or more.
///
/// A task has the fields `prompt`, `entry_point` and `test`. The `auxiliary` agent writes a helper
/// `aux`, and the `main` agent writes the entry function, which may call the helper. Both functions
/// form one program. A sandbox runs it against the asserts of the task's `check` function.
///
/// The reward always has the parts `definitions`, `syntax`, `tests` and `cooperation`. They are scored in
/// this order. Scoring stops at `definitions` if the entry function is missing or returns no value, and at
/// `syntax` if Python cannot compile the program: all later parts are then 0.
///
/// Programs run in a pool of sandbox workers, which several environments may share. [`Environment::step`]
/// waits for the verdict, and may be called from as many threads as the pool has workers.
#[derive(Clone, Debug)]
pub struct CodingEnvironment {
    pool: Arc<Pool>,
    settings: CodingSettings,
    feedback_source: FeedbackSource,
    roles: [Role; 2],
    parts: [String; 4],
}

/// What writes the feedback between two turns.
#[derive(Clone, Debug)]
enum FeedbackSource {
    Report(ReportKind),
    Expert(Arc<Expert>),
}

impl CodingEnvironment {
    /// The names of the roles.
    pub const ROLES: [&str; 2] = ["auxiliary", "main"];

    /// The highest reward of a joint action.
    pub const MAX_REWARD: f64 = assessment::MAX_REWARD;

    /// The environment whose programs run in `pool`.
    ///
    /// # Errors
    /// If an outside model gives the feedback and its address or key cannot be used.
    pub fn new(pool: Arc<Pool>, settings: CodingSettings) -> Result<Self, ExpertError> {
        let feedback_source = match &settings.feedback {
            Feedback::LevelFeedback => FeedbackSource::Report(ReportKind::Levels),
            Feedback::LevelPassed => FeedbackSource::Report(ReportKind::LevelsPassed),
            Feedback::Passed => FeedbackSource::Report(ReportKind::Passed),
            Feedback::Plain => FeedbackSource::Report(ReportKind::Plain),
            Feedback::ExpertEdits(expert) => FeedbackSource::Expert(Arc::new(Expert::new(expert)?)),
        };
        Ok(Self {
            pool,
            settings,
            feedback_source,
            roles: Self::ROLES.map(Role::new),
            parts: assessment::PARTS.map(String::from),
        })
    }

    /// The sandbox, whose counters and isolation tier are worth recording.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The outside model, if the feedback comes from one.
    pub fn expert(&self) -> Option<&Arc<Expert>> {
        match &self.feedback_source {
            FeedbackSource::Report(_) => None,
            FeedbackSource::Expert(expert) => Some(expert),
        }
    }

    /// Scores two responses and says why. The result depends on nothing but the arguments.
    ///
    /// # Errors
    /// If the task lacks a field or has no assert, or if the sandbox fails. The content of a response
    /// is never an error.
    pub fn assess(
        &self,
        task: &Task,
        auxiliary: &str,
        main: &str,
    ) -> Result<Assessment, EnvironmentError> {
        self.assess_problem(&Problem::read(task)?, auxiliary, main)
    }

    fn assess_problem(
        &self,
        problem: &Problem,
        auxiliary: &str,
        main: &str,
    ) -> Result<Assessment, EnvironmentError> {
        let helper = Function::find(auxiliary, HELPER);
        let entry = Function::find(main, &problem.entry_point);
        let mut assessment = Assessment {
            helper: Definition::of(helper.as_ref()),
            entry: Definition::of(entry.as_ref()),
            helper_use: entry
                .as_ref()
                .map_or(HelperUse::NotCalled, |entry| entry.use_of(HELPER)),
            run: None,
        };
        if let (Some(entry), Definition::Returns) = (entry, assessment.entry) {
            let assembled = assemble(problem, helper.as_ref(), &entry);
            assessment.run = Some(self.run(problem, &assembled)?);
        }
        Ok(assessment)
    }

    fn run(
        &self,
        problem: &Problem,
        assembled: &Assembled,
    ) -> Result<ProgramRun, EnvironmentError> {
        let result = self.pool.run(&assembled.program, &problem.tests());
        let result = result.map_err(|error| {
            let id = &problem.id;
            EnvironmentError::because(format!("task `{id}` cannot be scored"), error)
        })?;
        check_result(problem, &result)?;
        Ok(match &result.syntax_error {
            Some(error) => ProgramRun::SyntaxError(assembled.locate(error)),
            None => ProgramRun::Tested(result.asserts),
        })
    }

    /// The observations after a turn that is not the last one.
    fn feedback(
        &self,
        problem: &Problem,
        assessment: &Assessment,
        responses: [&str; 2],
    ) -> Result<Vec<Observation>, EnvironmentError> {
        let visible = self.settings.visible_asserts;
        let expert = match &self.feedback_source {
            FeedbackSource::Report(report) => {
                return Ok(report.observations(problem, assessment, visible));
            }
            FeedbackSource::Expert(expert) => expert,
        };
        let functions = [HELPER, &problem.entry_point];
        let responses = responses.map(|response| shorten(response, MAX_DRAFT_CHARS));
        let drafts: [Draft<'_>; 2] = std::array::from_fn(|agent| Draft {
            role: &self.roles[agent].name,
            function: functions[agent],
            response: &responses[agent],
        });
        let suggestions = expert.suggest(&Review {
            problem: &problem.prompt,
            drafts: &drafts,
            findings: &ReportKind::Levels.text(problem, assessment, visible),
        });
        let suggestions = suggestions.map_err(|error| {
            let id = &problem.id;
            EnvironmentError::because(format!("task `{id}`: there is no feedback"), error)
        })?;
        Ok(ask_again(problem, &suggestions))
    }
}

impl Environment for CodingEnvironment {
    fn roles(&self) -> &[Role] {
        &self.roles
    }

    fn reward_parts(&self) -> &[String] {
        &self.parts
    }

    fn horizon(&self) -> NonZeroUsize {
        self.settings.turns
    }

    fn concurrency(&self) -> NonZeroUsize {
        self.pool.workers()
    }

    fn counters(&self) -> Vec<Counter> {
        counters::of(
            &self.pool.counters(),
            self.expert().map(|expert| expert.retries()),
        )
    }

    fn description(&self) -> Option<Value> {
        Some(json!({
            "tier": self.pool.tier(),
            "interpreter": self.pool.interpreter(),
            "self_test": self.pool.self_test(),
        }))
    }

    fn is_solved(&self, reward: &Reward) -> Option<bool> {
        Some(assessment::is_solved(reward))
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        Ok(prompts::first_observations(&Problem::read(task)?))
    }

    fn step(
        &self,
        task: &Task,
        past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        let problem = Problem::read(task)?;
        let [auxiliary, main] = action.texts();
        let assessment = self.assess_problem(&problem, auxiliary, main)?;
        let reward = assessment.reward();
        let is_over = match self.settings.ending {
            _ if past.len() + 1 >= self.settings.turns.get() => true,
            Ending::WhenSolved => assessment.is_solved(),
            Ending::AfterTurns => false,
        };
        if is_over {
            return Ok(Outcome::end(reward));
        }
        let observations = self.feedback(&problem, &assessment, [auxiliary, main])?;
        Ok(Outcome::continue_with(reward, observations))
    }
}

/// Rejects what must never become a reward: tests without asserts, and verdicts that come from the
/// machine and not from the program.
fn check_result(problem: &Problem, result: &ProgramResult) -> Result<(), EnvironmentError> {
    let id = &problem.id;
    let verdicts = result.asserts.iter().map(|assert| &assert.verdict);
    for verdict in verdicts.chain([&result.verdict]) {
        if let Verdict::Infrastructure { reason } = verdict {
            return Err(EnvironmentError::failed(format!(
                "task `{id}`: the program could not be run: {reason}"
            )));
        }
    }
    if result.asserts.is_empty() {
        return Err(EnvironmentError::failed(format!(
            "task `{id}`: `test` asserts nothing that depends on the candidate; \
             give its `check` function an assert or leave the task out"
        )));
    }
    Ok(())
}
