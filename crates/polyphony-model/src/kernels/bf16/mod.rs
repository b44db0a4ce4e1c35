//! Matrix products in bfloat16 with 32-bit accumulation, on processors with AVX512-BF16.
//!
//! The instruction multiplies pairs: it adds `a₀b₀ + a₁b₁` to each of 16 sums. One operand of a product is
//! therefore packed into [`Panels`], in which the two members of a pair lie side by side; the other operand is
//! read as it is. A product's sums run over the pairs in order, each in one register, whatever the number of
//! rows, of threads, and of columns. A row's result is therefore the same in any batch, to the last bit.
//!
//! The instruction takes denormal numbers for zeros and rounds to the nearest even number.

mod left;
mod panels;
mod product;
mod right;
mod round;
#[cfg(test)]
mod tests;

pub(crate) use left::{Left, TransposedRows};
pub(crate) use panels::{Panels, Source};
pub(crate) use product::{Output, Target, new_product, product};
pub(crate) use right::Right;
pub(crate) use round::{round, round_all, widen};

/// Proof that this processor has the instructions that the kernels of this module need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bf16Unit(());

impl Bf16Unit {
    /// `None` if the processor lacks an instruction.
    pub(crate) fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            let has_all = std::arch::is_x86_feature_detected!("avx512f")
                && std::arch::is_x86_feature_detected!("avx512bw")
                && std::arch::is_x86_feature_detected!("avx512vl")
                && std::arch::is_x86_feature_detected!("avx512bf16");
            has_all.then_some(Self(()))
        }
        #[cfg(not(target_arch = "x86_64"))]
        None
    }
}
