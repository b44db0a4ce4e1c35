//! Systems with less isolation: a container, and a system without any.

use std::collections::BTreeMap;

use polyphony_sandbox::{Isolation, Pool, SandboxConfig, SandboxError, Tier, Verdict};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::{
    pools::{check_of, program, settings},
    processes::{Filter, run},
};

/// Refuses the calls that containers' default profiles refuse: new namespaces and mounts.
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

/// Refuses what containers refuse, and Landlock like a kernel without it.
fn no_isolation() -> [Filter; 2] {
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

/// Plays a command that starts the sandbox, and prints its tier.
pub(crate) fn print_tier() {
    for isolation in [Isolation::Strongest, Isolation::Landlock] {
        match Pool::start(&settings(isolation)) {
            Ok(pool) => {
                let tests = check_of(&["assert candidate(2) == 4", "assert candidate(3) == 5"]);
                let double = program("def f(x):\n    return 2 * x\n");
                let result = pool.run(&double, &tests).unwrap();
                assert_eq!(result.verdict, Verdict::Failed);
                assert_eq!(result.passed(), 1);
                println!(
                    "{isolation:?}: {}, refused: {:?}",
                    pool.tier(),
                    pool.self_test().refused
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
fn without_any_isolation_no_pool_starts() {
    let printed = run("tier", no_isolation().into());
    for expected in [
        "Strongest: programs cannot be confined here: full tier: preparing Landlock rules failed",
        "Landlock: programs cannot be confined here: landlock tier: preparing Landlock rules failed",
        "what may help: ",
        "Linux 5.13 or newer with Landlock enabled",
    ] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
}

#[test]
fn a_container_without_landlock_names_both_reasons() {
    // Without the first filter namespaces work, but every tier needs Landlock.
    let [_, no_landlock] = no_isolation();
    let printed = run("tier", vec![no_landlock]);
    assert!(
        printed.contains("the kernel offers no Landlock"),
        "{printed}"
    );
    assert!(!printed.contains("Strongest: full"), "{printed}");
}

#[test]
fn programs_run_without_isolation_only_if_asked_for() {
    let pool = Pool::start(&SandboxConfig {
        workers: Some(1),
        isolation: Isolation::Off,
        ..SandboxConfig::default()
    });
    let pool = pool.unwrap();
    assert_eq!(pool.tier(), Tier::Off);
    // The steps include no attacks, because they would succeed.
    assert_eq!(pool.self_test().steps.len(), 2);
    let tests = check_of(&["assert candidate(2) == 4"]);
    let double = program("def f(x):\n    return 2 * x\n");
    let result = pool.run(&double, &tests).unwrap();
    assert_eq!((result.verdict, result.tier), (Verdict::Passed, Tier::Off));
}

#[test]
fn errors_name_invalid_settings() {
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
            "`/bin/sh` is not usable as a Python interpreter: it does not answer like Python",
        ),
    ];
    for (settings, expected) in rows {
        let error: SandboxError = Pool::start(&settings).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}
