//! The devices that the tests of this package run on: always the processor; with the feature `wgpu` a GPU, for which
//! Mesa's software driver will do; and with the feature `cuda` one of NVIDIA's.

use burn::tensor::Device;

/// A device, and how close to PyTorch it has to come.
pub struct Target {
    /// Its name in messages.
    pub name: &'static str,
    /// The device itself.
    pub device: Device,
    /// How close to PyTorch it comes.
    pub precision: Precision,
}

/// The largest differences from what PyTorch computes on a processor.
#[derive(Clone, Copy)]
pub struct Precision {
    /// Of a logit, and of a log-probability in nats.
    pub logits: f32,
    /// Of a gradient's norm, relative to it.
    pub norms: f64,
    /// Whether sampling draws the tokens that it draws on the CPU.
    pub same_tokens: bool,
}

/// Sums of up to 176 products in another order than PyTorch's.
const CPU: Precision = Precision {
    logits: 1e-4,
    norms: 1e-3,
    same_tokens: true,
};

/// Also the exponential, the root and the division of a shader, which may each be off by some units
/// in the last place, through three layers and back.
#[cfg(feature = "wgpu")]
const WGPU: Precision = Precision {
    logits: 1e-3,
    norms: 1e-2,
    same_tokens: true,
};

/// Tensor cores multiply 32-bit floats with ten bits behind the point (TF32): on an H100 logits of 3.6
/// and log-probabilities of -6.8 were off by 0.012.
#[cfg(feature = "cuda")]
const CUDA: Precision = Precision {
    logits: 5e-2,
    norms: 1e-2,
    same_tokens: false,
};

/// All devices that this build has.
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
