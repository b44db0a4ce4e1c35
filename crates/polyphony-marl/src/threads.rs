//! Threads for work that mostly waits, since environments run programs and call other machines. They are
//! separate from the threads that compute, which would otherwise sit idle.

use std::{
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

/// Does some work for every item, on at most this many new threads. The results are in the order of the
/// items.
///
/// # Errors
/// The error of the first item that failed, in the order of the items. After an error no more items are
/// started.
///
/// # Panics
/// If the work on an item panics, with the same panic.
pub(crate) fn on_threads<T, R, E>(
    threads: NonZeroUsize,
    items: Vec<T>,
    work: impl Fn(T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E>
where
    T: Send,
    R: Send,
    E: Send,
{
    let count = items.len();
    let queue = Mutex::new(items.into_iter().enumerate());
    let stopped = AtomicBool::new(false);
    let (sender, results) = channel();
    let run_worker = |sender: std::sync::mpsc::Sender<_>| {
        while !stopped.load(Ordering::Relaxed) {
            // Taking an item cannot panic, so the lock is never poisoned.
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((index, item)) = next else { break };
            let result = catch_unwind(AssertUnwindSafe(|| work(item)));
            if !matches!(result, Ok(Ok(_))) {
                stopped.store(true, Ordering::Relaxed);
            }
            // The receiver lives until all threads are done.
            let _ = sender.send((index, result));
        }
    };
    let mut finished: Vec<_> = thread::scope(|scope| {
        for _ in 0..threads.get().min(count) {
            let sender = sender.clone();
            scope.spawn(|| run_worker(sender));
        }
        drop(sender);
        receive_all(&results)
    });
    // Items are started in order, so the first one that failed does not depend on timing.
    finished.sort_by_key(|(index, _)| *index);
    let outcomes = finished.into_iter().map(|(_, result)| result);
    outcomes
        .map(|result| result.unwrap_or_else(|panic| resume_unwind(panic)))
        .collect()
}

/// Receives everything until all senders are gone. If the calling thread belongs to a rayon pool, it does
/// other work of the pool meanwhile, because the senders may depend on that work.
fn receive_all<T>(results: &Receiver<T>) -> Vec<T> {
    if rayon::current_thread_index().is_none() {
        return results.iter().collect();
    }
    const PAUSE: Duration = Duration::from_micros(200);
    let mut received = Vec::new();
    loop {
        match results.recv_timeout(PAUSE) {
            Ok(result) => received.push(result),
            Err(RecvTimeoutError::Disconnected) => return received,
            Err(RecvTimeoutError::Timeout) => {
                rayon::yield_now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::AtomicUsize,
        time::{Duration, Instant},
    };

    use rayon::prelude::*;

    use super::*;

    fn threads(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    #[test]
    fn results_keep_the_order_of_items() {
        for count in [1, 3, 50] {
            let work = |item: u64| {
                thread::sleep(Duration::from_micros(40 - item));
                Ok::<_, ()>(item * item)
            };
            let squares = on_threads(threads(count), (0..40).collect(), work).unwrap();
            assert!(squares.into_iter().eq((0..40).map(|item| item * item)));
        }
        let nothing = on_threads(threads(2), Vec::<u8>::new(), Ok::<_, ()>).unwrap();
        assert!(nothing.is_empty());
    }

    #[test]
    fn every_thread_works_on_an_item_at_the_same_time() {
        let (running, max_running) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |_| {
            max_running.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let deadline = Instant::now() + Duration::from_secs(20);
            while max_running.load(Ordering::SeqCst) < 3 && Instant::now() < deadline {
                thread::yield_now();
            }
            running.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, ()>(())
        };
        on_threads(threads(3), vec![(); 12], work).unwrap();
        assert_eq!(max_running.into_inner(), 3);
    }

    #[test]
    fn the_first_error_counts_and_no_more_items_are_started() {
        let started = AtomicUsize::new(0);
        let work = |item: usize| {
            started.fetch_add(1, Ordering::SeqCst);
            match item {
                2 => {
                    thread::sleep(Duration::from_millis(20));
                    Err("slow")
                }
                3 => Err("fast"),
                _ => Ok(()),
            }
        };
        let outcome = on_threads(threads(4), (0..1000).collect(), work);
        assert_eq!(outcome, Err("slow"));
        assert!(started.into_inner() < 1000);
    }

    #[test]
    fn a_panic_is_passed_on() {
        let work = |item| match item {
            1 => panic!("item {item}"),
            item => Ok::<_, ()>(item),
        };
        let outcome = catch_unwind(|| on_threads(threads(2), vec![0, 1, 2], work));
        let panic = outcome.unwrap_err();
        assert_eq!(panic.downcast_ref::<String>().unwrap(), "item 1");
    }

    /// The one thread of the pool waits for threads whose work needs the pool.
    #[test]
    fn work_may_use_the_pool_that_waits_for_it() {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        let work = |item: u64| Ok::<_, ()>(pool.install(|| (0..item).into_par_iter().sum::<u64>()));
        let sums = pool.install(|| on_threads(threads(2), vec![3, 4, 5], work));
        assert_eq!(sums, Ok(vec![3, 6, 10]));
    }

    #[test]
    fn no_work_is_done_on_the_pool_that_computes() {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(2)
            .build()
            .unwrap();
        let work = |_| Ok::<_, ()>(rayon::current_thread_index());
        let indices = pool
            .install(|| on_threads(threads(2), vec![(); 8], work))
            .unwrap();
        assert_eq!(indices, [None; 8]);
    }
}
