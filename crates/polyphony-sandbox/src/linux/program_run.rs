//! Runs one program against its tests: the host sits between judge and solver, and keeps the time.
//!
//! The judge reports which assert it has reached, which calls it makes, and the outcome. The host passes
//! calls to the solver and replies back without decoding the values in them. It observes only which
//! process ended, how and when. The host attributes this to the current assert, whatever the judge
//! reports later.

use std::time::{Duration, Instant};

use super::{
    asserts::{Assert, outcome_of},
    stopwatch::{Allowance, Clocks, Deadline, Stopwatch, TimeUsed},
    verdicts::{Cause, printable},
    wire::{ChannelError, FRAME_LIMIT, Frame, SOURCE_LIMIT, kind, pack, unpack},
    zygote::{Child, HostFailure, Zygote},
};
use crate::{AssertOutcome, Limits, Program, SyntaxError, Tests, Verdict};

/// After this many asserts in which the program timed out, all remaining asserts count as failed.
const MAX_TIMEOUTS: usize = 3;
/// The time limit of the tests' setup, which is trusted.
const SETUP_TIMEOUT: Duration = Duration::from_secs(20);
/// The time limit for the judge to read a frame.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest description of an exception, in bytes.
const DESCRIPTION_LIMIT: usize = 16 << 10;
/// Far more CPU time than a judge can use before the host stops it.
const JUDGE_CPU_SECS: u64 = 86_400;

/// A solver and its judge.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) solver: Zygote,
    pub(super) judge: Zygote,
}

/// The conditions under which a program runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunContext<'a> {
    pub(super) limits: &'a Limits,
    /// The number of cores: the most CPU seconds that can be used per second.
    pub(super) cores: u32,
    /// Whether the program is able to kill itself, which would look like a kill by the system.
    pub(super) may_kill_itself: bool,
}

/// The outcome of a program's run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RunOutcome {
    pub(super) syntax_error: Option<SyntaxError>,
    pub(super) asserts: Vec<AssertOutcome>,
}

/// Why a run has no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RunError {
    /// The host failed.
    Host(HostFailure),
    /// The tests cannot be run.
    Tests(String),
}

impl<T: Into<HostFailure>> From<T> for RunError {
    fn from(failure: T) -> Self {
        Self::Host(failure.into())
    }
}

/// Runs a program against tests. When this returns, no process of the program is left.
///
/// # Errors
///
/// [`RunError::Host`] if the host failed, after which the pair must not be used again;
/// [`RunError::Tests`] if the tests are wrong.
pub(super) fn run(
    pair: &mut Pair,
    context: RunContext<'_>,
    program: &Program,
    tests: &Tests,
) -> Result<RunOutcome, RunError> {
    let mut program_run = ProgramRun {
        pair,
        context,
        program,
        asserts: Vec::new(),
        position: TestPosition::Outside,
        outside_time: TimeUsed::default(),
        watch: Stopwatch::start(TimeUsed::default(), Clocks([None; 2])),
        solver_is_ready: false,
        is_called: false,
        timeouts: 0,
    };
    let outcome = program_run.run(tests);
    // Both children are ended, even if ending the first one fails.
    let ended = [pair.solver.end_child(), pair.judge.end_child()];
    let outcome = outcome?;
    ended.into_iter().collect::<Result<(), _>>()?;
    Ok(outcome)
}

struct ProgramRun<'a> {
    pair: &'a mut Pair,
    context: RunContext<'a>,
    program: &'a Program,
    asserts: Vec<Assert>,
    position: TestPosition,
    /// The time used outside any assert.
    outside_time: TimeUsed,
    /// Measures the time at the current position.
    watch: Stopwatch,
    solver_is_ready: bool,
    /// Whether the tests have called the program. If the tests end early after that, one of the program's
    /// return values may be the cause.
    is_called: bool,
    timeouts: usize,
}

/// Where the judge is in the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TestPosition {
    Outside,
    Assert(usize),
}

