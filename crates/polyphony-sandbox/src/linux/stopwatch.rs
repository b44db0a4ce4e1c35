//! Measures the time that a part of the tests, such as an assert, has used.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use super::wire::TimeLimit;
use crate::Limits;

/// The CPU-time clock of a process, over all its threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// The clock of a process.
    ///
    /// # Errors
    ///
    /// If the process is gone, or the host has no `/proc`.
    pub(super) fn of(pidfd: &OwnedFd) -> io::Result<Self> {
        // With these bits the kernel's clock id stands for the whole process.
        const WHOLE_PROCESS: i32 = 2;
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
        let pid: i32 = text
            .lines()
            .find_map(|line| line.strip_prefix("Pid:"))
            .and_then(|pid| pid.trim().parse().ok())
            .filter(|pid| *pid > 0)
            .ok_or_else(|| io::Error::other("it is gone"))?;
        Ok(Self((!pid << 3) | WHOLE_PROCESS))
    }

    /// The CPU time so far; zero for a process that is gone.
    fn read(self) -> Duration {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the kernel writes into `time`, which lives until the call returns.
        let result = unsafe { libc::clock_gettime(self.0, &mut time) };
        if result != 0 {
            return Duration::ZERO;
        }
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

/// The clocks of a judge and a solver; `None` for a process that does not run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks(pub(super) [Option<CpuClock>; 2]);

impl Clocks {
    fn read(self) -> Duration {
        self.0.into_iter().flatten().map(CpuClock::read).sum()
    }
}

/// The time that a part of the tests has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TimeUsed {
    wall: Duration,
    cpu: Duration,
}

/// The time that a part of the tests may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    wall: Duration,
    cpu: Duration,
}

impl Allowance {
    /// The allowance of one assert.
    pub(super) fn per_test(limits: &Limits) -> Self {
        Self {
            wall: Duration::from_secs(limits.wall_secs),
            cpu: Duration::from_secs(limits.cpu_secs),
        }
    }

    /// The allowance multiplied by `factor`.
    pub(super) fn times(self, factor: usize) -> Self {
        let factor = u32::try_from(factor).unwrap_or(u32::MAX);
        Self {
            wall: self.wall.saturating_mul(factor),
            cpu: self.cpu.saturating_mul(factor),
        }
    }
}

/// Measures the time of the part of the tests that runs now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopwatch {
    previous: TimeUsed,
    started: Instant,
    cpu_at_start: Duration,
}

impl Stopwatch {
    /// Starts from the time that was used before.
    pub(super) fn start(previous: TimeUsed, clocks: Clocks) -> Self {
        Self {
            previous,
            started: Instant::now(),
            cpu_at_start: clocks.read(),
        }
    }

    /// The time used so far.
    pub(super) fn used(&self, clocks: Clocks) -> TimeUsed {
        TimeUsed {
            wall: self.previous.wall + self.started.elapsed(),
            // If a process has ended in the meantime, the clocks show less than at the start.
            cpu: self.previous.cpu + clocks.read().saturating_sub(self.cpu_at_start),
        }
    }

    /// The deadline at which the allowance is used up.
    pub(super) fn deadline(self, allowance: Allowance, clocks: Clocks, cores: u32) -> Deadline {
        Deadline {
            watch: self,
            allowance,
            clocks,
            cores,
            exceeded: None,
        }
    }
}

/// A deadline that is over as soon as the wall-clock time or the CPU time is used up.
#[derive(Debug)]
pub(super) struct Deadline {
    watch: Stopwatch,
    allowance: Allowance,
    clocks: Clocks,
    /// The number of cores: the most CPU seconds that can be used per second.
    cores: u32,
    exceeded: Option<ExceededClock>,
}

/// The time that was used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExceededClock {
    Wall,
    Cpu,
}

impl Deadline {
    /// Why the deadline is over.
    pub(super) fn reason(&self) -> String {
        match self.exceeded {
            Some(ExceededClock::Cpu) => format!(
                "stopped after {} s of CPU time",
                self.allowance.cpu.as_secs()
            ),
            _ => format!("stopped after {} s", self.allowance.wall.as_secs()),
        }
    }
}

impl TimeLimit for Deadline {
    fn remaining(&mut self) -> Option<Duration> {
        /// The shortest interval between two looks at the CPU clocks.
        const MIN_INTERVAL: Duration = Duration::from_millis(5);
        let used = self.watch.used(self.clocks);
        let wall = self.allowance.wall.saturating_sub(used.wall);
        let cpu = self.allowance.cpu.saturating_sub(used.cpu);
        if wall.is_zero() || cpu.is_zero() {
            let exceeded = match cpu.is_zero() {
                true => ExceededClock::Cpu,
                false => ExceededClock::Wall,
            };
            self.exceeded = Some(exceeded);
            return None;
        }
        // All cores together could use up the remaining CPU time in this interval.
        Some(wall.min((cpu / self.cores).max(MIN_INTERVAL)))
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn allowance(wall: Duration, cpu: Duration) -> Allowance {
        Allowance { wall, cpu }
    }

    #[test]
    fn waiting_ends_when_the_first_of_the_two_times_is_used_up() {
        let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        let clocks = Clocks([Some(CpuClock::of(&pidfd).unwrap()), None]);
        let used = |wall, cpu| TimeUsed { wall, cpu };
        let rows = [
            (used(SECOND / 2, SECOND / 2), None),
            (used(SECOND, SECOND / 2), Some("stopped after 1 s")),
            (
                used(SECOND / 2, 2 * SECOND),
                Some("stopped after 2 s of CPU time"),
            ),
        ];
        for (previous, expected) in rows {
            let watch = Stopwatch::start(previous, clocks);
            let mut deadline = watch.deadline(allowance(SECOND, 2 * SECOND), clocks, 4);
            let remaining = deadline.remaining();
            assert_eq!(remaining.is_none(), expected.is_some(), "{previous:?}");
            match expected {
                Some(reason) => assert_eq!(deadline.reason(), reason),
                // Four cores could use up 1.5 CPU seconds in three eighths of a second.
                None => assert!(remaining.unwrap() <= 3 * SECOND / 8),
            }
        }
    }

    #[test]
    fn a_stopwatch_continues_from_the_time_used_before() {
        let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        let clocks = Clocks([None, Some(CpuClock::of(&pidfd).unwrap())]);
        let first = Stopwatch::start(TimeUsed::default(), clocks);
        let mut sum = 0_u64;
        while first.used(clocks).cpu < Duration::from_millis(5) {
            sum = std::hint::black_box(sum + 1);
        }
        let used = first.used(clocks);
        assert!(used.wall >= Duration::from_millis(1));
        let second = Stopwatch::start(used, clocks).used(clocks);
        assert!(second.wall >= used.wall && second.cpu >= used.cpu);
        // The end of a process does not reduce the time used.
        assert_eq!(
            Stopwatch::start(used, clocks).used(Clocks([None; 2])).cpu,
            used.cpu
        );
    }
}
