//! What happens where less is possible: in a container, and where no isolation is.

use std::collections::BTreeMap;

use polyphony_sandbox::{Isolation, Pool, SandboxError, SandboxConfig, Tier, Verdict};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::{
    pools::{check_of, program, settings},
    processes::{Filter, run},
};

/// Refuses what containers' default profiles refuse: new namespaces, and all that mounts.
pub(crate) fn container() -> Filter {
    let mut rules = BTreeMap::new();
    let namespaces = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    let with = |flag: i32| {
        let has = Is::MaskedEq(flag as u64);
        let condition = SeccompCondition::new(0, Width::Dword, has, flag as u64).unwrap();
        SeccompRule::new(vec![condition]).unwrap()
    };
    rules.insert(libc::SYS_clone, namespaces.into_iter().map(with).collect());
    for call in [
        libc::SYS_bpf,
        libc::SYS_fsmount,
        libc::SYS_fsopen,
        libc::SYS_keyctl,
        libc::SYS_mount,
        libc::SYS_mount_setattr,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_perf_event_open,
        libc::SYS_pivot_root,
        libc::SYS_setns,
        libc::SYS_umount2,
        libc::SYS_unshare,
        libc::SYS_userfaultfd,
    ] {
        rules.insert(call, Vec::new());
    }
    refuse(rules, libc::EPERM)
}

/// Refuses Landlock as a kernel without it does, and what containers refuse.
fn nothing_at_all() -> [Filter; 2] {
    let calls = [
        libc::SYS_landlock_create_ruleset,
        libc::SYS_landlock_add_rule,
        libc::SYS_landlock_restrict_self,
    ];
    let rules = calls.into_iter().map(|call| (call, Vec::new())).collect();
    [container(), refuse(rules, libc::ENOSYS)]
}

fn refuse(rules: BTreeMap<i64, Vec<SeccompRule>>, error: i32) -> Filter {
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let refused = SeccompAction::Errno(error as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).unwrap();
    filter.try_into().unwrap()
}

/// Plays a command that starts the sandbox, and prints what it got.
pub(crate) fn print_tier() {
    for isolation in [Isolation::Strongest, Isolation::Landlock] {
        match Pool::start(&settings(isolation)) {
            Ok(pool) => {
                let tests = check_of(&["assert candidate(2) == 4", "assert candidate(3) == 5"]);
                let double = program("def f(x):\n    return 2 * x\n");
                let result = pool.judge(&double, &tests).unwrap();
                assert_eq!(result.verdict, Verdict::Failed);
                assert_eq!(result.passed(), 1);
                println!(
                    "{isolation:?}: {}, refused: {:?}",
                    pool.tier(),
                    pool.report().refused
                );
            }
            Err(error) => println!("{isolation:?}: {error}"),
        }
    }
}

#[test]
fn in_a_container_the_landlock_tier_is_taken() {
    let printed = run("tier", vec![container()]);
    for expected in [
        "Strongest: landlock, refused: [(Full, \"cloning a process into new namespaces failed: \
         Operation not permitted (os error 1)\")]",
        "Landlock: landlock, refused: []",
    ] {
        assert!(printed.contains(expected), "{printed}");
    }
}

#[test]
fn where_isolation_is_impossible_there_is_no_pool() {
    let printed = run("tier", nothing_at_all().into());
    for expected in [
        "Strongest: programs cannot be confined here: full tier: laying out Landlock rules failed",
        "Landlock: programs cannot be confined here: landlock tier: laying out Landlock rules failed",
        "what may help: ",
        "Linux 5.13 or newer with Landlock enabled",
    ] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
}

#[test]
fn a_container_without_landlock_names_both_reasons() {
    // Without the first filter namespaces work, but no tier goes without Landlock.
    let [_, no_landlock] = nothing_at_all();
    let printed = run("tier", vec![no_landlock]);
    assert!(
        printed.contains("the kernel offers no Landlock"),
        "{printed}"
    );
    assert!(!printed.contains("Strongest: full"), "{printed}");
}

#[test]
fn without_isolation_programs_run_only_when_asked_for() {
    let pool = Pool::start(&SandboxConfig {
        workers: Some(1),
        isolation: Isolation::Off,
        ..SandboxConfig::default()
    });
    let pool = pool.unwrap();
    assert_eq!(pool.tier(), Tier::Off);
    // No attack is among the steps: it would get through.
    assert_eq!(pool.report().steps.len(), 2);
    let tests = check_of(&["assert candidate(2) == 4"]);
    let double = program("def f(x):\n    return 2 * x\n");
    let result = pool.judge(&double, &tests).unwrap();
    assert_eq!(
        (result.verdict, result.tier),
        (Verdict::Passed, Tier::Off)
    );
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let with = |change: fn(&mut SandboxConfig)| {
        let mut settings = SandboxConfig::default();
        change(&mut settings);
        settings
    };
    let rows = [
        (
            with(|settings| settings.workers = Some(0)),
            "the sandbox has 0 workers; set at least 1",
        ),
        (
            with(|settings| settings.limits.cpu_secs = 0),
            "the sandbox's limit `cpu_secs` is 0; it must be from 1 to 3600",
        ),
        (
            with(|settings| settings.limits.address_space_mb = 1),
            "the sandbox's limit `address_space_mb` is 1; it must be from 128 to 1048576",
        ),
        (
            with(|settings| settings.interpreter = Some("/no/such/python".into())),
            "`/no/such/python` is not usable as a Python interpreter: No such file or directory \
             (os error 2)",
        ),
        (
            with(|settings| settings.interpreter = Some("/bin/sh".into())),
            "`/bin/sh` is not usable as a Python interpreter: it does not answer as Python does",
        ),
    ];
    for (settings, expected) in rows {
        let error: SandboxError = Pool::start(&settings).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}
