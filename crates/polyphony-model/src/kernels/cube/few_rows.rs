//! Products of few rows with a weight, for decoding. Normalization, bias, gate and residual are part of them, so that
//! a product is one launch.
//!
//! Such a product takes as long as reading its weight once. A team of units computes some columns for some rows: its
//! units read the weight's rows side by side, and each number that is read serves all rows. The order of a sum depends
//! only on the length of a row, so a result never depends on the other rows.

use cubecl::{ir::ElemType, prelude::*};

use super::{
    super::activation::Activation,
    CubeTensor, MOST_CUBES, float_type,
    gated::{Sigmoid, sigmoid},
    rms_norm::Norm,
};

/// Units of a team. CUDA runs as many in lockstep.
const LANES: usize = 32;

/// Teams of a cube, each with columns of its own.
const TEAMS: usize = 4;

/// Columns of the weight that a team computes.
const COLUMNS: usize = 4;

/// Rows that a cube computes at most. Further rows are other cubes, which find the weight in the device's cache.
const MOST_ROWS: usize = 8;

/// A product `y = x Wᵀ` with what is done to its input and its output.
///
/// # Shapes
/// `R` rows, `I` inputs, `O` rows of the weight:
/// - input `[R, I]`, weight `[O, I]`, output `[R, O]`; with a gate `[R, O / 2]`
pub(crate) struct FewRows<'a> {
    pub(crate) input: &'a CubeTensor,
    /// In 32-bit floats or bfloat16.
    pub(crate) weight: &'a CubeTensor,
    pub(crate) output: &'a CubeTensor,
    pub(crate) rows: usize,
    /// The normalization of the input.
    pub(crate) norm: Option<&'a Norm>,
    pub(crate) bias: Option<&'a CubeTensor>,
    /// If the weight is that of several experts, `[experts · O, I]`: which of them each row uses.
    pub(crate) experts: Option<ChosenExperts<'a>>,
    pub(crate) form: RowsOutput,
}

/// The experts of the rows of a product. Each row is computed with one expert.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChosenExperts<'a> {
    /// The expert of each row, `[R]`.
    pub(crate) of_row: &'a CubeTensor,
    /// The number of all experts.
    pub(crate) count: usize,
    /// Consecutive rows that have the same input, which is stored once.
    pub(crate) rows_per_input: usize,
}

/// What becomes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowsOutput {
    /// It replaces the output.
    Stored,
    /// It is added to the output.
    Added,
    /// The first half of its columns, through the activation, times the second half replaces the output.
    Gated(Activation),
}

/// What is fixed when the kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Plan {
    /// Vectors of a row of the weight.
    inner: usize,
    /// Rows of a cube.
    rows: usize,
    /// Columns of a team that are written.
    columns: usize,
    /// Whether each of them is two columns of the weight.
    gated: bool,
    normalized: bool,
    biased: bool,
    added: bool,
    /// Whether each row has an expert.
    experts: bool,
    rows_per_input: usize,
}

impl Plan {
    /// Rows of the weight that a team reads.
    fn weights(&self) -> usize {
        self.columns * if self.gated { 2 } else { 1 }
    }

    /// Sums of a team: the products, and the squares of each row.
    fn sums(&self) -> usize {
        self.rows * (self.weights() + usize::from(self.normalized))
    }
}

impl<'a> FewRows<'a> {
    /// The plain product of `rows` rows.
    pub(crate) fn new(
        input: &'a CubeTensor,
        weight: &'a CubeTensor,
        output: &'a CubeTensor,
        rows: usize,
    ) -> Self {
        Self {
            input,
            weight,
            output,
            rows,
            norm: None,
            bias: None,
            experts: None,
            form: RowsOutput::Stored,
        }
    }

