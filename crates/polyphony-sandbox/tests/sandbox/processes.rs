//! Other processes: those of this test, and this test's binary again, in a role.

use std::{
    collections::HashSet,
    env, fs, io,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Names the role that a helper process plays.
const ROLE: &str = "POLYPHONY_SANDBOX_TEST_ROLE";

/// A filter of system calls that a helper process starts under.
pub(crate) type Filter = seccompiler::BpfProgram;

/// This test's binary, to be started again for the sake of one role.
pub(crate) fn helper(role: &str, filters: Vec<Filter>) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "processes::plays_its_role", "--nocapture"])
        .env(ROLE, role)
        .stdin(Stdio::null());
    for filter in filters {
        // SAFETY: the closure makes two system calls and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                seccompiler::apply_filter(&filter).map_err(|_| io::Error::last_os_error())
            });
        }
    }
    command
}

/// Runs a helper to its end, and gives what it printed.
pub(crate) fn run(role: &str, filters: Vec<Filter>) -> String {
    let output = helper(role, filters).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{role}: {printed}{errors}");
    printed
}

/// Does nothing, unless this process was started by [`helper`].
#[test]
fn plays_its_role() {
    let Ok(role) = env::var(ROLE) else { return };
    let (name, tier) = role.split_once(' ').unwrap_or((&role, ""));
    match name {
        "tier" => crate::refusals::print_tier(),
        "trainer" => crate::aftermath::train_until_killed(tier),
        "starter" => crate::aftermath::start_and_be_held(tier),
        "zygotes" => crate::aftermath::replace_zygotes(tier),
        "noise" => crate::battery::make_noise(),
        "traces" => crate::battery::leave_all_kinds(),
        "battery" => crate::battery::run_here(tier),
        "thousand" => crate::aftermath::judge_a_thousand(tier),
        _ => panic!("there is no role {role:?}"),
    }
}

/// A process, told apart from others that get its number later.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    started: u64,
}

/// All processes below one.
pub(crate) fn descendants(of: u32) -> HashSet<Process> {
    let all = all();
    let mut found: HashSet<Process> = HashSet::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        for (process, its_parent, _) in &all {
            if *its_parent == parent && found.insert(process.clone()) {
                parents.push(process.pid);
            }
        }
    }
    found
}

/// Waits until none of the processes is left, for a while. Gives those that are.
pub(crate) fn left_of(processes: &HashSet<Process>) -> Vec<Process> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        // What has ended and is not yet fetched by the system's first process runs no more.
        let running = all()
            .into_iter()
            .filter(|(process, _, state)| *state != 'Z' && processes.contains(process))
            .map(|(process, ..)| process);
        let left: Vec<Process> = running.collect();
        if left.is_empty() || Instant::now() > end {
            return left;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// All processes with their parents and states.
fn all() -> Vec<(Process, u32, char)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let Ok(pid) = entry.unwrap().file_name().to_string_lossy().parse() else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        // The name in brackets may hold anything.
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        let fields: Vec<&str> = fields.split(' ').collect();
        let [state, parent, ..] = fields[..] else {
            continue;
        };
        let process = Process {
            pid,
            started: fields[19].parse().unwrap(),
        };
        found.push((
            process,
            parent.parse().unwrap(),
            state.chars().next().unwrap(),
        ));
    }
    found
}
