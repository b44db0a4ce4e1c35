//! Token log-probabilities from hidden states, without ever holding all logits.
//!
//! `ℓ_t = z_t[y_t] − log Σ_v exp z_t[v]` with `z_t = W h_t / temperature`. With a vocabulary of 50,000
//! `z` would be the largest tensor of a training step. It is therefore computed chunk by chunk,
//! dropped, and recomputed in the backward pass: `∂ℓ_t/∂z_t = onehot(y_t) − softmax(z_t)`.

use std::sync::Arc;

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
    tensor::{DType, IndexingUpdateOp, Int, Slice, Tensor, TensorData},
};
use rayon::prelude::*;

use super::{
    bf16_logprobs::Bf16Logprobs,
    exp::{exp, log_sum_exp as row_log_sum_exp},
    host::{HostTensor, apply, floats, operand},
    matrix::{Cores, Matrix, MatrixMut, Store, multiply, product},
    project::{Weight, WeightFormat},
    vectorized,
};

/// The number of logits held at once: 64 MiB of 32-bit floats.
pub(crate) const CHUNK_LOGITS: usize = 1 << 24;

/// The natural log-probability of each target token, differentiable with respect to hidden states and
/// head. At most `chunk_logits` logits are held at once, but at least those of one position.
///
/// # Shapes
/// `N` positions, `D` hidden size, `V` vocabulary:
/// - hidden `[N, D]`, head `[V, D]`, targets `[N]`, output `[N]`
pub(crate) fn token_logprobs(
    hidden: Tensor<2>,
    head: &Weight,
    targets: Tensor<1, Int>,
    temperature: f32,
    chunk_logits: usize,
) -> Tensor<1> {
    let (hidden, head) = match &head.format {
        WeightFormat::F32 => (hidden, head.tensor.clone()),
        WeightFormat::Packed(panels) => {
            let op = Bf16Logprobs {
                panels: Arc::clone(panels),
                targets: targets
                    .into_data()
                    .iter::<i64>()
                    .map(|id| id as usize)
                    .collect(),
                temperature,
            };
            return packed_logprobs(op, hidden, head);
        }
        // Rounded numbers whose products are 32-bit floats.
        WeightFormat::Rounded => {
            let round = |tensor: Tensor<2>| tensor.cast(DType::BF16).cast(DType::F32);
            (round(hidden), round(head.tensor.clone()))
        }
    };
    Tensor::from_dispatch(<Dispatch as TokenLogprobs>::token_logprobs(
        hidden.into_dispatch(),
        head.into_dispatch(),
        targets.into_dispatch(),
        temperature,
        chunk_logits,
    ))
}

fn packed_logprobs(op: Bf16Logprobs, hidden: Tensor<2>, head: &Weight) -> Tensor<1> {
    let count = hidden.dims()[0];
    let (Some(hidden), Some(head)) = (operand(&hidden), operand(&head.tensor)) else {
        unreachable!("weights are packed only on the CPU, where all tensors are floats")
    };
    let output: Tensor<2> = apply(op, [hidden, head], [2, count]);
    output.slice(0..1).reshape([count])
}

#[backend_extension(Flex, Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")), Autodiff)]
pub(crate) trait TokenLogprobs: Backend {
    fn token_logprobs(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f32,
        chunk_logits: usize,
    ) -> FloatTensor<Self> {
        let chunks = chunks::<Self>(&hidden, &head, chunk_logits).map(|rows| {
            let targets = Self::int_slice(targets.clone(), &[rows]);
            let hidden = Self::float_slice(hidden.clone(), &[rows]);
            Self::target_logprobs(Self::logits(hidden, &head, temperature), targets)
        });
        Self::float_cat(chunks.collect(), 0)
    }

    /// The logits `[n, V]` of hidden states `[n, D]`, divided by the temperature.
    fn logits(
        hidden: FloatTensor<Self>,
        head: &FloatTensor<Self>,
        temperature: f32,
    ) -> FloatTensor<Self> {
        let logits = Self::float_matmul(hidden, Self::float_transpose(head.clone()));
        match temperature {
            1.0 => logits,
            _ => Self::float_mul_scalar(logits, (1.0 / temperature).into()),
        }
    }

