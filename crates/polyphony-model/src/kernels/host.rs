//! CPU tensors as slices, and differentiable operations on them.
//!
//! Each of burn's CPU operations reads and writes whole tensors on one core. Where a training step
//! would spend its time in such passes, a [`HostOp`] does several of them at once on all cores. On
//! other devices the callers use burn's operations.

use std::{borrow::Cow, fmt::Debug};

use burn::{
    backend::{Flex, tensor::FloatTensor},
    tensor::{DType, Shape, Tensor, TensorData},
};
use half::bf16;

use super::{differentiable::Op, for_each_chunk, vectorized};

pub(crate) use super::differentiable::{Operand, apply};

/// A float tensor in host memory.
pub(crate) type HostTensor = FloatTensor<Flex>;

/// The values of a tensor in row-major order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// New values for a tensor, in row-major order.
#[derive(Debug)]
pub(crate) enum Buffer {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

/// A type of numbers that the kernels read and write. They always compute with 32-bit floats.
pub(crate) trait Number: Copy + Debug + Default + Send + Sync + 'static {
    fn widen(self) -> f32;

    /// The nearest number of this type.
    fn round(value: f32) -> Self;

    /// The numbers of a row as 32-bit floats, in the row itself or in a buffer of the same length.
    fn floats<'a>(row: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32];

    /// The slice of values that have this type.
    fn slice(values: Values<'_>) -> &[Self];

    fn buffer(values: Vec<Self>) -> Buffer;
}

impl Number for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn round(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn floats<'a>(row: &'a [Self], _buffer: &'a mut [f32]) -> &'a [f32] {
        row
    }

    fn slice(values: Values<'_>) -> &[Self] {
        match values {
            Values::F32(values) => values,
            Values::Bf16(_) => unreachable!("the caller has checked the type"),
        }
    }

    fn buffer(values: Vec<Self>) -> Buffer {
        Buffer::F32(values)
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        super::bf16::widen(self)
    }

    #[inline(always)]
    fn round(value: f32) -> Self {
        super::bf16::round(value)
    }

    #[inline(always)]
    fn floats<'a>(row: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32] {
        for (slot, value) in buffer.iter_mut().zip(row) {
            *slot = value.widen();
        }
        buffer
    }

    fn slice(values: Values<'_>) -> &[Self] {
        match values {
            Values::Bf16(values) => values,
            Values::F32(_) => unreachable!("the caller has checked the type"),
        }
    }

    fn buffer(values: Vec<Self>) -> Buffer {
        Buffer::Bf16(values)
    }
}

impl<'a> Values<'a> {
    /// The values in bfloat16, rounded unless they have this type already.
    pub(crate) fn rounded(self) -> Cow<'a, [bf16]> {
        match self {
            Self::Bf16(values) => Cow::Borrowed(values),
            Self::F32(values) => {
                let mut rounded = vec![bf16::ZERO; values.len()];
                for_each_chunk(&mut rounded, CHUNK, |index, rounded| {
                    super::bf16::round_all(&values[index * CHUNK..], rounded);
                });
                Cow::Owned(rounded)
            }
        }
    }

    /// The values in 32-bit floats.
    pub(crate) fn widened(self) -> Cow<'a, [f32]> {
        match self {
            Self::F32(values) => Cow::Borrowed(values),
            Self::Bf16(values) => {
                let mut widened = vec![0.0; values.len()];
                for_each_chunk(&mut widened, CHUNK, |index, widened| {
                    vectorized(
                        #[inline(always)]
                        || {
                            bf16::floats(&values[index * CHUNK..], widened);
                        },
                    );
                });
                Cow::Owned(widened)
            }
        }
    }

    pub(crate) fn len(self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }
}

/// Values that a thread takes at once.
const CHUNK: usize = 1 << 14;

impl Buffer {
    /// The gradient of an input that does not need one.
    pub(crate) const NONE: Self = Self::F32(Vec::new());

    fn tensor(self, shape: impl Into<Shape>) -> HostTensor {
        HostTensor::from_data(match self {
            Self::F32(values) => TensorData::new(values, shape),
            Self::Bf16(values) => TensorData::new(values, shape),
        })
    }
}

