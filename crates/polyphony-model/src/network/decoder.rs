//! The network of all architectures: embedding, layers of attention and feed-forward, the last normalization,
//! the head.
//!
//! Field names are those of Hugging Face checkpoints, so that a parameter's path in the module is
//! its name in the file. Legend for shapes: `T` tokens, `D` hidden size, `V` vocabulary.

use burn::{
    module::Module,
    tensor::{DType, Device, Int, Tensor},
};

use super::{
    attention::Attention,
    layer::Layer,
    layers::{Embedding, Linear, RmsNorm},
    rope::Rotations,
    weights::{LayerReader, WeightReader},
};
use crate::{ModelConfig, ModelError, Precision, Projection, WeightGradients, kernels::Weight};

/// The network: token ids in, hidden states of the last layer out.
#[derive(Module, Debug)]
pub(crate) struct Decoder {
    pub(super) model: Trunk,
    pub(super) lm_head: Option<Linear>,
    #[module(skip)]
    pub(super) embedding_scale: f64,
}

#[derive(Module, Debug)]
pub(super) struct Trunk {
    pub(super) embed_tokens: Embedding,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: RmsNorm,
}

impl Decoder {
    /// Builds the network and reads its weights.
    pub(crate) fn load(
        config: &ModelConfig,
        reader: &WeightReader<'_>,
    ) -> Result<Self, ModelError> {
        let (d, v) = (config.hidden_size, config.vocab_size);
        let embed_tokens = Embedding::new(reader.matrix("model.embed_tokens.weight", [v, d])?);
        let tensors = config.layer_tensors();
        let layers = (0..config.layers)
            .map(|index| Layer::load(&LayerReader::new(reader, config, &tensors, index)))
            .collect::<Result<_, _>>()?;
        let norm = reader.norm("model.norm", d, config)?;
        let lm_head = match config.tied_head {
            true => None,
            false => Some(reader.linear("lm_head", [v, d], false)?),
        };
        Ok(Self {
            model: Trunk {
                embed_tokens,
                layers,
                norm,
            },
            lm_head,
            embedding_scale: config.parts.embedding_scale,
        })
    }

    /// A network without weights, as a placeholder for one that has been moved out.
    pub(crate) fn placeholder(device: &Device) -> Self {
        Self {
            model: Trunk {
                embed_tokens: Embedding::new(Tensor::zeros([0, 0], device)),
                layers: Vec::new(),
                norm: RmsNorm::new(Tensor::zeros([0], device), 0.0, 0.0),
            },
            lm_head: None,
            embedding_scale: 1.0,
        }
    }

    /// The embeddings of tokens, which are the input of the first layer.
    ///
    /// # Shapes
    /// - ids `[T]`, output `[T, D]`
    pub(crate) fn embed(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        self.scaled(self.model.embed_tokens.forward(ids))
    }

    /// Adds the gradients of [`Decoder::embed`]'s output to the gradient of the embedding table, if the
    /// table is trainable.
    pub(crate) fn add_embedding_gradients(
        &self,
        gradients: &mut WeightGradients,
        ids: Tensor<1, Int>,
        rows: Tensor<2>,
    ) {
        let rows = self.scaled(rows);
        self.model.embed_tokens.add_gradients(gradients, ids, rows);
    }

    /// Embeddings or their gradients, times the embedding scale.
    fn scaled(&self, embeddings: Tensor<2>) -> Tensor<2> {
        match self.embedding_scale {
            1.0 => embeddings,
            scale => embeddings * scale,
        }
    }

    /// The hidden states after the last normalization.
    ///
    /// # Shapes
    /// - embedded and output `[T, D]`
    pub(crate) fn forward(
        &self,
        embedded: Tensor<2>,
        rotations: &Rotations,
        attention: &mut impl Attention,
    ) -> Tensor<2> {
        let last = self.run_layers(embedded, rotations, attention, |_| ());
        self.normalize(last)
    }

    /// The output of the last layer, `[T, D]`. `on_input` is called with the input of each layer.
    pub(super) fn run_layers(
        &self,
        embedded: Tensor<2>,
        rotations: &Rotations,
        attention: &mut impl Attention,
        mut on_input: impl FnMut(&Tensor<2>),
    ) -> Tensor<2> {
        let mut hidden = embedded;
        for (index, layer) in self.model.layers.iter().enumerate() {
            on_input(&hidden);
            hidden = layer.forward(hidden, index, rotations, attention);
        }
        hidden
    }

    /// The last normalization.
    ///
    /// # Shapes
    /// - input and output `[T, D]`
    pub(crate) fn normalize(&self, last: Tensor<2>) -> Tensor<2> {
        self.model.norm.forward(last, DType::F32)
    }

    /// The output head, `[V, D]`; the embedding table if the two are tied.
    pub(crate) fn head(&self) -> Weight {
        match &self.lm_head {
            Some(head) => head.product_weight(),
            None => self.model.embed_tokens.head(),
        }
    }

    /// Prepares all weights for products of this precision. It must be called again when weights have changed.
    pub(crate) fn prepare(&mut self, precision: Precision) {
        match &mut self.lm_head {
            Some(head) => head.prepare(precision),
            None => self.model.embed_tokens.prepare_as_head(precision),
        }
        for (_, _, linear) in self.projections() {
            linear.prepare(precision);
        }
    }

    /// Every projection inside the layers, with its path in Hugging Face files.
    pub(crate) fn projections(
        &mut self,
    ) -> impl Iterator<Item = (String, Projection, &mut Linear)> {
        let layers = self.model.layers.iter_mut().enumerate();
        layers.flat_map(|(index, layer)| {
            let projections = layer.projections().into_iter();
            projections.map(move |(path, projection, linear)| {
                (format!("model.layers.{index}.{path}"), projection, linear)
            })
        })
    }

    /// Drops the layers after the first ones.
    #[cfg(all(test, feature = "wgpu"))]
    pub(crate) fn truncate(&mut self, layers: usize) {
        self.model.layers.truncate(layers);
    }

    /// The device that holds the weights.
    pub(crate) fn device(&self) -> Device {
        self.model.embed_tokens.weight().device()
    }
}
