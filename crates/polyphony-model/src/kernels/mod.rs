//! The operations on which training and generation spend most of their time.
//!
//! Each is a function on tensors. On the CPU it is a kernel that does in one pass what takes burn
//! several operations; if training uses the kernel, it also computes its own gradient (most kernels
//! through [`host::HostOp`]). On other devices the function is composed of burn's operations.

mod decode_attention;
mod exp;
mod few_rows;
mod gated;
mod host;
mod matrix;
mod packed_attention;
mod project;
mod rms_norm;
mod rotate;
#[cfg(test)]
mod tests;
mod token_logprobs;

pub(crate) use decode_attention::{KvSpan, decode_attention};
pub(crate) use gated::{Activation, gated};
pub(crate) use host::{HostTensor, contiguous, host, values};
pub(crate) use packed_attention::{Packing, Segment, packed_attention};
pub(crate) use project::project;
pub(crate) use rms_norm::rms_norm;
pub(crate) use rotate::rotate;
pub(crate) use token_logprobs::{CHUNK_LOGITS, token_logprobs};
