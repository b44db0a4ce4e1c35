//! The left operand of a product.

use std::marker::PhantomData;

use half::bf16;

use super::{
    Bf16Unit, Source,
    panels::{Line, WIDTH, check, fill_parts},
};

/// The left operand of a product, `[rows, inner]`, read in pairs of adjacent inner indices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left<'a> {
    pub(super) pairs: *const u32,
    pub(super) rows: usize,
    pub(super) inner: usize,
    /// The distance, in pairs, between two rows.
    pub(super) row_stride: usize,
    values: PhantomData<&'a [bf16]>,
}

// SAFETY: it only reads what it borrows.
unsafe impl Send for Left<'_> {}
// SAFETY: as above.
unsafe impl Sync for Left<'_> {}

impl<'a> Left<'a> {
    /// The rows of a matrix in row-major order, whose starts are `stride` apart.
    ///
    /// # Panics
    /// If `inner` is odd, or the matrix does not lie within its slice.
    pub(crate) fn rows(values: &'a [bf16], rows: usize, inner: usize, stride: usize) -> Self {
        check(values.len(), rows, inner, stride);
        assert!(inner.is_multiple_of(2), "rows are read in pairs");
        assert!(
            stride.is_multiple_of(2) || rows <= 1,
            "every row starts with a pair"
        );
        Self {
            pairs: values.as_ptr().cast(),
            rows,
            inner,
            row_stride: stride / 2,
            values: PhantomData,
        }
    }
}

/// The transpose of a matrix as the left operand of a product: a row for each of its columns.
#[derive(Debug)]
pub(crate) struct TransposedRows {
    /// `[rows, registers per row]`; zeros fill the last register of a row.
    lines: Vec<Line>,
    rows: usize,
    inner: usize,
}

/// Numbers in a register.
const PER_LINE: usize = size_of::<Line>() / size_of::<bf16>();

impl TransposedRows {
    pub(crate) fn of(unit: Bf16Unit, source: Source<'_>) -> Self {
        let (rows, inner) = (source.columns(), source.rows());
        let per_row = inner.div_ceil(PER_LINE);
        let mut lines = vec![Line([0; 16]); rows * per_row];
        let fill = |group: usize, lines: &mut [Line]| {
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
        fill_parts(&mut lines, (WIDTH * per_row).max(1), fill);
        Self { lines, rows, inner }
    }

    pub(crate) fn left(&self) -> Left<'_> {
        let stride = self.inner.next_multiple_of(PER_LINE);
        // SAFETY: the registers are that many numbers of 16 bits, all of which are valid.
        let values = unsafe {
            std::slice::from_raw_parts(
                self.lines.as_ptr().cast::<bf16>(),
                self.lines.len() * PER_LINE,
            )
        };
        Left::rows(values, self.rows, self.inner.next_multiple_of(2), stride)
    }
}
