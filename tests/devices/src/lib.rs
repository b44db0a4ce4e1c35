//! The devices that the tests of this package run on: always the CPU; with the feature `wgpu` also a GPU, for
//! which Mesa's software driver suffices; and with the feature `cuda` also an NVIDIA GPU.

use burn::tensor::Device;

/// A device, and how closely its results must match PyTorch's.
pub struct Target {
    /// The name of the device in messages.
    pub name: &'static str,
    /// The device itself.
    pub device: Device,
    /// How closely the device's results must match PyTorch's.
    pub precision: Precision,
}

/// The largest differences from the results of PyTorch on a CPU.
#[derive(Clone, Copy)]
pub struct Precision {
    /// The difference of a logit, and of a log-probability in nats.
    pub logits: f32,
    /// The relative difference of a gradient's norm.
    pub norms: f64,
    /// Whether sampling draws the same tokens as on the CPU.
    pub same_tokens: bool,
}

/// Results differ because the terms of a sum are added in a different order than in PyTorch.
const CPU: Precision = Precision {
    logits: 1e-4,
    norms: 1e-3,
    same_tokens: true,
};

/// In addition to the order of sums, a shader's exponential, root and division may each be off by some units
/// in the last place. Such errors add up through three layers and back.
#[cfg(feature = "wgpu")]
const WGPU: Precision = Precision {
    logits: 1e-3,
    norms: 1e-2,
    same_tokens: true,
};

/// Tensor cores multiply 32-bit floats with ten bits of mantissa (TF32): on an H100 logits of 3.6 and
/// log-probabilities of -6.8 were off by 0.012.
#[cfg(feature = "cuda")]
const CUDA: Precision = Precision {
    logits: 5e-2,
    norms: 1e-2,
    same_tokens: false,
};

/// All devices of this build.
pub fn targets() -> Vec<Target> {
    vec![
        Target {
            name: "the CPU",
            device: Device::flex(),
            precision: CPU,
        },
        #[cfg(feature = "wgpu")]
        Target {
            name: "wgpu",
            device: Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
            precision: WGPU,
        },
        #[cfg(feature = "cuda")]
        Target {
            name: "cuda",
            device: Device::cuda(0),
            precision: CUDA,
        },
    ]
}
