//! The devices that models run on, as recipes and the command line name them.

use std::{fmt, str::FromStr};

use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};
use burn::tensor::Device;
#[cfg(any(feature = "cuda", feature = "vulkan", feature = "wgpu"))]
use burn::tensor::DeviceType;
use serde::{Deserialize, Serialize};

#[cfg(feature = "cuda")]
mod cuda;
mod found;

pub use found::{FoundDevice, list_devices};

/// Where a model runs. Devices of one kind are numbered from 0, in the order in which their driver
/// lists them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceChoice {
    /// The CPU.
    #[default]
    Cpu,
    /// An NVIDIA GPU, through CUDA.
    Cuda(usize),
    /// The GPU that the system prefers, through WebGPU and its shader language.
    Wgpu,
    /// A GPU, through Vulkan and SPIR-V.
    Vulkan(usize),
}

/// Where the models of a team run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Devices {
    /// All models run on one device.
    Same(DeviceChoice),
    /// Each model runs on its own device, in the order of the environment's roles.
    Each(Vec<DeviceChoice>),
    /// All models of a rank run on one GPU: its number is that of the rank among the ranks on the same machine.
    Local(LocalGpu),
}

/// The kind of GPU of `devices: Local(…)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LocalGpu {
    /// An NVIDIA GPU, through CUDA.
    Cuda,
    /// A GPU, through Vulkan and SPIR-V.
    Vulkan,
}

impl LocalGpu {
    fn on_node_rank(self, rank: usize) -> DeviceChoice {
        match self {
            Self::Cuda => DeviceChoice::Cuda(rank),
            Self::Vulkan => DeviceChoice::Vulkan(rank),
        }
    }
}

impl Default for Devices {
    fn default() -> Self {
        Self::Same(DeviceChoice::default())
    }
}

impl Devices {
    /// The first device that is not the CPU.
    pub(crate) fn first_other_than_cpu(&self) -> Option<DeviceChoice> {
        let mut devices = match self {
            Self::Each(devices) => devices.clone().into_iter(),
            Self::Same(_) | Self::Local(_) => self.of_team(1).into_iter(),
        };
        devices.find(|device| *device != DeviceChoice::Cpu)
    }

    /// The devices with those that `Local` means for this rank of a machine.
    pub(crate) fn on_node_rank(&self, rank: usize) -> Self {
        match self {
            Self::Local(kind) => Self::Same(kind.on_node_rank(rank)),
            Self::Same(_) | Self::Each(_) => self.clone(),
        }
    }

    /// The device of each agent in a team of `agents`. A list is returned unchanged; before training or
    /// evaluation, [`crate::recipe::Recipe::validate_for`] ensures that it has one device per role.
    pub fn of_team(&self, agents: usize) -> Vec<DeviceChoice> {
        match self {
            Self::Same(device) => vec![*device; agents],
            Self::Each(devices) => devices.clone(),
            // Until the rank is known, that of the first one.
            Self::Local(kind) => vec![kind.on_node_rank(0); agents],
        }
    }
}

/// Written as on the command line: `cpu`, `cuda`, `cuda:1`, …
impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, index) = match *self {
            Self::Cpu => return f.write_str("cpu"),
            Self::Wgpu => return f.write_str("wgpu"),
            Self::Cuda(index) => ("cuda", index),
            Self::Vulkan(index) => ("vulkan", index),
        };
        match index {
            0 => f.write_str(kind),
            _ => write!(f, "{kind}:{index}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        const ALLOWED: &str = "cpu, wgpu, cuda or vulkan, the last two with a device \
                               number if needed, as in cuda:1";
        let (kind, index) = match text.split_once(':') {
            Some((kind, index)) => (kind, Some(index)),
            None => (text, None),
        };
        let index = index.map(str::parse).transpose();
        match (kind, index) {
            ("cpu", Ok(None)) => Ok(Self::Cpu),
            ("cuda", Ok(index)) => Ok(Self::Cuda(index.unwrap_or(0))),
            ("wgpu", Ok(None)) => Ok(Self::Wgpu),
            ("vulkan", Ok(index)) => Ok(Self::Vulkan(index.unwrap_or(0))),
            _ => Err(anyhow!("`{text}` is not a device: give {ALLOWED}")),
        }
    }
}