    /// The log-probability of each row's target, from logits `[n, V]`.
    fn target_logprobs(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self> {
        let n = logits.shape()[0];
        let normalizer = log_sum_exp::<Self>(&logits);
        let targets = Self::int_reshape(targets, [n, 1].into());
        let target_logits = Self::float_gather(1, logits, targets);
        Self::float_reshape(Self::float_sub(target_logits, normalizer), [n].into())
    }

    /// The gradient of the logits `[n, V]`, given that of each row's log-probability `[n]`.
    fn logits_gradient(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        upstream: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let n = logits.shape()[0];
        let targets = Self::int_reshape(targets, [n, 1].into());
        let upstream = Self::float_reshape(upstream, [n, 1].into());
        let normalizer = log_sum_exp::<Self>(&logits);
        let probabilities = Self::float_exp(Self::float_sub(logits, normalizer));
        Self::float_scatter(
            1,
            Self::float_mul(probabilities, Self::float_neg(upstream.clone())),
            targets,
            upstream,
            IndexingUpdateOp::Add,
        )
    }

    /// The gradient of hidden states `[n, D]`, given that of their logits `[n, V]`.
    fn hidden_gradient(logits: FloatTensor<Self>, head: &FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(logits, head.clone())
    }

    /// A zero gradient of the head `[V, D]`, to which the gradients of the chunks are added.
    fn zero_head_gradient(head: &FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_zeros(head.shape(), &head.device(), head.dtype().into())
    }

    /// Adds a chunk's gradient of the head to the sum `[V, D]`, given the gradient of its logits
    /// `[n, V]` and its hidden states `[n, D]`.
    fn add_head_gradient(
        sum: FloatTensor<Self>,
        logits: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let chunk = Self::float_matmul(Self::float_transpose(logits), hidden);
        Self::float_add(sum, chunk)
    }
}

/// Faster than burn's operations: one pass over each row instead of six over the whole chunk, one
/// tensor for the gradient of the head instead of three, and no copies. burn's operations would write
/// every tensor of zeros and every product twice.
impl TokenLogprobs for Flex {
    fn logits(
        hidden: FloatTensor<Self>,
        head: &FloatTensor<Self>,
        temperature: f32,
    ) -> FloatTensor<Self> {
        let (rows, vocabulary) = (hidden.shape()[0], head.shape()[0]);
        let (hidden, head) = (hidden.to_contiguous(), head.to_contiguous());
        let logits = product(matrix(&hidden), matrix(&head).t(), 1.0 / temperature);
        HostTensor::from_data(TensorData::new(logits, [rows, vocabulary]))
    }

    fn hidden_gradient(logits: FloatTensor<Self>, head: &FloatTensor<Self>) -> FloatTensor<Self> {
        let (rows, width) = (logits.shape()[0], head.shape()[1]);
        let (logits, head) = (logits.to_contiguous(), head.to_contiguous());
        let gradient = product(matrix(&logits), matrix(&head), 1.0);
        HostTensor::from_data(TensorData::new(gradient, [rows, width]))
    }

    fn zero_head_gradient(head: &FloatTensor<Self>) -> FloatTensor<Self> {
        let shape = head.shape();
        HostTensor::from_data(TensorData::new(vec![0.0f32; shape.num_elements()], shape))
    }

