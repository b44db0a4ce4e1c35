//! Weights from files onto a device, and back.

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Device, Tensor, TensorData},
};

use crate::{ModelError, Weights, scoring::to_host};

/// Reads tensors from an opened model onto a device.
pub(crate) struct WeightReader<'a> {
    pub(crate) weights: &'a Weights,
    pub(crate) device: &'a Device,
}

impl WeightReader<'_> {
    /// A matrix of the given shape.
    pub(crate) fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Tensor<2>, ModelError> {
        let values = self.weights.read(name, &shape)?;
        Ok(Tensor::from_data(TensorData::new(values, shape), self.device))
    }

    /// A vector of the given length.
    pub(crate) fn vector(&self, name: &str, length: usize) -> Result<Tensor<1>, ModelError> {
        let values = self.weights.read(name, &[length])?;
        Ok(Tensor::from_data(TensorData::new(values, [length]), self.device))
    }
}

/// One weight in host memory, under its Hugging Face name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// The name, such as `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// The size of each axis.
    pub shape: Vec<usize>,
    /// The values in row-major order.
    pub values: Vec<f32>,
}

/// All weights of a network, copied to host memory, in the network's order.
pub(crate) fn named_tensors<M: Module>(network: &M) -> Vec<NamedTensor> {
    #[derive(Default)]
    struct Collector {
        path: Vec<String>,
        tensors: Vec<NamedTensor>,
    }
    impl ModuleVisitor for Collector {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            self.tensors.push(NamedTensor {
                name: self.path.join("."),
                shape: tensor.dims().to_vec(),
                values: to_host(tensor),
            });
        }
    }
    let mut collector = Collector::default();
    network.visit(&mut collector);
    collector.tensors
}
