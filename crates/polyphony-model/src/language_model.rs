//! The model that callers work with: a network and its configuration, on a device.

use std::{collections::HashMap, path::Path};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Device, Gradients, Tensor, TensorData},
};

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

#[cfg(feature = "cube")]
use crate::network::DecodeWeights;
use crate::{
    Adapter, LoraConfig, ModelAssets, ModelConfig, ModelError, ModelFiles, Precision, TensorSpec,
    WeightGradients,
    files::{adapter::factor_names, save_adapter},
    kernels::Weight,
    network::{
        Attention, Decoder, LayerInputs, LoraAdapter, WeightReader, named_weights, rope::Rotations,
    },
    save,
    transfer::{to_host, token_tensor},
};

/// A causal language model.
///
/// Its operations are not recorded for differentiation. [`LanguageModel::trainable`] returns a view
/// of the same weights that records them.
#[derive(Clone, Debug)]
pub struct LanguageModel {
    config: ModelConfig,
    network: Decoder,
    lora: Option<LoraConfig>,
    precision: Precision,
}

impl LanguageModel {
    /// Reads a model's weights onto a device.
    ///
    /// From then on, all threads of the process give their work for a GPU to one stream of it.
    ///
    /// # Errors
    /// If tensors are missing, unexpected or of a wrong shape; the error names them.
    pub fn load(files: &ModelFiles, device: &Device) -> Result<Self, ModelError> {
        #[cfg(feature = "cube")]
        crate::kernels::cube::use_one_stream();
        let reader = WeightReader::new(&files.weights, device);
        let network = Decoder::load(&files.config, &reader)?;
        reader.finish()?;
        let model = Self {
            config: files.config.clone(),
            network,
            lora: None,
            precision: Precision::F32,
        };
        match &files.adapter {
            Some(adapter) => model.with_adapter(adapter, device),
            None => Ok(model),
        }
    }

    /// For each weight, in the order in which weights are visited, whether it has one of these gradients.
    pub fn has_gradients(&self, gradients: &WeightGradients) -> Vec<bool> {
        gradients.present(&self.network)
    }