    fn target_logprobs(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self> {
        let (n, vocabulary) = (logits.shape()[0], logits.shape()[1]);
        let logits = logits.to_contiguous();
        let targets = ids(targets);
        let rows = floats(&logits).par_chunks_exact(vocabulary).zip(targets);
        let logprobs = rows.map(|(row, target)| row[target] - row_log_sum_exp(row));
        HostTensor::from_data(TensorData::new(logprobs.collect::<Vec<f32>>(), [n]))
    }

    fn add_head_gradient(
        mut sum: FloatTensor<Self>,
        logits: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let [vocabulary, width] = sum.shape().dims();
        multiply(
            MatrixMut::new(sum.storage_mut::<f32>(), vocabulary, width, width),
            Store::Add,
            1.0,
            matrix(&logits.to_contiguous()).t(),
            matrix(&hidden.to_contiguous()),
            Cores::All,
        );
        sum
    }

    fn logits_gradient(
        mut logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        upstream: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let vocabulary = logits.shape()[1];
        let upstream = upstream.to_contiguous();
        let targets = ids(targets);
        let rows = logits.storage_mut::<f32>().par_chunks_exact_mut(vocabulary);
        rows.zip(targets)
            .zip(floats(&upstream))
            .for_each(|((row, target), upstream)| {
                let normalizer = row_log_sum_exp(row);
                vectorized(
                    #[inline(always)]
                    || {
                        row.iter_mut()
                            .for_each(|logit| *logit = -upstream * exp(*logit - normalizer))
                    },
                );
                row[target] += upstream;
            });
        logits
    }
}

/// The matrix in a contiguous tensor.
fn matrix(tensor: &HostTensor) -> Matrix<'_> {
    let [rows, columns] = tensor.shape().dims();
    Matrix::new(floats(tensor), rows, columns, columns)
}

/// Token ids as indices in host memory.
fn ids(targets: IntTensor<Flex>) -> Vec<usize> {
    targets
        .into_data()
        .iter::<i64>()
        .map(|id| id as usize)
        .collect()
}

impl<B: TokenLogprobs, C: CheckpointStrategy> TokenLogprobs for Autodiff<B, C> {
    fn token_logprobs(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f32,
        chunk_logits: usize,
    ) -> FloatTensor<Self> {
        match Gradient
            .prepare::<C>([hidden.node(), head.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (hidden, head) = (hidden.into_primitive(), head.into_primitive());
                let output = B::token_logprobs(
                    hidden.clone(),
                    head.clone(),
                    targets.clone(),
                    temperature,
                    chunk_logits,
                );
                prep.finish(
                    Saved {
                        hidden,
                        head,
                        targets,
                        temperature,
                        chunk_logits,
                    },
                    output,
                )
            }
            OpsKind::UnTracked(prep) => prep.finish(B::token_logprobs(
                hidden.into_primitive(),
                head.into_primitive(),
                targets,
                temperature,
                chunk_logits,
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
    chunk_logits: usize,
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
            chunk_logits,
        } = ops.state;
        let mut hidden_grads = Vec::new();
        let mut head_grad = head_node.as_ref().map(|_| B::zero_head_gradient(&head));
        for rows in chunks::<B>(&hidden, &head, chunk_logits) {
            let targets = B::int_slice(targets.clone(), &[rows]);
            let upstream = B::float_slice(upstream.clone(), &[rows]);
            let upstream = B::float_mul_scalar(upstream, (1.0 / temperature).into());
            let hidden = B::float_slice(hidden.clone(), &[rows]);
            let logits = B::logits(hidden.clone(), &head, temperature);
            let logits_grad = B::logits_gradient(logits, targets, upstream);
            head_grad = head_grad.map(|sum| B::add_head_gradient(sum, logits_grad.clone(), hidden));
            if hidden_node.is_some() {
                hidden_grads.push(B::hidden_gradient(logits_grad, &head));
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
    chunk_logits: usize,
) -> impl Iterator<Item = Slice> + use<B> {
    let (rows, vocabulary) = (hidden.shape()[0], head.shape()[0]);
    let step = (chunk_logits / vocabulary).max(1);
    (0..rows)
        .step_by(step)
        .map(move |start| Slice::from(start..(start + step).min(rows)))
}

fn log_sum_exp<B: Backend>(logits: &FloatTensor<B>) -> FloatTensor<B> {
    let max = B::float_max_dim(logits.clone(), 1);
    let sum = B::float_sum_dim(B::float_exp(B::float_sub(logits.clone(), max.clone())), 1);
    B::float_add(max, B::float_log(sum))
}
