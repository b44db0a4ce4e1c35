//! A mixture of experts (Shazeer et al., 2017, arXiv 1701.06538): many small feed-forward layers, of which a
//! router chooses some for every token.

use burn::{
    module::Module,
    tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData, activation::softmax},
};

use super::{layers::Linear, mlp::Mlp};
use crate::{
    ModelError, Projection, config::ExpertSizes, kernels::ProjectionOutput,
    network::weights::LayerReader,
};

/// The experts of a layer and their router. With router logits `z = W x`, the output is
/// `Σ_e softmax(z)_e · expert_e(x)` over the experts with the largest logits. The factors can be normalized to
/// sum to 1.
#[derive(Module, Debug)]
pub(crate) struct Experts {
    /// The router.
    pub(super) gate: Linear,
    pub(super) experts: Vec<Mlp>,
    /// Experts per token.
    #[module(skip)]
    pub(super) chosen: usize,
    /// Whether the factors of a token's experts are divided by their sum.
    #[module(skip)]
    pub(super) normalized: bool,
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

    /// The number type in which the experts read their input.
    pub(super) fn input_dtype(&self) -> DType {
        self.experts
            .first()
            .map_or(DType::F32, |expert| expert.input_dtype())
    }

    /// # Shapes
    /// - input and output `[T, D]`, the output in 32-bit floats
    pub(crate) fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let [tokens, width] = input.dims();
        let device = input.device();
        // In smaller floats, many experts would be equally probable.
        let logits = self.gate.forward(input.clone(), ProjectionOutput::Floats);
        let probabilities = softmax(logits, 1);
        let choices = self.choices(&probabilities);
        let ids: Vec<i64> = choices.iter().map(|&expert| expert as i64).collect();
        let ids = TensorData::new(ids, [tokens, self.chosen]);
        let mut factors = probabilities.gather(1, Tensor::<2, Int>::from_data(ids, &device));
        if self.normalized {
            factors = factors.clone() / factors.sum_dim(1);
        }
        let factors: Tensor<1> = factors.flatten(0, 1);
        let mut places_of_expert: Vec<Vec<i64>> = vec![Vec::new(); self.experts.len()];
        for (place, &expert) in choices.iter().enumerate() {
            places_of_expert[expert].push(place as i64);
        }
        let mut output = Tensor::zeros([tokens, width], &device);
        for (expert, places) in self.experts.iter().zip(places_of_expert) {
            if places.is_empty() {
                continue;
            }
            let indices = |ids: Vec<i64>| {
                let count = ids.len();
                Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), &device)
            };
            let rows = places.iter().map(|place| place / self.chosen as i64);
            let rows = indices(rows.collect());
            let factors = factors.clone().select(0, indices(places));
            let result = expert.forward(
                input.clone().select(0, rows.clone()),
                ProjectionOutput::Floats,
            );
            let result = result * factors.unsqueeze_dim::<2>(1);
            output = output.select_assign(0, rows, result, IndexingUpdateOp::Add);
        }
        output
    }

    /// The experts that the tokens use, token after token, each token's most probable one first.
    fn choices(&self, probabilities: &Tensor<2>) -> Vec<usize> {
        let data = probabilities.clone().into_data();
        let probabilities: Vec<f32> = data.iter::<f32>().collect();
        let rows = probabilities.chunks_exact(self.experts.len());
        let mut choices = Vec::with_capacity(rows.len() * self.chosen);
        for row in rows {
            let mut experts: Vec<usize> = (0..row.len()).collect();
            // Of equal probabilities, the first expert comes first.
            let by_probability = |a: &usize, b: &usize| row[*b].total_cmp(&row[*a]).then(a.cmp(b));
            experts.select_nth_unstable_by(self.chosen - 1, by_probability);
            experts.truncate(self.chosen);
            experts.sort_unstable_by(by_probability);
            choices.extend(experts);
        }
        choices
    }
}