    pub(crate) fn launch(self) {
        let [outputs, inner] = self.weight.meta.shape().dims();
        let outputs = outputs / self.experts.map_or(1, |experts| experts.count);
        let vector = vector_size(inner);
        let gated = matches!(self.form, RowsOutput::Gated(_));
        let plan = Plan {
            inner: inner / vector,
            rows: match self.experts {
                None => rows_per_cube(self.rows),
                Some(_) => 1,
            },
            columns: if gated { COLUMNS / 2 } else { COLUMNS },
            gated,
            normalized: self.norm.is_some(),
            biased: self.bias.is_some(),
            added: self.form == RowsOutput::Added,
            experts: self.experts.is_some(),
            rows_per_input: self.experts.map_or(1, |experts| experts.rows_per_input),
        };
        let sigmoid = match self.form {
            RowsOutput::Gated(activation) => Sigmoid::of(activation),
            RowsOutput::Stored | RowsOutput::Added => Sigmoid::of(Activation::Silu),
        };
        let written = if gated { outputs / 2 } else { outputs };
        let blocks = written.div_ceil(TEAMS * plan.columns);
        let (norm, epsilon, offset) = match self.norm {
            Some(norm) => (&norm.weight, norm.epsilon, norm.offset),
            // A buffer that is not read must be there all the same.
            None => (self.input, 0.0, 0.0),
        };
        few_rows::launch(
            &self.input.client,
            CubeCount::new_2d(
                self.rows.div_ceil(plan.rows) as u32,
                blocks.min(MOST_CUBES) as u32,
            ),
            CubeDim::new_2d(LANES as u32, TEAMS as u32),
            vector,
            self.input.clone().into_buffer_arg(),
            self.weight.clone().into_buffer_arg(),
            norm.clone().into_buffer_arg(),
            self.bias.unwrap_or(self.input).clone().into_buffer_arg(),
            match self.experts {
                Some(experts) => experts.of_row,
                None => self.input,
            }
            .clone()
            .into_buffer_arg(),
            self.output.clone().into_buffer_arg(),
            self.rows as u32,
            written as u32,
            epsilon,
            offset,
            sigmoid.scale,
            sigmoid.cubic,
            plan,
            float_type(self.weight),
        );
    }
}

/// Numbers that a unit reads at once: 16 bytes of 32-bit floats if rows can be divided into them.
pub(super) fn vector_size(row: usize) -> usize {
    [4, 2]
        .into_iter()
        .find(|size| row.is_multiple_of(*size))
        .unwrap_or(1)
}

/// The smallest number of rows for which a kernel is compiled that is at least `rows`, or the largest one.
fn rows_per_cube(rows: usize) -> usize {
    rows.next_power_of_two().min(MOST_ROWS)
}

