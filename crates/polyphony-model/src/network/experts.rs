//! A mixture of experts (Shazeer et al., 2017, arXiv 1701.06538): many small feed-forward layers, of which a
//! router chooses some for every token.

use burn::{
    module::Module,
    tensor::{IndexingUpdateOp, Int, Tensor, TensorData, activation::softmax},
};

use super::layers::{Linear, Mlp};
use crate::{ModelError, Projection, config::ExpertSizes, network::weights::LayerReader};

/// The experts of a layer and their router. With router logits `z = W x`, the output is
/// `Σ_e softmax(z)_e · expert_e(x)` over the experts with the largest logits. The factors can be normalized to
/// sum to 1.
#[derive(Module, Debug)]
pub(crate) struct Experts {
    /// The router.
    gate: Linear,
    experts: Vec<Mlp>,
    /// Experts per token.
    #[module(skip)]
    chosen: usize,
    /// Whether the factors of a token's experts are divided by their sum.
    #[module(skip)]
    normalized: bool,
}

impl Experts {
    pub(super) fn load(reader: &LayerReader<'_>, sizes: &ExpertSizes) -> Result<Self, ModelError> {
        let expert = |index: usize| Mlp::load(reader, &format!("mlp.experts.{index}"));
        Ok(Self {
            gate: reader.linear("mlp.gate")?,
            experts: (0..sizes.count).map(expert).collect::<Result<_, _>>()?,
            chosen: sizes.chosen,
            normalized: sizes.normalized,
        })
    }

    /// The projections of all experts, each with its path in the layer.
    pub(super) fn projections(
        &mut self,
    ) -> impl Iterator<Item = (String, Projection, &mut Linear)> {
        let experts = self.experts.iter_mut().enumerate();
        experts.flat_map(|(index, expert)| expert.projections(format!("mlp.experts.{index}")))
    }

    /// # Shapes
    /// - input and output `[T, D]`
    pub(crate) fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let [tokens, width] = input.dims();
        let device = input.device();
        let probabilities = softmax(self.gate.forward(input.clone()), 1);
        let choices = self.choices(&probabilities);
        let ids: Vec<i64> = choices
            .iter()
            .flatten()
            .map(|&expert| expert as i64)
            .collect();
        let ids = TensorData::new(ids, [tokens, self.chosen]);
        let mut factors = probabilities.gather(1, Tensor::<2, Int>::from_data(ids, &device));
        if self.normalized {
            factors = factors.clone() / factors.sum_dim(1);
        }
        let factors: Tensor<1> = factors.flatten(0, 1);
        let mut output = Tensor::zeros([tokens, width], (&device, input.dtype()));
        for (index, expert) in self.experts.iter().enumerate() {
            // The tokens that chose the expert, and the places of their factors.
            let places = choices.iter().enumerate().flat_map(|(token, chosen)| {
                let slots = chosen.iter().enumerate();
                let slots = slots.filter(|(_, expert)| **expert == index);
                slots.map(move |(slot, _)| (token, token * chosen.len() + slot))
            });
            let (rows, slots): (Vec<i64>, Vec<i64>) = places
                .map(|(token, slot)| (token as i64, slot as i64))
                .unzip();
            if rows.is_empty() {
                continue;
            }
            let indices = |ids: Vec<i64>| {
                let count = ids.len();
                Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), &device)
            };
            let rows = indices(rows);
            let factors = factors
                .clone()
                .select(0, indices(slots))
                .unsqueeze_dim::<2>(1);
            let result = expert.forward(input.clone().select(0, rows.clone())) * factors;
            output = output.select_assign(0, rows, result, IndexingUpdateOp::Add);
        }
        output
    }

    /// The experts that each token uses, the most probable first.
    fn choices(&self, probabilities: &Tensor<2>) -> Vec<Vec<usize>> {
        let data = probabilities.clone().into_data();
        let probabilities: Vec<f32> = data.iter::<f32>().collect();
        let choose = |row: &[f32]| {
            let mut experts: Vec<usize> = (0..row.len()).collect();
            // Equal probabilities keep the order of the experts.
            experts.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            experts.truncate(self.chosen);
            experts
        };
        probabilities
            .chunks_exact(self.experts.len())
            .map(choose)
            .collect()
    }
}
