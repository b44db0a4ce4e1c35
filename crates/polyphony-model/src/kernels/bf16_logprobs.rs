//! Token log-probabilities with a head in bfloat16: the formulas of
//! [`token_logprobs`](super::token_logprobs). The vocabulary is processed in blocks whose logits stay in the
//! cache; logits are never in memory all at once.

use std::{borrow::Cow, ops::Range, sync::Arc};

use half::bf16;
use rayon::prelude::*;

use super::{
    bf16::{Left, Output, Panels, Source, Target, TransposedRows, product, round},
    exp::{exp, log_sum_exp},
    host::{Buffer, HostOp, Number, SavedTensors, Values},
    matrix::Cores,
    project::PairedRows,
    vectorized,
};

/// Logits of a block: 4 MiB of 32-bit floats.
const BLOCK_LOGITS: usize = 1 << 20;

/// For `N` hidden states, `[N, D]`, and a head, `[V, D]`: the log-probabilities of the targets, and then the
/// logarithms of the normalizers, which the backward pass needs. `[2, N]`
#[derive(Clone, Debug)]
pub(super) struct Bf16Logprobs {
    pub(super) panels: Arc<Panels>,
    pub(super) targets: Arc<[usize]>,
    pub(super) temperature: f32,
}

impl Bf16Logprobs {
    /// Ranges of the vocabulary. Each begins with a panel.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let (rows, vocabulary) = (self.targets.len(), self.panels.columns());
        let length = (BLOCK_LOGITS / rows.max(1)).next_multiple_of(128);
        let starts = (0..vocabulary).step_by(length);
        starts.map(move |start| start..vocabulary.min(start + length))
    }

    /// Writes the logits of a block of the vocabulary to the front of `logits`, `[N, block]`.
    fn logits(&self, hidden: &PairedRows<'_>, block: Range<usize>, logits: &mut Vec<f32>) {
        let width = block.len();
        logits.resize(self.targets.len() * width, 0.0);
        let target = Target::new(Output::F32(logits), width).times(1.0 / self.temperature);
        product(hidden.left(), self.panels.part(block), target, Cores::All);
    }

    fn hidden<'a>(&self, hidden: Values<'a>) -> PairedRows<'a> {
        PairedRows::new(hidden.rounded(), self.targets.len(), self.panels.inner())
    }
}

impl HostOp<2> for Bf16Logprobs {
    const SAVES: SavedTensors = SavedTensors::InputsAndOutput;

    fn forward(&self, [hidden, _]: [Values<'_>; 2]) -> Buffer {
        let hidden = self.hidden(hidden);
        let rows = self.targets.len();
        // The normalizers of the blocks so far, and the logits of the targets.
        let mut normalizers = vec![f32::NEG_INFINITY; rows];
        let mut target_logits = vec![0.0; rows];
        let mut logits = Vec::new();
        for block in self.blocks() {
            self.logits(&hidden, block.clone(), &mut logits);
            let results = normalizers.par_iter_mut().zip(&mut target_logits);
            let rows = logits.par_chunks_exact(block.len()).zip(&*self.targets);
            results
                .zip(rows)
                .for_each(|((normalizer, target_logit), (row, target))| {
                    *normalizer = log_sum_exp(&[*normalizer, log_sum_exp(row)]);
                    if block.contains(target) {
                        *target_logit = row[target - block.start];
                    }
                });
        }
        let pairs = target_logits.iter().zip(&normalizers);
        let mut output: Vec<f32> = pairs
            .map(|(logit, normalizer)| logit - normalizer)
            .collect();
        output.extend(normalizers);
        Buffer::F32(output)
    }

    fn backward(
        &self,
        [hidden, _]: [Values<'_>; 2],
        output: Values<'_>,
        upstream: Values<'_>,
        [needs_hidden, needs_head]: [bool; 2],
    ) -> [Buffer; 2] {
        let (rows, width) = (self.targets.len(), self.panels.inner());
        let (vocabulary, unit) = (self.panels.columns(), self.panels.unit());
        let normalizers = &f32::slice(output)[rows..];
        let upstream = &f32::slice(upstream)[..rows];
        let rounded = hidden.rounded();
        let hidden = PairedRows::new(Cow::Borrowed(&*rounded), rows, width);
        let hidden_columns = needs_head
            .then(|| Panels::of_columns(unit, Source::bf16(&rounded, rows, width, width)));
        let mut hidden_gradient = vec![0.0; if needs_hidden { rows * width } else { 0 }];
        let mut head_gradient = vec![0.0; if needs_head { vocabulary * width } else { 0 }];
        let (mut logits, mut gradient) = (Vec::new(), Vec::new());
        for block in self.blocks() {
            self.logits(&hidden, block.clone(), &mut logits);
            // Rows are read in pairs, so their length is even.
            let stride = block.len().next_multiple_of(2);
            gradient.clear();
            gradient.resize(rows * stride, bf16::ZERO);
            let inputs = logits.par_chunks_exact(block.len()).zip(&*self.targets);
            let inputs = inputs.zip(normalizers.par_iter().zip(upstream));
            gradient.par_chunks_exact_mut(stride).zip(inputs).for_each(
                |(gradient, ((logits, target), (normalizer, upstream)))| {
                    let upstream = upstream / self.temperature;
                    vectorized(
                        #[inline(always)]
                        || {
                            for (slot, logit) in gradient.iter_mut().zip(logits) {
                                *slot = round(-upstream * exp(*logit - normalizer));
                            }
                        },
                    );
                    if block.contains(target) {
                        let index = target - block.start;
                        let probability = exp(logits[index] - normalizer);
                        gradient[index] = round(upstream * (1.0 - probability));
                    }
                },
            );
            if let Some(hidden_columns) = &hidden_columns {
                let gradient = Source::bf16(&gradient, rows, block.len(), stride);
                let part = &mut head_gradient[block.start * width..block.end * width];
                product(
                    TransposedRows::of(unit, gradient).left(),
                    hidden_columns,
                    Target::new(Output::F32(part), width),
                    Cores::All,
                );
            }
            if needs_hidden {
                product(
                    Left::rows(&gradient, rows, stride, stride),
                    self.panels.transposed(block),
                    Target::new(Output::F32(&mut hidden_gradient), width).accumulated(),
                    Cores::All,
                );
            }
        }
        [Buffer::F32(hidden_gradient), Buffer::F32(head_gradient)]
    }
}
