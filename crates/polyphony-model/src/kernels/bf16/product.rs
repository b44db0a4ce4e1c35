//! The product of a matrix with panels.

use std::{marker::PhantomData, ops::Range};

use half::bf16;

use super::{
    Left, Right,
    panels::{Line, WIDTH, check},
};
use crate::kernels::{Cores, for_each};

/// Rows whose sums are computed at once: with two registers of sums each they fill the registers.
const MAX_TILE: usize = 12;

/// Numbers of packed weights that a thread takes at once: enough to hide the cost of handing over work, few
/// enough to balance the load.
const CHUNK: usize = 1 << 16;

/// Products with fewer multiplications than this are computed by one thread.
const SMALL: usize = 1 << 18;

/// Where a product is written, as rows of a matrix.
#[derive(Debug)]
pub(crate) enum Output<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
}

/// A type of numbers that a product writes.
pub(crate) trait OutputNumber: Sized {
    /// Where the numbers of an output begin.
    fn pointer(first: *mut Self) -> Pointer;
}

impl OutputNumber for f32 {
    fn pointer(first: *mut Self) -> Pointer {
        Pointer::F32(first)
    }
}

impl OutputNumber for bf16 {
    fn pointer(first: *mut Self) -> Pointer {
        Pointer::Bf16(first)
    }
}

/// The result of a product, `factor · left · right`, plus what is added to it.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    output: Pointer,
    stride: usize,
    factor: f32,
    /// A number per column.
    bias: Option<&'a [f32]>,
    /// A matrix of the same shape and stride, such as the residual stream. It may be the output itself.
    addend: *const f32,
    /// Whether the sums start with the addend. Otherwise it is added to them at the end.
    starts_with_addend: bool,
    length: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Pointer {
    F32(*mut f32),
    Bf16(*mut bf16),
}

// SAFETY: threads write disjoint columns of what it borrows exclusively.
unsafe impl Sync for Target<'_> {}

impl<'a> Target<'a> {
    /// The starts of two rows of `output` are `stride` apart.
    pub(crate) fn new(output: Output<'a>, stride: usize) -> Self {
        let (output, length) = match output {
            Output::F32(values) => (Pointer::F32(values.as_mut_ptr()), values.len()),
            Output::Bf16(values) => (Pointer::Bf16(values.as_mut_ptr()), values.len()),
        };
        Self::at(output, length, stride)
    }

    /// A target of `length` numbers, which may be uninitialized.
    fn at(output: Pointer, length: usize, stride: usize) -> Self {
        Self {
            output,
            stride,
            factor: 1.0,
            bias: None,
            addend: std::ptr::null(),
            starts_with_addend: false,
            length,
            borrow: PhantomData,
        }
    }

    /// The product is multiplied by `factor`, before anything is added.
    pub(crate) fn times(self, factor: f32) -> Self {
        Self { factor, ..self }
    }

    /// `bias` is added to every row.
    pub(crate) fn plus_bias(self, bias: &'a [f32]) -> Self {
        let bias = Some(bias);
        Self { bias, ..self }
    }

    /// A matrix with the shape and the stride of the output is added.
    pub(crate) fn plus(self, addend: &'a [f32]) -> Self {
        assert!(
            addend.len() >= self.length,
            "the addend is as large as the output"
        );
        Self {
            addend: addend.as_ptr(),
            ..self
        }
    }

    /// The product is added to what the output holds.
    ///
    /// # Panics
    /// If the output is not made of 32-bit floats.
    pub(crate) fn accumulated(self) -> Self {
        let Pointer::F32(values) = self.output else {
            panic!("sums are accumulated in 32 bits")
        };
        Self {
            addend: values,
            ..self
        }
    }
}

impl Target<'_> {
    /// The sums go on from what the output holds: the result is the same, to the last bit, as that of one product
    /// over all inner indices.
    ///
    /// # Panics
    /// If the output is not made of 32-bit floats.
    pub(crate) fn continued(self) -> Self {
        Self {
            starts_with_addend: true,
            ..self.accumulated()
        }
    }
}

