//! Differentiable operations on the tensors of one backend, which compute their own gradients.

use std::{fmt::Debug, marker::PhantomData};

use burn::{
    backend::{
        Autodiff, AutodiffBackend, Backend, DispatchKindConversion, DispatchTensor, Flex,
        TensorMetadata,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::NoCheckpointing},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        tensor::FloatTensor,
    },
    tensor::{DType, Shape, Tensor},
};

type Tracked<B> = FloatTensor<Autodiff<B>>;

/// A backend with operations of our own.
pub(crate) trait Kernels: Backend {
    /// The same tensor in row-major order.
    fn contiguous(tensor: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Kernels for Flex {
    fn contiguous(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        tensor.to_contiguous()
    }
}

/// A function of `N` tensors in row-major order, with its gradient.
pub(crate) trait Op<B: Kernels, const N: usize>: Clone + Debug + Send + 'static {
    /// What [`Op::backward`] needs besides the gradient of the output.
    type Saved: Clone + Debug + Send;

    /// The output, which has this shape.
    fn forward(&self, inputs: [&FloatTensor<B>; N], shape: Shape) -> (FloatTensor<B>, Self::Saved);

    /// The gradient of each input that needs one, given the shapes of the inputs and the gradient of the output,
    /// `upstream`.
    fn backward(
        &self,
        saved: Self::Saved,
        shapes: [&Shape; N],
        upstream: FloatTensor<B>,
        needs_gradient: [bool; N],
    ) -> [Option<FloatTensor<B>>; N];
}

/// An input of an operation.
pub(crate) enum Operand<B: Kernels> {
    Plain(FloatTensor<B>),
    Tracked(Tracked<B>),
}

impl<B: Kernels> Operand<B> {
    /// The operand for a tensor; `None` if the tensor is on another backend.
    pub(crate) fn of<const D: usize>(tensor: &Tensor<D>) -> Option<Self>
    where
        DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>>,
    {
        if let Ok(plain) = tensor.clone().try_into_primitive::<B>() {
            return Some(Self::Plain(B::contiguous(plain)));
        }
        let tracked = tensor.clone().try_into_primitive::<Autodiff<B>>().ok()?;
        Some(Self::Tracked(tracked))
    }

    /// The type of its numbers.
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Plain(tensor) => tensor.dtype(),
            Self::Tracked(tensor) => tensor.primitive().dtype(),
        }
    }

    fn tracked(self) -> Tracked<B> {
        match self {
            Self::Plain(tensor) => Autodiff::<B>::from_inner(tensor),
            Self::Tracked(tensor) => tensor,
        }
    }
}

/// Runs an operation whose output has the given shape. It is recorded for differentiation if any of its inputs is.
pub(crate) fn apply<B: Kernels, O: Op<B, N>, const N: usize, const D: usize>(
    op: O,
    operands: [Operand<B>; N],
    shape: [usize; D],
) -> Tensor<D>
where
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>>,
{
    let run = |inputs: &[FloatTensor<B>; N]| op.forward(inputs.each_ref(), shape.into());
    if operands
        .iter()
        .all(|operand| matches!(operand, Operand::Plain(_)))
    {
        let inputs = operands.map(|operand| match operand {
            Operand::Plain(tensor) => tensor,
            Operand::Tracked(tensor) => tensor.into_primitive(),
        });
        return Tensor::from_primitive::<B>(run(&inputs).0);
    }
    let tracked = operands.map(Operand::tracked);
    let inputs = tracked
        .each_ref()
        .map(|tensor| B::contiguous(tensor.primitive().clone()));
    let (output, saved) = run(&inputs);
    let prepared = OpGradient(PhantomData)
        .prepare::<NoCheckpointing>(tracked.each_ref().map(Tracked::<B>::node))
        .compute_bound()
        .stateful();
    let output = match prepared {
        OpsKind::Tracked(prepared) => {
            let shapes = inputs.each_ref().map(TensorMetadata::shape);
            let op = op.clone();
            prepared.finish(State { op, shapes, saved }, output)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    };
    Tensor::from_primitive::<Autodiff<B>>(output)
}

/// The backward pass of an operation.
#[derive(Debug)]
struct OpGradient<B, O>(PhantomData<(B, O)>);

#[derive(Clone, Debug)]
struct State<O, S, const N: usize> {
    op: O,
    /// The shape of each input.
    shapes: [Shape; N],
    saved: S,
}

impl<B: Kernels, O: Op<B, N>, const N: usize> Backward<B, N> for OpGradient<B, O> {
    type State = State<O, O::Saved, N>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = B::contiguous(grads.consume::<B>(&ops.node));
        let State { op, shapes, saved } = ops.state;
        let needs_gradient = ops.parents.each_ref().map(Option::is_some);
        let gradients = op.backward(saved, shapes.each_ref(), upstream, needs_gradient);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}
