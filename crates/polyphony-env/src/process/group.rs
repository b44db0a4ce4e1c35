//! A process group that does not outlive this process.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};

/// The script of a group's leader. The leader's standard input closes when this process ends, even if this
/// process is killed. The leader then waits a little and kills the group. The `trap` makes the leader ignore
/// HUP, INT and TERM, so that no such signal to the group ends it early.
const LEADER: &str = r#"trap '' HUP INT TERM; read -r _; sleep "$1"; kill -s KILL 0"#;

/// A process group. Dropping it kills every process in it.
///
/// Its leader is a shell instead of the program, for two reasons. First, the shell kills the group if
/// this process ends without doing so. Second, the system does not reuse the group's number until the
/// shell has been waited for, so a kill never hits other processes, even long after the program's end.
pub(super) struct Group {
    /// `None` once the group has been killed.
    leader: Option<Child>,
}

impl Group {
    /// Starts a program in a new group. If this process ends first, the group has the whole seconds of
    /// `grace` to end by itself.
    pub(super) fn spawn(command: &mut Command, grace: Duration) -> io::Result<(Self, Child)> {
        let leader = Command::new("/bin/sh")
            .args(["-c", LEADER, "sh", &grace.as_secs().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("starting /bin/sh: {error}")))?;
        let number = Pid::from_child(&leader).as_raw_pid();
        let group = Self {
            leader: Some(leader),
        };
        let child = command.process_group(number).spawn()?;
        Ok((group, child))
    }

    /// Kills every process of the group at once.
    pub(super) fn kill(&mut self) {
        if let Some(mut leader) = self.leader.take() {
            // This fails only if nothing is left to kill.
            let _ = kill_process_group(Pid::from_child(&leader), Signal::KILL);
            let _ = leader.wait();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
