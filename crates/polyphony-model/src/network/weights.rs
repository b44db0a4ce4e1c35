//! Reading weights from files onto a device, and listing them by name.

use std::cell::RefCell;

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Device, Tensor, TensorData},
};

use super::layers::{Linear, RmsNorm};
use crate::{ModelConfig, ModelError, TensorSpec, Weights, config::LayerTensor};

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

    /// A projection. Shape `[O, I]`: `O` outputs, `I` inputs.
    pub(crate) fn linear(
        &self,
        path: &str,
        shape: [usize; 2],
        has_bias: bool,
    ) -> Result<Linear, ModelError> {
        let bias = has_bias.then(|| self.read(&format!("{path}.bias"), [shape[0]]));
        Ok(Linear::new(
            self.read(&format!("{path}.weight"), shape)?,
            bias.transpose()?,
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
        let offset = config.parts.norm_offset;
        Ok(RmsNorm::new(weight, config.norm_epsilon, offset))
    }

    /// A missing tensor is read as an empty one; [`WeightReader::finish`] then lists all missing names.
    fn read<const D: usize>(&self, name: &str, shape: [usize; D]) -> Result<Tensor<D>, ModelError> {
        self.requested.borrow_mut().push(name.to_owned());
        if !self.weights.contains(name) {
            return Ok(Tensor::empty([0; D], self.device));
        }
        let values = TensorData::new(self.weights.read(name, &shape)?, shape);
        let tensor = Tensor::from_data(values, self.device);
        // Kernels read weights without gaps, and would copy each weight at each use.
        #[cfg(feature = "cube")]
        let tensor = crate::kernels::cube::without_gaps(tensor);
        Ok(tensor)
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

/// Reads the tensors of one layer, with the shapes that the configuration lists for them.
pub(crate) struct LayerReader<'a> {
    reader: &'a WeightReader<'a>,
    config: &'a ModelConfig,
    tensors: &'a [LayerTensor],
    index: usize,
}

impl<'a> LayerReader<'a> {
    /// `tensors` are the [weights of a layer](ModelConfig::layer_tensors).
    pub(crate) fn new(
        reader: &'a WeightReader<'a>,
        config: &'a ModelConfig,
        tensors: &'a [LayerTensor],
        index: usize,
    ) -> Self {
        Self {
            reader,
            config,
            tensors,
            index,
        }
    }

    /// The index of the layer.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The configuration of the network.
    pub(crate) fn config(&self) -> &ModelConfig {
        self.config
    }

    /// A projection, with a bias if the layer has one.
    pub(crate) fn linear(&self, name: &str) -> Result<Linear, ModelError> {
        let Some([outputs, inputs]) = self.shape(name, "weight") else {
            unreachable!("every layer has the projection {name}");
        };
        let has_bias = self.shape::<1>(name, "bias").is_some();
        let path = format!("model.layers.{}.{name}", self.index);
        self.reader.linear(&path, [outputs, inputs], has_bias)
    }

    /// A normalization that every layer has.
    pub(crate) fn norm(&self, name: &str) -> Result<RmsNorm, ModelError> {
        match self.optional_norm(name)? {
            Some(norm) => Ok(norm),
            None => unreachable!("every layer has the normalization {name}"),
        }
    }

    /// A normalization, if the layer has it.
    pub(crate) fn optional_norm(&self, name: &str) -> Result<Option<RmsNorm>, ModelError> {
        let Some([size]) = self.shape(name, "weight") else {
            return Ok(None);
        };
        let path = format!("model.layers.{}.{name}", self.index);
        self.reader.norm(&path, size, self.config).map(Some)
    }

    /// The shape of a module's tensor; `None` if the layer does not have it.
    fn shape<const D: usize>(&self, module: &str, tensor: &str) -> Option<[usize; D]> {
        let is_named = |known: &&LayerTensor| {
            let (known_module, known_tensor) = known.name.rsplit_once('.').unwrap_or_default();
            known_tensor == tensor
                && match known_module.split_once("{}") {
                    None => known_module == module,
                    Some((before, after)) => module.starts_with(before) && module.ends_with(after),
                }
        };
        let tensor = self.tensors.iter().find(is_named)?;
        let shape = tensor.shape.as_slice().try_into();
        Some(shape.unwrap_or_else(|_| unreachable!("{module}.{} has {D} dimensions", tensor.name)))
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
        // A variant of an enum is not part of a weight's name.
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
