//! Work on all cores that is handed over within a microsecond.
//!
//! A decoding pass consists of hundreds of short products, one after the other. Rayon hands each of them over to
//! threads that may be asleep, which takes longer than some of the products. Within [`with_team`], the other
//! threads of the pool therefore wait for work without sleeping. Meanwhile they do no other work of rayon, so loops
//! of rayon run on the leader alone until the helpers have left.

use std::{
    cell::{Cell, UnsafeCell},
    hint,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use rayon::prelude::*;

/// A helper leaves a team that has no work for this long. Rayon may start a helper on top of other work of the same
/// thread, for which the team's leader may be waiting. In a pool, only one team at a time is fast.
const MAX_IDLE: Duration = Duration::from_millis(1);

/// Polls between two looks at the clock, after which the processor is offered to other programs.
const POLLS: usize = 256;

thread_local! {
    /// The team that this thread leads.
    static TEAM: Cell<*const Team> = const { Cell::new(std::ptr::null()) };
}

/// Calls `work` with every index below `count`, on all cores. Every index is handed out by itself.
pub(crate) fn for_each(count: usize, work: impl Fn(usize) + Sync) {
    if count <= 1 {
        return (0..count).for_each(work);
    }
    // SAFETY: `with_team` keeps the team until this thread no longer leads it.
    match unsafe { TEAM.get().as_ref() } {
        Some(team) if team.present.load(SeqCst) > 0 => team.run(count, &work),
        // There is no team, or it has no helpers at the moment.
        _ => {
            let indices = (0..count).into_par_iter();
            indices.with_max_len(1).for_each(&work);
        }
    }
}

/// Calls `work` with the index of every chunk and with the chunk itself, on all cores.
///
/// # Panics
/// If chunks are empty but the slice is not.
pub(crate) fn for_each_chunk<T: Send>(
    values: &mut [T],
    chunk: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    assert!(chunk > 0 || values.is_empty(), "chunks are not empty");
    struct Start<T>(*mut T);
    // SAFETY: each thread uses other chunks.
    unsafe impl<T: Send> Sync for Start<T> {}
    impl<T> Start<T> {
        fn at(&self, index: usize) -> *mut T {
            self.0.wrapping_add(index)
        }
    }
    let (start, length) = (Start(values.as_mut_ptr()), values.len());
    for_each(length.div_ceil(chunk.max(1)), |index| {
        let first = index * chunk;
        let count = chunk.min(length - first);
        // SAFETY: the chunks lie within the slice and do not overlap, and each index occurs once.
        let values = unsafe { std::slice::from_raw_parts_mut(start.at(first), count) };
        work(index, values);
    });
}

/// Runs `work`, whose calls of [`for_each`] use the threads of rayon's pool without waking them each time.
pub(crate) fn with_team<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let Some(leader) = rayon::current_thread_index() else {
        return rayon::scope(|_| with_team(work));
    };
    let helpers = rayon::current_num_threads() - 1;
    if helpers == 0 {
        return work();
    }
    let team = Team::new(leader);
    rayon::in_place_scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|_| team.help());
        }
        let _leading = Leading {
            team: &team,
            previous: TEAM.replace(&raw const team),
        };
        work()
    })
}

/// Ends the team when its leader is done, or panics.
struct Leading<'a> {
    team: &'a Team,
    previous: *const Team,
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        TEAM.set(self.previous);
        self.team.is_over.store(true, SeqCst);
    }
}

/// The threads that work on one job after the other.
struct Team {
    /// The leader's index in the pool.
    leader: usize,
    /// Twice the number of jobs so far, minus 1 while there is one.
    phase: AtomicUsize,
    /// Written between jobs, read during a job.
    job: UnsafeCell<Option<Job>>,
    /// The next index that has not been handed out.
    next: AtomicUsize,
    /// Helpers that wait for jobs or work.
    present: AtomicUsize,
    /// Helpers that may be working on the job.
    active: AtomicUsize,
    /// Whether a helper has panicked.
    has_failed: AtomicBool,
    is_over: AtomicBool,
}

#[derive(Clone, Copy)]
struct Job {
    work: *const (dyn Fn(usize) + Sync),
    count: usize,
}

// SAFETY: the leader writes `job` only between jobs, when no helper reads it, and work is `Sync`.
unsafe impl Sync for Team {}

impl Team {
    fn new(leader: usize) -> Self {
        Self {
            leader,
            phase: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            present: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            has_failed: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        }
    }

