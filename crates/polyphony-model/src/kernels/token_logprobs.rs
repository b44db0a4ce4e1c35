//! Token log-probabilities from hidden states, without ever holding all logits.
//!
//! `ℓ_t = z_t[y_t] − log Σ_v exp z_t[v]` with `z_t = W h_t / temperature`. A vocabulary of 50,000
//! makes `z` the largest tensor of a training step, so it is made chunk by chunk, forgotten, and
//! made again in the backward pass: `∂ℓ_t/∂z_t = onehot(y_t) − softmax(z_t)`.

use burn::{
    backend::{
        Autodiff, Backend, Dispatch, Flex, TensorMetadata,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        backend_extension,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{IndexingUpdateOp, Int, Slice, Tensor},
};

/// Logits held at once, in numbers: 64 MiB of 32-bit floats.
const CHUNK_LOGITS: usize = 1 << 24;

/// The natural log-probability of each target token, differentiable in hidden states and head.
///
/// # Shapes
/// `N` positions, `D` hidden size, `V` vocabulary:
/// - hidden `[N, D]`, head `[V, D]`, targets `[N]`, output `[N]`
pub(crate) fn token_logprobs(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: Tensor<1, Int>,
    temperature: f32,
) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as TokenLogprobs>::token_logprobs(
        hidden.into_dispatch(),
        head.into_dispatch(),
        targets.into_dispatch(),
        temperature,
    ))
}

#[backend_extension(Flex, Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")), Autodiff)]
pub(crate) trait TokenLogprobs: Backend {
    fn token_logprobs(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f32,
    ) -> FloatTensor<Self> {
        let chunks = chunks::<Self>(&hidden, &head).map(|rows| {
            let hidden = rows_of::<Self>(&hidden, rows);
            let targets = Self::int_slice(targets.clone(), &[rows]);
            let n = hidden.shape()[0];
            let logits = logits::<Self>(hidden, &head, temperature);
            let normalizer = log_sum_exp::<Self>(&logits);
            let targets = Self::int_reshape(targets, [n, 1].into());
            let chosen = Self::float_gather(1, logits, targets);
            Self::float_reshape(Self::float_sub(chosen, normalizer), [n].into())
        });
        Self::float_cat(chunks.collect(), 0)
    }
}

impl TokenLogprobs for Flex {}

#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl TokenLogprobs for burn::backend::cubecl::CubeBackend {}

impl<B: TokenLogprobs, C: CheckpointStrategy> TokenLogprobs for Autodiff<B, C> {
    fn token_logprobs(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f32,
    ) -> FloatTensor<Self> {
        match Gradient
            .prepare::<C>([hidden.node(), head.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (hidden, head) = (hidden.into_primitive(), head.into_primitive());
                let output =
                    B::token_logprobs(hidden.clone(), head.clone(), targets.clone(), temperature);
                prep.finish(
                    Saved {
                        hidden,
                        head,
                        targets,
                        temperature,
                    },
                    output,
                )
            }
            OpsKind::UnTracked(prep) => prep.finish(B::token_logprobs(
                hidden.into_primitive(),
                head.into_primitive(),
                targets,
                temperature,
            )),
        }
    }
}

#[derive(Debug)]
struct Gradient;

#[derive(Clone, Debug)]
struct Saved<B: Backend> {
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    targets: IntTensor<B>,
    temperature: f32,
}

impl<B: TokenLogprobs> Backward<B, 2> for Gradient {
    type State = Saved<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [hidden_node, head_node] = ops.parents;
        let upstream = grads.consume::<B>(&ops.node);
        let Saved {
            hidden,
            head,
            targets,
            temperature,
        } = ops.state;
        let mut hidden_grads = Vec::new();
        let mut head_grad: Option<FloatTensor<B>> = None;
        for rows in chunks::<B>(&hidden, &head) {
            let hidden = rows_of::<B>(&hidden, rows);
            let n = hidden.shape()[0];
            let targets = B::int_reshape(B::int_slice(targets.clone(), &[rows]), [n, 1].into());
            let upstream = B::float_slice(upstream.clone(), &[rows]);
            let upstream = B::float_mul_scalar(
                B::float_reshape(upstream, [n, 1].into()),
                (1.0 / temperature).into(),
            );
            let logits = logits::<B>(hidden.clone(), &head, temperature);
            let normalizer = log_sum_exp::<B>(&logits);
            let probabilities = B::float_exp(B::float_sub(logits, normalizer));
            let logits_grad = B::float_scatter(
                1,
                B::float_mul(probabilities, B::float_neg(upstream.clone())),
                targets,
                upstream,
                IndexingUpdateOp::Add,
            );
            if head_node.is_some() {
                let grad = B::float_matmul(B::float_transpose(logits_grad.clone()), hidden);
                head_grad = Some(match head_grad {
                    Some(sum) => B::float_add(sum, grad),
                    None => grad,
                });
            }
            if hidden_node.is_some() {
                hidden_grads.push(B::float_matmul(logits_grad, head.clone()));
            }
        }
        if let Some(node) = hidden_node {
            grads.register::<B>(node.id, B::float_cat(hidden_grads, 0));
        }
        if let (Some(node), Some(grad)) = (head_node, head_grad) {
            grads.register::<B>(node.id, grad);
        }
    }
}

/// Ranges of rows whose logits fit into a chunk.
fn chunks<B: Backend>(
    hidden: &FloatTensor<B>,
    head: &FloatTensor<B>,
) -> impl Iterator<Item = Slice> + use<B> {
    let (rows, vocabulary) = (hidden.shape()[0], head.shape()[0]);
    let step = (CHUNK_LOGITS / vocabulary).max(1);
    (0..rows)
        .step_by(step)
        .map(move |start| Slice::from(start..(start + step).min(rows)))
}

fn rows_of<B: Backend>(tensor: &FloatTensor<B>, rows: Slice) -> FloatTensor<B> {
    B::float_slice(tensor.clone(), &[rows])
}

fn logits<B: Backend>(
    hidden: FloatTensor<B>,
    head: &FloatTensor<B>,
    temperature: f32,
) -> FloatTensor<B> {
    let logits = B::float_matmul(hidden, B::float_transpose(head.clone()));
    B::float_mul_scalar(logits, (1.0 / temperature).into())
}

fn log_sum_exp<B: Backend>(logits: &FloatTensor<B>) -> FloatTensor<B> {
    let max = B::float_max_dim(logits.clone(), 1);
    let sum = B::float_sum_dim(B::float_exp(B::float_sub(logits.clone(), max.clone())), 1);
    B::float_add(max, B::float_log(sum))
}
