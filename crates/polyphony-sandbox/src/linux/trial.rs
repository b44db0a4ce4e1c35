//! One program before its judge: the host sits between the two, and keeps the time.
//!
//! The judge says which assert it is at, what it calls, and what came of it. Calls go through here to
//! the solver and replies back, unread; the host sees only who ended how, and when. What it sees that
//! way it holds against the assert at hand, whatever the judge says afterwards.

use std::time::{Duration, Instant};

use super::{
    asserts::{Assert, outcome_of},
    stopwatch::{Allowance, Clocks, Stopwatch, Used},
    verdicts::{Cause, shown},
    wire::{Break, FRAME_LIMIT, Frame, SOURCE_LIMIT, pack, unpack},
    zygote::{Child, HostFailure, Zygote},
};
use crate::{AssertOutcome, Limits, Program, SyntaxError, Tests, Verdict};

/// After so many time-outs the rest counts as failed.
const TIMEOUTS: usize = 3;
/// How long the trusted set-up of the tests may take.
const SETUP: Duration = Duration::from_secs(20);
/// How long the judge may take to read what it is sent.
const HANDOVER: Duration = Duration::from_secs(10);
/// The most that a description of an exception takes.
const DESCRIPTION_LIMIT: usize = 16 << 10;
/// Far more than a judge can use before the host stops it.
const JUDGE_CPU_SECS: u64 = 86_400;

/// A solver and its judge.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) solver: Zygote,
    pub(super) judge: Zygote,
}

/// What holds a program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds<'a> {
    pub(super) limits: &'a Limits,
    /// The most processor seconds that can be used in a second.
    pub(super) cores: u32,
    /// Whether nothing keeps it from killing itself, so that it may look as if the system did.
    pub(super) may_kill_itself: bool,
}

/// What was found out about a program.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Findings {
    pub(super) syntax_error: Option<SyntaxError>,
    pub(super) asserts: Vec<AssertOutcome>,
}

/// Why nothing was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The host could not do its part.
    Host(HostFailure),
    /// The tests cannot be run.
    Tests(String),
}

impl<T: Into<HostFailure>> From<T> for Fault {
    fn from(failure: T) -> Self {
        Self::Host(failure.into())
    }
}

/// Judges a program. When this returns, no process of it is left.
///
/// # Errors
///
/// [`Fault::Host`] if the pair is of no more use, [`Fault::Tests`] if the tests are not.
pub(super) fn judge(
    pair: &mut Pair,
    bounds: Bounds<'_>,
    program: &Program,
    tests: &Tests,
) -> Result<Findings, Fault> {
    let mut trial = Trial {
        pair,
        bounds,
        program,
        asserts: Vec::new(),
        at: TestPosition::Outside,
        outside: Used::default(),
        watch: Stopwatch::start(Used::default(), Clocks([None; 2])),
        solver_is_ready: false,
        is_called: false,
        timeouts: 0,
    };
    let found = trial.run(tests);
    // Both, whatever came of the first.
    let ended = [pair.solver.end_child(), pair.judge.end_child()];
    let found = found?;
    ended.into_iter().collect::<Result<(), _>>()?;
    Ok(found)
}

struct Trial<'a> {
    pair: &'a mut Pair,
    bounds: Bounds<'a>,
    program: &'a Program,
    asserts: Vec<Assert>,
    at: TestPosition,
    /// The time used outside any assert.
    outside: Used,
    watch: Stopwatch,
    solver_is_ready: bool,
    /// Whether the tests have called the program: what it returned may then be what ends them.
    is_called: bool,
    timeouts: usize,
}

/// Where the judge is in the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TestPosition {
    Outside,
    Assert(usize),
}

/// What came of loading the program.
enum Loaded {
    Ready,
    Refused(SyntaxError),
    Broken(Cause),
}

/// Whether the judge is still needed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    Stop,
}

