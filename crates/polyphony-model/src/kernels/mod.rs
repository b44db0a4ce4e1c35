//! The operations on which training and generation spend most of their time.
//!
//! Each is a function on tensors. On the CPU it is a kernel that does in one pass what takes burn
//! several operations; if training uses the kernel, it also computes its own gradient (most kernels
//! through [`host::HostOp`]). On GPUs some of them are kernels, too (`cube`); otherwise the function is composed of burn's
//! operations.

mod activation;
mod bf16;
mod bf16_attention;
mod bf16_decode;
mod bf16_logprobs;
#[cfg(feature = "cube")]
pub(crate) mod cube;
mod decode_attention;
mod differentiable;
mod exp;
mod few_rows;
mod gated;
mod host;
mod matrix;
mod packed_attention;
mod packing;
mod project;
mod rms_norm;
mod rotate;
mod team;
#[cfg(test)]
mod tests;
mod token_logprobs;
mod vectorized;

pub(crate) use activation::Activation;
pub(crate) use bf16::Bf16Unit;
pub(crate) use bf16_decode::{PackedContext, PackedKv};
pub(crate) use decode_attention::{KvSpan, decode_attention};
pub(crate) use exp::{EXP_SERIES, ROUND_TO_INTEGER};
pub(crate) use gated::gated;
pub(crate) use host::{HostTensor, Number, Values, contiguous, floats, host, values};
pub(crate) use matrix::Cores;
pub(crate) use packed_attention::packed_attention;
pub(crate) use packing::{Packing, Segment};
pub(crate) use project::{ProjectionOutput, Weight, WeightFormat, project, project_floats};
pub(crate) use rms_norm::rms_norm;
pub(crate) use rotate::rotate;
#[cfg(test)]
pub(crate) use team::thread_pool;
pub(crate) use team::{for_each, for_each_chunk, with_team};
pub(crate) use token_logprobs::{CHUNK_LOGITS, token_logprobs};
pub use vectorized::vectorized;
