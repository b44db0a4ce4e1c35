//! The forward pass over prompts.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::{
    cache::{CachedPrompt, PrefillAttention, PromptCache},
    prefix_tree::PrefixTree,
    response::PromptGroup,
};
use crate::{
    LanguageModel,
    kernels::{self, ProjectionOutput},
    transfer::{to_host, token_tensor},
};

/// All prompts after their forward pass.
pub(super) struct Prompts {
    pub(super) caches: Vec<PromptCache>,
    /// One per group.
    pub(super) cached: Vec<CachedPrompt>,
    /// For each group the logits after its prompt.
    pub(super) logits: Vec<Vec<f32>>,
}

/// Rows of logits that are computed at once.
const LOGIT_ROWS: usize = 16;

/// The indices of the groups whose prompts are run together.
fn prefix_groups(groups: &[PromptGroup<'_>]) -> impl Iterator<Item = Vec<usize>> {
    let mut prefix_groups: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (index, group) in groups.iter().enumerate() {
        prefix_groups
            .entry(group.prefix_group)
            .or_default()
            .push(index);
    }
    prefix_groups.into_values()
}

impl Prompts {
    /// Runs the prompts of each prefix group together.
    pub(super) fn run(model: &LanguageModel, groups: &[PromptGroup<'_>]) -> Self {
        let mut caches = Vec::new();
        let mut cached = vec![None; groups.len()];
        let mut logits = vec![Vec::new(); groups.len()];
        for prefix_group in prefix_groups(groups) {
            let prompts: Vec<&[u32]> = prefix_group
                .iter()
                .map(|&index| groups[index].prompt)
                .collect();
            let tree = PrefixTree::new(&prompts);
            let mut attention = PrefillAttention::new(tree.packing());
            let hidden = model.hidden(&tree.tokens, &tree.positions, &mut attention);
            let cache = caches.len();
            caches.push(attention.cache);
            for (&index, path) in prefix_group.iter().zip(tree.paths()) {
                cached[index] = Some(CachedPrompt { cache, path });
            }
            for chunk in prefix_group.chunks(LOGIT_ROWS) {
                let last = |&index: &usize| {
                    let path = cached[index].as_ref().map(|prompt| &prompt.path);
                    let end = path.and_then(|path| path.last()).map_or(0, |last| last.end);
                    end as u32 - 1
                };
                let ends: Vec<u32> = chunk.iter().map(last).collect();
                let ends = token_tensor(&ends, &hidden.device());
                let rows = to_host(self::logits(model, hidden.clone().select(0, ends)));
                let rows = rows.chunks_exact(model.config().vocab_size);
                for (&index, row) in chunk.iter().zip(rows) {
                    logits[index] = row.to_vec();
                }
            }
        }
        Self {
            caches,
            cached: cached.into_iter().flatten().collect(),
            logits,
        }
    }
}

/// # Shapes
/// - hidden `[R, D]`, output `[R, V]`
pub(super) fn logits(model: &LanguageModel, hidden: Tensor<2>) -> Tensor<2> {
    kernels::project(hidden, &model.head(), None, ProjectionOutput::Floats)
}
