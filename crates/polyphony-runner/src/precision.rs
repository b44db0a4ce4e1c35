//! The precision of a run's models, as recipes and the command line name it.

use std::str::FromStr;

use anyhow::{Context as _, Error, Result, bail};
use polyphony_model::Precision;
use serde::{Deserialize, Serialize};

use crate::device::{DeviceChoice, Devices};

/// The number type that the products of all models of a run read, in rollout and in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrecisionChoice {
    /// `Bf16` if all models run on a CPU with AVX512-BF16, otherwise `F32`.
    Auto,
    /// 32-bit floats: what all runs of older programs used.
    #[default]
    F32,
    /// Mixed precision with bfloat16.
    Bf16,
}

impl PrecisionChoice {
    /// The precision of a model on a device.
    ///
    /// # Errors
    /// If the device cannot be opened.
    pub fn on(self, device: DeviceChoice) -> Result<Precision> {
        Ok(match self {
            Self::Auto => Precision::fastest(&device.open()?),
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
        })
    }

    /// The choice that `Auto` makes on this machine; other choices are returned as they are.
    ///
    /// # Errors
    /// If a device cannot be opened.
    pub(crate) fn resolved(self, devices: &Devices) -> Result<Self> {
        if self != Self::Auto {
            return Ok(self);
        }
        for device in devices.of_team(1) {
            let precision = self.on(device);
            if precision.with_context(|| format!("`devices` has {device:?}"))? == Precision::F32 {
                return Ok(Self::F32);
            }
        }
        Ok(Self::Bf16)
    }
}

impl FromStr for PrecisionChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "auto" => Self::Auto,
            "f32" => Self::F32,
            "bf16" => Self::Bf16,
            _ => bail!("`{text}` is not a precision: use auto, f32 or bf16"),
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn auto_takes_the_fastest_precision_of_the_devices() {
        let cpu = Devices::Same(DeviceChoice::Cpu);
        let fastest = match Precision::fastest(&Device::flex()) {
            Precision::F32 => PrecisionChoice::F32,
            Precision::Bf16 => PrecisionChoice::Bf16,
        };
        assert_eq!(PrecisionChoice::Auto.resolved(&cpu).unwrap(), fastest);
        for choice in [PrecisionChoice::F32, PrecisionChoice::Bf16] {
            assert_eq!(choice.resolved(&cpu).unwrap(), choice);
        }
    }

    #[test]
    fn names_are_those_of_recipes_in_any_case() {
        for (text, choice) in [
            ("auto", PrecisionChoice::Auto),
            ("F32", PrecisionChoice::F32),
            ("bf16", PrecisionChoice::Bf16),
        ] {
            assert_eq!(text.parse::<PrecisionChoice>().unwrap(), choice);
        }
        let error = "half".parse::<PrecisionChoice>().unwrap_err().to_string();
        assert_eq!(error, "`half` is not a precision: use auto, f32 or bf16");
    }
}
