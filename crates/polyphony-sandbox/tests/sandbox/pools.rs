//! Pools that tests share, one a tier.

use std::sync::OnceLock;

use polyphony_sandbox::{Isolation, Judgement, Limits, Pool, Program, Settings, Tests, Tier};

/// The tiers in which hostile programs are confined.
pub(crate) const TIERS: [Tier; 2] = [Tier::Full, Tier::Landlock];

/// Limits that let a test of a limit end soon.
pub(crate) const SHORT: Limits = Limits {
    address_space_mb: 320,
    cpu_secs: 1,
    wall_secs: 2,
    descriptors: 64,
    file_bytes: 0,
};

/// The pool of a tier, with short limits. It must be that tier and no other.
pub(crate) fn pool(tier: Tier) -> &'static Pool {
    static FULL: OnceLock<Pool> = OnceLock::new();
    static LANDLOCK: OnceLock<Pool> = OnceLock::new();
    let (pool, isolation) = match tier {
        Tier::Full => (&FULL, Isolation::Strongest),
        Tier::Landlock => (&LANDLOCK, Isolation::Landlock),
        Tier::Off => panic!("no test runs a program without confinement"),
    };
    pool.get_or_init(|| {
        let pool = Pool::start(&settings(isolation)).unwrap();
        assert_eq!(pool.tier(), tier, "{:?}", pool.report());
        pool
    })
}

pub(crate) fn settings(isolation: Isolation) -> Settings {
    Settings {
        workers: Some(2),
        limits: SHORT,
        isolation,
        ..Settings::default()
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

pub(crate) fn judge(tier: Tier, source: &str, tests: &Tests) -> Judgement {
    pool(tier).judge(&program(source), tests).unwrap()
}
