//! The devices of this machine that this program can use, and what the others lack.

use burn::tensor::Device;
use polyphony_model::Precision;
use serde::Serialize;
use sysinfo::{CpuRefreshKind, System};

use super::DeviceChoice;

/// A device, or a kind of device that cannot be used.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum FoundDevice {
    /// A device that models can run on.
    Usable {
        /// Its name in recipes and on the command line, such as `cuda:1`.
        device: String,
        /// Its name, if its driver reports one.
        name: Option<String>,
        /// Its memory in bytes, if its driver reports it: drivers of Vulkan do not.
        memory_bytes: Option<u64>,
        /// What the matrix products of a model on it may read.
        precisions: Vec<Precision>,
    },
    /// A kind of device that this program or this machine lacks.
    Missing {
        /// Its name in recipes and on the command line, without a number.
        device: String,
        /// What is missing, and the way out.
        missing: String,
    },
}

/// The devices of this machine. Opens each of them.
pub fn list_devices() -> Vec<FoundDevice> {
    let kinds = [
        DeviceChoice::Cuda(0),
        DeviceChoice::Vulkan(0),
        DeviceChoice::Wgpu,
    ];
    let mut found = vec![cpu()];
    found.extend(kinds.into_iter().flat_map(of_kind));
    found
}

fn of_kind(first: DeviceChoice) -> Vec<FoundDevice> {
    match first.all_of_kind() {
        Ok(devices) => {
            let usable = |(choice, device): (DeviceChoice, Device)| gpu(choice, &device);
            devices.into_iter().map(usable).collect()
        }
        Err(error) => vec![FoundDevice::Missing {
            device: first.to_string(),
            missing: error.to_string(),
        }],
    }
}

fn cpu() -> FoundDevice {
    let mut system = System::new();
    system.refresh_memory();
    system.refresh_cpu_list(CpuRefreshKind::nothing());
    let name = system.cpus().first().map(|cpu| cpu.brand().trim());
    FoundDevice::Usable {
        device: DeviceChoice::Cpu.to_string(),
        name: name.map(str::to_owned),
        memory_bytes: Some(system.total_memory()),
        precisions: precisions(&Device::flex()),
    }
}

fn gpu(choice: DeviceChoice, device: &Device) -> FoundDevice {
    let (name, memory_bytes) = name_and_memory(device);
    FoundDevice::Usable {
        device: choice.to_string(),
        name,
        memory_bytes,
        precisions: precisions(device),
    }
}

#[cfg(any(feature = "cuda", feature = "vulkan", feature = "wgpu"))]
fn name_and_memory(device: &Device) -> (Option<String>, Option<u64>) {
    let name = device.identity().map(|identity| identity.name);
    let memory = match device.as_dispatch() {
        burn::backend::DispatchDevice::Cube(device) => {
            device.client().properties().memory.max_memory()
        }
        _ => None,
    };
    (name, memory)
}

#[cfg(not(any(feature = "cuda", feature = "vulkan", feature = "wgpu")))]
fn name_and_memory(_: &Device) -> (Option<String>, Option<u64>) {
    (None, None)
}

/// What products may read on a device.
fn precisions(device: &Device) -> Vec<Precision> {
    let all = [Precision::F32, Precision::Bf16].into_iter();
    all.filter(|precision| precision.check(device).is_ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_listed_with_devices_or_with_what_is_missing() {
        let found = list_devices();
        let FoundDevice::Usable {
            device,
            memory_bytes,
            precisions,
            ..
        } = &found[0]
        else {
            panic!("{found:?}");
        };
        assert_eq!(device, "cpu");
        assert!(memory_bytes.is_some_and(|bytes| bytes > 1 << 20));
        assert!(precisions.contains(&Precision::F32));
        for kind in ["cuda", "vulkan", "wgpu"] {
            let is_of_kind = |found: &&FoundDevice| match found {
                FoundDevice::Usable { device, .. } | FoundDevice::Missing { device, .. } => {
                    device.split(':').next() == Some(kind)
                }
            };
            let of_kind: Vec<_> = found.iter().filter(is_of_kind).collect();
            assert!(!of_kind.is_empty(), "{kind}");
            if let FoundDevice::Missing { missing, .. } = of_kind[0] {
                assert!(
                    missing.contains("or use `cpu`") || missing.contains("pip install"),
                    "{missing}"
                );
            }
        }
    }
}