/// `left · right` as a new matrix, computed by all cores, plus a bias per column and a matrix of the same shape.
/// These two may be empty.
///
/// # Panics
/// If the sizes do not fit together.
pub(crate) fn new_product<'a, T: OutputNumber>(
    left: Left<'_>,
    right: impl Into<Right<'a>>,
    [bias, addend]: [&[f32]; 2],
) -> Vec<T> {
    let right = right.into();
    let (columns, length) = (right.columns(), left.rows * right.columns());
    let mut output: Vec<T> = Vec::with_capacity(length);
    let mut target = Target::at(T::pointer(output.as_mut_ptr()), length, columns);
    if !bias.is_empty() {
        target = target.plus_bias(bias);
    }
    if !addend.is_empty() {
        target = target.plus(addend);
    }
    product(left, right, target, Cores::All);
    // SAFETY: `product` has written every column of every row, which are all numbers; otherwise it has panicked.
    unsafe { output.set_len(length) };
    output
}

/// Writes `left · right` to the target.
///
/// # Panics
/// If the sizes do not fit together.
pub(crate) fn product<'a>(
    left: Left<'_>,
    right: impl Into<Right<'a>>,
    target: Target<'_>,
    cores: Cores,
) {
    let right = right.into();
    let (rows, columns) = (left.rows, right.columns());
    assert_eq!(left.inner.div_ceil(2), right.pairs(), "sizes must fit");
    check(target.length, rows, columns, target.stride);
    assert!(
        rows <= 1 || target.stride >= columns,
        "rows must not overlap"
    );
    assert!(
        !target.starts_with_addend || target.factor == 1.0,
        "sums that go on from others cannot be multiplied"
    );
    assert!(
        target.bias.is_none_or(|bias| bias.len() == columns),
        "the bias has one number per column"
    );
    let panels = columns.div_ceil(WIDTH);
    if rows == 0 || columns == 0 {
        return;
    }
    let run = |panel: usize, buffer: &mut Vec<Line>| {
        let columns = (columns - panel * WIDTH).min(WIDTH);
        multiply_panel(
            left,
            (right.panel(panel, buffer), right.pairs()),
            panel * WIDTH..panel * WIDTH + columns,
            &target,
        );
    };
    let panel_size = right.pairs() * 2 * WIDTH;
    if cores == Cores::One || rows * panel_size * panels < SMALL {
        let mut buffer = Vec::new();
        (0..panels).for_each(|panel| run(panel, &mut buffer));
        return;
    }
    let at_once =
        (CHUNK / panel_size.max(1)).clamp(1, panels.div_ceil(2 * rayon::current_num_threads()));
    for_each(panels.div_ceil(at_once), |chunk| {
        let (first, mut buffer) = (chunk * at_once, Vec::new());
        (first..(first + at_once).min(panels)).for_each(|panel| run(panel, &mut buffer));
    });
}

