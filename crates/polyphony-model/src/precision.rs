//! The precision of a model's products.

use burn::tensor::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::{ModelError, kernels::Bf16Unit};

/// The number type that the products of a model read. Weights, normalizations, softmax and sums are 32-bit floats
/// in both.
///
/// A model samples and learns with the same precision, so that rollout and training have the same policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// Mixed precision (Micikevicius et al., 2018, arXiv 1710.03740) with bfloat16: the numbers that products read
    /// are rounded to 8 significant bits, and their results are summed in 32 bits. Activations are stored in
    /// bfloat16. On the CPU this needs the instructions AVX512-BF16, and is much faster.
    Bf16,
}

impl Precision {
    /// The fastest precision of a device: `Bf16` on a CPU with AVX512-BF16, otherwise `F32`.
    pub fn fastest(device: &Device) -> Self {
        match *device == Device::flex() && Bf16Unit::detect().is_some() {
            true => Self::Bf16,
            false => Self::F32,
        }
    }

    /// Checks that a device computes with this precision.
    ///
    /// # Errors
    /// If it does not; the error says what is missing.
    pub fn check(self, device: &Device) -> Result<(), ModelError> {
        let is_cpu = *device == Device::flex();
        match self {
            Self::F32 => Ok(()),
            Self::Bf16 if is_cpu && Bf16Unit::detect().is_some() => Ok(()),
            Self::Bf16 if is_cpu => Err(ModelError::NoBf16OnCpu {
                vector_unit: vector_unit(),
            }),
            Self::Bf16 if device.supports_dtype(DType::BF16) => Ok(()),
            Self::Bf16 => Err(ModelError::NoBf16 {
                device: format!("{device:?}"),
            }),
        }
    }

    /// The bytes of a number that products read.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// The type of the activations between products.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}

/// The widest vector instructions of this processor, for an error message.
fn vector_unit() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512bf16") {
            return "AVX512-BF16 without the other parts of AVX512";
        }
        if std::arch::is_x86_feature_detected!("avx512f") {
            return "AVX512 without BF16";
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            return "AVX2";
        }
    }
    "no vector instructions that these products use"
}
