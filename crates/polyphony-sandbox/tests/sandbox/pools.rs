//! Pools that tests share, one per tier.

use std::sync::OnceLock;

use polyphony_sandbox::{
    Isolation, Limits, Pool, Program, ProgramResult, SandboxConfig, Tests, Tier,
};

/// The tiers in which hostile programs are confined.
pub(crate) const TIERS: [Tier; 2] = [Tier::Full, Tier::Landlock];

/// Short limits, so that a test of a limit ends soon.
pub(crate) const SHORT: Limits = Limits {
    address_space_mb: 320,
    cpu_secs: 1,
    wall_secs: 2,
    descriptors: 64,
    file_bytes: 0,
};

/// Limits that no honest program reaches, even on a busy machine.
pub(crate) const PATIENT: Limits = Limits {
    cpu_secs: 20,
    wall_secs: 60,
    ..SHORT
};

/// The pool of a tier, with short limits.
pub(crate) fn pool(tier: Tier) -> &'static Pool {
    static POOLS: [OnceLock<Pool>; 2] = [const { OnceLock::new() }; 2];
    start_once(&POOLS, tier, SHORT)
}

/// The pool of a tier for programs that must not time out.
pub(crate) fn patient_pool(tier: Tier) -> &'static Pool {
    static POOLS: [OnceLock<Pool>; 2] = [const { OnceLock::new() }; 2];
    start_once(&POOLS, tier, PATIENT)
}

fn start_once(
    [full, landlock]: &'static [OnceLock<Pool>; 2],
    tier: Tier,
    limits: Limits,
) -> &'static Pool {
    let pool = match tier {
        Tier::Full => full,
        _ => landlock,
    };
    pool.get_or_init(|| start(tier, limits))
}

/// Starts a pool, which must have exactly this tier.
pub(crate) fn start(tier: Tier, limits: Limits) -> Pool {
    let isolation = match tier {
        Tier::Full => Isolation::Strongest,
        Tier::Landlock => Isolation::Landlock,
        Tier::Off => panic!("no test runs a program without confinement"),
    };
    let pool = Pool::start(&SandboxConfig {
        limits,
        ..settings(isolation)
    });
    let pool = pool.unwrap();
    assert_eq!(pool.tier(), tier, "{:?}", pool.self_test());
    pool
}

pub(crate) fn settings(isolation: Isolation) -> SandboxConfig {
    SandboxConfig {
        workers: Some(2),
        limits: SHORT,
        isolation,
        ..SandboxConfig::default()
    }
}

/// A program with the entry point `f`.
pub(crate) fn program(source: &str) -> Program {
    Program {
        source: source.to_owned(),
        entry_point: "f".to_owned(),
    }
}

/// Tests from the lines of `check`.
pub(crate) fn check_of(lines: &[&str]) -> Tests {
    let mut source = "def check(candidate):\n".to_owned();
    for line in lines {
        source.push_str(&format!("    {line}\n"));
    }
    Tests {
        setup: String::new(),
        source,
    }
}

/// Runs a program that must not time out.
pub(crate) fn run_patiently(tier: Tier, source: &str, tests: &Tests) -> ProgramResult {
    patient_pool(tier).run(&program(source), tests).unwrap()
}
