//! Prompts that begin alike, with what they share written once.
//!
//! In a tree of conversations the prompts continue one another's beginnings: after `t` turns with `G`
//! responses each there are `G^t` of them, and most of each is in others too.

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
    /// The tree of some prompts, none of them empty.
    pub(super) fn new(prompts: &[&[u32]]) -> Self {
        let mut tree = Self {
            ends: vec![0; prompts.len()],
            ..Self::default()
        };
        tree.add(prompts, &(0..prompts.len()).collect::<Vec<_>>(), 0, None);
        tree
    }

    /// Adds what these prompts have from a position on, up to which they are equal; `continues` is the
    /// segment that ends there.
    fn add(
        &mut self,
        prompts: &[&[u32]],
        these: &[usize],
        position: usize,
        continues: Option<usize>,
    ) {
        let mut rest: Vec<usize> = these.to_vec();
        // Those that begin with the same token, in the order of the first of each.
        while let Some(&first) = rest.first() {
            let alike =
                |prompt: &usize| prompts[*prompt].get(position) == prompts[first].get(position);
            let (branch, others): (Vec<usize>, Vec<usize>) = rest.iter().partition(|p| alike(p));
            rest = others;
            if prompts[first].len() == position {
                continue;
            }
            let shared = shared_length(prompts, &branch);
            self.segments.push(Segment {
                tokens: shared - position,
                continues,
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

    /// How the packed tokens see one another.
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

/// The length of what some prompts begin with together.
fn shared_length(prompts: &[&[u32]], these: &[usize]) -> usize {
    let first = prompts[these[0]];
    let common = |prompt: &usize| {
        let pairs = first.iter().zip(prompts[*prompt]);
        pairs.take_while(|(a, b)| a == b).count()
    };
    these.iter().map(common).min().unwrap_or(0)
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
    fn what_prompts_share_is_there_once() {
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
        fn every_prompt_is_found_again_and_no_beginning_is_there_twice(
            prompts in prop::collection::vec(prop::collection::vec(0u32..3, 1..8), 1..12),
        ) {
            let tree = check(&prompts);
            let beginnings = prompts.iter().flat_map(|p| (1..=p.len()).map(|n| p[..n].to_vec()));
            let distinct: std::collections::BTreeSet<Vec<u32>> = beginnings.collect();
            prop_assert_eq!(tree.tokens.len(), distinct.len());
        }
    }
}
