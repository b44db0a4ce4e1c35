//! Rotary position embedding (Su et al., 2021, arXiv 2104.09864), in the half-split layout of
//! Hugging Face checkpoints: coordinate `i` is rotated together with `i + head_size / 2`.

use burn::tensor::{Device, Tensor, TensorData};

use crate::kernels::rotate;

/// Cosines and sines for the positions of one forward pass, made once and shared by all layers.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    cos: Tensor<3>,
    sin: Tensor<3>,
}

impl Rotation {
    /// The rotation for tokens at `positions`.
    pub(crate) fn new(positions: &[usize], head_size: usize, theta: f64, device: &Device) -> Self {
        let half = head_size / 2;
        let frequencies: Vec<f64> = (0..half)
            .map(|i| theta.powf(-(2.0 * i as f64) / head_size as f64))
            .collect();
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = positions
                .iter()
                .flat_map(|&position| {
                    frequencies
                        .iter()
                        .map(move |w| f(position as f64 * w) as f32)
                })
                .collect();
            Tensor::from_data(TensorData::new(values, [positions.len(), 1, half]), device)
        };
        Self {
            cos: table(f64::cos),
            sin: table(f64::sin),
        }
    }

    /// Rotates queries or keys.
    ///
    /// # Shapes
    /// - input and output `[T, heads, head_size]`, with `T` the number of positions
    pub(crate) fn apply(&self, heads: Tensor<3>) -> Tensor<3> {
        rotate(heads, &self.cos, &self.sin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_lengths_and_depends_on_distance_only() {
        let device = Device::flex();
        let vector = |values: [f32; 4]| Tensor::<3>::from_data([[values]], &device);
        let at = |v: &Tensor<3>, position| {
            Rotation::new(&[position], 4, 10_000.0, &device).apply(v.clone())
        };
        let (q, k) = (vector([0.3, -1.2, 0.7, 2.0]), vector([1.0, 0.4, -0.6, 0.1]));
        let dot = |a: Tensor<3>, b: Tensor<3>| (a * b).sum().into_scalar::<f32>();
        assert!((dot(at(&q, 5), at(&k, 2)) - dot(at(&q, 13), at(&k, 10))).abs() < 1e-5);
        assert!((dot(at(&q, 5), at(&k, 2)) - dot(at(&q, 5), at(&k, 3))).abs() > 1e-3);
        assert!((dot(at(&q, 9), at(&q, 9)) - dot(q.clone(), q)).abs() < 1e-5);
    }
}
