//! Helper processes, which are this test's binary in a role, and lists of processes.

use std::{
    collections::HashSet,
    env, fs, io,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The variable with the role that a helper process plays.
const ROLE: &str = "POLYPHONY_SANDBOX_TEST_ROLE";

/// A system call filter under which a helper process starts.
pub(crate) type Filter = seccompiler::BpfProgram;

/// A command that starts this test's binary again in a role.
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

/// Runs a helper to its end, and returns its output.
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
        "thousand" => crate::aftermath::run_a_thousand(tier),
        _ => panic!("there is no role {role:?}"),
    }
}

/// A process. Its start time distinguishes it from later processes with the same number.
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
        for (process, parent_of_process, _) in &all {
            if *parent_of_process == parent && found.insert(process.clone()) {
                parents.push(process.pid);
            }
        }
    }
    found
}

/// Waits for a while until none of the processes is left. Returns those that are.
pub(crate) fn left_of(processes: &HashSet<Process>) -> Vec<Process> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // A zombie, which the system's first process has not reaped yet, does not run any more.
        let running = all()
            .into_iter()
            .filter(|(process, _, state)| *state != 'Z' && processes.contains(process))
            .map(|(process, ..)| process);
        let left: Vec<Process> = running.collect();
        if left.is_empty() || Instant::now() > deadline {
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
        // The name in brackets may contain anything.
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
