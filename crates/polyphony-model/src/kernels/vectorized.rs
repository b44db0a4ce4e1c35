//! Plain loops as vector code for the processor at hand.

use pulp::{Arch, NullaryFnOnce};

/// Runs `code`, compiled with the best vector instructions that this processor has. The closure should be
/// marked `#[inline(always)]`.
///
/// A closure given to [`Arch::dispatch`] itself is called through an adapter for `FnOnce`, which the compiler may
/// leave out of line: the loop would then use only the instructions that all processors have.
#[inline(always)]
pub fn vectorized<R>(code: impl FnMut() -> R) -> R {
    Arch::new().dispatch(Code(code))
}

struct Code<F>(F);

impl<R, F: FnMut() -> R> NullaryFnOnce for Code<F> {
    type Output = R;

    #[inline(always)]
    fn call(mut self) -> R {
        (self.0)()
    }
}
