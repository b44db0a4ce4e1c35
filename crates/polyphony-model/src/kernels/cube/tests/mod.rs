//! The kernels on a Vulkan driver; Mesa's software driver is enough.

mod decoding;
mod training;
mod update;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use burn::tensor::{Device, DeviceKind};
use proptest::test_runner::Config as ProptestConfig;

use crate::DeviceWork;

/// What is counted is counted for the whole process, so a test that counts runs alone.
static ALONE: RwLock<()> = RwLock::new(());

/// A device that records operations for differentiation.
pub(crate) fn device() -> (RwLockReadGuard<'static, ()>, Device) {
    let guard = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    (guard, Device::wgpu(DeviceKind::DefaultDevice).autodiff())
}

/// As [`device`], for a test that counts what the device does.
pub(crate) fn device_alone() -> (RwLockWriteGuard<'static, ()>, Device) {
    let guard = ALONE.write().unwrap_or_else(PoisonError::into_inner);
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
