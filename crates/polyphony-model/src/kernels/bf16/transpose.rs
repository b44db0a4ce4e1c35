//! Transposed operands of products, for gradients.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::{
    Bf16Unit, Left, Panels, Source,
    panels::{LINES, Line, WIDTH},
};

/// The transpose of a matrix as the left operand of a product: a row for each of its columns.
#[derive(Debug)]
pub(crate) struct TransposedRows {
    /// `[rows, registers per row]`; zeros fill the last register of a row.
    lines: Vec<Line>,
    rows: usize,
    inner: usize,
}

/// Numbers in a register.
const NUMBERS: usize = 32;

/// Operands with fewer registers are transposed where they are needed: handing them over would take longer.
const SMALL: usize = 1 << 10;

impl TransposedRows {
    pub(crate) fn of(unit: Bf16Unit, source: Source<'_>) -> Self {
        let (rows, inner) = (source.columns(), source.rows());
        let per_row = inner.div_ceil(NUMBERS);
        let mut lines = vec![Line([0; 16]); rows * per_row];
        let fill = |(group, lines): (usize, &mut [Line])| {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `unit` proves that the processor has the instructions; the source was checked to lie
            // within its slice, and `lines` has `per_row` registers for each of these columns.
            unsafe {
                super::panels::x86::transpose_columns(source, group * WIDTH, lines, per_row);
            }
            #[cfg(not(target_arch = "x86_64"))]
            unreachable!("{unit:?} does not exist: {group}, {}", lines.len());
        };
        let _ = unit;
        let per_group = (WIDTH * per_row).max(1);
        match lines.len() < SMALL {
            true => lines.chunks_mut(per_group).enumerate().for_each(fill),
            false => lines.par_chunks_mut(per_group).enumerate().for_each(fill),
        }
        Self { lines, rows, inner }
    }

    pub(crate) fn left(&self) -> Left<'_> {
        let stride = self.inner.next_multiple_of(NUMBERS);
        // SAFETY: the registers are that many numbers of 16 bits, all of which are valid.
        let values = unsafe {
            std::slice::from_raw_parts(
                self.lines.as_ptr().cast::<bf16>(),
                self.lines.len() * NUMBERS,
            )
        };
        Left::rows(values, self.rows, self.inner.next_multiple_of(2), stride)
    }
}

/// The right operand of a product, `[inner, columns]`.
#[derive(Clone, Debug)]
pub(crate) struct Right<'a> {
    panels: &'a Panels,
    /// Some columns of the panels.
    part: Range<usize>,
    /// Whether the operand is the transpose of these columns.
    is_transposed: bool,
}

impl<'a> From<&'a Panels> for Right<'a> {
    fn from(panels: &'a Panels) -> Self {
        panels.part(0..panels.columns())
    }
}

impl Panels {
    /// Some columns as an operand.
    ///
    /// # Panics
    /// If the part does not begin and end with a panel.
    pub(crate) fn part(&self, part: Range<usize>) -> Right<'_> {
        let is_end = |column: usize| column.is_multiple_of(WIDTH) || column == self.columns();
        assert!(
            part.start.is_multiple_of(WIDTH) && part.end <= self.columns() && is_end(part.end),
            "parts begin and end with a panel"
        );
        Right {
            panels: self,
            part,
            is_transposed: false,
        }
    }

    /// The transpose of some columns as an operand: it sums over these columns. Its panels are made one by one,
    /// while a product needs them.
    ///
    /// # Panics
    /// As [`Panels::part`].
    pub(crate) fn transposed(&self, part: Range<usize>) -> Right<'_> {
        Right {
            is_transposed: true,
            ..self.part(part)
        }
    }
}

impl Right<'_> {
    pub(super) fn columns(&self) -> usize {
        match self.is_transposed {
            true => self.panels.inner(),
            false => self.part.len(),
        }
    }

    /// The number of pairs of summed indices.
    pub(super) fn pairs(&self) -> usize {
        match self.is_transposed {
            true => self.part.len().div_ceil(2),
            false => self.panels.pairs(),
        }
    }

    /// The pairs of one panel, `[pairs, 32]`. `buffer` is memory for it.
    pub(super) fn panel(&self, index: usize, buffer: &mut Vec<Line>) -> *const u32 {
        let first = self.part.start / WIDTH;
        if !self.is_transposed {
            return match self.pairs() {
                0 => std::ptr::null(),
                _ => self.panels.panel(first + index),
            };
        }
        buffer.resize(self.pairs() * LINES, Line([0; 16]));
        #[cfg(target_arch = "x86_64")]
        // SAFETY: panels prove that the processor has the instructions; the part was checked when it was made.
        unsafe {
            super::panels::x86::transpose_panel(self.panels, first, index, buffer);
        }
        buffer.as_ptr().cast()
    }
}