#[cube(launch)]
fn few_rows<W: Float, N: Size>(
    x: &[Vector<f32, N>],
    weight: &[Vector<W, N>],
    norm: &[Vector<f32, N>],
    bias: &[f32],
    expert_of_row: &[u32],
    y: &mut [f32],
    rows: u32,
    written: u32,
    epsilon: f32,
    offset: f32,
    scale: f32,
    cubic: f32,
    #[comptime] plan: Plan,
    #[define(W)] _dtype: ElemType,
) {
    let (rows, written) = (rows as usize, written as usize);
    let lane = UNIT_POS_X as usize;
    let team = UNIT_POS_Y as usize;
    let first_row = CUBE_POS_X as usize * plan.rows;
    let blocks = written.div_ceil(comptime!(TEAMS * plan.columns));
    let mut weight_start = 0usize.runtime();
    if plan.experts {
        let outputs = written * comptime!(if plan.gated { 2usize } else { 1usize });
        weight_start = expert_of_row[first_row] as usize * outputs * plan.inner;
    }
    let mut parts = Shared::<[f32]>::new_slice(comptime!(plan.sums() * TEAMS * LANES));
    let own = team * LANES + lane;
    let mut block = CUBE_POS_Y as usize;
    while block < blocks {
        let first = (block * TEAMS + team) * plan.columns;
        // Scalars, since sums of vectors would take four times the registers.
        let mut sums = Array::<f32>::new(comptime!(plan.rows * plan.weights()));
        let mut squares = Array::<f32>::new(plan.rows);
        let mut values = Array::<Vector<f32, N>>::new(plan.rows);
        #[unroll]
        for index in 0..comptime!(plan.rows * plan.weights()) {
            sums[index] = 0.0f32;
        }
        #[unroll]
        for row in 0..plan.rows {
            squares[row] = 0.0f32;
        }
        let mut i = lane;
        while i < plan.inner {
            #[unroll]
            for row in 0..plan.rows {
                // Rows beyond the last one repeat it, and are not written.
                let at = usize::min(first_row + row, rows - 1);
                let value = x[at / plan.rows_per_input * plan.inner + i];
                if plan.normalized {
                    squares[row] += vector_sum(value * value);
                    values[row] = value * (norm[i] + Vector::new(offset));
                } else {
                    values[row] = value;
                }
            }
            #[unroll]
            for column in 0..comptime!(plan.weights()) {
                let half = comptime!(column / plan.columns);
                let at = usize::min(first + comptime!(column % plan.columns), written - 1)
                    + half * written;
                let w = Vector::<f32, N>::cast_from(weight[weight_start + at * plan.inner + i]);
                #[unroll]
                for row in 0..plan.rows {
                    sums[comptime!(column * plan.rows + row)] += vector_sum(values[row] * w);
                }
            }
            i += LANES;
        }
        #[unroll]
        for index in 0..comptime!(plan.rows * plan.weights()) {
            parts[comptime!(index * TEAMS * LANES) + own] = sums[index];
        }
        if plan.normalized {
            #[unroll]
            for row in 0..plan.rows {
                parts[comptime!((plan.rows * plan.weights() + row) * TEAMS * LANES) + own] =
                    squares[row];
            }
        }
        team_sums(&mut parts, own, lane, comptime!(plan.sums()));
        // The sums of a team are now those of its first lane. Its lanes share the results.
        let start = team * LANES;
        let mut result = lane;
        while result < comptime!(plan.rows * plan.columns) {
            let column = result / plan.rows;
            let row = result % plan.rows;
            let (to, at) = (first + column, first_row + row);
            if to < written && at < rows {
                let mut factor = 1.0f32.runtime();
                if plan.normalized {
                    let index = comptime!(plan.rows * plan.weights()) + row;
                    let sum = parts[index * comptime!(TEAMS * LANES) + start];
                    let width = plan.inner * x.vector_size();
                    factor = 1.0f32 / (sum / width as f32 + epsilon).sqrt();
                }
                let mut value = parts[result * comptime!(TEAMS * LANES) + start] * factor;
                if plan.biased {
                    value += bias[to];
                }
                if plan.gated {
                    let index = result + comptime!(plan.rows * plan.columns);
                    let up = parts[index * comptime!(TEAMS * LANES) + start] * factor;
                    value = value * sigmoid(value, scale, cubic) * up;
                }
                if plan.added {
                    value += y[at * written + to];
                }
                y[at * written + to] = value;
            }
            result += LANES;
        }
        sync_cube();
        block += CUBE_COUNT_Y as usize;
    }
}

/// The sum of a vector's numbers.
#[cube]
pub(super) fn vector_sum<N: Size>(vector: Vector<f32, N>) -> f32 {
    let mut sum = 0.0f32.runtime();
    let size = vector.vector_size();
    #[unroll]
    for i in 0..size {
        sum += vector.extract(i);
    }
    sum
}

/// Adds up `sums` numbers of each unit over the lanes of its team, in a fixed order. Number `n` of unit `u` is at
/// `n · TEAMS · LANES + u`; the sums are those of the first lane.
#[cube]
fn team_sums(parts: &mut [f32], own: usize, lane: usize, #[comptime] sums: usize) {
    sync_cube();
    let mut half = comptime!(LANES / 2).runtime();
    while half > 0 {
        if lane < half {
            #[unroll]
            for index in 0..sums {
                let at = comptime!(index * TEAMS * LANES) + own;
                let other = parts[at + half];
                parts[at] += other;
            }
        }
        sync_cube();
        half /= 2;
    }
}