impl DeviceChoice {
    /// Checks that this program was built for the device.
    ///
    /// # Errors
    /// Names the cargo feature that is missing.
    pub fn check_built(self) -> Result<()> {
        let feature = match self {
            Self::Cuda(_) if !cfg!(feature = "cuda") => "cuda",
            Self::Wgpu if !cfg!(feature = "wgpu") => "wgpu",
            Self::Vulkan(_) if !cfg!(feature = "vulkan") => "vulkan",
            _ => return Ok(()),
        };
        bail!(
            "this program was built without the device `{self}`: build it with `cargo build \
             --release -p polyphony --features {feature}`, or use `cpu`"
        );
    }

    /// Opens the device.
    ///
    /// # Errors
    /// If this program was built without the device, or the machine lacks it or what it needs.
    pub fn open(self) -> Result<Device> {
        let index = match self {
            Self::Cpu => return Ok(Device::flex()),
            Self::Wgpu => 0,
            Self::Cuda(index) | Self::Vulkan(index) => index,
        };
        let devices = self.all_of_kind()?;
        let count = devices.len();
        let device = devices.into_iter().nth(index).map(|(_, device)| device);
        device.with_context(|| {
            format!(
                "there is no device `{self}`: this machine has {count} of this kind, and their numbers begin at 0 \
                 (the command `device list` shows them)"
            )
        })
    }

    /// The devices of the same kind on this machine, at least one.
    ///
    /// # Errors
    /// If this program was built without them, or the machine has none or lacks what they need.
    fn all_of_kind(self) -> Result<Vec<(Self, Device)>> {
        self.check_built()?;
        let devices: Vec<Device> = match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => {
                cuda::check_driver()?;
                let devices = Device::enumerate(DeviceType::Cuda).into_vec();
                ensure!(
                    !devices.is_empty(),
                    "the NVIDIA driver shows no GPU: check `nvidia-smi` and the variable `CUDA_VISIBLE_DEVICES`, or \
                     use `cpu`"
                );
                cuda::check_compiler()?;
                devices
            }
            #[cfg(feature = "vulkan")]
            Self::Vulkan(_) => Device::enumerate(DeviceType::Vulkan).into_vec(),
            // The device that the system prefers exists if there is any.
            #[cfg(feature = "wgpu")]
            Self::Wgpu => {
                let any = Device::enumerate(DeviceType::Wgpu)
                    .into_vec()
                    .into_iter()
                    .take(1);
                any.map(|_| Device::wgpu(burn::tensor::DeviceKind::DefaultDevice))
                    .collect()
            }
            _ => Vec::new(),
        };
        ensure!(
            !devices.is_empty(),
            "no driver on this machine offers a device `{self}`: install the driver of the GPU (a driver for Vulkan \
             in software is Debian's package mesa-vulkan-drivers), or use `cpu`"
        );
        let numbered = devices.into_iter().enumerate();
        Ok(numbered
            .map(|(index, device)| (self.with_index(index), device))
            .collect())
    }

    fn with_index(self, index: usize) -> Self {
        match self {
            Self::Cuda(_) => Self::Cuda(index),
            Self::Vulkan(_) => Self::Vulkan(index),
            Self::Cpu | Self::Wgpu => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for (text, expected) in [
            ("cpu", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Cuda(0)),
            ("cuda:1", DeviceChoice::Cuda(1)),
            ("wgpu", DeviceChoice::Wgpu),
            ("vulkan:3", DeviceChoice::Vulkan(3)),
        ] {
            let device: DeviceChoice = text.parse().unwrap();
            assert_eq!((device, device.to_string().as_str()), (expected, text));
        }
        for text in [
            "", "gpu", "Cpu", "cpu:0", "wgpu:1", "cuda:", "cuda:-1", "cuda:one",
        ] {
            let message = text.parse::<DeviceChoice>().unwrap_err().to_string();
            let expected = format!("`{text}` is not a device: give cpu, wgpu, cuda or vulkan");
            assert!(message.starts_with(&expected), "{message}");
        }
    }

    #[test]
    fn a_device_that_was_not_built_in_names_its_feature() {
        let devices = [
            (DeviceChoice::Cuda(1), "cuda", cfg!(feature = "cuda")),
            (DeviceChoice::Wgpu, "wgpu", cfg!(feature = "wgpu")),
            (DeviceChoice::Vulkan(0), "vulkan", cfg!(feature = "vulkan")),
        ];
        for (device, feature, built) in devices {
            let outcome = device.check_built().map_err(|error| error.to_string());
            match outcome {
                Ok(()) => assert!(built, "{device}"),
                Err(message) => {
                    assert!(!built, "{device}");
                    let command =
                        format!("`cargo build --release -p polyphony --features {feature}`");
                    for part in [&command, &format!("`{device}`")] {
                        assert!(message.contains(part), "{message}\nlacks: {part}");
                    }
                }
            }
        }
    }
}
