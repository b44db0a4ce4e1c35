//! Rotary position embedding (Su et al., 2021, arXiv 2104.09864), in the half-split layout of
//! Hugging Face checkpoints: coordinate `i` is rotated together with `i + head_size / 2`.

use std::f64::consts::TAU;

use burn::tensor::{Device, Tensor, TensorData};

use crate::{ModelConfig, Rope, RopeScaling, kernels::rotate};

/// The rotations of one forward pass, computed once and shared by the layers.
#[derive(Clone, Debug)]
pub(crate) struct Rotations {
    all_tokens: Rotation,
    /// For the layers with a sliding window.
    window: Option<Rotation>,
}

impl Rotations {
    /// The rotations for tokens at `positions`.
    pub(crate) fn new(positions: &[usize], config: &ModelConfig, device: &Device) -> Self {
        let rotation = |rope| Rotation::new(positions, config.head_size, rope, device);
        let window = config.parts.window.as_ref();
        Self {
            all_tokens: rotation(&config.rope),
            window: window.map(|window| rotation(&window.rope)),
        }
    }

    /// The rotation of a layer with or without a sliding window.
    pub(crate) fn of_layer(&self, has_window: bool) -> &Rotation {
        match &self.window {
            Some(rotation) if has_window => rotation,
            _ => &self.all_tokens,
        }
    }
}

/// Cosines and sines for the positions of one forward pass.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    cos: Tensor<3>,
    sin: Tensor<3>,
}

impl Rotation {
    /// The rotation for tokens at `positions`.
    pub(crate) fn new(positions: &[usize], head_size: usize, rope: &Rope, device: &Device) -> Self {
        let frequencies = frequencies(rope, head_size);
        let magnitude = match rope.scaling {
            RopeScaling::Yarn {
                attention_factor, ..
            } => attention_factor,
            _ => 1.0,
        };
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = positions
                .iter()
                .flat_map(|&position| {
                    let angles = frequencies.iter().map(move |w| position as f64 * w);
                    angles.map(|angle| (magnitude * f(angle)) as f32)
                })
                .collect();
            let shape = [positions.len(), 1, frequencies.len()];
            Tensor::<3>::from_data(TensorData::new(values, shape), device)
        };
        Self {
            cos: table(f64::cos),
            sin: table(f64::sin),
        }
    }

    /// Cosines and sines, `[T, 1, head_size / 2]` each.
    #[cfg(feature = "cube")]
    pub(crate) fn tables(&self) -> [Tensor<3>; 2] {
        [&self.cos, &self.sin].map(|table| table.clone().inner())
    }

    /// Rotates queries or keys.
    ///
    /// # Shapes
    /// - input and output `[T, heads, head_size]`, with `T` the number of positions
    pub(crate) fn apply(&self, heads: Tensor<3>) -> Tensor<3> {
        rotate(heads, &self.cos, &self.sin)
    }
}

/// The angle by which each pair of coordinates turns from one position to the next.
fn frequencies(rope: &Rope, head_size: usize) -> Vec<f64> {
    let pairs = head_size / 2;
    let plain = (0..pairs).map(|i| rope.theta.powf(-(2.0 * i as f64) / head_size as f64));
    match rope.scaling {
        RopeScaling::Unscaled => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|w| w / factor).collect(),
        RopeScaling::Llama3 {
            factor,
            low_frequency_factor,
            high_frequency_factor,
            original_positions,
        } => {
            let stretch = |w: f64| {
                let turns = original_positions * w / TAU;
                let width = high_frequency_factor - low_frequency_factor;
                let unscaled = ((turns - low_frequency_factor) / width).clamp(0.0, 1.0);
                unscaled * w + (1.0 - unscaled) * w / factor
            };
            plain.map(stretch).collect()
        }
        RopeScaling::Yarn {
            factor,
            fast,
            slow,
            original_positions,
            truncate,
            ..
        } => {
            // The coordinate whose pair makes this many turns in the original context.
            let coordinate = |turns: f64| {
                let wavelength = original_positions / (turns * TAU);
                head_size as f64 * wavelength.ln() / (2.0 * rope.theta.ln())
            };
            let (mut low, mut high) = (coordinate(fast), coordinate(slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(head_size as f64 - 1.0));
            // As in transformers: equal bounds give a step instead of a division by zero.
            let width = if low == high { 0.001 } else { high - low };
            let stretch = |(i, w): (usize, f64)| {
                let stretched = ((i as f64 - low) / width).clamp(0.0, 1.0);
                stretched * w / factor + (1.0 - stretched) * w
            };
            plain.enumerate().map(stretch).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_lengths_and_depends_on_distance_only() {
        let device = Device::flex();
        let rope = Rope {
            theta: 10_000.0,
            scaling: RopeScaling::Unscaled,
        };
        let vector = |values: [f32; 4]| Tensor::<3>::from_data([[values]], &device);
        let rotated = |v: &Tensor<3>, position| {
            Rotation::new(&[position], 4, &rope, &device).apply(v.clone())
        };
        let (q, k) = (vector([0.3, -1.2, 0.7, 2.0]), vector([1.0, 0.4, -0.6, 0.1]));
        let dot = |a: Tensor<3>, b: Tensor<3>| (a * b).sum().into_scalar::<f32>();
        assert!(
            (dot(rotated(&q, 5), rotated(&k, 2)) - dot(rotated(&q, 13), rotated(&k, 10))).abs()
                < 1e-5
        );
        assert!(
            (dot(rotated(&q, 5), rotated(&k, 2)) - dot(rotated(&q, 5), rotated(&k, 3))).abs()
                > 1e-3
        );
        assert!((dot(rotated(&q, 9), rotated(&q, 9)) - dot(q.clone(), q)).abs() < 1e-5);
    }
}
