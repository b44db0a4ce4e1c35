//! CPU tensors as slices, and differentiable operations on them.
//!
//! Each of burn's CPU operations reads and writes whole tensors on one core. Where a training step
//! would spend its time in such passes, a [`HostOp`] does several of them at once on all cores. On
//! other devices the callers use burn's operations.

use std::{fmt::Debug, marker::PhantomData};

use burn::{
    backend::{
        Autodiff, AutodiffBackend, Flex,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::NoCheckpointing},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        tensor::FloatTensor,
    },
    tensor::{DType, Shape, Tensor, TensorData},
};

/// A float tensor in host memory.
pub(crate) type HostTensor = FloatTensor<Flex>;

type Tracked = FloatTensor<Autodiff<Flex>>;

/// The tensor in row-major order, if it is on the CPU, consists of 32-bit floats and is not recorded
/// for differentiation.
pub(crate) fn host<const D: usize>(tensor: &Tensor<D>) -> Option<HostTensor> {
    let tensor = tensor.clone().try_into_primitive::<Flex>().ok()?;
    (tensor.dtype() == DType::F32).then(|| tensor.to_contiguous())
}

/// The values of a tensor from [`host`].
pub(crate) fn values(tensor: &HostTensor) -> &[f32] {
    let values = tensor.as_slice::<f32>();
    values.unwrap_or_else(|| unreachable!("`host` made it contiguous floats"))
}

/// The same tensor laid out in row-major order, so that [`host`] need not copy it again. Tensors on
/// other devices are returned as they are.
pub(crate) fn contiguous<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match host(&tensor) {
        Some(host) => Tensor::from_primitive::<Flex>(host),
        None => tensor,
    }
}

/// A function of `N` tensors with its gradient, on slices in row-major order.
pub(crate) trait HostOp<const N: usize>: Clone + Debug + Send + 'static {
    /// What [`HostOp::backward`] needs besides the gradient of the output. Everything else is not saved, so
    /// `backward` receives empty slices for it.
    const SAVES: SavedTensors;

    /// The output's values.
    fn forward(&self, inputs: [&[f32]; N]) -> Vec<f32>;

    /// The gradient of each input, given the gradient of the output, `upstream`. The gradient of an
    /// input that does not need one may be left empty.
    fn backward(
        &self,
        inputs: [&[f32]; N],
        output: &[f32],
        upstream: &[f32],
        needs_gradient: [bool; N],
    ) -> [Vec<f32>; N];
}

/// What a [`HostOp`] saves for its backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SavedTensors {
    Nothing,
    Inputs,
    InputsAndOutput,
}

/// An input of a [`HostOp`].
pub(crate) enum Operand {
    Plain(HostTensor),
    Tracked(Tracked),
}

/// The operand for a tensor; `None` unless the tensor consists of 32-bit floats on the CPU.
pub(crate) fn operand<const D: usize>(tensor: &Tensor<D>) -> Option<Operand> {
    if let Some(plain) = host(tensor) {
        return Some(Operand::Plain(plain));
    }
    let tracked = tensor.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    (tracked.primitive().dtype() == DType::F32).then_some(Operand::Tracked(tracked))
}

impl Operand {
    fn tracked(self) -> Tracked {
        match self {
            Self::Plain(tensor) => Autodiff::<Flex>::from_inner(tensor),
            Self::Tracked(tensor) => tensor,
        }
    }
}

/// Runs an operation whose output has the given shape. It is recorded for differentiation if any of
/// its inputs is.
pub(crate) fn apply<O: HostOp<N>, const N: usize, const D: usize>(
    op: O,
    operands: [Operand; N],
    shape: [usize; D],
) -> Tensor<D> {
    let run = |inputs: &[HostTensor; N]| {
        let output = op.forward(inputs.each_ref().map(values));
        HostTensor::from_data(TensorData::new(output, shape))
    };
    if operands
        .iter()
        .all(|operand| matches!(operand, Operand::Plain(_)))
    {
        let inputs = operands.map(|operand| match operand {
            Operand::Plain(tensor) => tensor,
            Operand::Tracked(tensor) => tensor.into_primitive(),
        });
        return Tensor::from_primitive::<Flex>(run(&inputs));
    }
    let tracked = operands.map(Operand::tracked);
    let inputs = tracked
        .each_ref()
        .map(|tensor| tensor.primitive().to_contiguous());
    let output = run(&inputs);
    let prepared = OpGradient(PhantomData)
        .prepare::<NoCheckpointing>(tracked.each_ref().map(Tracked::node))
        .compute_bound()
        .stateful();
    let output = match prepared {
        OpsKind::Tracked(prepared) => {
            let saved = Saved {
                op: op.clone(),
                shapes: inputs
                    .each_ref()
                    .map(|input| input.layout().shape().clone()),
                inputs: (O::SAVES != SavedTensors::Nothing).then_some(inputs),
                output: (O::SAVES == SavedTensors::InputsAndOutput).then(|| output.clone()),
            };
            prepared.finish(saved, output)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(output)
}

/// The backward pass of a [`HostOp`].
#[derive(Debug)]
struct OpGradient<O>(PhantomData<O>);

#[derive(Clone, Debug)]
struct Saved<O, const N: usize> {
    op: O,
    /// The shape of each input.
    shapes: [Shape; N],
    inputs: Option<[HostTensor; N]>,
    output: Option<HostTensor>,
}

impl<O: HostOp<N>, const N: usize> Backward<Flex, N> for OpGradient<O> {
    type State = Saved<O, N>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = grads.consume::<Flex>(&ops.node).to_contiguous();
        let Saved {
            op,
            shapes,
            inputs,
            output,
        } = ops.state;
        let gradients = op.backward(
            inputs
                .as_ref()
                .map_or([&[][..]; N], |inputs| inputs.each_ref().map(values)),
            output.as_ref().map_or(&[], values),
            values(&upstream),
            ops.parents.each_ref().map(Option::is_some),
        );
        for ((parent, shape), gradient) in ops.parents.into_iter().zip(shapes).zip(gradients) {
            if let Some(parent) = parent {
                let data = TensorData::new(gradient, shape);
                grads.register::<Flex>(parent.id, HostTensor::from_data(data));
            }
        }
    }
}
