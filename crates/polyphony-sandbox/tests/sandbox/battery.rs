//! The battery: hostile programs, and what must come of each of them in both tiers.
//!
//! Each module has a table of one kind, and a row is a program, how it is called and its fate. What a
//! program finds to attack, and what is looked at after it, is in `scene`. The battery runs in a
//! process of its own for each tier; the one for the Landlock tier starts under a filter like a
//! container's, so that namespaces really fail. To add a program, add a row and count it in
//! [`PROGRAMS`].

mod cheats;
mod escapes;
mod files;
mod growth;
mod kernel;
mod limits;
mod look;
mod memory;
mod network;
mod noise;
mod prelude;
mod processes;
mod replies;
mod scene;
mod secrets;
mod signals;
mod sources;
mod time;
mod traces;

use std::{collections::HashSet, fmt::Write};

use polyphony_sandbox::{
    AssertOutcome, Isolation, ProgramResult, Limits, Pool, Program, SandboxError, SandboxConfig, Tests,
    Tier, Verdict,
};

use crate::{
    pools::{PATIENT, SHORT, check_of, program},
    processes::{Filter, helper, run},
    refusals::container,
};
use noise::Noise;
pub(crate) use noise::make_noise;
use scene::Scene;
pub(crate) use traces::leave_all_kinds;

/// How many programs there are, so that none is lost unseen.
const PROGRAMS: usize = if cfg!(target_arch = "x86_64") {
    345
} else {
    332
};

/// A program, and what must come of it.
struct Hostile {
    name: &'static str,
    deed: Deed,
    expected: Expected,
}

