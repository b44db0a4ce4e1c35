//! What a step of one weight multiplies by, and the step itself on slices of 32-bit floats.

/// The coefficients of one weight's step.
pub(super) struct Coefficients {
    /// The clipping factor, which gradients are multiplied by.
    pub(super) gradient_scale: f64,
    pub(super) beta_1: f64,
    pub(super) beta_2: f64,
    /// `η / (1 − β₁ᵗ)`.
    pub(super) corrected_rate: f64,
    /// `1 / √(1 − β₂ᵗ)`.
    pub(super) second_scale: f64,
    pub(super) epsilon: f64,
    /// `1 − η λ`.
    pub(super) decay: f64,
}

/// [`Coefficients`] in the weights' own precision.
#[derive(Clone, Copy)]
pub(super) struct SingleCoefficients {
    gradient_scale: f32,
    beta_1: f32,
    beta_2: f32,
    corrected_rate: f32,
    second_scale: f32,
    epsilon: f32,
    decay: f32,
}

impl From<&Coefficients> for SingleCoefficients {
    fn from(c: &Coefficients) -> Self {
        Self {
            gradient_scale: c.gradient_scale as f32,
            beta_1: c.beta_1 as f32,
            beta_2: c.beta_2 as f32,
            corrected_rate: c.corrected_rate as f32,
            second_scale: c.second_scale as f32,
            epsilon: c.epsilon as f32,
            decay: c.decay as f32,
        }
    }
}

impl SingleCoefficients {
    #[inline(always)]
    pub(super) fn step(
        self,
        weight: &mut [f32],
        gradient: &[f32],
        first: &mut [f32],
        second: &mut [f32],
    ) {
        for ((w, g), (m, v)) in weight
            .iter_mut()
            .zip(gradient)
            .zip(first.iter_mut().zip(second.iter_mut()))
        {
            let g = g * self.gradient_scale;
            *m = *m * self.beta_1 + g * (1.0 - self.beta_1);
            *v = *v * self.beta_2 + g * g * (1.0 - self.beta_2);
            let divisor = v.sqrt() * self.second_scale + self.epsilon;
            *w = *w * self.decay - *m / divisor * self.corrected_rate;
        }
    }
}
