//! Reading weights from files onto a device, and listing them by name.

use std::cell::RefCell;

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Device, Tensor, TensorData},
};

use super::layers::{Linear, RmsNorm};
use crate::{ModelConfig, ModelError, TensorSpec, Weights};

/// Reads tensors of an opened model onto a device, and records their names.
pub(crate) struct WeightReader<'a> {
    weights: &'a Weights,
    device: &'a Device,
    requested: RefCell<Vec<String>>,
}

impl<'a> WeightReader<'a> {
    pub(crate) fn new(weights: &'a Weights, device: &'a Device) -> Self {
        Self {
            weights,
            device,
            requested: RefCell::default(),
        }
    }

    /// A matrix of the given shape.
    pub(crate) fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Tensor<2>, ModelError> {
        self.read(name, shape)
    }

    /// A projection without bias. Shape `[O, I]`: `O` outputs, `I` inputs.
    pub(crate) fn linear(&self, path: &str, shape: [usize; 2]) -> Result<Linear, ModelError> {
        Ok(Linear::new(
            self.read(&format!("{path}.weight"), shape)?,
            None,
        ))
    }

    /// A projection with bias.
    pub(crate) fn biased_linear(
        &self,
        path: &str,
        shape: [usize; 2],
    ) -> Result<Linear, ModelError> {
        let bias = self.read(&format!("{path}.bias"), [shape[0]])?;
        Ok(Linear::new(
            self.read(&format!("{path}.weight"), shape)?,
            Some(bias),
        ))
    }

    /// A normalization over rows of `size`.
    pub(crate) fn norm(
        &self,
        path: &str,
        size: usize,
        config: &ModelConfig,
    ) -> Result<RmsNorm, ModelError> {
        let weight = self.read(&format!("{path}.weight"), [size])?;
        Ok(RmsNorm::new(weight, config.norm_epsilon))
    }

    /// A missing tensor is read as an empty one; [`WeightReader::finish`] then lists all missing names.
    fn read<const D: usize>(&self, name: &str, shape: [usize; D]) -> Result<Tensor<D>, ModelError> {
        self.requested.borrow_mut().push(name.to_owned());
        if !self.weights.contains(name) {
            return Ok(Tensor::empty([0; D], self.device));
        }
        let values = self.weights.read(name, &shape)?;
        Ok(Tensor::from_data(
            TensorData::new(values, shape),
            self.device,
        ))
    }

    /// Compares the requested names with those in the file.
    ///
    /// # Errors
    /// If tensors are missing, or were not requested; the error lists all of them.
    pub(crate) fn finish(self) -> Result<(), ModelError> {
        self.weights
            .check_names(self.requested.borrow().iter().map(String::as_str))
    }
}

/// All weights of a network, each flat, under their Hugging Face names and in the network's order.
pub(crate) fn named_weights<M: Module>(network: &M) -> Vec<(TensorSpec, Tensor<1>)> {
    #[derive(Default)]
    struct Collector {
        path: Vec<String>,
        weights: Vec<(TensorSpec, Tensor<1>)>,
    }
    impl ModuleVisitor for Collector {
        // The enum variant of the architecture is not part of a weight's name.
        fn enter_module(&mut self, name: &str, container: &str) {
            if !container.starts_with("Enum:") {
                self.path.push(name.to_owned());
            }
        }
        fn exit_module(&mut self, _name: &str, container: &str) {
            if !container.starts_with("Enum:") {
                self.path.pop();
            }
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let spec = TensorSpec {
                name: self.path.join("."),
                shape: tensor.dims().to_vec(),
            };
            self.weights.push((spec, tensor.flatten(0, D as isize - 1)));
        }
    }
    let mut collector = Collector::default();
    network.visit(&mut collector);
    collector.weights
}
