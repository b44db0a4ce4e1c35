//! Projections: `y = x Wᵀ`.

use std::{borrow::Cow, sync::Arc};

use burn::tensor::{DType, Tensor};
use half::bf16;

use super::{
    bf16::{Bf16Unit, Left, Panels, Source, TransposedRows, new_product},
    few_rows::{MAX_ROWS, project_few_rows},
    host::{Buffer, HostOp, Number, Operand, SavedTensors, Values, apply, floats, host, operand},
    matrix::{Matrix, product},
};

/// The weight of a projection, `[O, I]`, and how products read it.
#[derive(Clone, Debug)]
pub(crate) struct Weight {
    pub(crate) tensor: Tensor<2>,
    pub(crate) format: WeightFormat,
}

/// How products read a weight. The weight itself always consists of 32-bit floats.
#[derive(Clone, Debug, Default)]
pub(crate) enum WeightFormat {
    /// As it is.
    #[default]
    F32,
    /// From a copy in bfloat16 that is packed for the CPU's kernels.
    Packed(Arc<Panels>),
    /// Rounded to bfloat16 by burn, on other devices.
    Rounded,
}

impl WeightFormat {
    /// The type of the numbers that a product reads.
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Packed(_) | Self::Rounded => DType::BF16,
        }
    }

    /// Prepares a weight for products that read numbers of type `dtype`, either 32-bit floats or bfloat16. The
    /// memory of the previous format is used again if nothing else holds it.
    pub(crate) fn prepare(&mut self, weight: Tensor<2>, dtype: DType) {
        let previous = std::mem::take(self);
        if dtype == DType::F32 {
            return;
        }
        *self = match (host(&weight.inner()), Bf16Unit::detect()) {
            (Some(weight), Some(unit)) => {
                let [outputs, inner] = weight.layout().shape().dims();
                let mut panels = match previous {
                    Self::Packed(panels) => Arc::try_unwrap(panels).ok(),
                    _ => None,
                }
                .unwrap_or_else(|| Panels::empty(unit));
                panels.pack_rows(Source::f32(floats(&weight), outputs, inner, inner));
                Self::Packed(Arc::new(panels))
            }
            _ => Self::Rounded,
        };
    }
}

/// What a projection returns.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one per product, and it is moved once"
)]
pub(crate) enum ProjectionOutput {
    /// The projection, in the number type that products read.
    ForProducts,
    /// The projection, in 32-bit floats.
    Floats,
    /// The sum of the projection and the residual stream `[T, O]`, in 32-bit floats.
    AddedTo(Tensor<2>),
}

impl ProjectionOutput {
    /// This form of a result. `dtype` is the number type that products read.
    pub(crate) fn of(self, result: Tensor<2>, dtype: DType) -> Tensor<2> {
        match self {
            Self::ForProducts => result.cast(dtype),
            Self::Floats => result,
            Self::AddedTo(residual) => residual + result,
        }
    }
}

/// The product of every input row with a weight, plus a bias `[O]` if there is one.
///
/// # Shapes
/// - input `[T, I]`, output `[T, O]`
pub(crate) fn project(
    input: Tensor<2>,
    weight: &Weight,
    bias: Option<Tensor<1>>,
    form: ProjectionOutput,
) -> Tensor<2> {
    let dtype = match form {
        ProjectionOutput::ForProducts => weight.format.dtype(),
        ProjectionOutput::Floats | ProjectionOutput::AddedTo(_) => DType::F32,
    };
    if let WeightFormat::Packed(panels) = &weight.format {
        return project_packed(input, weight, panels, bias, (dtype, form));
    }
    let mut output = match weight.format {
        WeightFormat::F32 => project_floats(input, weight.tensor.clone()),
        _ => {
            let weight = weight.tensor.clone().cast(DType::BF16);
            input.cast(DType::BF16).matmul(weight.transpose())
        }
    }
    .cast(dtype);
    if let Some(bias) = bias {
        output = output + bias.unsqueeze().cast(dtype);
    }
    form.of(output, dtype)
}

/// The product of every input row with a weight, in 32-bit floats. The input may be bfloat16.
///
/// # Shapes
/// - input `[T, I]`, weight `[O, I]`, output `[T, O]`
pub(crate) fn project_floats(input: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let ([rows, inner], [outputs, _]) = (input.dims(), weight.dims());
    match (operand(&input), operand(&weight)) {
        (Some(x), Some(w)) => apply(Project { inner }, [x, w], [rows, outputs]),
        // burn multiplies numbers of one type only.
        _ => input.cast(DType::F32).matmul(weight.transpose()),
    }
}

/// The smallest number of multiplications for which the general matrix product is used. Below it, the
/// product would save little time, and it has a disadvantage: the order of its sums depends on the shape,
/// so a row's rounding depends on how many rows are computed together.
pub(super) const SMALL: usize = 1 << 21;

#[derive(Clone, Debug)]
struct Project {
    inner: usize,
}

impl HostOp<2> for Project {
    const SAVES: SavedTensors = SavedTensors::Inputs;