    /// Called by the leader.
    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        // SAFETY: `Running` keeps this function from returning before no helper uses the work.
        let work = unsafe {
            std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work)
        };
        // SAFETY: no job is running, so no helper reads it.
        unsafe { *self.job.get() = Some(Job { work, count }) };
        self.next.store(0, SeqCst);
        // Work that calls `for_each` again finds no team.
        TEAM.set(std::ptr::null());
        let running = Running(self);
        self.phase.fetch_add(1, SeqCst);
        self.take_indices(count, work);
        drop(running);
        // Rayon reports this panic or the helper's own when the team ends.
        assert!(
            !self.has_failed.load(SeqCst),
            "a thread panicked, so its work was not done"
        );
    }

    fn take_indices(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        loop {
            let index = self.next.fetch_add(1, SeqCst);
            if index >= count {
                return;
            }
            work(index);
        }
    }

    /// Works on jobs until the leader is done, or until no job has come for [`MAX_IDLE`].
    fn help(&self) {
        // Rayon may let the leader run this while it waits for other work.
        if rayon::current_thread_index() == Some(self.leader) {
            return;
        }
        self.present.fetch_add(1, SeqCst);
        let _present = Present(self);
        let mut last = 0;
        let mut idle_since = Instant::now();
        let mut polls = 0;
        while !self.is_over.load(SeqCst) {
            let phase = self.phase.load(SeqCst);
            if phase != last && phase % 2 == 1 {
                last = phase;
                self.help_with_job();
                idle_since = Instant::now();
                continue;
            }
            if pause(&mut polls) && idle_since.elapsed() > MAX_IDLE {
                return;
            }
        }
    }

    fn help_with_job(&self) {
        self.active.fetch_add(1, SeqCst);
        let _active = Active(self);
        // The job may have ended before this helper became active. Otherwise the leader now waits for it.
        if self.phase.load(SeqCst) % 2 == 1 {
            // SAFETY: there is a job, and it does not change while a helper is active.
            let Some(Job { work, count }) = (unsafe { *self.job.get() }) else {
                return;
            };
            // SAFETY: the leader keeps the work while a helper is active.
            self.take_indices(count, unsafe { &*work });
        }
    }
}

/// A helper that has not left.
struct Present<'a>(&'a Team);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, SeqCst);
    }
}

/// A helper that may be working.
struct Active<'a>(&'a Team);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.has_failed.store(true, SeqCst);
        }
        self.0.active.fetch_sub(1, SeqCst);
    }
}

/// Ends a job when its leader is done, or panics.
struct Running<'a>(&'a Team);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let team = self.0;
        // Hands out nothing more, should the leader have panicked.
        team.next.store(usize::MAX / 2, SeqCst);
        team.phase.fetch_add(1, SeqCst);
        let mut polls = 0;
        while team.active.load(SeqCst) > 0 {
            pause(&mut polls);
        }
        TEAM.set(team);
    }
}

/// Waits briefly between two polls. Returns whether this offered the processor to other programs.
fn pause(polls: &mut usize) -> bool {
    hint::spin_loop();
    *polls += 1;
    let has_yielded = polls.is_multiple_of(POLLS);
    if has_yielded {
        thread::yield_now();
    }
    has_yielded
}

