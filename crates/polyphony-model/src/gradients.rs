//! Gradients of all weights of a model.

use std::{collections::HashMap, ops::Add};

use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    tensor::{Device, Gradients, IndexingUpdateOp, Int, Tensor, TensorData},
};
use rayon::prelude::*;

use crate::kernels::{floats, host, vectorized};

/// One flat gradient per weight, in the order in which the model's weights are visited; `None` for a
/// weight that is frozen or that the loss does not depend on.
#[derive(Clone, Debug, Default)]
pub struct WeightGradients {
    /// Each gradient with the id of its weight, so that [`WeightGradients::join`] can reorder the parts.
    by_weight: Vec<(ParamId, Option<Tensor<1>>)>,
}

impl WeightGradients {
    /// Takes the gradients of a module's weights out of a finished backward pass.
    pub(crate) fn take<M: Module>(module: &M, grads: &mut Gradients) -> Self {
        struct Collector<'a> {
            grads: &'a mut Gradients,
            by_weight: Vec<(ParamId, Option<Tensor<1>>)>,
        }
        impl ModuleVisitor for Collector<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let gradient = param.base().grad_remove(self.grads);
                let flat = gradient.map(|g| g.flatten::<1>(0, D as isize - 1));
                self.by_weight.push((param.id, flat));
            }
        }
        let mut collector = Collector {
            grads,
            by_weight: Vec::new(),
        };
        module.visit(&mut collector);
        Self {
            by_weight: collector.by_weight,
        }
    }

    /// `None` for each weight of a module, for a loss that does not depend on the module.
    pub(crate) fn absent<M: Module>(module: &M) -> Self {
        let ids = weight_ids(module).into_iter();
        Self {
            by_weight: ids.map(|id| (id, None)).collect(),
        }
    }

    /// The gradients of several modules that together make up a whole, in the order in which the whole
    /// visits its weights.
    pub(crate) fn join<M: Module>(parts: impl IntoIterator<Item = Self>, whole: &M) -> Self {
        let parts = parts.into_iter().flat_map(|part| part.by_weight);
        let mut by_id: HashMap<ParamId, Option<Tensor<1>>> = parts.collect();
        let ids = weight_ids(whole).into_iter();
        Self {
            by_weight: ids.map(|id| (id, by_id.remove(&id).flatten())).collect(),
        }
    }

    /// Adds the gradients of token embeddings to the gradient of their table, row by row. This needs no
    /// second tensor as large as the table.
    ///
    /// # Shapes
    /// - ids `[T]`, rows `[T, D]`, table `[V, D]`
    pub(crate) fn add_embeddings(
        &mut self,
        table: &Param<Tensor<2>>,
        ids: Tensor<1, Int>,
        rows: Tensor<2>,
    ) {
        let shape = table.dims();
        let entry = self.by_weight.iter_mut().find(|(id, _)| *id == table.id);
        if let Some((_, table_gradient)) = entry {
            let sum = match table_gradient.take() {
                Some(gradient) => gradient.reshape(shape),
                None => Tensor::zeros(shape, (&rows.device(), rows.dtype())),
            };
            // `inner` takes the indices off the autodiff device; otherwise the sum would be recorded as well.
            let sum = sum.select_assign(0, ids.inner(), rows, IndexingUpdateOp::Add);
            *table_gradient = Some(sum.flatten(0, 1));
        }
    }

    /// Whether this is the default value, which lists no weights.
    pub fn is_empty(&self) -> bool {
        self.by_weight.is_empty()
    }

    /// The Euclidean norm over all weights together.
    pub fn norm(&self) -> f64 {
        let gradients = self.by_weight.iter().flat_map(|(_, gradient)| gradient);
        let squares = gradients.map(sum_of_squares);
        squares.sum::<f64>().sqrt()
    }

    /// For each weight of a module, whether it has a gradient.
    pub(crate) fn present<M: Module>(&self, module: &M) -> Vec<bool> {
        let count = weight_sizes(module).len();
        let gradients = self.by_weight.iter();
        let present = gradients.map(|(_, gradient)| gradient.is_some());
        present
            .chain(std::iter::repeat(false))
            .take(count)
            .collect()
    }

    /// Changes the values of the gradients of those weights of a module that are `wanted`; a gradient that is
    /// missing starts with zeros. The others stay as they are.
    pub(crate) fn try_map<M: Module, E>(
        self,
        (module, device): (&M, &Device),
        wanted: &[bool],
        mut change: impl FnMut(&mut [f32]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let by_weight = match self.is_empty() {
            true => Self::absent(module).by_weight,
            false => self.by_weight,
        };
        let weights = by_weight.into_iter().zip(weight_sizes(module)).zip(wanted);
        let changed = weights.map(|(((id, gradient), size), wanted)| {
            if !wanted {
                return Ok((id, gradient));
            }
            let mut values = match gradient {
                Some(gradient) => gradient.into_data().iter::<f32>().collect(),
                None => vec![0.0; size],
            };
            change(&mut values)?;
            let data = TensorData::new(values, [size]);
            Ok((id, Some(Tensor::from_data(data, device))))
        });
        Ok(Self {
            by_weight: changed.collect::<Result<_, E>>()?,
        })
    }

    /// One gradient per weight.
    pub fn into_vec(self) -> Vec<Option<Tensor<1>>> {
        let gradients = self.by_weight.into_iter();
        gradients.map(|(_, gradient)| gradient).collect()
    }
}

