//! The precisions and devices that are compared.

use std::{fmt, fs};

/// What models compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    F32,
    Bf16,
}

/// The device on which both sides compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Device {
    Cpu,
    /// An NVIDIA GPU, the only kind that the peers share with Polyphony.
    Cuda,
}

/// The name in Polyphony and in PyTorch.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

impl Precision {
    /// The precisions that a device computes in quickly.
    pub(super) fn of(device: Device) -> Vec<Self> {
        match device {
            Device::Cpu => Self::of_this_processor(),
            Device::Cuda => vec![Self::F32, Self::Bf16],
        }
    }

    /// The precisions that this processor computes in quickly. Without AVX512-BF16, bfloat16 is emulated.
    fn of_this_processor() -> Vec<Self> {
        let description = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        match has_bf16(&description) {
            true => vec![Self::F32, Self::Bf16],
            false => vec![Self::F32],
        }
    }

    /// The name that `polyphony bench --precision` takes.
    pub(super) fn setting(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "Bf16",
        }
    }
}

/// The name in benchmarks and in the peers' scripts.
impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

fn has_bf16(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "avx512_bf16"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_needs_instructions_for_it() {
        for (cpuinfo, expected) in [
            ("processor\t: 0\nflags\t\t: fpu avx512_bf16 avx512f\n", true),
            ("flags\t\t: fpu avx512_bf16_like avx512f\n", false),
            ("model name\t: avx512_bf16\nflags\t: fpu\n", false),
            ("", false),
        ] {
            assert_eq!(has_bf16(cpuinfo), expected, "{cpuinfo}");
        }
    }
}
