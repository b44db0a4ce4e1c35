//! How packed tokens attend to each other.

use std::{ops::Range, sync::Arc};

#[cfg(feature = "cube")]
use std::{collections::HashMap, sync::OnceLock};

#[cfg(feature = "cube")]
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// A run of consecutive packed tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The number of tokens.
    pub(crate) tokens: usize,
    /// The index of the segment that it continues, which comes before it.
    pub(crate) parent: Option<usize>,
}

/// Which packed tokens attend to which: a tree of segments, packed one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Packing {
    segments: Arc<[PackedSegment]>,
    /// What a GPU knows of the segments, once it has been needed.
    #[cfg(feature = "cube")]
    tables: Arc<OnceLock<Arc<Tables>>>,
}

/// Numbers of a tile in [`Tables`].
#[cfg(feature = "cube")]
pub(super) const TILE_NUMBERS: usize = 7;

/// Numbers of a range of tokens in [`Tables`].
#[cfg(feature = "cube")]
pub(super) const RANGE_NUMBERS: usize = 3;

/// A packed row whose segments are divided into tiles, as a GPU reads it.
#[cfg(feature = "cube")]
#[derive(Debug)]
pub(super) struct Tables {
    /// First the tiles: the first token, the number of tokens, the position of the first token; then the index of the
    /// first range on the path of its segment and the number of these ranges; then both for the segments that attend to
    /// its segment. After all tiles the ranges: the first token, the number of tokens, the position of the first token.
    pub(super) numbers: Tensor<1, Int>,
    pub(super) tiles: usize,
}

/// A segment with its position in the packed row.
#[derive(Clone, Debug)]
pub(super) struct PackedSegment {
    pub(super) tokens: Range<usize>,
    /// The ranges of its ancestors, from the root on, and then its own range, in which attention is
    /// causal.
    pub(super) path: Vec<Range<usize>>,
    /// Whether it is a response, decoded after a prompt.
    pub(super) is_response: bool,
}

impl Packing {
    pub(crate) fn new(segments: &[Segment]) -> Self {
        let mut packed: Vec<PackedSegment> = Vec::with_capacity(segments.len());
        let mut start = 0;
        for segment in segments {
            let tokens = start..start + segment.tokens;
            start = tokens.end;
            let mut path = match segment.parent {
                Some(parent) => packed[parent].path.clone(),
                None => Vec::new(),
            };
            path.push(tokens.clone());
            packed.push(PackedSegment {
                tokens,
                path,
                is_response: false,
            });
        }
        Self {
            segments: packed.into(),
            #[cfg(feature = "cube")]
            tables: Arc::default(),
        }
    }

    /// A prompt and responses to it.
    pub(crate) fn of_group(prompt: usize, responses: &[usize]) -> Self {
        let prompt = Segment {
            tokens: prompt,
            parent: None,
        };
        let responses = responses.iter().map(|&tokens| Segment {
            tokens,
            parent: Some(0),
        });
        let segments: Vec<Segment> = std::iter::once(prompt).chain(responses).collect();
        let mut packing = Self::new(&segments);
        let segments = Arc::make_mut(&mut packing.segments);
        for segment in &mut segments[1..] {
            segment.is_response = true;
        }
        packing
    }

    /// The tables for tiles of at most `tile` tokens. They are made once, so the arguments must always be the same.
    #[cfg(feature = "cube")]
    pub(super) fn tables(&self, tile: usize, device: &Device) -> Arc<Tables> {
        let tables = || Arc::new(Tables::new(self, tile, device));
        Arc::clone(self.tables.get_or_init(tables))
    }

    /// For each segment the ranges of tokens that its last token attends to, in order.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &[Range<usize>]> {
        self.segments.iter().map(|segment| segment.path.as_slice())
    }

    pub(super) fn tokens(&self) -> usize {
        self.segments.last().map_or(0, |last| last.tokens.end)
    }

    /// The segments that have tokens.
    pub(super) fn nonempty(&self) -> impl Iterator<Item = &PackedSegment> {
        let segments = self.segments.iter();
        segments.filter(|segment| !segment.tokens.is_empty())
    }

    /// True where a query (first axis) must not attend to a key (second axis), row by row. With a window, a
    /// query attends only to the last keys of its path.
    pub(super) fn mask(&self, window: Option<usize>) -> Vec<bool> {
        let tokens = self.tokens();
        let mut mask = vec![true; tokens * tokens];
        for segment in self.segments.iter() {
            for query in segment.tokens.clone() {
                let row = &mut mask[query * tokens..(query + 1) * tokens];
                let keys = segment.path.iter().cloned().flatten();
                let visible: Vec<usize> = keys.take_while(|key| *key <= query).collect();
                for &key in &visible[hidden_keys(visible.len(), window)..] {
                    row[key] = false;
                }
            }
        }
        mask
    }
}

#[cfg(feature = "cube")]
impl Tables {
    fn new(packing: &Packing, tile: usize, device: &Device) -> Self {
        // By the first token of their ranges. An empty segment has that of the next one, so it is left out.
        let mut readers: HashMap<usize, Vec<&PackedSegment>> = HashMap::new();
        for segment in packing.nonempty() {
            for range in segment.path.iter().filter(|range| !range.is_empty()) {
                readers.entry(range.start).or_default().push(segment);
            }
        }
        let mut tiles: Vec<u32> = Vec::new();
        let mut ranges: Vec<u32> = Vec::new();
        for segment in packing.nonempty() {
            let path = ranges.len() / RANGE_NUMBERS;
            for (range, column) in segment.key_ranges().filter(|(range, _)| !range.is_empty()) {
                ranges.extend([range.start, range.len(), column].map(|n| n as u32));
            }
            let own_readers = ranges.len() / RANGE_NUMBERS;
            for reader in &readers[&segment.tokens.start] {
                let Range { start, .. } = reader.tokens;
                let numbers = [start, reader.tokens.len(), reader.ancestor_tokens()];
                ranges.extend(numbers.map(|n| n as u32));
            }
            let end = ranges.len() / RANGE_NUMBERS;
            for first in segment.tokens.clone().step_by(tile) {
                let numbers: [usize; TILE_NUMBERS] = [
                    first,
                    tile.min(segment.tokens.end - first),
                    segment.ancestor_tokens() + first - segment.tokens.start,
                    path,
                    own_readers - path,
                    own_readers,
                    end - own_readers,
                ];
                tiles.extend(numbers.map(|n| n as u32));
            }
        }
        let count = tiles.len() / TILE_NUMBERS;
        let numbers = [tiles, ranges].concat();
        let length = numbers.len();
        let numbers = TensorData::new(numbers, [length]);
        Self {
            numbers: Tensor::from_data(numbers, (&device.clone().inner(), DType::U32)),
            tiles: count,
        }
    }
}

impl PackedSegment {
    /// The ranges of tokens that it attends to, and the column of its scores at which each starts.
    pub(super) fn key_ranges(&self) -> impl Iterator<Item = (&Range<usize>, usize)> {
        let columns = self.path.iter().scan(0, |column, range| {
            let start = *column;
            *column += range.len();
            Some(start)
        });
        self.path.iter().zip(columns)
    }

    /// The number of tokens of its ancestors.
    pub(super) fn ancestor_tokens(&self) -> usize {
        let (_, ancestors) = self.path.split_last().unwrap_or((&self.tokens, &[]));
        ancestors.iter().map(ExactSizeIterator::len).sum()
    }
}

/// The number of keys before a window, given the number of keys up to the query.
pub(super) fn hidden_keys(keys: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| keys.saturating_sub(window))
}