/// The ids of a module's weights, in the order in which they are visited.
fn weight_ids<M: Module>(module: &M) -> Vec<ParamId> {
    struct Collector(Vec<ParamId>);
    impl ModuleVisitor for Collector {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.id);
        }
    }
    let mut collector = Collector(Vec::new());
    module.visit(&mut collector);
    collector.0
}

/// The number of values of each of a module's weights, in the order in which they are visited.
fn weight_sizes<M: Module>(module: &M) -> Vec<usize> {
    struct Collector(Vec<usize>);
    impl ModuleVisitor for Collector {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.val().shape().num_elements());
        }
    }
    let mut collector = Collector(Vec::new());
    module.visit(&mut collector);
    collector.0
}

/// Number of values whose squares one thread sums up. The partial sums are added in their order, so
/// that the total does not depend on the number of threads.
const CHUNK: usize = 1 << 16;

/// The sum of a gradient's squared values. On the CPU the gradient is not copied: it may be as large as the
/// embedding table.
fn sum_of_squares(gradient: &Tensor<1>) -> f64 {
    let Some(host) = host(gradient) else {
        return gradient.clone().square().sum().into_scalar::<f32>().into();
    };
    let chunks = floats(&host).par_chunks(CHUNK);
    let sums = chunks.map(|chunk| {
        vectorized(
            #[inline(always)]
            || {
                // 16 sums, so that a vector unit can compute them in parallel.
                let mut sums = [0.0f64; 16];
                let (blocks, rest) = chunk.as_chunks::<16>();
                for block in blocks {
                    for (sum, value) in sums.iter_mut().zip(block) {
                        *sum += f64::from(*value) * f64::from(*value);
                    }
                }
                for (sum, value) in sums.iter_mut().zip(rest) {
                    *sum += f64::from(*value) * f64::from(*value);
                }
                sums.iter().sum::<f64>()
            },
        )
    });
    sums.collect::<Vec<f64>>().into_iter().sum()
}

/// Gradients of the sum of two objectives.
impl Add for WeightGradients {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        // The default is the sum of no gradients, and lists no weights.
        match (self.is_empty(), other.is_empty()) {
            (true, _) => return other,
            (_, true) => return self,
            (false, false) => {}
        }
        let pairs = self.by_weight.into_iter().zip(other.by_weight);
        let by_weight = pairs
            .map(|((id, left), (_, right))| match (left, right) {
                (Some(a), Some(b)) => (id, Some(a + b)),
                (a, b) => (id, a.or(b)),
            })
            .collect();
        Self { by_weight }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module whose table is not its first weight.
    #[derive(Module, Debug)]
    struct TableLast {
        norm: Param<Tensor<1>>,
        table: Param<Tensor<2>>,
    }

    fn table_last() -> TableLast {
        let device = Device::flex();
        TableLast {
            norm: Param::from_tensor(Tensor::ones([2], &device)),
            table: Param::from_tensor(Tensor::ones([3, 2], &device)),
        }
    }

    #[test]
    fn missing_gradients_that_are_wanted_start_with_zeros() {
        let module = table_last();
        let device = Device::flex();
        let add = |amount: f32| {
            move |values: &mut [f32]| {
                values.iter_mut().for_each(|value| *value += amount);
                Ok::<_, ()>(())
            }
        };
        let values = |gradients: &WeightGradients| -> Vec<Option<Vec<f32>>> {
            let gradients = gradients.clone().into_vec().into_iter();
            let floats = |gradient: Tensor<1>| gradient.into_data().iter::<f32>().collect();
            gradients.map(|gradient| gradient.map(floats)).collect()
        };
        let none = WeightGradients::default();
        assert_eq!(none.present(&module), [false, false]);
        let one = none
            .try_map((&module, &device), &[false, true], add(2.0))
            .unwrap();
        assert_eq!(one.present(&module), [false, true]);
        assert_eq!(values(&one), [None, Some(vec![2.0; 6])]);
        let both = one
            .try_map((&module, &device), &[true, true], add(1.0))
            .unwrap();
        assert_eq!(values(&both), [Some(vec![1.0; 2]), Some(vec![3.0; 6])]);
        let failed = both.try_map((&module, &device), &[true, true], |_| Err("lost"));
        assert_eq!(failed.unwrap_err(), "lost");
    }

    #[test]
    fn embeddings_are_added_to_their_table_wherever_it_is_visited() {
        let (module, device) = (table_last(), Device::flex());
        let mut gradients = WeightGradients::absent(&module);
        let ids = Tensor::from_data(TensorData::new(vec![2i64, 0, 2], [3]), &device);
        let rows = Tensor::from_data([[1.0f32, 2.0], [3.0, 4.0], [5.0, 6.0]], &device);
        gradients.add_embeddings(&module.table, ids, rows);
        let [norm, table] = gradients.into_vec().try_into().unwrap();
        assert!(norm.is_none());
        let table: Vec<f32> = table.unwrap().into_data().try_into_vec().unwrap();
        assert_eq!(table, [3.0, 4.0, 0.0, 0.0, 6.0, 8.0]);
    }

    #[test]
    fn parts_are_joined_in_the_order_of_the_whole() {
        let (module, device) = (table_last(), Device::flex());
        let part = |id, value: f32| WeightGradients {
            by_weight: vec![(id, Some(Tensor::full([1], value, &device)))],
        };
        let parts = [part(module.table.id, 7.0), part(module.norm.id, 5.0)];
        let joined = WeightGradients::join(parts, &module).into_vec();
        let values = joined
            .into_iter()
            .map(|gradient| gradient.unwrap().into_scalar::<f32>());
        assert_eq!(values.collect::<Vec<_>>(), [5.0, 7.0]);
    }
}
