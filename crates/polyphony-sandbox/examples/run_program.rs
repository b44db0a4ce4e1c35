//! Runs programs against their tests, and shows the results of the sandbox's self-test.
//!
//! `cargo run -p polyphony-sandbox --example run_program`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use polyphony_sandbox::{Pool, Program, SandboxConfig, SandboxError, Tests};

const TESTS: &str = "
def check(candidate):
    assert candidate([3, 1, 2]) == 3
    assert candidate([-5]) == -5
    assert candidate([]) is None
";

const PROGRAMS: [(&str, &str); 3] = [
    (
        "right",
        "def largest(numbers):\n    return max(numbers, default=None)\n",
    ),
    (
        "forgets the empty list",
        "def largest(numbers):\n    return max(numbers)\n",
    ),
    (
        "curious",
        "def largest(numbers):\n    return open('/etc/passwd').read()\n",
    ),
];

fn main() -> Result<(), SandboxError> {
    let pool = Pool::start(&SandboxConfig {
        workers: Some(1),
        ..SandboxConfig::default()
    })?;
    println!(
        "{} tier, Python {}",
        pool.tier(),
        pool.interpreter().version
    );
    for step in &pool.self_test().steps {
        println!("  {}: {}", step.name, step.saw);
    }
    let tests = Tests {
        setup: String::new(),
        source: TESTS.to_owned(),
    };
    for (name, source) in PROGRAMS {
        let program = Program {
            source: source.to_owned(),
            entry_point: "largest".to_owned(),
        };
        let result = pool.run(&program, &tests)?;
        println!(
            "{name}: {:?}, {} of {} tests, {:.1} ms",
            result.verdict,
            result.passed(),
            result.asserts.len(),
            result.seconds * 1e3
        );
        for outcome in &result.asserts {
            let error = outcome.error.as_deref().unwrap_or("passed");
            println!("  {}: {error}", outcome.source);
        }
    }
    Ok(())
}
