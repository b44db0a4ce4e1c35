//! Responses of every kind, including hostile ones.

use polyphony_env::{Definition, EntryBody, HelperResults, HelperUse, ProgramRun};
use polyphony_episode::Task;

use crate::{HUMAN_EVAL, assess, double, human_eval, in_parallel};

const AUX: &str = "def aux(x):\n    return x";
const MAIN: &str = "def double(x):\n    y = aux(x)\n    return y + y";

fn check(auxiliary: &str, main: &str, expected: [f64; 4]) {
    let assessment = assess(&double(), auxiliary, main);
    let parts: Vec<f64> = assessment
        .reward()
        .parts()
        .map(|(_, value)| value)
        .collect();
    assert_eq!(parts, expected, "{auxiliary}\n{main}\n{assessment:?}");
}

#[test]
fn every_level_can_be_the_last() {
    let wrong = "def double(x):\n    y = aux(x)\n    return y - y";
    let partly = "def double(x):\n    y = aux(x)\n    return 2 if y == 1 else y";
    check("", "", [0.0; 4]);
    check(AUX, "", [0.4, 0.0, 0.0, 0.0]);
    check("", "def double(x):\n    return x + x", [0.6, 0.5, 1.0, 0.0]);
    check(AUX, "def double(x):\n    return x +", [1.0, 0.0, 0.0, 0.0]);
    check(AUX, wrong, [1.0, 0.5, 0.0, 0.0]);
    check(AUX, partly, [1.0, 0.5, 1.0 / 3.0, 1.5]);
    check(AUX, MAIN, [1.0, 0.5, 1.0, 1.5]);
    // The call fails without the helper.
    check("", MAIN, [0.6, 0.5, 0.0, 0.0]);
}

#[test]
fn code_outside_the_functions_is_not_run() {
    let noise = "import os\nFACTOR = 3\nraise SystemExit\n";
    check(
        &format!("{noise}{AUX}\n{noise}"),
        &format!("{noise}{MAIN}\n{noise}"),
        [1.0, 0.5, 1.0, 1.5],
    );
    let needs_global = "FACTOR = 2\ndef double(x):\n    return FACTOR * x";
    check(AUX, needs_global, [1.0, 0.5, 0.0, 0.0]);
    // Each function comes from its own agent.
    check(MAIN, AUX, [0.0; 4]);
    let both = format!("def aux(x):\n    return 0\n\n{MAIN}");
    check(AUX, &both, [1.0, 0.5, 1.0, 1.5]);
}

#[test]
fn a_syntax_error_has_its_position_in_the_function() {
    let rows = [
        (
            AUX,
            "def double(x):\n    y = 1\n    return 1 +",
            "double",
            3,
        ),
        ("def aux(x):\n    return return x", MAIN, "aux", 2),
        ("", "def double(x):\n    return 1 1", "double", 2),
        // The syntax tree allows this, but Python refuses it.
        (
            AUX,
            "def double(x):\n    nonlocal y\n    return 1",
            "double",
            2,
        ),
    ];
    for (auxiliary, main, function, line) in rows {
        let assessment = assess(&double(), auxiliary, main);
        let Some(ProgramRun::SyntaxError(error)) = &assessment.run else {
            panic!("{assessment:?}")
        };
        assert_eq!(
            (error.function.as_str(), error.line),
            (function, line),
            "{error:?}"
        );
        assert!(!error.message.is_empty());
    }
}

#[test]
fn program_and_tests_have_the_imports_and_functions_of_the_prompt() {
    let prompt = "import math\nfrom typing import List\n\ndef twice(x: int) -> int:\n    return 2 * x\n\n\
                  def root(numbers: List[int]) -> int:\n    \"\"\" The root. \"\"\"\n";
    let test = "def check(candidate):\n    assert candidate([twice(8)]) == math.isqrt(16)\n";
    let fields = [("prompt", prompt), ("entry_point", "root"), ("test", test)];
    let task = Task::new("t/root", fields);
    let main = "def root(numbers: List[int]) -> int:\n    return math.isqrt(twice(aux(numbers)))";
    let auxiliary = "def aux(numbers):\n    return numbers[0] // 2";
    let assessment = assess(&task, auxiliary, main);
    assert!(assessment.is_solved(), "{assessment:?}");
    assert_eq!(
        assessment.helper_use,
        HelperUse::Called {
            body: EntryBody::Wrapper,
            results: HelperResults::Used
        }
    );
}

