//! The Landlock rules: the interpreter may be executed and its library may be read. Everything else is
//! denied.

use std::{os::fd::OwnedFd, path::Path};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};

use super::{interpreter::Installation, layout};

/// The required version: rules on file access, since Linux 5.13.
const REQUIRED: ABI = ABI::V1;
/// The version whose rules are used as far as the kernel supports them.
const BEST_EFFORT: ABI = ABI::V7;

/// Prepares the rules for an interpreter. They do not apply to any process yet.
///
/// # Errors
///
/// If the kernel has no Landlock, or a file of the interpreter cannot be opened: the reason.
pub(super) fn ruleset(installation: &Installation) -> Result<OwnedFd, String> {
    let created = create().map_err(|error| format!("the kernel offers no Landlock ({error})"))?;
    let rules = add_rules(created, installation)?;
    let descriptor: Option<OwnedFd> = rules.into();
    descriptor.ok_or_else(|| "the kernel offers no Landlock".to_owned())
}

fn create() -> Result<RulesetCreated, landlock::RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(REQUIRED))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(BEST_EFFORT))?
        .handle_access(AccessNet::from_all(BEST_EFFORT))?
        .scope(Scope::from_all(BEST_EFFORT))?
        .create()
}

fn add_rules(rules: RulesetCreated, installation: &Installation) -> Result<RulesetCreated, String> {
    let run = AccessFs::Execute | AccessFs::ReadFile;
    let read_file = BitFlags::from(AccessFs::ReadFile);
    let list = BitFlags::from(AccessFs::ReadDir);

    let mut rules = add(rules, &installation.interpreter.path, run)?;
    if let Some(loader) = &installation.loader {
        rules = add(rules, loader, run)?;
    }
    for shared in &installation.shared {
        rules = add(rules, &shared.path, read_file)?;
    }
    for library in &installation.libraries {
        rules = add(rules, &library.path, list)?;
        let readable = layout::readable(&library.path)
            .map_err(|error| format!("cannot list `{}`: {error}", library.path.display()))?;
        for path in readable {
            // Broken links and links that lead out of the library get no rule.
            let target = path.canonicalize();
            let Some(target) = target.ok().filter(|path| path.starts_with(&library.path)) else {
                continue;
            };
            let access = if target.is_dir() {
                list | read_file
            } else {
                read_file
            };
            rules = add(rules, &target, access)?;
        }
    }
    Ok(rules)
}

fn add(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, String> {
    let message = |error: &dyn std::error::Error| {
        format!("no Landlock rule for `{}`: {error}", path.display())
    };
    let descriptor = PathFd::new(path).map_err(|error| message(&error))?;
    rules
        .add_rule(PathBeneath::new(descriptor, access))
        .map_err(|error| message(&error))
}
