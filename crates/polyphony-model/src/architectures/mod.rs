//! The architectures that the crate runs: one file and one row of [`Architecture::ALL`] each.
//!
//! A row says how files name the architecture, and which parts its layers are made of. Everything else is
//! derived from the [`Parts`]: names and shapes of tensors, the network, memory, and the targets of adapters.

mod gemma3;
mod llama;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod row;

use std::fmt;

use self::row::Row;

/// A family of networks, such as Llama or Qwen3.
#[derive(Clone, Copy)]
pub struct Architecture(&'static Row);

impl Architecture {
    /// Llama, as used by SmolLM2 and Llama 3.
    pub const LLAMA: Self = Self(&llama::ROW);
    /// Qwen2 and Qwen2.5.
    pub const QWEN2: Self = Self(&qwen2::ROW);
    /// Qwen3.
    pub const QWEN3: Self = Self(&qwen3::ROW);
    /// Qwen3 with a mixture of experts.
    pub const QWEN3_MOE: Self = Self(&qwen3_moe::ROW);
    /// The text models of Gemma 3.
    pub const GEMMA3: Self = Self(&gemma3::ROW);

    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::LLAMA,
        Self::QWEN2,
        Self::QWEN3,
        Self::QWEN3_MOE,
        Self::GEMMA3,
    ];

    pub(crate) fn row(self) -> &'static Row {
        self.0
    }
}

impl PartialEq for Architecture {
    fn eq(&self, other: &Self) -> bool {
        self.0.class == other.0.class
    }
}

impl Eq for Architecture {}

impl fmt::Debug for Architecture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.class)
    }
}

/// The fixtures with a tiny model of each architecture.
#[cfg(test)]
pub(crate) const TINY_MODELS: [&str; 5] = [
    "tiny-llama",
    "tiny-qwen2",
    "tiny-qwen3",
    "tiny-qwen3-moe",
    "tiny-gemma3",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (index, one) in Architecture::ALL.into_iter().enumerate() {
            for other in &Architecture::ALL[..index] {
                assert_ne!(one, *other);
                assert_ne!(one.row().model_type, other.row().model_type);
                assert_ne!(one.row().gguf.name, other.row().gguf.name);
            }
        }
    }
}
