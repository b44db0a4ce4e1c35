//! The kernels on a Vulkan driver; Mesa's software driver is enough.

mod decoding;
mod training;
mod update;

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::{Device, DeviceKind};
use proptest::test_runner::Config as ProptestConfig;

use crate::DeviceWork;

/// The tests run one at a time, since launches are counted for the whole process.
static DEVICE: Mutex<()> = Mutex::new(());

/// A device that records operations for differentiation, for this test alone.
pub(crate) fn device() -> (MutexGuard<'static, ()>, Device) {
    let guard = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    (guard, Device::wgpu(DeviceKind::DefaultDevice).autodiff())
}

/// Few cases, since every shape is another kernel that must be compiled.
fn cases() -> ProptestConfig {
    ProptestConfig {
        cases: 12,
        ..ProptestConfig::default()
    }
}

/// The number of kernels that some work launches.
pub(crate) fn launches<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let (work, result) = DeviceWork::of(work);
    (work.launches, result)
}