/// All rows of the product with one panel, given as its memory and its number of pairs. `columns` are the columns
/// of the target.
fn multiply_panel(
    left: Left<'_>,
    (weights, pairs): (*const u32, usize),
    columns: Range<usize>,
    target: &Target<'_>,
) {
    let tiles = left.rows.div_ceil(MAX_TILE);
    let mut row = 0;
    for tile in 0..tiles {
        // Tiles of equal size use the registers best.
        let count = (left.rows - row).div_ceil(tiles - tile);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: panels prove that the processor has the instructions. `Left` and `Right` were checked
        // when they were made, and `product` checked the target and that the sizes fit.
        unsafe {
            x86::multiply_tile(
                count,
                x86::Tile {
                    left: left.pairs.wrapping_add(row * left.row_stride),
                    row_stride: left.row_stride,
                    weights,
                    pairs,
                    row,
                    column: columns.start,
                    columns: columns.len(),
                    target,
                },
            );
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (weights, pairs, &columns, target);
            unreachable!("there are no panels without the instructions");
        }
        row += count;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{MAX_TILE, Pointer, Target, WIDTH};

    /// Some rows of a product with one panel.
    #[derive(Clone, Copy)]
    pub(super) struct Tile<'a> {
        pub(super) left: *const u32,
        pub(super) row_stride: usize,
        pub(super) weights: *const u32,
        pub(super) pairs: usize,
        /// The first row and column of the target.
        pub(super) row: usize,
        pub(super) column: usize,
        /// Columns of the target from `column` on.
        pub(super) columns: usize,
        pub(super) target: &'a Target<'a>,
    }

    /// # Safety
    /// The processor must have AVX512 (F, BW, VL) and AVX512-BF16; `left` has `rows` rows and `weights` one
    /// panel of `pairs` pairs, and the target the rows and columns of the tile.
    pub(super) unsafe fn multiply_tile(rows: usize, tile: Tile<'_>) {
        macro_rules! by_rows {
            ($($rows:literal)*) => {
                match rows {
                    // SAFETY: the caller promises what `multiply` needs.
                    $($rows => unsafe { multiply::<$rows>(tile) },)*
                    _ => unreachable!("a tile has 1 to {MAX_TILE} rows"),
                }
            };
        }
        by_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
    }

    /// # Safety
    /// As [`multiply_tile`], with `ROWS` rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn multiply<const ROWS: usize>(tile: Tile<'_>) {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        if tile.target.starts_with_addend {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (half, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: `addend` reads only columns that the target has.
                    *sum = unsafe { addend(tile, row, 16 * half) };
                }
            }
        }
        let (mut left, mut weights) = (tile.left, tile.weights);
        for _ in 0..tile.pairs {
            // SAFETY: `weights` points to a pair of the panel, and `left` to the same pair of `ROWS` rows. Both
            // are advanced only as often as there are pairs.
            unsafe {
                let columns =
                    [0, 16].map(|half| pairs(_mm512_load_si512(weights.add(half).cast())));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let pair = left.add(row * tile.row_stride).read_unaligned();
                    let pair = pairs(_mm512_set1_epi32(pair as i32));
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = _mm512_dpbf16_ps(*sum, pair, column);
                    }
                }
                weights = weights.wrapping_add(WIDTH);
                left = left.wrapping_add(1);
            }
        }
        for (index, sums) in sums.into_iter().enumerate() {
            for (half, sum) in sums.into_iter().enumerate() {
                let count = tile.columns.saturating_sub(16 * half).min(16);
                if count > 0 {
                    // SAFETY: the target has this row, and `count` columns from here on.
                    unsafe { store(tile, index, 16 * half, count, sum) };
                }
            }
        }
    }

    /// The addend of up to 16 columns; zeros beyond those that the target has.
    ///
    /// # Safety
    /// The target has an addend.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn addend(tile: Tile<'_>, row: usize, column: usize) -> __m512 {
        let count = tile.columns.saturating_sub(column).min(16);
        let mask = ((1u32 << count) - 1) as __mmask16;
        let index = (tile.row + row) * tile.target.stride + tile.column + column;
        // SAFETY: the mask covers only columns of the target, and the addend has the target's shape.
        unsafe { _mm512_maskz_loadu_ps(mask, tile.target.addend.wrapping_add(index)) }
    }

    /// # Safety
    /// As [`multiply_tile`]; the target has `count` columns from `column` of the tile on.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn store(tile: Tile<'_>, row: usize, column: usize, count: usize, sum: __m512) {
        let target = tile.target;
        let mask = ((1u32 << count) - 1) as __mmask16;
        let index = (tile.row + row) * target.stride + tile.column + column;
        let mut sum = sum;
        if target.factor != 1.0 {
            sum = _mm512_mul_ps(sum, _mm512_set1_ps(target.factor));
        }
        // SAFETY: the mask covers only numbers that the caller promises to exist.
        unsafe {
            if let Some(bias) = target.bias {
                let bias = bias.as_ptr().add(tile.column + column);
                sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, bias));
            }
            if !target.addend.is_null() && !target.starts_with_addend {
                sum = _mm512_add_ps(sum, addend(tile, row, column));
            }
            match target.output {
                Pointer::F32(output) => _mm512_mask_storeu_ps(output.add(index), mask, sum),
                Pointer::Bf16(output) => {
                    let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(sum));
                    _mm256_mask_storeu_epi16(output.add(index).cast(), mask, rounded);
                }
            }
        }
    }

    fn pairs(vector: __m512i) -> __m512bh {
        // SAFETY: both are 512 bits without invalid values.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(vector) }
    }
}