    fn forward(&self, inputs: [Values<'_>; 2]) -> Buffer {
        let [input, weight] = inputs.map(Values::widened);
        let (rows, outputs) = (input.len() / self.inner, weight.len() / self.inner);
        if rows <= MAX_ROWS || input.len() * outputs < SMALL {
            return Buffer::F32(project_few_rows(&input, &weight, self.inner));
        }
        let x = Matrix::new(&input, rows, self.inner, self.inner);
        let w = Matrix::new(&weight, outputs, self.inner, self.inner);
        Buffer::F32(product(x, w.t(), 1.0))
    }

    fn backward(
        &self,
        inputs: [Values<'_>; 2],
        _output: Values<'_>,
        upstream: Values<'_>,
        [needs_input, needs_weight]: [bool; 2],
    ) -> [Buffer; 2] {
        let [input, weight] = inputs;
        let [rows, outputs] = [input, weight].map(|values| values.len() / self.inner);
        let upstream = Matrix::new(f32::slice(upstream), rows, outputs, outputs);
        let gradient = |needed: bool, left, right: Values<'_>, rows| match needed {
            true => {
                let right = right.widened();
                let right = Matrix::new(&right, rows, self.inner, self.inner);
                Buffer::F32(product(left, right, 1.0))
            }
            false => Buffer::NONE,
        };
        [
            gradient(needs_input, upstream, weight, outputs),
            gradient(needs_weight, upstream.t(), input, rows),
        ]
    }
}

fn project_packed(
    input: Tensor<2>,
    weight: &Weight,
    panels: &Arc<Panels>,
    bias: Option<Tensor<1>>,
    (output, form): (DType, ProjectionOutput),
) -> Tensor<2> {
    let shape = [input.dims()[0], panels.columns()];
    let residual = match form {
        ProjectionOutput::AddedTo(residual) => Some(residual),
        ProjectionOutput::ForProducts | ProjectionOutput::Floats => None,
    };
    let (Some(x), Some(w)) = (operand(&input), operand(&weight.tensor)) else {
        unreachable!("weights are packed only on the CPU, where all tensors are floats")
    };
    let bias = bias.and_then(|bias| operand(&bias));
    let residual = residual.and_then(|residual| operand(&residual));
    let [bias, residual] = [bias, residual].map(|operand| operand.unwrap_or_else(Operand::absent));
    let op = ProjectPacked {
        panels: Arc::clone(panels),
        output,
    };
    apply(op, [x, w, bias, residual], shape)
}

/// A projection with packed weights. Its inputs are the rows, the weight, the bias and the residual stream; the
/// last two may be empty.
#[derive(Clone, Debug)]
struct ProjectPacked {
    panels: Arc<Panels>,
    output: DType,
}

impl HostOp<4> for ProjectPacked {
    const SAVES: SavedTensors = SavedTensors::Inputs;

    fn forward(&self, [input, _, bias, residual]: [Values<'_>; 4]) -> Buffer {
        let inner = self.panels.inner();
        let rows = input.len() / inner.max(1);
        let input = PairedRows::new(input.rounded(), rows, inner);
        let added = [bias, residual].map(f32::slice);
        match self.output {
            DType::BF16 => Buffer::Bf16(new_product(input.left(), &*self.panels, added)),
            _ => Buffer::F32(new_product(input.left(), &*self.panels, added)),
        }
    }

    fn backward(
        &self,
        [input, _, bias, residual]: [Values<'_>; 4],
        _output: Values<'_>,
        upstream: Values<'_>,
        [needs_input, needs_weight, needs_bias, needs_residual]: [bool; 4],
    ) -> [Buffer; 4] {
        let (inner, outputs) = (self.panels.inner(), self.panels.columns());
        let (unit, rows) = (self.panels.unit(), input.len() / inner.max(1));
        let gradient = upstream.rounded();
        let if_needed = |needed: bool, compute: &dyn Fn() -> Vec<f32>| match needed {
            true => Buffer::F32(compute()),
            false => Buffer::NONE,
        };
        let input_gradient = || {
            let gradient = PairedRows::new(Cow::Borrowed(&*gradient), rows, outputs);
            let weight = self.panels.transposed(0..outputs);
            new_product(gradient.left(), weight, [&[], &[]])
        };
        let weight_gradient = || {
            let gradient = Source::bf16(&gradient, rows, outputs, outputs);
            let input = input.rounded();
            let input = Panels::of_columns(unit, Source::bf16(&input, rows, inner, inner));
            new_product(
                TransposedRows::of(unit, gradient).left(),
                &input,
                [&[], &[]],
            )
        };
        let bias_gradient = || match upstream {
            Values::F32(upstream) => column_sums(upstream, outputs),
            Values::Bf16(upstream) => column_sums(upstream, outputs),
        };
        [
            if_needed(needs_input, &input_gradient),
            if_needed(needs_weight, &weight_gradient),
            if_needed(needs_bias && bias.len() > 0, &bias_gradient),
            if_needed(needs_residual && residual.len() > 0, &|| {
                f32::slice(upstream).to_vec()
            }),
        ]
    }
}

fn column_sums<T: Number>(values: &[T], columns: usize) -> Vec<f32> {
    let mut sums = vec![0.0; columns];
    for row in values.chunks_exact(columns) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value.widen();
        }
    }
    sums
}

/// Rows that are read in pairs: with a zero at the end of each if they are of odd length.
pub(super) struct PairedRows<'a> {
    values: Cow<'a, [bf16]>,
    rows: usize,
    stride: usize,
}

impl<'a> PairedRows<'a> {
    pub(super) fn new(values: Cow<'a, [bf16]>, rows: usize, columns: usize) -> Self {
        let stride = columns.next_multiple_of(2);
        let values = match stride == columns {
            true => values,
            false => {
                let mut padded = vec![bf16::ZERO; rows * stride];
                let pairs = padded
                    .chunks_exact_mut(stride)
                    .zip(values.chunks_exact(columns));
                pairs.for_each(|(padded, row)| padded[..columns].copy_from_slice(row));
                Cow::Owned(padded)
            }
        };
        Self {
            values,
            rows,
            stride,
        }
    }

    pub(super) fn left(&self) -> Left<'_> {
        Left::rows(&self.values, self.rows, self.stride, self.stride)
    }
}
