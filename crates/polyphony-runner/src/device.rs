//! The devices that models run on, as recipes and the command line name them.

use anyhow::{Result, bail};
use burn::tensor::Device;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Where models run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum DeviceChoice {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU, through CUDA.
    Cuda,
    /// A GPU, through WebGPU and its shader language.
    Wgpu,
    /// A GPU, through Vulkan and SPIR-V.
    Vulkan,
}

impl DeviceChoice {
    /// Checks that this program was built with the device.
    ///
    /// # Errors
    /// Names the cargo feature that is missing.
    pub fn check_built(self) -> Result<()> {
        let feature = match self {
            Self::Cuda if !cfg!(feature = "cuda") => "cuda",
            Self::Wgpu if !cfg!(feature = "wgpu") => "wgpu",
            Self::Vulkan if !cfg!(feature = "vulkan") => "vulkan",
            _ => return Ok(()),
        };
        bail!(
            "`device` is {self:?}, but this program was built without it: build it with `cargo \
             build --release -p polyphony-runner --features {feature}`, or use Cpu"
        );
    }

    /// The device itself, the first of its kind.
    ///
    /// # Errors
    /// If this program was built without it.
    pub fn open(self) -> Result<Device> {
        self.check_built()?;
        Ok(match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => Device::cuda(0),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => Device::vulkan(burn::tensor::DeviceKind::DefaultDevice),
            _ => Device::flex(),
        })
    }
}
