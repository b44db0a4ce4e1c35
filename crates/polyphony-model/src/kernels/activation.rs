//! The functions that gate a feed-forward layer.

/// The function `f` that is applied to the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `a σ(a)`.
    #[default]
    Silu,
    /// GELU with the hyperbolic tangent (Hendrycks and Gimpel, 2016, arXiv 1606.08415):
    /// `a (1 + tanh(√(2/π) (a + 0.044715 a³))) / 2`.
    GeluTanh,
}

/// `2 √(2/π)`: GELU is `a σ(z)` with `z = 2 √(2/π) (a + 0.044715 a³)`, since `(1 + tanh x) / 2 = σ(2 x)`.
pub(super) const GELU_SCALE: f32 = 1.595_769;
pub(super) const GELU_CUBIC: f32 = 0.044_715;