/// A pool with this many threads.
#[cfg(test)]
pub(crate) fn thread_pool(threads: usize) -> rayon::ThreadPool {
    let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
    builder.build().unwrap()
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::atomic::AtomicU32,
    };

    use super::*;

    fn counters(count: usize) -> Vec<AtomicU32> {
        (0..count).map(|_| AtomicU32::new(0)).collect()
    }

    #[test]
    fn every_index_of_many_short_jobs_is_handed_out_once() {
        for threads in [1, 2, 5] {
            let work = || {
                for job in 0..2000 {
                    let counts = counters(job % 9);
                    for_each(counts.len(), |index| {
                        counts[index].fetch_add(1, SeqCst);
                    });
                    assert!(counts.iter().all(|count| count.load(SeqCst) == 1), "{job}");
                }
            };
            thread_pool(threads).install(|| with_team(work));
        }
        // From a thread outside of any pool, and without a team.
        let sums = counters(100);
        let add = |index: usize| {
            sums[index].fetch_add(index as u32, SeqCst);
        };
        with_team(|| for_each(100, add));
        for_each(100, add);
        for (index, sum) in sums.iter().enumerate() {
            assert_eq!(sum.load(SeqCst), 2 * index as u32);
        }
    }

    #[test]
    fn helpers_take_part_in_a_job() {
        let threads = 3;
        let (working, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let end = Instant::now() + Duration::from_secs(60);
        // Each index waits for the other threads. On a busy machine a helper may have left before the job begins.
        let wait = |_| {
            let end = Instant::now() + Duration::from_millis(20);
            most.fetch_max(working.fetch_add(1, SeqCst) + 1, SeqCst);
            while most.load(SeqCst) < threads && Instant::now() < end {
                thread::yield_now();
            }
            working.fetch_sub(1, SeqCst);
        };
        let pool = thread_pool(threads);
        while most.load(SeqCst) < threads && Instant::now() < end {
            pool.install(|| with_team(|| for_each(threads, wait)));
        }
        assert_eq!(most.into_inner(), threads);
    }

    /// The helpers have left, since the leader did something else for long.
    #[test]
    fn a_team_without_helpers_still_works_on_all_threads() {
        let counts = counters(500);
        let team = AtomicUsize::new(usize::MAX);
        thread_pool(3).install(|| {
            with_team(|| {
                let until = Instant::now() + Duration::from_secs(60);
                // SAFETY: this thread leads the team.
                let present =
                    || unsafe { TEAM.get().as_ref() }.map_or(0, |team| team.present.load(SeqCst));
                while present() > 0 && Instant::now() < until {
                    thread::yield_now();
                }
                team.store(present(), SeqCst);
                for_each(500, |index| {
                    counts[index].fetch_add(1, SeqCst);
                });
            });
        });
        assert_eq!(team.into_inner(), 0);
        assert!(counts.iter().all(|count| count.load(SeqCst) == 1));
    }

    #[test]
    fn the_leader_does_not_go_on_after_a_helper_panicked() {
        let pool = thread_pool(3);
        let went_on = AtomicBool::new(false);
        let end = Instant::now() + Duration::from_secs(60);
        let work = || {
            let leader = rayon::current_thread_index();
            let helper_works = AtomicBool::new(false);
            // A helper may come late, or leave early on a busy machine.
            while Instant::now() < end {
                for_each(64, |_| {
                    if rayon::current_thread_index() != leader {
                        helper_works.store(true, SeqCst);
                        panic!("bad index");
                    }
                    thread::yield_now();
                });
                went_on.store(helper_works.load(SeqCst), SeqCst);
            }
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| pool.install(|| with_team(work))));
        assert!(outcome.is_err());
        assert!(!went_on.into_inner());
    }

    #[test]
    fn jobs_within_jobs_and_work_of_rayon_are_done() {
        let counts = counters(60);
        let count = |index: usize| {
            counts[index].fetch_add(1, SeqCst);
        };
        thread_pool(3).install(|| {
            with_team(|| {
                for_each(6, |outer| for_each(5, |inner| count(5 * outer + inner)));
                (30..60).into_par_iter().for_each(count);
                with_team(|| for_each(60, count));
                for_each(60, count);
            });
        });
        assert!(counts.iter().all(|count| count.load(SeqCst) == 3));
    }

    #[test]
    fn chunks_cover_the_slice() {
        let mut values = vec![0; 23];
        let fill = |index: usize, chunk: &mut [usize]| chunk.fill(index + 1);
        thread_pool(2).install(|| with_team(|| for_each_chunk(&mut values, 5, fill)));
        assert!(
            values
                .iter()
                .enumerate()
                .all(|(at, value)| *value == at / 5 + 1)
        );
        for_each_chunk(&mut [0u8; 0], 0, |_, _| {
            unreachable!("an empty slice has no chunks")
        });
    }

    #[test]
    fn a_panic_ends_the_team_and_is_passed_on() {
        for bad in [0, 700] {
            let pool = thread_pool(3);
            let work = || for_each(1000, |index| assert_ne!(index, bad, "bad index"));
            let outcome = catch_unwind(AssertUnwindSafe(|| pool.install(|| with_team(work))));
            assert!(outcome.is_err());
            // The pool and this thread still work.
            let counts = counters(10);
            let count = |index: usize| {
                counts[index].fetch_add(1, SeqCst);
            };
            pool.install(|| with_team(|| for_each(10, count)));
            assert!(counts.iter().all(|count| count.load(SeqCst) == 1));
        }
    }
}
