//! The packed operand of a product.

use half::bf16;

use super::Bf16Unit;
use crate::kernels::for_each_chunk;

/// Columns of a panel.
pub(super) const WIDTH: usize = 32;

/// Pairs that the vector code packs at once.
const BLOCK: usize = 16;

/// A matrix in bfloat16, `[inner, columns]`, as an operand of a product that sums over `inner`.
///
/// It consists of panels of 32 columns. A panel holds for each pair of adjacent inner indices the pairs of all
/// its columns, side by side. An odd `inner`, and missing columns of the last panel, are filled with zeros.
#[derive(Clone, Debug)]
pub(crate) struct Panels {
    /// `[panels, allocated pairs, 32]`; the lower half of a number is the first member of its pair.
    lines: Vec<Line>,
    inner: usize,
    columns: usize,
    /// Pairs for which a panel has memory.
    allocated_pairs: usize,
    unit: Bf16Unit,
}

/// A vector register, aligned so that loading it never touches two cache lines.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u32; 16]);

/// Registers per pair and panel.
pub(super) const LINES: usize = WIDTH / 16;

/// The values to pack: a matrix in row-major order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    values: Values<'a>,
    rows: usize,
    columns: usize,
    /// The distance between the starts of two rows.
    stride: usize,
}

#[derive(Clone, Copy, Debug)]
enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<'a> Source<'a> {
    /// `rows` rows of `columns` numbers, which are rounded to bfloat16. The starts of two rows are `stride`
    /// apart.
    pub(crate) fn f32(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        check(values.len(), rows, columns, stride);
        Self {
            values: Values::F32(values),
            rows,
            columns,
            stride,
        }
    }

    /// As [`Source::f32`], with numbers that are bfloat16 already.
    pub(crate) fn bf16(values: &'a [bf16], rows: usize, columns: usize, stride: usize) -> Self {
        check(values.len(), rows, columns, stride);
        Self {
            values: Values::Bf16(values),
            rows,
            columns,
            stride,
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }
}

/// Checks that a matrix lies within its slice.
pub(super) fn check(length: usize, rows: usize, columns: usize, stride: usize) {
    let end = rows
        .checked_sub(1)
        .and_then(|last| last.checked_mul(stride))
        .and_then(|start| start.checked_add(columns));
    assert!(
        rows == 0 || columns == 0 || end.is_some_and(|end| end <= length),
        "the matrix must lie within its slice"
    );
}

impl Panels {
    /// Panels for `x · Sᵀ`: the columns of the operand are the rows of the source.
    pub(crate) fn of_rows(unit: Bf16Unit, source: Source<'_>) -> Self {
        let mut panels = Self::empty(unit);
        panels.pack_rows(source);
        panels
    }

    /// Panels for `x · S`: the columns of the operand are those of the source.
    pub(crate) fn of_columns(unit: Bf16Unit, source: Source<'_>) -> Self {
        let mut panels = Self::empty(unit);
        panels.pack_columns(source);
        panels
    }

    /// Panels of nothing, whose memory grows when something is packed into them.
    pub(crate) fn empty(unit: Bf16Unit) -> Self {
        Self {
            lines: Vec::new(),
            inner: 0,
            columns: 0,
            allocated_pairs: 0,
            unit,
        }
    }

    fn zeros(unit: Bf16Unit, inner: usize, columns: usize) -> Self {
        let pairs = inner.div_ceil(2);
        Self {
            lines: vec![Line([0; 16]); columns.div_ceil(WIDTH) * pairs * LINES],
            inner,
            columns,
            allocated_pairs: pairs,
            unit,
        }
    }

    /// Panels of `inner` inner indices without columns, with memory for `columns` calls of
    /// [`Panels::push_column`].
    pub(crate) fn with_columns(unit: Bf16Unit, inner: usize, columns: usize) -> Self {
        Self {
            columns: 0,
            ..Self::zeros(unit, inner, columns)
        }
    }

    /// Panels of `columns` columns without inner indices, with memory for `inner` calls of
    /// [`Panels::push_inner`].
    pub(crate) fn with_inner(unit: Bf16Unit, columns: usize, inner: usize) -> Self {
        Self {
            inner: 0,
            ..Self::zeros(unit, inner, columns)
        }
    }

    /// Adds a column, which has one number per inner index.
    ///
    /// # Panics
    /// If the memory is used up, or there are too few or too many numbers.
    pub(crate) fn push_column(&mut self, numbers: &[bf16]) {
        assert_eq!(
            numbers.len(),
            self.inner,
            "a column has one number per inner index"
        );
        let (panel, column) = (self.columns / WIDTH, self.columns % WIDTH);
        for (index, number) in numbers.iter().enumerate() {
            self.set((panel, column), index, *number);
        }
        self.columns += 1;
    }

    /// Adds an inner index, which has one number per column.
    ///
    /// # Panics
    /// As [`Panels::push_column`].
    pub(crate) fn push_inner(&mut self, numbers: &[bf16]) {
        assert_eq!(
            numbers.len(),
            self.columns,
            "an inner index has one number per column"
        );
        for (column, number) in numbers.iter().enumerate() {
            self.set((column / WIDTH, column % WIDTH), self.inner, *number);
        }
        self.inner += 1;
    }

    fn set(&mut self, (panel, column): (usize, usize), inner: usize, number: bf16) {
        let line = (panel * self.allocated_pairs + inner / 2) * LINES + column / BLOCK;
        let pair = &mut self.lines[line].0[column % BLOCK];
        let bits = u32::from(number.to_bits());
        *pair = match inner % 2 {
            0 => bits,
            _ => *pair & 0xffff | bits << 16,
        };
    }

    /// The number of summed indices.
    pub(crate) fn inner(&self) -> usize {
        self.inner
    }

    /// The number of columns.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn unit(&self) -> Bf16Unit {
        self.unit
    }

    /// The number of pairs of summed indices.
    pub(super) fn pairs(&self) -> usize {
        self.inner.div_ceil(2)
    }

    /// The pairs of one panel, `[pairs, 32]`.
    pub(super) fn panel(&self, index: usize) -> *const u32 {
        self.panel_lines(index).as_ptr().cast()
    }

    /// The registers of one panel, `[pairs, 2]`.
    fn panel_lines(&self, index: usize) -> &[Line] {
        let start = index * self.allocated_pairs * LINES;
        &self.lines[start..start + self.pairs() * LINES]
    }

    /// All packed numbers, in memory order.
    #[cfg(test)]
    pub(super) fn numbers(&self) -> Vec<f32> {
        let pairs = self.lines.iter().flat_map(|line| line.0);
        let halves = pairs.flat_map(|pair| [pair as u16, (pair >> 16) as u16]);
        halves.map(|bits| bf16::from_bits(bits).to_f32()).collect()
    }

    /// As [`Panels::of_rows`], in the memory of these panels.
    pub(crate) fn pack_rows(&mut self, source: Source<'_>) {
        self.pack(source.columns, source.rows, |panel, lines| {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `unit` proves that the processor has the instructions; the source was checked to lie
            // within its slice, and `lines` are a whole panel of it.
            unsafe {
                x86::pack_rows(source, panel * WIDTH, lines);
            }
            #[cfg(not(target_arch = "x86_64"))]
            unreachable!(
                "there are no panels without the instructions: {panel}, {}",
                lines.len()
            );
        });
    }

    fn pack_columns(&mut self, source: Source<'_>) {
        self.pack(source.rows, source.columns, |panel, lines| {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `pack_rows`.
            unsafe {
                x86::pack_columns(source, panel * WIDTH, lines);
            }
            #[cfg(not(target_arch = "x86_64"))]
            unreachable!(
                "there are no panels without the instructions: {panel}, {}",
                lines.len()
            );
        });
    }

    /// `fill` receives the index of a panel and its registers, `[pairs, 2]`, and writes all of them.
    fn pack(&mut self, inner: usize, columns: usize, fill: impl Fn(usize, &mut [Line]) + Sync) {
        (self.inner, self.columns) = (inner, columns);
        self.allocated_pairs = self.pairs();
        let per_panel = self.pairs() * LINES;
        let length = columns.div_ceil(WIDTH) * per_panel;
        self.lines.resize(length, Line([0; 16]));
        if length == 0 {
            return;
        }
        fill_parts(&mut self.lines, per_panel, fill);
    }
}