#[test]
fn the_program_has_imports_from_inside_the_entry_function_of_the_prompt() {
    let main = "def max_fill(grid, capacity):\n    \
                return sum([math.ceil(sum(arr) / capacity) for arr in grid])";
    let assessment = assess(human_eval("HumanEval/115"), "", main);
    assert!(assessment.is_solved(), "{assessment:?}");
}

/// Source that breaks a careless reader.
fn bombs(name: &str) -> Vec<String> {
    let returns = |value: String| format!("def {name}(x):\n    return {value}");
    let deep = |open: &str, close: &str| {
        returns(format!("{}1{}", open.repeat(30_000), close.repeat(30_000)))
    };
    let mut stairs = format!("def {name}(x):\n");
    for depth in 1..400 {
        stairs.push_str(&" ".repeat(depth));
        stairs.push_str("if x:\n");
    }
    vec![
        deep("(", ")"),
        deep("[", "]"),
        deep("-", ""),
        deep("1+", ""),
        deep("lambda a, b: ", ""),
        returns(format!("x{}", ".a".repeat(60_000))),
        returns(format!("'{}'", "a".repeat(10_000_000))),
        format!(
            "{}def {name}(x):\n    return x",
            "x = 1\n".repeat(2_000_000)
        ),
        format!("def {name}(x:\n").repeat(11_000),
        format!(
            "Hm.\ndef {name}(x):\n    return '''\n{}",
            "x\n".repeat(60_000)
        ),
        stairs,
        returns("'\0'".to_owned()),
        returns("'\u{feff}\u{2028}\u{1f40d}'".to_owned()),
        returns("[0] * 10 ** 12".to_owned()),
        returns("9 ** 9 ** 9 ** 9".to_owned()),
        returns("().__class__.__base__.__subclasses__()".to_owned()),
        returns("__import__('os')._exit(0)".to_owned()),
        returns("exit(0)".to_owned()),
        returns("__import__('os').fork()".to_owned()),
        returns("open('/etc/passwd').read()".to_owned()),
    ]
}

#[test]
fn a_hostile_response_is_a_low_reward() {
    let main = bombs("double");
    in_parallel(&main, |main| {
        let reward = assess(&double(), AUX, main).reward();
        assert!(
            reward.total() <= 1.5,
            "{reward:?}: {}",
            &main[..main.len().min(200)]
        );
    });
    let helpers = bombs("aux");
    in_parallel(&helpers, |helper| {
        let reward = assess(&double(), helper, MAIN).reward();
        assert!(
            reward.total() <= 1.5,
            "{reward:?}: {}",
            &helper[..helper.len().min(200)]
        );
    });
}

#[test]
fn a_response_of_ten_megabytes_defines_nothing() {
    let long = format!("{MAIN}\n{}", "# more\n".repeat(1_500_000));
    let assessment = assess(&double(), AUX, &long);
    assert_eq!(
        (assessment.entry, &assessment.run),
        (Definition::Missing, &None)
    );
}

#[test]
fn threads_share_the_sandbox_without_mixing_their_programs() {
    let failing = "def has_close_elements(numbers, threshold):\n    return None";
    let numbers: Vec<usize> = (0..24).collect();
    in_parallel(&numbers, |number| {
        let is_right = number % 2 == 0;
        let assessment = if is_right {
            assess(&double(), AUX, MAIN)
        } else {
            assess(&HUMAN_EVAL[0], AUX, failing)
        };
        assert_eq!(assessment.is_solved(), is_right, "{number}: {assessment:?}");
    });
}
