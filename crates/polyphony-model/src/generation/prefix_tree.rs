//! Prompts with shared prefixes, packed so that each shared prefix is stored and run once.
//!
//! This matters in a rollout tree, whose prompts share most of their tokens: after `t` turns with `G`
//! responses each there are `G^t` prompts.

use std::ops::Range;

use crate::kernels::{Packing, Segment};

/// Prompts as a tree of segments, packed one after the other.
#[derive(Debug, Default)]
pub(super) struct PrefixTree {
    /// The packed tokens.
    pub(super) tokens: Vec<u32>,
    /// The position of each token in its prompts.
    pub(super) positions: Vec<usize>,
    segments: Vec<Segment>,
    /// For each prompt the segment that it ends with.
    ends: Vec<usize>,
}

impl PrefixTree {
    /// The tree of these prompts, none of which is empty.
    pub(super) fn new(prompts: &[&[u32]]) -> Self {
        let mut tree = Self {
            ends: vec![0; prompts.len()],
            ..Self::default()
        };
        tree.add(prompts, &(0..prompts.len()).collect::<Vec<_>>(), 0, None);
        tree
    }

    /// Adds the tokens of the prompts at `indices` from `position` on. Up to there the prompts are
    /// equal, and `parent` is the segment that ends there.
    fn add(
        &mut self,
        prompts: &[&[u32]],
        indices: &[usize],
        position: usize,
        parent: Option<usize>,
    ) {
        let mut remaining: Vec<usize> = indices.to_vec();
        // One branch for each next token, in the order of the first prompt that has it.
        while let Some(&first) = remaining.first() {
            let same_token =
                |prompt: &usize| prompts[*prompt].get(position) == prompts[first].get(position);
            let (branch, rest): (Vec<usize>, Vec<usize>) =
                remaining.iter().partition(|prompt| same_token(prompt));
            remaining = rest;
            if prompts[first].len() == position {
                continue;
            }
            let shared = shared_length(prompts, &branch);
            self.segments.push(Segment {
                tokens: shared - position,
                parent,
            });
            self.tokens.extend(&prompts[first][position..shared]);
            self.positions.extend(position..shared);
            let segment = self.segments.len() - 1;
            for &prompt in &branch {
                if prompts[prompt].len() == shared {
                    self.ends[prompt] = segment;
                }
            }
            self.add(prompts, &branch, shared, Some(segment));
        }
    }

    /// Which packed tokens attend to which.
    pub(super) fn packing(&self) -> Packing {
        Packing::new(&self.segments)
    }

    /// For each prompt the ranges of packed tokens that make it up, in order.
    pub(super) fn paths(&self) -> Vec<Vec<Range<usize>>> {
        let packing = self.packing();
        let paths: Vec<&[Range<usize>]> = packing.paths().collect();
        self.ends.iter().map(|&end| paths[end].to_vec()).collect()
    }
}

/// The length of the longest common prefix of the prompts at `indices`.
fn shared_length(prompts: &[&[u32]], indices: &[usize]) -> usize {
    let first = prompts[indices[0]];
    let common = |prompt: &usize| {
        let pairs = first.iter().zip(prompts[*prompt]);
        pairs.take_while(|(a, b)| a == b).count()
    };
    indices.iter().map(common).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(prompts: &[Vec<u32>]) -> PrefixTree {
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let tree = PrefixTree::new(&prompts);
        assert_eq!(tree.tokens.len(), tree.positions.len());
        for (prompt, path) in prompts.iter().zip(tree.paths()) {
            let packed: Vec<usize> = path.into_iter().flatten().collect();
            let tokens: Vec<u32> = packed.iter().map(|&index| tree.tokens[index]).collect();
            assert_eq!(&tokens, prompt);
            let positions = packed.iter().map(|&index| tree.positions[index]);
            assert!(positions.eq(0..prompt.len()));
        }
        tree
    }

    #[test]
    fn shared_prefixes_are_stored_once() {
        let tree = check(&[
            vec![1, 2, 3, 4],
            vec![1, 2, 5],
            vec![1, 2, 3, 6, 7],
            vec![1, 2],
            vec![9],
            vec![1, 2, 5],
        ]);
        assert_eq!(tree.tokens, [1, 2, 3, 4, 6, 7, 5, 9]);
        let alone = check(&[vec![4, 5, 6]]);
        assert_eq!(alone.segments.len(), 1);
    }

    proptest! {
        #[test]
        fn every_prompt_is_found_again_and_no_prefix_is_stored_twice(
            prompts in prop::collection::vec(prop::collection::vec(0u32..3, 1..8), 1..12),
        ) {
            let tree = check(&prompts);
            let prefixes = prompts.iter().flat_map(|p| (1..=p.len()).map(|n| p[..n].to_vec()));
            let distinct: std::collections::BTreeSet<Vec<u32>> = prefixes.collect();
            prop_assert_eq!(tree.tokens.len(), distinct.len());
        }
    }
}
