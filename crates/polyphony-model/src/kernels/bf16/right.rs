//! The right operand of a product.

use std::ops::Range;

use super::{
    Panels,
    panels::{LINES, Line, WIDTH},
};

/// The right operand of a product, `[inner, columns]`.
#[derive(Debug)]
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
            return self.panels.panel(first + index);
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
