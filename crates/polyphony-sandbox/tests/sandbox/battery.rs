//! The battery: hostile programs, and the expected outcome of each of them in both tiers.
//!
//! Each module has a table of one kind. A row is a program, how it is called, and its expected outcome.
//! `scene` has the targets that a program can attack, and the checks after it. For each tier the battery
//! runs in a separate process. The process for the Landlock tier starts under a filter like a
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
    AssertOutcome, Isolation, Limits, Pool, Program, ProgramResult, SandboxConfig, SandboxError,
    Tests, Tier, Verdict,
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

/// The number of programs, so that a lost one is noticed.
const PROGRAMS: usize = if cfg!(target_arch = "x86_64") {
    345
} else {
    332
};

/// A program and its expected outcome.
struct Hostile {
    name: &'static str,
    deed: Deed,
    expected: Expected,
}

/// What a program does, and when.
enum Deed {
    /// The body of `f`. The attack succeeds if `f` returns at all.
    Body(&'static str),
    /// The body of `f` for its second call. The first call is honest and passes.
    SecondCall(&'static str),
    /// A complete program. The attack succeeds if `f` returns at all.
    Program(&'static str),
    /// A complete program without the prelude, since every byte of its source matters.
    Source(fn() -> String),
    /// A complete program that tries to pass tests whose answers it does not know.
    Cheat(&'static str),
    /// A complete program that attacks the tests themselves.
    Tested(fn() -> Tests, &'static str),
}

/// The expected outcome of a program.
enum Expected {
    /// The same in both tiers.
    Both(Fate),
    /// Different outcomes: in the full tier most of the machine is not visible, in the Landlock tier it
    /// cannot be accessed.
    Tiers { full: Fate, landlock: Fate },
    /// One of these. The comment on the row explains what decides, if not the sandbox.
    OneOf(&'static [Fate]),
}

/// A verdict, and a part of its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is harmless and only looks dangerous.
    Passes,
    Fails(&'static str),
    TimesOut,
    RunsOutOfMemory,
    /// A violation that the system refused.
    IsRefused,
    /// A violation for which the system killed it.
    IsKilled,
}

/// The path does not exist in the full tier, and is refused in the Landlock tier.
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

/// Tests that compute the answer in the judge, so that no program knows it.
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
            Self::Body(body) => scene.with_prelude(&format!("def f():\n{}", indented(body))),
            Self::SecondCall(body) => {
                let first = "def f(x):\n    if x == 1: return 1\n";
                scene.with_prelude(&format!("{first}{}", indented(body)))
            }
            Self::Program(source) | Self::Cheat(source) | Self::Tested(_, source) => {
                scene.with_prelude(source)
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

    /// The number of asserts that pass, because the program starts honestly or is harmless.
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
    fn matches(self, result: &ProgramResult) -> bool {
        let (verdict, reason) = match self {
            Self::Passes => (Verdict::Passed, ""),
            Self::Fails(reason) => (Verdict::Failed, reason),
            Self::TimesOut => (Verdict::Timeout, "stopped after"),
            Self::RunsOutOfMemory => (Verdict::OutOfMemory, "MemoryError"),
            Self::IsRefused => (Verdict::Violation, "PermissionError: [Errno "),
            Self::IsKilled => (Verdict::Violation, "killed for a forbidden system call"),
        };
        let mut decisive = result.asserts.iter();
        let has_reason = |assert: &AssertOutcome| {
            let error = assert.error.as_deref().unwrap_or_default();
            assert.verdict == verdict && error.contains(reason)
        };
        result.verdict == verdict && decisive.any(has_reason)
    }
}

/// Runs the whole battery in this process, and prints what is wrong.
pub(crate) fn run_here(tier: &str) {
    let tier = match tier {
        "full" => Tier::Full,
        _ => Tier::Landlock,
    };
    // Programs that must time out do so soon. For all others, a busy machine makes no difference.
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
        let complaint = run_hostile(pool, &scene, hostile, &fates);
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

/// A pool with the strongest isolation that is available here, which must be this tier.
fn chosen_pool(tier: Tier, limits: Limits) -> Pool {
    let pool = Pool::start(&SandboxConfig {
        workers: Some(1),
        limits,
        isolation: Isolation::Strongest,
        ..SandboxConfig::default()
    });
    let pool = pool.unwrap();
    assert_eq!(pool.tier(), tier, "{:?}", pool.self_test());
    pool
}

/// Runs a hostile program, and an honest one after it. Returns what is wrong.
fn run_hostile(pool: &Pool, scene: &Scene, hostile: &Hostile, fates: &[Fate]) -> String {
    let mut complaint = String::new();
    let retries = || pool.counters().infrastructure_retries;
    let before = retries();
    match pool.run(&hostile.deed.program(scene), &hostile.deed.tests()) {
        Ok(result) => {
            let passed = fates.iter().any(|fate| {
                let passes = hostile.deed.passes(*fate);
                fate.matches(&result) && passes.is_none_or(|passes| passes == result.passed())
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
    match run_honest(pool) {
        Ok(result) if result.verdict == Verdict::Passed => {}
        result => {
            let _ = write!(complaint, "then an honest program: {result:?}; ");
        }
    }
    if retries() > before {
        complaint.push_str("the host had to try again; ");
    }
    complaint
}

/// Runs an honest program. On a busy machine it may time out; then it runs again.
fn run_honest(pool: &Pool) -> Result<ProgramResult, SandboxError> {
    const TRIES: usize = 5;
    let honest = program("def f(x):\n    return x + x\n");
    let tests = check_of(&["assert candidate(21) == 42"]);
    let run_once = || pool.run(&honest, &tests);
    let is_late = |result: &ProgramResult| result.verdict == Verdict::Timeout;
    let mut result = run_once()?;
    for _ in 1..TRIES {
        if !is_late(&result) {
            break;
        }
        result = run_once()?;
    }
    Ok(result)
}

fn is_printable(outcome: &AssertOutcome) -> bool {
    let error = outcome.error.as_deref().unwrap_or("-");
    !error.is_empty() && error.len() < 4096 && !error.chars().any(char::is_control)
}

/// Runs the battery next to a process that creates and removes things that might look like traces.
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
fn the_full_tier_holds_every_program() {
    check("full", Vec::new());
}

#[test]
fn the_landlock_tier_in_a_container_holds_every_program() {
    check("landlock", vec![container()]);
}

#[test]
fn every_kind_of_trace_is_noticed() {
    let printed = run("traces", Vec::new());
    assert!(printed.contains("all were seen"), "{printed}");
}

#[test]
fn no_program_is_lost_or_duplicated() {
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
fn a_program_that_knows_the_answer_passes_the_cheats_tests() {
    let source = "
import hashlib
def f(x):
    return hashlib.sha256(str(x).encode()).hexdigest()
";
    for tier in crate::pools::TIERS {
        let result = crate::pools::run_patiently(tier, source, &secret_tests());
        assert_eq!(result.verdict, Verdict::Passed, "{result:?}");
    }
}
