//! Checks of the names that an environment gives its roles and the parts of its reward.
//!
//! An agent has the name of its role. The same name is used for the agent's directory below `agents`, for
//! its file in every checkpoint, and in the names of its metrics.

use std::collections::HashSet;

use thiserror::Error;

use crate::environment::Environment;

/// The name of an agent that plays all roles.
pub const SHARED_AGENT: &str = "shared";

/// The maximum length of a name. File systems allow 255 bytes, and checkpoints add some to a name.
const MAX_BYTES: usize = 64;

/// What is wrong with a name, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct NameError(String);

/// Checks that an environment has roles and reward parts, that each has a name, and that no two roles or
/// parts have the same name. A directory must be able to have the name of a role, and no role may be called
/// [`SHARED_AGENT`].
///
/// # Errors
/// Names the role or the part, and says what is allowed.
pub fn check_names(environment: &dyn Environment) -> Result<(), NameError> {
    let roles = environment.roles().iter().map(|role| role.name.as_str());
    let roles: Vec<&str> = roles.collect();
    let parts = environment.reward_parts().iter().map(String::as_str);
    check_list("role", &roles)?;
    check_list("reward part", &parts.collect::<Vec<_>>())?;
    roles.into_iter().try_for_each(check_role)
}

fn check_list(what: &str, names: &[&str]) -> Result<(), NameError> {
    let mut known = HashSet::new();
    let problem = if names.is_empty() {
        format!("it has no {what}s, but must have at least one")
    } else if names.contains(&"") {
        format!("it has a {what} without a name")
    } else if let Some(duplicate) = names.iter().find(|name| !known.insert(**name)) {
        format!("it has two {what}s `{duplicate}`: give each its own name")
    } else {
        return Ok(());
    };
    Err(NameError(problem))
}

fn check_role(name: &str) -> Result<(), NameError> {
    if name == SHARED_AGENT {
        return Err(NameError(format!(
            "it has a role `{SHARED_AGENT}`, which is the name of the only agent of `team: Shared(…)`: give the \
             role another name"
        )));
    }
    if !can_name_directory(name) {
        return Err(NameError(format!(
            "it has a role {name:?}, but the name of a role is also that of a directory: it must not \
             begin with a dot, must not contain `/`, `\\`, `:` or control characters, and must have at most \
             {MAX_BYTES} bytes"
        )));
    }
    Ok(())
}

/// Whether a directory can have this name, even if a suffix such as a number is added to it.
pub fn can_name_directory(name: &str) -> bool {
    let is_forbidden = |character: char| character.is_control() || "/\\:".contains(character);
    let lengths = 1..=MAX_BYTES;
    lengths.contains(&name.len()) && !name.starts_with('.') && !name.contains(is_forbidden)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FnEnvironment, Reward};

    fn check(roles: &[&str], parts: &[&str]) -> Result<(), String> {
        let game = FnEnvironment::new(
            roles.iter().copied(),
            parts.iter().copied(),
            |_task, _action| Reward::new([("a", 1.0)]),
        );
        check_names(&game).map_err(|error| error.to_string())
    }

    #[test]
    fn a_role_is_one_plain_component_of_a_path() {
        let longest = "x".repeat(MAX_BYTES);
        for name in [
            "writer",
            "second writer",
            "coder-2",
            "élève",
            "a.b",
            &longest,
        ] {
            assert_eq!(check(&[name], &["a"]), Ok(()), "{name}");
        }
        let too_long = "x".repeat(MAX_BYTES + 1);
        let names = [
            "coder/tester",
            "/data/x",
            "..",
            ".",
            ".git",
            "a\\b",
            "C:",
            "a\nb",
            "a\0",
            &too_long,
        ];
        for name in names {
            let message = check(&["writer", name], &["a"]).unwrap_err();
            assert!(message.contains(&format!("a role {name:?}")), "{message}");
            assert!(message.contains("must not begin with a dot"), "{message}");
        }
        let message = check(&[SHARED_AGENT], &["a"]).unwrap_err();
        assert!(message.contains("a role `shared`"), "{message}");
    }

    #[test]
    fn roles_and_parts_must_exist_and_have_different_names() {
        let rows: [(&[&str], &[&str], &str); 6] = [
            (&[], &["a"], "it has no roles"),
            (&["x"], &[], "it has no reward parts"),
            (&["x", ""], &["a"], "it has a role without a name"),
            (&["x"], &[""], "it has a reward part without a name"),
            (&["x", "y", "x"], &["a"], "it has two roles `x`"),
            (&["x"], &["a", "a"], "it has two reward parts `a`"),
        ];
        for (roles, parts, expected) in rows {
            let message = check(roles, parts).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
