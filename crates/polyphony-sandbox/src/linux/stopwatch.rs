//! What a test has used of its time.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use super::wire::Patience;
use crate::Limits;

/// A process's clock of processor time, all its threads together.
#[derive(Clone, Copy, Debug)]
pub(super) struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// The clock of a process.
    ///
    /// # Errors
    ///
    /// If the process is gone, or the host has no `/proc`.
    pub(super) fn of(pidfd: &OwnedFd) -> io::Result<Self> {
        // The kernel's way to name the clock of a whole process.
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

    /// Zero for a process that is gone.
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

/// The clocks of a judge and a solver, as far as these are there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks(pub(super) [Option<CpuClock>; 2]);

impl Clocks {
    fn read(self) -> Duration {
        self.0.into_iter().flatten().map(CpuClock::read).sum()
    }
}

/// What has been used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    wall: Duration,
    cpu: Duration,
}

/// The most that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    wall: Duration,
    cpu: Duration,
}

impl Allowance {
    /// What one test may use.
    pub(super) fn of_a_test(limits: &Limits) -> Self {
        Self {
            wall: Duration::from_secs(limits.wall_secs),
            cpu: Duration::from_secs(limits.cpu_secs),
        }
    }

    /// So many times as much.
    pub(super) fn times(self, factor: usize) -> Self {
        let factor = u32::try_from(factor).unwrap_or(u32::MAX);
        Self {
            wall: self.wall.saturating_mul(factor),
            cpu: self.cpu.saturating_mul(factor),
        }
    }
}

/// Runs while a test does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopwatch {
    before: Used,
    started: Instant,
    cpu_at_start: Duration,
}

impl Stopwatch {
    /// Starts where `before` left off.
    pub(super) fn start(before: Used, clocks: Clocks) -> Self {
        Self {
            before,
            started: Instant::now(),
            cpu_at_start: clocks.read(),
        }
    }

    /// What has been used by now.
    pub(super) fn used(&self, clocks: Clocks) -> Used {
        Used {
            wall: self.before.wall + self.started.elapsed(),
            // Less than at the start where a process is gone.
            cpu: self.before.cpu + clocks.read().saturating_sub(self.cpu_at_start),
        }
    }

    /// Waits until the allowance is used up.
    pub(super) fn until(self, allowance: Allowance, clocks: Clocks, cores: u32) -> Deadline {
        Deadline {
            watch: self,
            allowance,
            clocks,
            cores,
            exceeded: None,
        }
    }
}

/// Waits for as long as neither of the two times is up.
#[derive(Debug)]
pub(super) struct Deadline {
    watch: Stopwatch,
    allowance: Allowance,
    clocks: Clocks,
    /// The most processor seconds that can be used in a second.
    cores: u32,
    exceeded: Option<Exceeded>,
}

/// Which time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exceeded {
    Wall,
    Cpu,
}

impl Deadline {
    /// Why waiting was over.
    pub(super) fn reason(&self) -> String {
        match self.exceeded {
            Some(Exceeded::Cpu) => format!(
                "stopped after {} s of processor time",
                self.allowance.cpu.as_secs()
            ),
            _ => format!("stopped after {} s", self.allowance.wall.as_secs()),
        }
    }
}

impl Patience for Deadline {
    fn left(&mut self) -> Option<Duration> {
        /// With less left than this, looking at the clocks more often gains nothing.
        const CLOSE: Duration = Duration::from_millis(5);
        let used = self.watch.used(self.clocks);
        let wall = self.allowance.wall.saturating_sub(used.wall);
        let cpu = self.allowance.cpu.saturating_sub(used.cpu);
        if wall.is_zero() || cpu.is_zero() {
            let exceeded = match cpu.is_zero() {
                true => Exceeded::Cpu,
                false => Exceeded::Wall,
            };
            self.exceeded = Some(exceeded);
            return None;
        }
        // No later than all cores together could have used it up.
        Some(wall.min((cpu / self.cores).max(CLOSE)))
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
    fn waiting_ends_with_the_first_of_the_two_times() {
        let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        let clocks = Clocks([Some(CpuClock::of(&own).unwrap()), None]);
        let used = |wall, cpu| Used { wall, cpu };
        let rows = [
            (used(SECOND / 2, SECOND / 2), None),
            (used(SECOND, SECOND / 2), Some("stopped after 1 s")),
            (
                used(SECOND / 2, 2 * SECOND),
                Some("stopped after 2 s of processor time"),
            ),
        ];
        for (before, expected) in rows {
            let watch = Stopwatch::start(before, clocks);
            let mut deadline = watch.until(allowance(SECOND, 2 * SECOND), clocks, 4);
            let left = deadline.left();
            assert_eq!(left.is_none(), expected.is_some(), "{before:?}");
            match expected {
                Some(reason) => assert_eq!(deadline.reason(), reason),
                // Four cores could use up a second and a half in three eighths of one.
                None => assert!(left.unwrap() <= 3 * SECOND / 8),
            }
        }
    }

    #[test]
    fn a_stopwatch_goes_on_where_it_left_off() {
        let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        let clocks = Clocks([None, Some(CpuClock::of(&own).unwrap())]);
        let first = Stopwatch::start(Used::default(), clocks);
        let mut sum = 0_u64;
        while first.used(clocks).cpu < Duration::from_millis(5) {
            sum = std::hint::black_box(sum + 1);
        }
        let used = first.used(clocks);
        assert!(used.wall >= Duration::from_millis(1));
        let second = Stopwatch::start(used, clocks).used(clocks);
        assert!(second.wall >= used.wall && second.cpu >= used.cpu);
        // The end of a process takes nothing back.
        assert_eq!(
            Stopwatch::start(used, clocks).used(Clocks([None; 2])).cpu,
            used.cpu
        );
    }
}