/// The outcome of loading the program.
enum LoadOutcome {
    Ready,
    SyntaxError(SyntaxError),
    Failed(Cause),
}

/// Whether the judge is still needed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Continue,
    Stop,
}

impl ProgramRun<'_> {
    fn run(&mut self, tests: &Tests) -> Result<RunOutcome, RunError> {
        self.send_tests(tests)?;
        let mut syntax_error = None;
        match self.load()? {
            LoadOutcome::Ready => self.run_tests()?,
            LoadOutcome::Failed(cause) => self.fail_remaining(&cause),
            LoadOutcome::SyntaxError(error) => {
                let text = format!("SyntaxError: {} (line {})", error.message, error.line);
                self.fail_remaining(&Cause::failed(text));
                syntax_error = Some(error);
            }
        }
        let asserts = self.asserts.drain(..).map(Assert::outcome).collect();
        Ok(RunOutcome {
            syntax_error,
            asserts,
        })
    }

    /// Sends the tests to a judge, which answers with their asserts.
    fn send_tests(&mut self, tests: &Tests) -> Result<(), RunError> {
        if tests.setup.len() + tests.source.len() > SOURCE_LIMIT {
            let reason = format!("they have more than {} MiB", SOURCE_LIMIT >> 20);
            return Err(RunError::Tests(reason));
        }
        self.pair.judge.start_child(JUDGE_CPU_SECS)?;
        let payload = pack(&[&tests.setup, &tests.source, &self.program.entry_point]);
        let mut deadline = Instant::now() + SETUP_TIMEOUT;
        let channel = &mut child(&mut self.pair.judge)?.channel;
        let answer = channel
            .send(kind::TESTS, &payload, &mut deadline)
            .and_then(|()| channel.receive(2 * SOURCE_LIMIT, &mut deadline));
        match answer {
            Ok(Frame {
                kind: kind::ASSERTS,
                payload,
            }) => {
                let sources = unpack(&payload).ok_or("a judge's list of asserts is malformed")?;
                self.asserts = sources.into_iter().map(Assert::new).collect();
                Ok(())
            }
            Ok(Frame {
                kind: kind::UNUSABLE_TESTS,
                payload,
            }) => Err(unusable_tests(&payload)),
            Err(ChannelError::TimedOut) => Err(RunError::Tests(format!(
                "their setup takes more than {} s",
                SETUP_TIMEOUT.as_secs()
            ))),
            answer => Err(RunError::Host(format!("a judge answered {answer:?}"))),
        }
    }

    /// Starts a solver and lets it load the program. Loading has its own time limit.
    fn load(&mut self) -> Result<LoadOutcome, RunError> {
        if self.program.source.len() > SOURCE_LIMIT {
            let text = format!("the program has more than {} MiB", SOURCE_LIMIT >> 20);
            return Ok(LoadOutcome::Failed(Cause::failed(text)));
        }
        // The host enforces the time limit of every assert. This limit is a fallback in case it fails to.
        let phases = 2 * self.asserts.len() as u64 + 2;
        let cpu_secs = self
            .context
            .limits
            .cpu_secs
            .saturating_add(1)
            .saturating_mul(phases);
        self.pair.solver.start_child(cpu_secs.min(JUDGE_CPU_SECS))?;
        let clocks = self.clocks();
        let watch = Stopwatch::start(TimeUsed::default(), clocks);
        let allowance = Allowance::per_test(self.context.limits);
        let mut deadline = watch.deadline(allowance, clocks, self.context.cores);
        let source = pack(&[&self.program.source, &self.program.entry_point]);
        let channel = &mut child(&mut self.pair.solver)?.channel;
        let answer = channel
            .send(kind::LOAD, &source, &mut deadline)
            .and_then(|()| channel.receive(DESCRIPTION_LIMIT, &mut deadline));
        let answer = match answer {
            Ok(Frame {
                kind: kind::LOADED, ..
            }) => {
                self.solver_is_ready = true;
                return Ok(LoadOutcome::Ready);
            }
            Ok(Frame {
                kind: kind::SYNTAX_ERROR,
                payload,
            }) => read_syntax_error(&payload).map(LoadOutcome::SyntaxError),
            Ok(Frame {
                kind: kind::RAISED,
                payload,
            }) => Cause::raised(&payload).map(LoadOutcome::Failed),
            Ok(frame) => Err(unexpected(&frame)),
            Err(error) => Err(self.diagnose_no_reply(error, deadline.reason())?),
        };
        self.pair.solver.end_child()?;
        Ok(answer.unwrap_or_else(LoadOutcome::Failed))
    }

    /// Runs the tests until they end, or until no assert can change its outcome any more.
    fn run_tests(&mut self) -> Result<(), RunError> {
        let mut next = self.send_to_judge(kind::START, &[])?;
        self.watch = Stopwatch::start(TimeUsed::default(), self.clocks());
        while next == Next::Continue {
            let mut deadline = self.deadline();
            let channel = &mut child(&mut self.pair.judge)?.channel;
            next = match channel.receive(FRAME_LIMIT, &mut deadline) {
                Ok(frame) => self.handle_frame(frame)?,
                Err(ChannelError::TimedOut) => {
                    let cause = Cause::new(Verdict::Timeout, deadline.reason());
                    self.stop_tests(cause, "the tests were stopped for their time")
                }
                Err(error) => self.handle_judge_exit(error)?,
            };
        }
        Ok(())
    }

    fn handle_frame(&mut self, frame: Frame) -> Result<Next, RunError> {
        match frame.kind {
            kind::ASSERT_ENTERED => {
                let fields = unpack(&frame.payload).unwrap_or_default();
                let index = self.index(fields.first())?;
                self.move_to(TestPosition::Assert(index));
            }
            kind::CALL => return self.forward_call(&frame.payload),
            // An assert inside a function that another assert calls: the outer assert continues.
            kind::NESTED_OUTCOME => {
                self.record(&frame.payload)?;
            }
            kind::ASSERT_LEFT => {
                let index = self.record(&frame.payload)?;
                if self.position != TestPosition::Assert(index) {
                    return Err("a judge left an assert that it was not at"
                        .to_owned()
                        .into());
                }
                self.move_to(TestPosition::Outside);
            }
            kind::DONE => {
                match outcome_of(&unpack(&frame.payload).unwrap_or_default())? {
                    Some(cause) => self.abort_tests(&cause),
                    None => self.fail_remaining(&Cause::failed("the assert was never reached")),
                }
                return Ok(Next::Stop);
            }
            kind::UNUSABLE_TESTS => return Err(unusable_tests(&frame.payload)),
            _ => {
                let kind = frame.kind as char;
                return Err(format!("a judge sent a frame of the kind {kind:?}").into());
            }
        }
        Ok(Next::Continue)
    }

    /// Passes a call to the solver, and the solver's reply to the judge.
    fn forward_call(&mut self, call: &[u8]) -> Result<Next, RunError> {
        self.is_called = true;
        if !self.solver_is_ready {
            // This assert ended the solver and can only fail, so the program is not loaded again. Loading has
            // its own time limit, so tests that catch every exception could load the program without end.
            if let TestPosition::Assert(index) = self.position
                && let Some(cause) = self.asserts[index].failure()
            {
                let text = cause.text.clone();
                return self.send_to_judge(kind::SOLVER_GONE, &pack(&[&text]));
            }
            // An earlier assert ended the solver, so loading does not count as time of this assert.
            let clocks = self.clocks();
            let used = self.watch.used(clocks);
            let loaded = self.load()?;
            self.watch = Stopwatch::start(used, self.clocks());
            match loaded {
                LoadOutcome::Ready => {}
                LoadOutcome::Failed(cause) => return self.handle_solver_exit(&cause),
                LoadOutcome::SyntaxError(error) => {
                    return self.handle_solver_exit(&Cause::failed(error.message));
                }
            }
        }
        let mut deadline = self.deadline();
        let channel = &mut child(&mut self.pair.solver)?.channel;
        let reply = channel
            .send(kind::CALL, call, &mut deadline)
            .and_then(|()| channel.receive(FRAME_LIMIT, &mut deadline));
        let cause = match reply {
            Ok(Frame {
                kind: kind::RETURNED,
                payload,
            }) => return self.send_to_judge(kind::RETURNED, &payload),
            // The length is limited, because the judge repeats the description in its own frame.
            Ok(Frame {
                kind: kind::RAISED,
                payload,
            }) if payload.len() <= DESCRIPTION_LIMIT => match Cause::raised(&payload) {
                Ok(_) => return self.send_to_judge(kind::RAISED, &payload),
                Err(cause) => cause,
            },
            Ok(frame) => unexpected(&frame),
            Err(error) => self.diagnose_no_reply(error, deadline.reason())?,
        };
        self.handle_solver_exit(&cause)
    }

    /// Attributes the end of a solver to the current assert. The tests continue without the solver.
    fn handle_solver_exit(&mut self, cause: &Cause) -> Result<Next, RunError> {
        self.pair.solver.end_child()?;
        self.solver_is_ready = false;
        if cause.verdict == Verdict::Timeout {
            self.timeouts += 1;
        }
        let TestPosition::Assert(index) = self.position else {
            self.abort_tests(cause);
            return Ok(Next::Stop);
        };
        if self.asserts[index].fail(cause.clone()) {
            // The assert's time may be used up, but the judge needs some time to leave the assert. This extra
            // time is granted only once, because tests that catch every exception could call again and again.
            self.watch = Stopwatch::start(TimeUsed::default(), self.clocks());
        }
        if self.timeouts >= MAX_TIMEOUTS {
            let text = format!("not run, since {MAX_TIMEOUTS} asserts before it ran out of time");
            self.fail_remaining(&Cause::failed(text));
            return Ok(Next::Stop);
        }
        self.send_to_judge(kind::SOLVER_GONE, &pack(&[&cause.text]))
    }

    /// Attributes an early end of the tests to the current assert, if there is one. The remaining asserts do
    /// not run.
    fn stop_tests(&mut self, cause: Cause, why: &str) -> Next {
        match self.position {
            TestPosition::Assert(index) => {
                self.asserts[index].fail(cause);
                self.fail_remaining(&Cause::failed(format!("not run, since {why}")));
            }
            TestPosition::Outside => self.abort_tests(&cause),
        }
        Next::Stop
    }

    /// Why a solver sent no frame. The program is the cause, unless only the system can have ended it.
    fn diagnose_no_reply(
        &mut self,
        error: ChannelError,
        timeout_reason: String,
    ) -> Result<Cause, RunError> {
        match error {
            ChannelError::TimedOut => Ok(Cause::new(Verdict::Timeout, timeout_reason)),
            ChannelError::Malformed(what) => {
                Ok(Cause::failed(format!("a malformed reply: {what}")))
            }
            ChannelError::Closed => {
                let exit = self.pair.solver.wait_for_child()?;
                Cause::of_solver_exit(exit, self.context.may_kill_itself).map_err(RunError::Host)
            }
        }
    }

    /// Attributes the end of a judge to the program, if the tests have called it: its return values may
    /// be what ended the judge.
    fn handle_judge_exit(&mut self, error: ChannelError) -> Result<Next, RunError> {
        let ChannelError::Closed = error else {
            return Err(format!("a judge's answer is malformed: {error:?}").into());
        };
        let exit = self.pair.judge.wait_for_child()?;
        if !self.is_called {
            return Err(format!("a judge ended before it called the program: {exit:?}").into());
        }
        let cause = Cause::of_judge_exit(exit, self.context.may_kill_itself)?;
        Ok(self.stop_tests(cause, "an assert before it ended the judge"))
    }

    fn send_to_judge(&mut self, kind: u8, payload: &[u8]) -> Result<Next, RunError> {
        let channel = &mut child(&mut self.pair.judge)?.channel;
        match channel.send(kind, payload, &mut (Instant::now() + SEND_TIMEOUT)) {
            Ok(()) => Ok(Next::Continue),
            Err(error) => self.handle_judge_exit(error),
        }
    }

    fn clocks(&mut self) -> Clocks {
        let clock = |zygote: &mut Zygote| zygote.child().map(|child| child.clock());
        Clocks([clock(&mut self.pair.judge), clock(&mut self.pair.solver)])
    }

    fn deadline(&mut self) -> Deadline {
        let per_test = Allowance::per_test(self.context.limits);
        let allowance = match self.position {
            TestPosition::Assert(_) => per_test,
            // With n asserts, all code outside them has n + 1 times the allowance of one assert.
            TestPosition::Outside => per_test.times(self.asserts.len() + 1),
        };
        self.watch
            .deadline(allowance, self.clocks(), self.context.cores)
    }

    fn move_to(&mut self, position: TestPosition) {
        let clocks = self.clocks();
        let used = self.watch.used(clocks);
        match self.position {
            TestPosition::Outside => self.outside_time = used,
            TestPosition::Assert(index) => self.asserts[index].time_used = used,
        }
        self.position = position;
        let previous = match position {
            TestPosition::Outside => self.outside_time,
            TestPosition::Assert(index) => self.asserts[index].time_used,
        };
        self.watch = Stopwatch::start(previous, clocks);
    }

    /// Records the outcome of an assert that the judge reports; returns the assert's index.
    fn record(&mut self, payload: &[u8]) -> Result<usize, RunError> {
        let fields = unpack(payload).unwrap_or_default();
        let index = self.index(fields.first())?;
        self.asserts[index].record(fields.get(1..).unwrap_or_default())?;
        Ok(index)
    }

    fn index(&self, field: Option<&String>) -> Result<usize, RunError> {
        let index = field.and_then(|text| text.parse().ok());
        index
            .filter(|index| *index < self.asserts.len())
            .ok_or_else(|| RunError::Host(format!("a judge named the assert {field:?}")))
    }

    /// Handles tests that ended early, outside any assert.
    fn abort_tests(&mut self, cause: &Cause) {
        let all_passed = !self.asserts.iter().any(Assert::is_open);
        // They passed in earlier iterations of a loop, but the iteration that ended early did not pass.
        if let Some(last) = self.asserts.last_mut().filter(|_| all_passed) {
            last.fail(cause.clone());
        }
        self.fail_remaining(cause);
    }

    fn fail_remaining(&mut self, cause: &Cause) {
        for assert in &mut self.asserts {
            if assert.is_open() {
                assert.fail(cause.clone());
            }
        }
    }
}

fn child(zygote: &mut Zygote) -> Result<&mut Child, HostFailure> {
    zygote
        .child()
        .ok_or_else(|| "a process that is needed is gone".to_owned())
}

fn unusable_tests(payload: &[u8]) -> RunError {
    let reason = unpack(payload).and_then(|fields| fields.into_iter().next());
    RunError::Tests(reason.unwrap_or_else(|| "the judge gives no reason".to_owned()))
}

fn unexpected(frame: &Frame) -> Cause {
    let kind = printable(&char::from(frame.kind).to_string());
    Cause::failed(format!("a malformed reply of the kind `{kind}`"))
}

/// Reads a solver's report that the program does not compile. A program that runs can forge this report,
/// and then counts as one that does not compile.
fn read_syntax_error(payload: &[u8]) -> Result<SyntaxError, Cause> {
    let fields = unpack(payload).unwrap_or_default();
    match &fields[..] {
        [line, column, message] => Ok(SyntaxError {
            line: line.parse().unwrap_or(0),
            column: column.parse().unwrap_or(0),
            message: printable(message),
        }),
        _ => Err(Cause::failed("a malformed syntax error")),
    }
}
