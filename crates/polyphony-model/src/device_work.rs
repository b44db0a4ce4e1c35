//! What GPUs do while some work runs.

use std::sync::atomic::{AtomicU64, Ordering};

/// The work of all GPUs of this process during a call of [`DeviceWork::of`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceWork {
    /// Kernels that the host launched. A replay of recorded kernels is not counted.
    pub launches: u64,
    /// Bytes of sampled tokens and their log-probabilities that the host read.
    pub sampled_bytes: u64,
}

/// The sum of [`DeviceWork::sampled_bytes`] since the process started.
static SAMPLED_BYTES: AtomicU64 = AtomicU64::new(0);

/// Counts bytes of sampled tokens that were read.
#[cfg(feature = "cube")]
pub(crate) fn add_sampled_bytes(bytes: usize) {
    SAMPLED_BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
}

impl DeviceWork {
    /// Runs some work and counts what GPUs do meanwhile, for all threads. In a build without GPUs, nothing is counted.
    pub fn of<T>(work: impl FnOnce() -> T) -> (Self, T) {
        let bytes_before = SAMPLED_BYTES.load(Ordering::Relaxed);
        let (launches, result) = count_launches(work);
        let sampled_bytes = SAMPLED_BYTES.load(Ordering::Relaxed) - bytes_before;
        let counted = Self {
            launches,
            sampled_bytes,
        };
        (counted, result)
    }
}

#[cfg(not(feature = "cube"))]
fn count_launches<T>(work: impl FnOnce() -> T) -> (u64, T) {
    (0, work())
}

#[cfg(feature = "cube")]
fn count_launches<T>(work: impl FnOnce() -> T) -> (u64, T) {
    use std::sync::Arc;

    use cubecl::logging::{LaunchObservation, LaunchObserver};

    #[derive(Default)]
    struct Launches(AtomicU64);

    impl LaunchObserver for Launches {
        fn launched(&self, _kernel: &'static str) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    let observer = Arc::new(Launches::default());
    let observation = LaunchObservation::new(observer.clone());
    let result = work();
    drop(observation);
    (observer.0.load(Ordering::Relaxed), result)
}