/// The largest operand that one thread packs, in registers of 64 bytes. To hand it over would take longer.
const SMALL_LINES: usize = 1 << 10;

/// Calls `fill` with the index of every part and its registers.
pub(super) fn fill_parts(
    lines: &mut [Line],
    part: usize,
    fill: impl Fn(usize, &mut [Line]) + Sync,
) {
    match lines.len() <= SMALL_LINES {
        true => (lines.chunks_mut(part).enumerate()).for_each(|(index, lines)| fill(index, lines)),
        false => for_each_chunk(lines, part, fill),
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    use super::{BLOCK, LINES, Line, Panels, Source, Values};

    /// Packs the rows of the source from `first` on, up to 32 of them.
    ///
    /// # Safety
    /// The processor must have AVX512 (F, BW) and AVX512-BF16. `lines` has `LINES` registers for each pair
    /// of columns.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn pack_rows(source: Source<'_>, first: usize, lines: &mut [Line]) {
        let pairs = lines.len() / LINES;
        for half in 0..LINES {
            let first = first + half * BLOCK;
            let mut pair = 0;
            while pair < pairs {
                let mut block = [_mm512_setzero_si512(); BLOCK];
                for (index, register) in block.iter_mut().enumerate() {
                    let row = first + index;
                    if row < source.rows {
                        // SAFETY: `row` and the columns from `2 * pair` on are inside the source.
                        *register = unsafe { row_pairs(source, row, 2 * pair) };
                    }
                }
                transpose(&mut block);
                for (index, register) in block.into_iter().enumerate().take(pairs - pair) {
                    let line = &mut lines[(pair + index) * LINES + half];
                    // SAFETY: a line is one register of aligned memory.
                    unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), register) };
                }
                pair += BLOCK;
            }
        }
    }

    /// Up to 16 pairs of adjacent columns of one row; zeros beyond its end.
    ///
    /// # Safety
    /// `row` and `column` are inside the source.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn row_pairs(source: Source<'_>, row: usize, column: usize) -> __m512i {
        let start = row * source.stride + column;
        let count = (source.columns - column).min(2 * BLOCK);
        // SAFETY: the masks cover only columns of this row, which the source was checked to contain.
        unsafe {
            match source.values {
                Values::F32(values) => {
                    let values = values.as_ptr().add(start);
                    let low = _mm512_maskz_loadu_ps(mask16(count), values);
                    let beyond = count.saturating_sub(BLOCK);
                    let high = _mm512_maskz_loadu_ps(mask16(beyond), values.wrapping_add(BLOCK));
                    bits(_mm512_cvtne2ps_pbh(high, low))
                }
                Values::Bf16(values) => {
                    let mask = u32::MAX >> (32 - count as u32);
                    _mm512_maskz_loadu_epi16(mask, values.as_ptr().add(start).cast())
                }
            }
        }
    }

    /// Packs the columns of the source from `first` on, up to 32 of them.
    ///
    /// # Safety
    /// As [`pack_rows`], with `LINES` registers for each pair of rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn pack_columns(source: Source<'_>, first: usize, lines: &mut [Line]) {
        for (pair, registers) in lines.chunks_exact_mut(LINES).enumerate() {
            for (half, line) in registers.iter_mut().enumerate() {
                let column = first + half * BLOCK;
                // SAFETY: the caller promises what the functions need; a line is one register of aligned memory.
                unsafe {
                    let pairs = column_pairs(source, pair, column);
                    _mm512_store_si512(line.0.as_mut_ptr().cast(), pairs);
                }
            }
        }
    }

    /// A pair of adjacent rows of up to 16 columns; zeros beyond the source.
    ///
    /// # Safety
    /// As [`pack_rows`].
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn column_pairs(source: Source<'_>, pair: usize, column: usize) -> __m512i {
        let count = source.columns.saturating_sub(column);
        let mask = |row: usize| mask16(if row < source.rows { count } else { 0 });
        // SAFETY: a row that exists has `count` columns from `column` on.
        let pairs = unsafe {
            match source.values {
                Values::F32(values) => {
                    let row = |row: usize| {
                        let start = row * source.stride + column;
                        _mm512_maskz_loadu_ps(mask(row), values.as_ptr().wrapping_add(start))
                    };
                    bits(_mm512_cvtne2ps_pbh(row(2 * pair + 1), row(2 * pair)))
                }
                Values::Bf16(values) => {
                    let row = |row: usize| {
                        let start = row * source.stride + column;
                        let values = values.as_ptr().wrapping_add(start);
                        _mm512_maskz_loadu_epi16(mask(row).into(), values.cast())
                    };
                    let odd = _mm512_castsi512_si256(row(2 * pair + 1));
                    _mm512_inserti64x4::<1>(row(2 * pair), odd)
                }
            }
        };
        _mm512_permutexvar_epi16(interleave(), pairs)
    }

    /// Writes the columns of the source from `first` on, up to 32 of them, as rows of `per_row` registers.
    ///
    /// # Safety
    /// As [`pack_rows`]. A row has room for all rows of the source, and there are as many rows as columns.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(in super::super) unsafe fn transpose_columns(
        source: Source<'_>,
        first: usize,
        lines: &mut [Line],
        per_row: usize,
    ) {
        let rows = lines.len() / per_row;
        for register in 0..per_row {
            for start in (0..rows).step_by(BLOCK) {
                let mut block = [_mm512_setzero_si512(); BLOCK];
                for (index, pairs) in block.iter_mut().enumerate() {
                    // SAFETY: the caller promises what the function needs.
                    *pairs =
                        unsafe { column_pairs(source, register * BLOCK + index, first + start) };
                }
                transpose(&mut block);
                for (row, register_of_row) in (start..rows).zip(block) {
                    let line = &mut lines[row * per_row + register];
                    // SAFETY: a line is one register of aligned memory.
                    unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), register_of_row) };
                }
            }
        }
    }

    /// Writes the panel `index` of the transpose of all panels from `first_panel` on, as many as `lines` has
    /// registers for.
    ///
    /// # Safety
    /// As [`pack_rows`]. The panels exist.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(in super::super) unsafe fn transpose_panel(
        panels: &Panels,
        first_panel: usize,
        index: usize,
        lines: &mut [Line],
    ) {
        /// Numbers of 64 bits in a register: two pairs.
        const HALF: usize = BLOCK / 2;
        for (panel, target) in lines.chunks_mut(BLOCK * LINES).enumerate() {
            let source = panels.panel_lines(first_panel + panel);
            for (part, target) in target.chunks_mut(HALF * LINES).enumerate() {
                for group in 0..LINES {
                    let mut block = [_mm512_setzero_si512(); HALF];
                    for (register, pair) in block.iter_mut().zip(index * BLOCK + group * HALF..) {
                        if let Some(line) = source.get(pair * LINES + part) {
                            // SAFETY: a line is one register of aligned memory.
                            let pairs = unsafe { _mm512_load_si512(line.0.as_ptr().cast()) };
                            // Exchanges the inner two of each four numbers: pairs of rows become pairs of columns.
                            let pairs = _mm512_shufflelo_epi16::<0b11_01_10_00>(pairs);
                            *register = _mm512_shufflehi_epi16::<0b11_01_10_00>(pairs);
                        }
                    }
                    transpose_pairs(&mut block);
                    for (lines, register) in target.chunks_exact_mut(LINES).zip(block) {
                        // SAFETY: as above.
                        unsafe { _mm512_store_si512(lines[group].0.as_mut_ptr().cast(), register) };
                    }
                }
            }
        }
    }

    /// Transposes a block of 8 × 8 numbers of 64 bits.
    #[target_feature(enable = "avx512f")]
    fn transpose_pairs(block: &mut [__m512i; 8]) {
        let rows = *block;
        for parity in 0..2 {
            // Register `i` holds the columns of one parity of rows `2 i` and `2 i + 1`, column by column.
            let [a, b, c, d] = [0, 2, 4, 6].map(|row| match parity {
                0 => _mm512_unpacklo_epi64(rows[row], rows[row + 1]),
                _ => _mm512_unpackhi_epi64(rows[row], rows[row + 1]),
            });
            let [ab, cd] = [(a, b), (c, d)].map(|(x, y)| {
                [
                    _mm512_shuffle_i64x2::<0x88>(x, y),
                    _mm512_shuffle_i64x2::<0xdd>(x, y),
                ]
            });
            for half in 0..2 {
                block[2 * half + parity] = _mm512_shuffle_i64x2::<0x88>(ab[half], cd[half]);
                block[2 * half + parity + 4] = _mm512_shuffle_i64x2::<0xdd>(ab[half], cd[half]);
            }
        }
    }

    /// The permutation that interleaves the two halves of a register, number by number.
    #[target_feature(enable = "avx512f")]
    fn interleave() -> __m512i {
        const ORDER: [u16; 2 * BLOCK] = {
            let mut order = [0; 2 * BLOCK];
            let mut index = 0;
            while index < BLOCK {
                order[2 * index] = index as u16;
                order[2 * index + 1] = (BLOCK + index) as u16;
                index += 1;
            }
            order
        };
        // SAFETY: the array is as large as the register.
        unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) }
    }

    /// A mask of the first `count` numbers of a register, at most all.
    fn mask16(count: usize) -> __mmask16 {
        ((1u32 << count.min(BLOCK)) - 1) as __mmask16
    }

    fn bits(vector: __m512bh) -> __m512i {
        // SAFETY: both are 512 bits without invalid values.
        unsafe { std::mem::transmute::<__m512bh, __m512i>(vector) }
    }

    /// Transposes a block of 16 × 16 numbers of 32 bits.
    #[target_feature(enable = "avx512f")]
    fn transpose(block: &mut [__m512i; BLOCK]) {
        // Each step exchanges halves of ever larger groups: pairs, fours, eights, sixteens.
        let rows = *block;
        for group in (0..BLOCK).step_by(2) {
            block[group] = _mm512_unpacklo_epi32(rows[group], rows[group + 1]);
            block[group + 1] = _mm512_unpackhi_epi32(rows[group], rows[group + 1]);
        }
        let rows = *block;
        for group in (0..BLOCK).step_by(4) {
            for part in 0..2 {
                let (upper, lower) = (rows[group + part], rows[group + part + 2]);
                block[group + 2 * part] = _mm512_unpacklo_epi64(upper, lower);
                block[group + 2 * part + 1] = _mm512_unpackhi_epi64(upper, lower);
            }
        }
        // Now register `4 g + i` holds column `i` of rows `4 g` to `4 g + 3`, in each quarter `q` column `4 q + i`.
        let rows = *block;
        for column in 0..4 {
            let [a, b, c, d] = [0, 4, 8, 12].map(|group| rows[group + column]);
            let even = [
                _mm512_shuffle_i32x4::<0x88>(a, b),
                _mm512_shuffle_i32x4::<0x88>(c, d),
            ];
            let odd = [
                _mm512_shuffle_i32x4::<0xdd>(a, b),
                _mm512_shuffle_i32x4::<0xdd>(c, d),
            ];
            block[column] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
            block[column + 4] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
            block[column + 8] = _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]);
            block[column + 12] = _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]);
        }
    }
}
