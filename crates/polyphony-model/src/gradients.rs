//! Gradients of all weights of a model.

use std::ops::Add;

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Gradients as Tape, IndexingUpdateOp, Int, Tensor},
};
use rayon::prelude::*;

use crate::kernels::{host, values};

/// One flat gradient a weight, in the order in which the model's weights are visited; `None` for a
/// weight that is frozen or that the loss does not depend on.
#[derive(Clone, Debug, Default)]
pub struct WeightGradients {
    by_weight: Vec<Option<Tensor<1>>>,
}

impl WeightGradients {
    /// Takes the gradients of a module's weights out of a finished backward pass.
    pub(crate) fn take<M: Module>(module: &M, tape: &mut Tape) -> Self {
        struct Collector<'a> {
            tape: &'a mut Tape,
            by_weight: Vec<Option<Tensor<1>>>,
        }
        impl ModuleVisitor for Collector<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let gradient = param.base().grad_remove(self.tape);
                self.by_weight
                    .push(gradient.map(|g| g.flatten::<1>(0, D as isize - 1)));
            }
        }
        let mut collector = Collector {
            tape,
            by_weight: Vec::new(),
        };
        module.visit(&mut collector);
        Self {
            by_weight: collector.by_weight,
        }
    }

    /// The gradients of a module that the loss does not depend on.
    pub(crate) fn absent<M: Module>(module: &M) -> Self {
        struct Counter(Vec<Option<Tensor<1>>>);
        impl ModuleVisitor for Counter {
            fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {
                self.0.push(None);
            }
        }
        let mut counter = Counter(Vec::new());
        module.visit(&mut counter);
        Self {
            by_weight: counter.0,
        }
    }

    /// The gradients of several modules, in the order in which their weights are visited.
    pub(crate) fn join(parts: impl IntoIterator<Item = Self>) -> Self {
        let parts = parts.into_iter().flat_map(|part| part.by_weight);
        Self {
            by_weight: parts.collect(),
        }
    }

    /// Adds the gradients of tokens' embeddings to that of the table, which is the first weight:
    /// row by row, without a table of their own.
    ///
    /// # Shapes
    /// - ids `[T]`, rows `[T, D]`, the table `[V, D]`
    pub(crate) fn add_embeddings(
        &mut self,
        [vocabulary, width]: [usize; 2],
        ids: Tensor<1, Int>,
        rows: Tensor<2>,
    ) {
        let shape = [vocabulary, width];
        if let Some(first) = self.by_weight.first_mut() {
            let table = match first.take() {
                Some(table) => table.reshape(shape),
                None => Tensor::zeros(shape, (&rows.device(), rows.dtype())),
            };
            // Indices on a recording device would make a recorded tensor of the sum.
            let table = table.select_assign(0, ids.inner(), rows, IndexingUpdateOp::Add);
            *first = Some(table.flatten(0, 1));
        }
    }

    /// Whether nothing was ever differentiated.
    pub fn is_empty(&self) -> bool {
        self.by_weight.is_empty()
    }

    /// The Euclidean norm over all weights together.
    pub fn norm(&self) -> f64 {
        let squares = self.by_weight.iter().flatten().map(sum_of_squares);
        squares.sum::<f64>().sqrt()
    }

    /// One gradient a weight.
    pub fn into_vec(self) -> Vec<Option<Tensor<1>>> {
        self.by_weight
    }
}

/// Values whose squares a thread sums up. The sums are added in their order, so that the total does
/// not depend on the number of threads.
const CHUNK: usize = 1 << 16;

/// On the CPU without a copy of the gradient, which may be as large as the table of embeddings.
fn sum_of_squares(gradient: &Tensor<1>) -> f64 {
    let Some(host) = host(gradient) else {
        return gradient.clone().square().sum().into_scalar::<f32>().into();
    };
    let chunks = values(&host).par_chunks(CHUNK);
    let sums = chunks.map(|chunk| chunk.iter().map(|&value| f64::from(value).powi(2)).sum());
    sums.collect::<Vec<f64>>().into_iter().sum()
}

/// Gradients of the sum of two objectives.
impl Add for WeightGradients {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        // The default is the gradient of nothing, for no weights.
        match (self.is_empty(), other.is_empty()) {
            (true, _) => return other,
            (_, true) => return self,
            (false, false) => {}
        }
        let pairs = self.by_weight.into_iter().zip(other.by_weight);
        let by_weight = pairs
            .map(|pair| match pair {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            })
            .collect();
        Self { by_weight }
    }
}