impl Trial<'_> {
    fn run(&mut self, tests: &Tests) -> Result<Findings, Fault> {
        self.brief_judge(tests)?;
        let mut syntax_error = None;
        match self.load()? {
            Loaded::Ready => self.hear()?,
            Loaded::Broken(cause) => self.fail_the_rest(&cause),
            Loaded::Refused(error) => {
                let text = format!("SyntaxError: {} (line {})", error.message, error.line);
                self.fail_the_rest(&Cause::failed(text));
                syntax_error = Some(error);
            }
        }
        let asserts = self.asserts.drain(..).map(Assert::outcome).collect();
        Ok(Findings {
            syntax_error,
            asserts,
        })
    }

    /// Hands the tests to a judge, and learns which asserts they hold.
    fn brief_judge(&mut self, tests: &Tests) -> Result<(), Fault> {
        if tests.setup.len() + tests.source.len() > SOURCE_LIMIT {
            let reason = format!("they have more than {} MiB", SOURCE_LIMIT >> 20);
            return Err(Fault::Tests(reason));
        }
        self.pair.judge.start_child(JUDGE_CPU_SECS)?;
        let brief = pack(&[&tests.setup, &tests.source, &self.program.entry_point]);
        let mut patience = Instant::now() + SETUP;
        let channel = &mut child(&mut self.pair.judge)?.channel;
        let answer = channel
            .send(b'J', &brief, &mut patience)
            .and_then(|()| channel.receive(2 * SOURCE_LIMIT, &mut patience));
        match answer {
            Ok(Frame {
                kind: b'P',
                payload,
            }) => {
                let sources = unpack(&payload).ok_or("a judge's list of asserts is malformed")?;
                self.asserts = sources.into_iter().map(Assert::new).collect();
                Ok(())
            }
            Ok(Frame {
                kind: b'B',
                payload,
            }) => Err(unusable(&payload)),
            Err(Break::Late) => Err(Fault::Tests(format!(
                "their set-up takes more than {} s",
                SETUP.as_secs()
            ))),
            other => Err(Fault::Host(format!("a judge answered {other:?}"))),
        }
    }

    /// Starts a solver and lets it load the program, in a time of its own.
    fn load(&mut self) -> Result<Loaded, Fault> {
        if self.program.source.len() > SOURCE_LIMIT {
            let text = format!("the program has more than {} MiB", SOURCE_LIMIT >> 20);
            return Ok(Loaded::Broken(Cause::failed(text)));
        }
        // The host keeps the time of every assert; this is for a host that does not.
        let stretches = 2 * self.asserts.len() as u64 + 2;
        let cpu_secs = self
            .bounds
            .limits
            .cpu_secs
            .saturating_add(1)
            .saturating_mul(stretches);
        self.pair.solver.start_child(cpu_secs.min(JUDGE_CPU_SECS))?;
        let clocks = self.clocks();
        let watch = Stopwatch::start(Used::default(), clocks);
        let allowance = Allowance::of_a_test(self.bounds.limits);
        let mut deadline = watch.until(allowance, clocks, self.bounds.cores);
        let source = pack(&[&self.program.source, &self.program.entry_point]);
        let channel = &mut child(&mut self.pair.solver)?.channel;
        let answer = channel
            .send(b'L', &source, &mut deadline)
            .and_then(|()| channel.receive(DESCRIPTION_LIMIT, &mut deadline));
        let answer = match answer {
            Ok(Frame { kind: b'O', .. }) => {
                self.solver_is_ready = true;
                return Ok(Loaded::Ready);
            }
            Ok(Frame {
                kind: b'E',
                payload,
            }) => refusal(&payload).map(Loaded::Refused),
            Ok(Frame {
                kind: b'X',
                payload,
            }) => Cause::raised(&payload).map(Loaded::Broken),
            Ok(frame) => Err(unexpected(&frame)),
            Err(broken) => Err(self.why_silent(broken, deadline.reason())?),
        };
        self.pair.solver.end_child()?;
        Ok(answer.unwrap_or_else(Loaded::Broken))
    }

    /// Lets the tests run, until they are through or nothing more can come of them.
    fn hear(&mut self) -> Result<(), Fault> {
        let mut next = self.tell_judge(b'G', &[])?;
        self.watch = Stopwatch::start(Used::default(), self.clocks());
        while next == Next::GoOn {
            let mut deadline = self.deadline();
            let channel = &mut child(&mut self.pair.judge)?.channel;
            next = match channel.receive(FRAME_LIMIT, &mut deadline) {
                Ok(frame) => self.react(frame)?,
                Err(Break::Late) => {
                    let cause = Cause::new(Verdict::Timeout, deadline.reason());
                    self.stop_the_tests(cause, "the tests were stopped for their time")
                }
                Err(broken) => self.judge_is_gone(broken)?,
            };
        }
        Ok(())
    }

    fn react(&mut self, frame: Frame) -> Result<Next, Fault> {
        match frame.kind {
            b'A' => {
                let fields = unpack(&frame.payload).unwrap_or_default();
                let index = self.index(fields.first())?;
                self.turn_to(TestPosition::Assert(index));
            }
            b'C' => return self.pass_on(&frame.payload),
            // An assert that lies in another, by way of a function: the other goes on.
            b'N' => {
                self.record(&frame.payload)?;
            }
            b'Z' => {
                let index = self.record(&frame.payload)?;
                if self.at != TestPosition::Assert(index) {
                    return Err("a judge left an assert that it was not at"
                        .to_owned()
                        .into());
                }
                self.turn_to(TestPosition::Outside);
            }
            b'D' => {
                match outcome_of(&unpack(&frame.payload).unwrap_or_default())? {
                    Some(cause) => self.break_off(&cause),
                    None => self.fail_the_rest(&Cause::failed("the test was never reached")),
                }
                return Ok(Next::Stop);
            }
            b'B' => return Err(unusable(&frame.payload)),
            _ => return Err(format!("a judge said {:?}", frame.kind as char).into()),
        }
        Ok(Next::GoOn)
    }

    /// Takes a call to the solver, and its reply to the judge.
    fn pass_on(&mut self, call: &[u8]) -> Result<Next, Fault> {
        self.is_called = true;
        if !self.solver_is_ready {
            // The assert at hand does not pay for what an earlier one broke.
            let clocks = self.clocks();
            let used = self.watch.used(clocks);
            let loaded = self.load()?;
            self.watch = Stopwatch::start(used, self.clocks());
            match loaded {
                Loaded::Ready => {}
                Loaded::Broken(cause) => return self.solver_is_gone(&cause),
                Loaded::Refused(error) => {
                    return self.solver_is_gone(&Cause::failed(error.message));
                }
            }
        }
        let mut deadline = self.deadline();
        let channel = &mut child(&mut self.pair.solver)?.channel;
        let reply = channel
            .send(b'C', call, &mut deadline)
            .and_then(|()| channel.receive(FRAME_LIMIT, &mut deadline));
        let cause = match reply {
            Ok(Frame {
                kind: b'R',
                payload,
            }) => return self.tell_judge(b'R', &payload),
            // No longer than it is told of: the judge repeats it in a frame of its own.
            Ok(Frame {
                kind: b'X',
                payload,
            }) if payload.len() <= DESCRIPTION_LIMIT => match Cause::raised(&payload) {
                Ok(_) => return self.tell_judge(b'X', &payload),
                Err(cause) => cause,
            },
            Ok(frame) => unexpected(&frame),
            Err(broken) => self.why_silent(broken, deadline.reason())?,
        };
        self.solver_is_gone(&cause)
    }

    /// Holds the end of a solver against the assert at hand, and lets the tests go on without it.
    fn solver_is_gone(&mut self, cause: &Cause) -> Result<Next, Fault> {
        self.pair.solver.end_child()?;
        self.solver_is_ready = false;
        if cause.verdict == Verdict::Timeout {
            self.timeouts += 1;
        }
        let TestPosition::Assert(index) = self.at else {
            self.break_off(cause);
            return Ok(Next::Stop);
        };
        if self.asserts[index].fail(cause.clone()) {
            // Its time may be up, and the judge needs some to leave it. But only once: a test that
            // catches everything may call again, and again.
            self.watch = Stopwatch::start(Used::default(), self.clocks());
        }
        if self.timeouts >= TIMEOUTS {
            let text = format!("not run, since {TIMEOUTS} tests before it ran out of time");
            self.fail_the_rest(&Cause::failed(text));
            return Ok(Next::Stop);
        }
        self.tell_judge(b'K', &pack(&[&cause.text]))
    }

    /// Holds what ended the tests in the middle against the assert at hand; the others do not run.
    fn stop_the_tests(&mut self, cause: Cause, why: &str) -> Next {
        match self.at {
            TestPosition::Assert(index) => {
                self.asserts[index].fail(cause);
                self.fail_the_rest(&Cause::failed(format!("not run, since {why}")));
            }
            TestPosition::Outside => self.break_off(&cause),
        }
        Next::Stop
    }

    /// Why a solver gave no frame. What it did is its program's doing, unless only the host could
    /// have done it.
    fn why_silent(&mut self, broken: Break, late: String) -> Result<Cause, Fault> {
        match broken {
            Break::Late => Ok(Cause::new(Verdict::Timeout, late)),
            Break::Malformed(what) => Ok(Cause::failed(format!("a malformed reply: {what}"))),
            Break::Closed => {
                let end = self.pair.solver.let_child_end()?;
                Cause::of_end(end, self.bounds.may_kill_itself).map_err(Fault::Host)
            }
        }
    }

    /// Holds the end of a judge against the program once that was called, since a judge dies of what
    /// it was given.
    fn judge_is_gone(&mut self, broken: Break) -> Result<Next, Fault> {
        let Break::Closed = broken else {
            return Err(format!("a judge's answer is malformed: {broken:?}").into());
        };
        let end = self.pair.judge.let_child_end()?;
        if !self.is_called {
            return Err(format!("a judge ended before it called the program: {end:?}").into());
        }
        let cause = Cause::of_judges_end(end, self.bounds.may_kill_itself)?;
        Ok(self.stop_the_tests(cause, "a test before it ended the judge"))
    }

    fn tell_judge(&mut self, kind: u8, payload: &[u8]) -> Result<Next, Fault> {
        let channel = &mut child(&mut self.pair.judge)?.channel;
        match channel.send(kind, payload, &mut (Instant::now() + HANDOVER)) {
            Ok(()) => Ok(Next::GoOn),
            Err(broken) => self.judge_is_gone(broken),
        }
    }

    fn clocks(&mut self) -> Clocks {
        let clock = |zygote: &mut Zygote| zygote.child().map(|child| child.clock());
        Clocks([clock(&mut self.pair.judge), clock(&mut self.pair.solver)])
    }

    fn deadline(&mut self) -> super::stopwatch::Deadline {
        let a_test = Allowance::of_a_test(self.bounds.limits);
        let allowance = match self.at {
            TestPosition::Assert(_) => a_test,
            // What stands between the asserts has as much as one more for each of them.
            TestPosition::Outside => a_test.times(self.asserts.len() + 1),
        };
        self.watch
            .until(allowance, self.clocks(), self.bounds.cores)
    }

    fn turn_to(&mut self, place: TestPosition) {
        let clocks = self.clocks();
        let used = self.watch.used(clocks);
        match self.at {
            TestPosition::Outside => self.outside = used,
            TestPosition::Assert(index) => self.asserts[index].used = used,
        }
        self.at = place;
        let before = match place {
            TestPosition::Outside => self.outside,
            TestPosition::Assert(index) => self.asserts[index].used,
        };
        self.watch = Stopwatch::start(before, clocks);
    }

    /// Writes down what the judge says of an assert, and tells of which.
    fn record(&mut self, payload: &[u8]) -> Result<usize, Fault> {
        let fields = unpack(payload).unwrap_or_default();
        let index = self.index(fields.first())?;
        self.asserts[index].record(fields.get(1..).unwrap_or_default())?;
        Ok(index)
    }

    fn index(&self, field: Option<&String>) -> Result<usize, Fault> {
        let index = field.and_then(|text| text.parse().ok());
        index
            .filter(|index| *index < self.asserts.len())
            .ok_or_else(|| Fault::Host(format!("a judge named the assert {field:?}")))
    }

    /// The tests ended outside any assert, before they were through.
    fn break_off(&mut self, cause: &Cause) {
        let all_passed = !self.asserts.iter().any(Assert::is_open);
        // In an earlier round of a loop, which says nothing about the round that broke off.
        if let Some(last) = self.asserts.last_mut().filter(|_| all_passed) {
            last.fail(cause.clone());
        }
        self.fail_the_rest(cause);
    }

    fn fail_the_rest(&mut self, cause: &Cause) {
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

fn unusable(payload: &[u8]) -> Fault {
    let reason = unpack(payload).and_then(|fields| fields.into_iter().next());
    Fault::Tests(reason.unwrap_or_else(|| "the judge gives no reason".to_owned()))
}

fn unexpected(frame: &Frame) -> Cause {
    let kind = shown(&char::from(frame.kind).to_string());
    Cause::failed(format!("a malformed reply of the kind `{kind}`"))
}

/// What a solver says of a program that does not compile. A program that runs may say so as well,
/// and is then judged as one that does not.
fn refusal(payload: &[u8]) -> Result<SyntaxError, Cause> {
    let fields = unpack(payload).unwrap_or_default();
    match &fields[..] {
        [line, column, message] => Ok(SyntaxError {
            line: line.parse().unwrap_or(0),
            column: column.parse().unwrap_or(0),
            message: shown(message),
        }),
        _ => Err(Cause::failed("a malformed syntax error")),
    }
}