/// The tensor in row-major order, if it is on the CPU, consists of floats of 32 bits or bfloat16, and is not
/// recorded for differentiation.
pub(crate) fn host<const D: usize>(tensor: &Tensor<D>) -> Option<HostTensor> {
    let tensor = tensor.clone().try_into_primitive::<Flex>().ok()?;
    is_known(tensor.dtype()).then(|| tensor.to_contiguous())
}

fn is_known(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::BF16)
}

/// The values of a tensor from [`host`].
pub(crate) fn values(tensor: &HostTensor) -> Values<'_> {
    let values = match tensor.dtype() {
        DType::BF16 => tensor.as_slice::<bf16>().map(Values::Bf16),
        _ => tensor.as_slice::<f32>().map(Values::F32),
    };
    values.unwrap_or_else(|| unreachable!("`host` made it contiguous floats"))
}

/// The values of a tensor of 32-bit floats from [`host`].
pub(crate) fn floats(tensor: &HostTensor) -> &[f32] {
    f32::slice(values(tensor))
}

/// The same tensor laid out in row-major order, so that [`host`] need not copy it again. Tensors on
/// other devices are returned as they are.
pub(crate) fn contiguous<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match host(&tensor) {
        Some(host) => Tensor::from_primitive::<Flex>(host),
        None => tensor,
    }
}

/// Which tensors a [`HostOp`] saves for its backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SavedTensors {
    Nothing,
    Inputs,
    InputsAndOutput,
}

/// The tensors that [`SavedTensors`] names.
#[derive(Clone, Debug)]
pub(crate) struct Saved<const N: usize> {
    inputs: Option<[HostTensor; N]>,
    output: Option<HostTensor>,
}

/// A function of `N` tensors with its gradient, on slices in row-major order.
pub(crate) trait HostOp<const N: usize>: Clone + Debug + Send + 'static {
    /// What [`HostOp::backward`] needs besides the gradient of the output. Everything else is not saved, so
    /// `backward` receives empty slices for it.
    const SAVES: SavedTensors;

    /// The output's values.
    fn forward(&self, inputs: [Values<'_>; N]) -> Buffer;

    /// The gradient of each input, given the gradient of the output, `upstream`. The gradient of an
    /// input that does not need one may be left out.
    fn backward(
        &self,
        inputs: [Values<'_>; N],
        output: Values<'_>,
        upstream: Values<'_>,
        needs_gradient: [bool; N],
    ) -> [Buffer; N];
}

impl<O: HostOp<N>, const N: usize> Op<Flex, N> for O {
    type Saved = Saved<N>;

    fn forward(&self, inputs: [&HostTensor; N], shape: Shape) -> (HostTensor, Saved<N>) {
        let output = HostOp::forward(self, inputs.map(values)).tensor(shape);
        let saved = Saved {
            inputs: (O::SAVES != SavedTensors::Nothing).then(|| inputs.map(HostTensor::clone)),
            output: (O::SAVES == SavedTensors::InputsAndOutput).then(|| output.clone()),
        };
        (output, saved)
    }

    fn backward(
        &self,
        saved: Saved<N>,
        shapes: [&Shape; N],
        upstream: HostTensor,
        needs_gradient: [bool; N],
    ) -> [Option<HostTensor>; N] {
        const NOT_SAVED: Values<'_> = Values::F32(&[]);
        let inputs = match &saved.inputs {
            Some(inputs) => inputs.each_ref().map(values),
            None => [NOT_SAVED; N],
        };
        let output = saved.output.as_ref().map_or(NOT_SAVED, values);
        let gradients = HostOp::backward(self, inputs, output, values(&upstream), needs_gradient);
        let mut index = 0..N;
        gradients.map(|gradient| {
            let index = index.next()?;
            needs_gradient[index].then(|| gradient.tensor(shapes[index].clone()))
        })
    }
}

impl Operand<Flex> {
    /// An operand without values, for an input that an operation can do without.
    pub(crate) fn absent() -> Self {
        Self::Plain(Buffer::NONE.tensor([0]))
    }
}

/// The operand for a tensor; `None` unless the tensor is on the CPU and of a type that [`host`] accepts.
pub(crate) fn operand<const D: usize>(tensor: &Tensor<D>) -> Option<Operand<Flex>> {
    Operand::of(tensor).filter(|operand| is_known(operand.dtype()))
}
