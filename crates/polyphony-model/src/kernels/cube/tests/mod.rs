//! The kernels on a Vulkan driver; Mesa's software driver is enough.

mod decoding;
mod training;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use burn::tensor::{Device, DeviceKind};
use cubecl::logging::{LaunchObservation, LaunchObserver};

/// The tests run one at a time, since launches are counted for the whole process.
static DEVICE: Mutex<()> = Mutex::new(());

/// A device that records operations for differentiation, for this test alone.
pub(crate) fn device() -> (MutexGuard<'static, ()>, Device) {
    let guard = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    (guard, Device::wgpu(DeviceKind::DefaultDevice).autodiff())
}

#[derive(Default)]
struct Launches(AtomicUsize);

impl LaunchObserver for Launches {
    fn launched(&self, _kernel: &'static str) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The number of kernels that some work launches.
pub(crate) fn launches<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let observer = Arc::new(Launches::default());
    let observation = LaunchObservation::new(observer.clone());
    let result = work();
    drop(observation);
    (observer.0.load(Ordering::Relaxed), result)
}
