//! Neither programs nor the processes that they start are left behind.

use std::{
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::Command,
    thread::{self, JoinHandle},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;

use super::*;

/// A folder with a named pipe. Reading the pipe ends when no process has it open any more.
fn named_pipe() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let status = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(status.success());
    (folder, pipe)
}

/// Reads everything that is written to a named pipe.
fn read_all(path: &Path) -> JoinHandle<String> {
    let path = path.to_owned();
    thread::spawn(move || fs::read_to_string(path).unwrap())
}

/// A handshake in Python that starts a helper process. The helper keeps the pipe open, and writes to it if
/// it survives for long.
fn hello_with_helper(pipe: &Path) -> String {
    format!(
        r#"
        import subprocess
        helper = "sleep 60; echo survived"
        subprocess.Popen(["sh", "-c", helper], stdout=open({pipe:?}, "w"))
        {}"#,
        hello_with_pid("description")
    )
}

fn pid(game: &ProcessEnvironment) -> Pid {
    let description = &game.description().unwrap()["handshake"]["description"];
    Pid::from_raw(description.as_i64().unwrap().try_into().unwrap()).unwrap()
}

#[test]
fn helpers_of_a_program_that_has_ended_are_killed() {
    let (_folder, pipe) = named_pipe();
    let output = read_all(&pipe);
    let game = program(&hello_with_helper(&pipe), END).start().unwrap();
    let pid = pid(&game);
    kill_process(pid, Signal::KILL).unwrap();
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), options).unwrap();
    drop(game);
    assert_eq!(output.join().unwrap(), "");
}

#[test]
fn helpers_of_all_workers_are_killed() {
    let (folder, pipe) = named_pipe();
    let steps = folder.path().join("steps");
    fs::create_dir(&steps).unwrap();
    let output = read_all(&pipe);
    // Each step waits for the others, so that all workers are started.
    let step = format!(
        r#"
        open(os.path.join({steps:?}, str(os.getpid())), "w").close()
        while len(os.listdir({steps:?})) < 3:
            time.sleep(0.001)
        {END}"#
    );
    let mut process = program(&hello_with_helper(&pipe), &step);
    process.workers = NonZeroUsize::new(3).unwrap();
    let game = process.start().unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| super::step(&game).unwrap());
        }
    });
    drop(game);
    assert_eq!(output.join().unwrap(), "");
}

/// The environment variable that gives the pipe's path to the process that the next test starts and kills.
const PIPE: &str = "POLYPHONY_TEST_PIPE";

#[test]
fn busy_workers_end_when_this_process_is_killed() {
    if let Some(pipe) = env::var_os(PIPE) {
        let pipe = Path::new(&pipe);
        let step = format!(
            r#"
        pipe = open({pipe:?}, "w")
        print("busy", file=pipe, flush=True)
        time.sleep(60)
        print("survived", file=pipe)"#
        );
        let game = program(&hello_with_helper(pipe), &step).start().unwrap();
        super::step(&game).unwrap_err();
        return;
    }
    let (_folder, pipe) = named_pipe();
    let mut process = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "process::tests::ending::busy_workers_end_when_this_process_is_killed",
        ])
        .env(PIPE, &pipe)
        .spawn()
        .unwrap();
    let mut output = BufReader::new(File::open(&pipe).unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "busy\n");
    process.kill().unwrap();
    process.wait().unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn a_program_that_ignores_the_end_of_its_input_is_killed() {
    let (_folder, pipe) = named_pipe();
    let output = read_all(&pipe);
    let mut process = program(&hello_with_helper(&pipe), END);
    process.command[2].push_str("\nwhile True: time.sleep(1000)\n");
    let game = process.start().unwrap();
    let pid = pid(&game);
    drop(game);
    // The process was waited for, so not even a zombie is left.
    assert!(rustix::process::test_kill_process(pid).is_err());
    assert_eq!(output.join().unwrap(), "");
}