    /// Changes the values of the gradients of those weights that are `wanted`, in the order in which weights are visited;
    /// a gradient that is missing starts with zeros. The others stay as they are.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn try_map_gradients<E>(
        &self,
        gradients: WeightGradients,
        wanted: &[bool],
        change: impl FnMut(&mut [f32]) -> Result<(), E>,
    ) -> Result<WeightGradients, E> {
        gradients.try_map((&self.network, &self.device()), wanted, change)
    }

    /// The model with adapters from files; its other weights are frozen.
    fn with_adapter(self, adapter: &Adapter, device: &Device) -> Result<Self, ModelError> {
        let lora = &adapter.config;
        let reader = WeightReader::new(&adapter.weights, device);
        let model = self.attach_adapters(lora, |path, [outputs, inputs]| {
            let [a, b] = factor_names(path);
            Ok(LoraAdapter::new(
                reader.matrix(&a, [lora.rank, inputs])?,
                reader.matrix(&b, [outputs, lora.rank])?,
                lora.scale(),
            ))
        })?;
        reader.finish()?;
        Ok(model)
    }

    /// Freezes the weights and adds new adapters, which are trained instead. The adapters start
    /// without effect on the model. `seed` and `rng_stream` determine their random initial weights.
    ///
    /// # Errors
    /// If a setting is out of range, or the model already has adapters.
    pub fn with_lora(
        self,
        lora: &LoraConfig,
        seed: u64,
        rng_stream: u32,
    ) -> Result<Self, ModelError> {
        lora.validate()?;
        if self.lora.is_some() {
            return Err(ModelError::AdaptersAttached);
        }
        let device = self.device();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(rng_stream.into());
        self.attach_adapters(lora, |_, shape| {
            Ok(lora.initial_adapter(shape, &mut random, &device))
        })
    }

    /// Freezes the weights and attaches an adapter to every projection that `lora` targets. `make`
    /// receives the path of a projection and the shape `[O, I]` of its weight.
    fn attach_adapters(
        self,
        lora: &LoraConfig,
        mut make: impl FnMut(&str, [usize; 2]) -> Result<LoraAdapter, ModelError>,
    ) -> Result<Self, ModelError> {
        let mut network = self.network.no_grad();
        for (path, projection, linear) in network.projections() {
            if lora.targets.contains(&projection) {
                linear.attach(make(&path, linear.weight().dims())?);
            }
        }
        Ok(Self {
            network,
            lora: Some(lora.clone()),
            ..self
        })
    }

    /// The configuration of the adapters, if the model has any.
    pub fn lora(&self) -> Option<&LoraConfig> {
        self.lora.as_ref()
    }

    /// Merges the adapters into the weights and makes all weights trainable again. A model without
    /// adapters is returned unchanged.
    #[must_use]
    pub fn merged(self) -> Self {
        if self.lora.is_none() {
            return self;
        }
        let mut network = self.network;
        for (_, _, linear) in network.projections() {
            linear.merge();
        }
        let mut network = network.unfreeze();
        network.prepare(self.precision);
        Self {
            network,
            lora: None,
            ..self
        }
    }

    /// The sizes and constants of the network.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The device that holds the weights.
    pub fn device(&self) -> Device {
        self.network.device()
    }

    /// The same model with products of the given precision.
    ///
    /// # Errors
    /// If the device does not compute with this precision; the error says what is missing.
    pub fn with_precision(mut self, precision: Precision) -> Result<Self, ModelError> {
        precision.check(&self.device())?;
        self.precision = precision;
        self.network.prepare(precision);
        Ok(self)
    }

    /// The precision of its products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// A view of the same weights whose operations are recorded for differentiation. It shares
    /// memory with the original until one of them changes.
    #[must_use]
    pub fn trainable(&self) -> Self {
        Self {
            network: self.network.clone().train(),
            ..self.clone()
        }
    }

    /// Takes the gradients from `grads` after a backward pass of this [trainable](Self::trainable)
    /// model. The backward pass stops at `embedded`, the embeddings that were looked up for `ids`. This
    /// method then scatter-adds the gradient of each row to the gradient of the embedding table.
    pub(crate) fn take_gradients(
        &self,
        grads: &mut Gradients,
        ids: &[u32],
        embedded: &Tensor<2>,
    ) -> WeightGradients {
        let mut gradients = WeightGradients::take(&self.network, grads);
        if let Some(rows) = embedded.grad_remove(grads) {
            let ids = token_tensor(ids, &self.device());
            self.network
                .add_embedding_gradients(&mut gradients, ids, rows);
        }
        gradients
    }

    /// Visits every weight. Its path in the module is its Hugging Face name.
    pub fn visit_weights(&self, visitor: &mut impl ModuleVisitor) {
        self.network.visit(visitor);
    }

    /// Replaces every weight by what `mapper` returns for it. `mapper` can change a weight in place,
    /// unless another model shares it.
    pub fn map_weights(&mut self, mapper: &mut impl ModuleMapper) {
        self.map(mapper);
        self.network.prepare(self.precision);
    }

    /// As [`LanguageModel::map_weights`], for a mapper that changes only trainable weights. It visits all weights.
    pub fn map_trainable(&mut self, mapper: &mut impl ModuleMapper) {
        self.map(mapper);
        self.prepare_trainable();
    }

    fn map(&mut self, mapper: &mut impl ModuleMapper) {
        let placeholder = Decoder::placeholder(&self.device());
        let network = std::mem::replace(&mut self.network, placeholder);
        self.network = network.map(mapper);
    }

    /// Prepares the trainable weights that products read in another form than their own. Adapters have only one
    /// form.
    fn prepare_trainable(&mut self) {
        if self.lora.is_none() {
            self.network.prepare(self.precision);
        }
    }

    /// All weights, each flat, under their Hugging Face names.
    pub fn named_weights(&self) -> Vec<(TensorSpec, Tensor<1>)> {
        named_weights(&self.network)
    }

    /// The trainable weights, each flat, under their names: those of the adapters, or all weights of a
    /// model without adapters.
    pub fn trainable_weights(&self) -> Vec<(TensorSpec, Tensor<1>)> {
        let mut weights = self.named_weights();
        weights.retain(|(spec, _)| self.is_trained(&spec.name));
        weights
    }

    fn is_trained(&self, weight: &str) -> bool {
        self.lora.is_none() || adapter_tensor_name(weight).is_some()
    }

    /// Replaces the values of every trainable weight by those that `read` returns for it.
    ///
    /// # Errors
    /// If `read` fails; the weights are then unchanged.
    ///
    /// # Panics
    /// If `read` returns too few or too many values for a weight.
    pub fn replace_trainable(
        &mut self,
        read: impl FnMut(&TensorSpec) -> Result<Vec<f32>, ModelError>,
    ) -> Result<(), ModelError> {
        struct Replacer<R> {
            /// For each weight in visiting order its specification, or `None` to skip it.
            specs: std::vec::IntoIter<Option<TensorSpec>>,
            read: R,
            error: Option<ModelError>,
        }
        impl<R> ModuleMapper for Replacer<R>
        where
            R: FnMut(&TensorSpec) -> Result<Vec<f32>, ModelError>,
        {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let (Some(spec), None) = (self.specs.next().flatten(), &self.error) else {
                    return param;
                };
                match (self.read)(&spec) {
                    Ok(values) => param.map(|weight| {
                        let values = TensorData::new(values, weight.shape());
                        Tensor::from_data(values, &weight.device())
                    }),
                    Err(error) => {
                        self.error = Some(error);
                        param
                    }
                }
            }
        }
        let specs = self.named_weights().into_iter();
        let specs = specs.map(|(spec, _)| self.is_trained(&spec.name).then_some(spec));
        let mut replacer = Replacer {
            specs: specs.collect::<Vec<_>>().into_iter(),
            read,
            error: None,
        };
        let network = self.network.clone().map(&mut replacer);
        if let Some(error) = replacer.error {
            return Err(error);
        }
        self.network = network;
        self.prepare_trainable();
        Ok(())
    }

    /// Saves the model as the new Hugging Face directory `target`, which PyTorch transformers
    /// loads unchanged. If the model has adapters, only they are saved, as a directory that PEFT
    /// loads. `assets` are the files beside the weights (configuration, tokenizer, chat template): the
    /// [`ModelFiles::assets`] that this model was loaded with.
    ///
    /// # Errors
    /// If `target` exists or cannot be written; nothing is then left behind.
    pub fn save(&self, target: &Path, assets: &ModelAssets) -> Result<(), ModelError> {
        let mut weights = self.trainable_weights();
        if self.lora.is_some() {
            let adapters = weights.into_iter().filter_map(|(spec, weight)| {
                let name = adapter_tensor_name(&spec.name)?;
                Some((TensorSpec { name, ..spec }, weight))
            });
            weights = adapters.collect();
        }
        let (specs, weights): (Vec<_>, Vec<_>) = weights.into_iter().unzip();
        let indices: HashMap<&str, usize> = specs
            .iter()
            .enumerate()
            .map(|(index, spec)| (spec.name.as_str(), index))
            .collect();
        let values = |spec: &TensorSpec| Ok(to_host(weights[indices[spec.name.as_str()]].clone()));
        match &self.lora {
            Some(lora) => save_adapter(target, assets, lora, &specs, values),
            None => save(target, assets, &specs, values),
        }
    }

    /// The hidden states that the output head reads: after the last layer and the last norm.
    ///
    /// # Shapes
    /// - ids and positions `T` long, output `[T, D]` with `D` the hidden size
    pub(crate) fn hidden(
        &self,
        ids: &[u32],
        positions: &[usize],
        attention: &mut impl Attention,
    ) -> Tensor<2> {
        self.hidden_from(self.embed(ids), positions, attention)
    }

    /// The embeddings of tokens, `[T, D]`.
    pub(crate) fn embed(&self, ids: &[u32]) -> Tensor<2> {
        self.network.embed(token_tensor(ids, &self.device()))
    }

    /// As [`LanguageModel::hidden`], from the tokens' embeddings, `[T, D]`.
    pub(crate) fn hidden_from(
        &self,
        embedded: Tensor<2>,
        positions: &[usize],
        attention: &mut impl Attention,
    ) -> Tensor<2> {
        let rotations = self.rotations(positions);
        self.network.forward(embedded, &rotations, attention)
    }

    /// As [`LanguageModel::hidden`], but stores the input of each layer, and stops before the last
    /// normalization.
    pub(crate) fn layer_inputs(
        &self,
        ids: &[u32],
        positions: &[usize],
        attention: &mut impl Attention,
    ) -> LayerInputs {
        let ids = token_tensor(ids, &self.device());
        let rotations = self.rotations(positions);
        self.network.layer_inputs(ids, &rotations, attention)
    }

    /// The last normalization, `[T, D]` to `[T, D]`.
    pub(crate) fn normalize(&self, last: Tensor<2>) -> Tensor<2> {
        self.network.normalize(last)
    }

    /// The gradients of an objective with respect to the trainable weights, from the inputs that
    /// [`LanguageModel::layer_inputs`] stored. `objective` receives hidden states, `[T, D]`, and the
    /// head, `[V, D]`.
    pub(crate) fn gradients(
        &self,
        ids: &[u32],
        positions: &[usize],
        inputs: LayerInputs,
        attention: &mut impl Attention,
        objective: impl FnOnce(Tensor<2>, &Weight) -> Tensor<1>,
    ) -> WeightGradients {
        let ids = token_tensor(ids, &self.device());
        let rotations = self.rotations(positions);
        self.network
            .gradients(ids, inputs, &rotations, attention, objective)
    }

    fn rotations(&self, positions: &[usize]) -> Rotations {
        Rotations::new(positions, &self.config, &self.device())
    }

    /// The output head, `[V, D]`.
    pub(crate) fn head(&self) -> Weight {
        self.network.head()
    }

    /// The weights as the decoding kernels of a GPU read them; `None` on the CPU.
    #[cfg(feature = "cube")]
    pub(crate) fn decode_weights(&self) -> Option<DecodeWeights> {
        DecodeWeights::of(&self.network, self.precision)
    }

    /// The same model with its first layers only.
    #[cfg(all(test, feature = "wgpu"))]
    pub(crate) fn truncated(mut self, layers: usize) -> Self {
        self.network.truncate(layers);
        self.config.layers = layers;
        self
    }

    /// Checks that all token ids are in the vocabulary.
    pub(crate) fn check_ids(&self, ids: &[u32]) -> Result<(), ModelError> {
        let vocab_size = self.config.vocab_size;
        match ids.iter().find(|&&id| id as usize >= vocab_size) {
            Some(&id) => Err(ModelError::TokenOutOfRange { id, vocab_size }),
            None => Ok(()),
        }
    }
}

/// PEFT's name for a weight of the network; `None` if the weight is not an adapter's factor.
fn adapter_tensor_name(weight: &str) -> Option<String> {
    let (module, factor) = weight.split_once(".adapter.")?;
    let [a, b] = factor_names(module);
    Some(if factor == "a" { a } else { b })
}
