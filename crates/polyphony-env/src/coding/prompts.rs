//! The prompts of the first turn. They are short and plain, because the models may have only 100
//! million parameters. The instruction comes last, where such models follow it best.

use polyphony_episode::Observation;

use super::problem::{HELPER, Problem};

/// One observation per role: the first for the author of the helper, the second for the author of the entry
/// function.
pub(super) fn first_observations(problem: &Problem) -> Vec<Observation> {
    let Problem {
        prompt,
        entry_point,
        ..
    } = problem;
    let prompt = prompt.trim();
    let begin = match &problem.signature {
        Some(signature) => signature.clone(),
        None => format!("def {entry_point}("),
    };
    let helper = format!(
        "Write a Python function `{HELPER}` that helps to solve this problem: it does one useful \
         part of the work and returns the result. Your teammate writes `{entry_point}`, which may \
         call your `{HELPER}`.\n\
         Give the code of `{HELPER}` only, beginning with `def {HELPER}(`. \
         Put imports inside the function."
    );
    let entry = format!(
        "Write the Python function `{entry_point}` that solves this problem. Your teammate writes \
         a helper function `{HELPER}(...)`, which your code may call. Do not write `{HELPER}` \
         yourself.\n\
         Give the code of `{entry_point}` only, beginning with `{begin}`. \
         Put imports inside the function."
    );
    [helper, entry]
        .map(|instruction| Observation::new(format!("Problem:\n{prompt}\n\n{instruction}")))
        .into()
}
