//! Gradient checkpointing, which saves memory: the forward pass stores only the inputs of the layers,
//! and the backward pass runs each layer again to differentiate it (Chen et al., 2016,
//! arXiv 1604.06174, with layers as segments).

use burn::{
    module::Module,
    tensor::{Int, Tensor},
};

use super::{
    attention::Attention,
    decoder::{Decoder, Trunk},
    rope::Rotations,
};
use crate::{WeightGradients, kernels::Weight};

/// The input of each layer, and the output of the last one; each `[T, D]`, not recorded.
#[derive(Debug)]
pub(crate) struct LayerInputs {
    inputs: Vec<Tensor<2>>,
    last: Tensor<2>,
}

impl LayerInputs {
    /// The output of the last layer, `[T, D]`.
    pub(crate) fn last(&self) -> Tensor<2> {
        self.last.clone()
    }
}

impl Decoder {
    /// Runs all layers and stores the input of each.
    pub(crate) fn layer_inputs(
        &self,
        ids: Tensor<1, Int>,
        rotations: &Rotations,
        attention: &mut impl Attention,
    ) -> LayerInputs {
        let mut inputs = Vec::with_capacity(self.model.layers.len());
        let embedded = self.embed(ids);
        let last = self.run_layers(embedded, rotations, attention, |input| {
            inputs.push(input.clone())
        });
        LayerInputs { inputs, last }
    }

    /// The gradients of `objective` with respect to all trainable weights. `objective` receives the
    /// normalized hidden states, `[T, D]`, and the head, `[V, D]`, both recorded, and returns
    /// one number.
    pub(crate) fn gradients(
        &self,
        ids: Tensor<1, Int>,
        LayerInputs { inputs, last }: LayerInputs,
        rotations: &Rotations,
        attention: &mut impl Attention,
        objective: impl FnOnce(Tensor<2>, &Weight) -> Tensor<1>,
    ) -> WeightGradients {
        // One weight may be both embedding and head, so both are differentiated as one module.
        let top = Self {
            model: Trunk {
                embed_tokens: self.model.embed_tokens.clone(),
                layers: Vec::new(),
                norm: self.model.norm.clone(),
            },
            lm_head: self.lm_head.clone(),
            embedding_scale: self.embedding_scale,
        }
        .train();
        let output = Tensor::from_inner(last).require_grad();
        let mut grads = objective(top.normalize(output.clone()), &top.head()).backward();
        let mut upstream = output.grad_remove(&mut grads);
        let norm = WeightGradients::take(&top.model.norm, &mut grads);
        let head = WeightGradients::take(&top.lm_head, &mut grads);
        let embedding_as_head = WeightGradients::take(&top.model.embed_tokens, &mut grads);

        let mut layers = Vec::with_capacity(inputs.len());
        for (index, (layer, input)) in self.model.layers.iter().zip(inputs).enumerate().rev() {
            let Some(output_gradient) = upstream.take() else {
                // Every weight needs an entry, even if the objective does not depend on the layers.
                layers.push(WeightGradients::absent(layer));
                continue;
            };
            let layer = layer.clone().train();
            let input = Tensor::from_inner(input).require_grad();
            let output = layer.forward(input.clone(), index, rotations, attention);
            let mut grads = (output * Tensor::from_inner(output_gradient))
                .sum()
                .backward();
            upstream = input.grad_remove(&mut grads);
            layers.push(WeightGradients::take(&layer, &mut grads));
        }
        layers.reverse();

        let parts = std::iter::once(embedding_as_head).chain(layers);
        let mut gradients = WeightGradients::join(parts.chain([norm, head]), self);
        if let Some(rows) = upstream {
            top.add_embedding_gradients(&mut gradients, ids, rows);
        }
        gradients
    }
}