/// What a program does, and when.
enum Deed {
    /// What `f` does when it is called. It gets through if it returns at all.
    Body(&'static str),
    /// What `f` does the second time. The first time it is honest, and passes.
    SecondCall(&'static str),
    /// A whole program. It gets through if `f` returns at all.
    Program(&'static str),
    /// The same where the source is not told anything, since each byte of it matters.
    Source(fn() -> String),
    /// A whole program that wants to pass tests whose answers it does not know.
    Cheat(&'static str),
    /// A whole program that is after the tests themselves.
    Tested(fn() -> Tests, &'static str),
}

/// What must come of a program.
enum Expected {
    /// The same in both tiers.
    Both(Fate),
    /// In the full tier most of the machine is not there; in the other it may not be reached.
    Tiers { full: Fate, landlock: Fate },
    /// One of these. The comment on the row says who decides, if not the sandbox.
    OneOf(&'static [Fate]),
}

/// A verdict, and a part of its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It only looks dangerous.
    Passes,
    Fails(&'static str),
    TimesOut,
    RunsOutOfMemory,
    /// A violation, and the system's answer was no.
    IsRefused,
    /// A violation, and the system ended it.
    IsKilled,
}

/// Refused where there is such a path at all.
const HIDDEN: Expected = Expected::Tiers {
    full: Fate::Fails("FileNotFoundError"),
    landlock: Fate::IsRefused,
};

const fn row(name: &'static str, deed: Deed, expected: Expected) -> Hostile {
    Hostile {
        name,
        deed,
        expected,
    }
}

fn battery() -> impl Iterator<Item = &'static Hostile> {
    let kinds = [
        time::ROWS,
        memory::ROWS,
        processes::ROWS,
        signals::ROWS,
        kernel::ROWS,
        escapes::ROWS,
        limits::ROWS,
        secrets::ROWS,
        files::ROWS,
        network::ROWS,
        sources::ROWS,
        cheats::ROWS,
        replies::ROWS,
        growth::ROWS,
    ];
    kinds.into_iter().flatten()
}

/// The answer is worked out in the judge, and no program knows it.
fn secret_tests() -> Tests {
    Tests {
        setup: "import hashlib\ndef secret(x):\n    return hashlib.sha256(b'%d' % x).hexdigest()\n"
            .to_owned(),
        source: "
def check(candidate):
    expected = secret(7)
    assert candidate(7) == expected
    assert candidate(8) == secret(8), 'eight'
    assert not candidate(9) != secret(9)
"
        .to_owned(),
    }
}

impl Deed {
    fn program(&self, scene: &Scene) -> Program {
        let indented = |body: &str| {
            let lines = body.lines().map(|line| format!("    {line}\n"));
            lines.collect::<String>()
        };
        let source = match self {
            Self::Body(body) => scene.told_to(&format!("def f():\n{}", indented(body))),
            Self::SecondCall(body) => {
                let first = "def f(x):\n    if x == 1: return 1\n";
                scene.told_to(&format!("{first}{}", indented(body)))
            }
            Self::Program(source) | Self::Cheat(source) | Self::Tested(_, source) => {
                scene.told_to(source)
            }
            Self::Source(make) => make(),
        };
        program(&source)
    }

    fn tests(&self) -> Tests {
        match self {
            Self::Body(_) | Self::Program(_) | Self::Source(_) => {
                check_of(&["assert candidate() is not candidate"])
            }
            Self::SecondCall(_) => {
                check_of(&["assert candidate(1) == 1", "assert candidate(2) == 2"])
            }
            Self::Cheat(_) => secret_tests(),
            Self::Tested(tests, _) => tests(),
        }
    }

    /// Of the asserts, those that an honest start lets pass, or a harmless program.
    fn passes(&self, fate: Fate) -> Option<usize> {
        match self {
            Self::Tested(..) => None,
            Self::SecondCall(_) => Some(1 + usize::from(fate == Fate::Passes)),
            _ => Some(usize::from(fate == Fate::Passes)),
        }
    }
}

impl Expected {
    fn fates(&self, tier: Tier) -> Vec<Fate> {
        match *self {
            Self::Both(fate) => vec![fate],
            Self::Tiers { full, landlock } => vec![match tier {
                Tier::Full => full,
                _ => landlock,
            }],
            Self::OneOf(fates) => fates.to_vec(),
        }
    }
}

impl Fate {
    fn is_that_of(self, result: &ProgramResult) -> bool {
        let (verdict, reason) = match self {
            Self::Passes => (Verdict::Passed, ""),
            Self::Fails(reason) => (Verdict::Failed, reason),
            Self::TimesOut => (Verdict::Timeout, "stopped after"),
            Self::RunsOutOfMemory => (Verdict::OutOfMemory, "MemoryError"),
            Self::IsRefused => (Verdict::Violation, "PermissionError: [Errno "),
            Self::IsKilled => (Verdict::Violation, "killed for a forbidden system call"),
        };
        let mut decisive = result
            .asserts
            .iter()
            .filter(|own| own.verdict == verdict);
        result.verdict == verdict
            && decisive.any(|own| own.error.as_deref().unwrap_or_default().contains(reason))
    }
}

/// Runs the whole battery in this process, and prints what should not have been.
pub(crate) fn run_here(tier: &str) {
    let tier = match tier {
        "full" => Tier::Full,
        _ => Tier::Landlock,
    };
    // What must run out of time does so soon; for the rest a busy machine makes no difference.
    let impatient = chosen_pool(
        tier,
        Limits {
            wall_secs: 1,
            ..SHORT
        },
    );
    let patient = chosen_pool(tier, PATIENT);
    let mut scene = Scene::new(tier);
    let mut complaints = 0;
    for hostile in battery() {
        let fates = hostile.expected.fates(tier);
        let pool = match fates.contains(&Fate::TimesOut) {
            true => &impatient,
            false => &patient,
        };
        let complaint = suffer(pool, &scene, hostile, &fates);
        let traces = scene.traces();
        if !complaint.is_empty() || !traces.is_empty() {
            complaints += 1;
            println!("{tier}: {}: {complaint}{traces}", hostile.name);
        }
    }
    assert_eq!(complaints, 0);
    drop((impatient, patient));
    assert_eq!(scene.processes(), 0);
    println!("{} programs were held", battery().count());
}

/// The strongest that is to be had here, which must be this tier.
fn chosen_pool(tier: Tier, limits: Limits) -> Pool {
    let pool = Pool::start(&SandboxConfig {
        workers: Some(1),
        limits,
        isolation: Isolation::Strongest,
        ..SandboxConfig::default()
    });
    let pool = pool.unwrap();
    assert_eq!(pool.tier(), tier, "{:?}", pool.report());
    pool
}

/// Judges a hostile program and an honest one after it. Tells what should not have been.
fn suffer(pool: &Pool, scene: &Scene, hostile: &Hostile, fates: &[Fate]) -> String {
    let mut complaint = String::new();
    let retries = || pool.counters().infrastructure_retries;
    let before = retries();
    match pool.judge(&hostile.deed.program(scene), &hostile.deed.tests()) {
        Ok(result) => {
            let passed = fates.iter().any(|fate| {
                let passes = hostile.deed.passes(*fate);
                fate.is_that_of(&result)
                    && passes.is_none_or(|passes| passes == result.passed())
            });
            if !passed {
                let _ = write!(complaint, "expected {fates:?}, not {result:?}; ");
            }
            if !result.asserts.iter().all(is_printable) {
                let _ = write!(complaint, "not printable: {:?}; ", result.asserts);
            }
        }
        Err(error) => {
            let _ = write!(complaint, "{error}; ");
        }
    }
    match judge_honest(pool) {
        Ok(result) if result.verdict == Verdict::Passed => {}
        other => {
            let _ = write!(complaint, "then an honest program: {other:?}; ");
        }
    }
    if retries() > before {
        complaint.push_str("the host had to try again; ");
    }
    complaint
}

/// Judges an honest program. Where the machine has much to do it may not get its turn in time; then
/// it gets another.
fn judge_honest(pool: &Pool) -> Result<ProgramResult, SandboxError> {
    const TURNS: usize = 5;
    let honest = program("def f(x):\n    return x + x\n");
    let tests = check_of(&["assert candidate(21) == 42"]);
    let judge = || pool.judge(&honest, &tests);
    let is_late = |result: &ProgramResult| result.verdict == Verdict::Timeout;
    let mut result = judge()?;
    for _ in 1..TURNS {
        if !is_late(&result) {
            break;
        }
        result = judge()?;
    }
    Ok(result)
}

fn is_printable(outcome: &AssertOutcome) -> bool {
    let error = outcome.error.as_deref().unwrap_or("-");
    !error.is_empty() && error.len() < 4096 && !error.chars().any(char::is_control)
}

/// Runs the battery beside a process that makes and removes whatever might look like a trace.
fn check(tier: &str, filters: Vec<Filter>) {
    let noise = Noise::start();
    let mut command = helper(&format!("battery {tier}"), filters);
    let output = command.env(scene::SECRET_NAME, scene::SECRET).output();
    let output = output.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let held = format!("{PROGRAMS} programs were held");
    assert!(
        output.status.success() && printed.contains(&held),
        "{printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    noise.stop();
}

#[test]
fn the_full_tier_holds_all() {
    check("full", Vec::new());
}

#[test]
fn the_landlock_tier_in_a_container_holds_all() {
    check("landlock", vec![container()]);
}

#[test]
fn whatever_is_left_is_seen() {
    let printed = run("traces", Vec::new());
    assert!(printed.contains("all were seen"), "{printed}");
}

#[test]
fn no_program_is_lost_or_there_twice() {
    assert_eq!(battery().count(), PROGRAMS);
    let names: HashSet<&str> = battery().map(|hostile| hostile.name).collect();
    assert_eq!(names.len(), PROGRAMS);
    let mut sources = HashSet::new();
    for hostile in battery() {
        let source = match hostile.deed {
            Deed::Body(source)
            | Deed::SecondCall(source)
            | Deed::Program(source)
            | Deed::Cheat(source)
            | Deed::Tested(_, source) => source.to_owned(),
            Deed::Source(make) => make(),
        };
        let calls = std::mem::discriminant(&hostile.deed);
        assert!(sources.insert((calls, source)), "{}", hostile.name);
    }
}

#[test]
fn who_knows_the_answer_passes_what_no_cheat_does() {
    let source = "
import hashlib
def f(x):
    return hashlib.sha256(str(x).encode()).hexdigest()
";
    for tier in crate::pools::TIERS {
        let result = crate::pools::judge(tier, source, &secret_tests());
        assert_eq!(result.verdict, Verdict::Passed, "{result:?}");
    }
}
