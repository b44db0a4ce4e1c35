//! The kernels, compared with plain loops over 64-bit floats.

use half::bf16;
use proptest::prelude::*;

use super::*;
use crate::kernels::{Cores, thread_pool};

/// `None` on processors without the instructions, on which there is nothing to test.
fn unit() -> Option<Bf16Unit> {
    Bf16Unit::detect()
}

/// Different numbers around 0, the same for the same salt.
fn numbers(count: usize, salt: usize) -> Vec<bf16> {
    let number = |index: usize| ((index * 7919 + salt * 104_729) % 1013) as f32 / 506.5 - 1.0;
    (0..count).map(|index| round(number(index))).collect()
}

/// A matrix whose rows are further apart than they are long.
struct Strided {
    values: Vec<bf16>,
    rows: usize,
    columns: usize,
    stride: usize,
}

impl Strided {
    fn new(rows: usize, columns: usize, gap: usize, salt: usize) -> Self {
        let stride = columns + gap;
        let mut values = numbers(rows * stride, salt);
        // What lies between the rows must never be read.
        for (index, value) in values.iter_mut().enumerate() {
            if index % stride >= columns {
                *value = bf16::NAN;
            }
        }
        Self {
            values,
            rows,
            columns,
            stride,
        }
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.stride + column].into()
    }

    fn source(&self) -> Source<'_> {
        Source::bf16(&self.values, self.rows, self.columns, self.stride)
    }
}

/// `Σ_k left(r, k) · right(k, c)` for all rows and columns, and the sum of the magnitudes, which bounds the
/// rounding error.
fn reference(
    [rows, inner, columns]: [usize; 3],
    left: impl Fn(usize, usize) -> f64,
    right: impl Fn(usize, usize) -> f64,
) -> Vec<(f64, f64)> {
    let mut sums = Vec::new();
    for row in 0..rows {
        for column in 0..columns {
            let products = (0..inner).map(|k| left(row, k) * right(k, column));
            sums.push(products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs())));
        }
    }
    sums
}

fn check_close(
    actual: &[f32],
    expected: &[(f64, f64)],
    relative: f64,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(actual.len(), expected.len());
    for (index, (actual, (expected, size))) in actual.iter().zip(expected).enumerate() {
        let gap = (f64::from(*actual) - expected).abs();
        prop_assert!(
            gap <= relative * (size + 1.0),
            "number {}: {} is not {}",
            index,
            actual,
            expected
        );
    }
    Ok(())
}

/// The rounding error of a 32-bit sum of up to a few hundred products, relative to the sum of magnitudes.
const SUM_ERROR: f64 = 3e-5;

proptest! {
    #[test]
    fn products_with_rows_and_columns_equal_plain_loops(
        rows in 1usize..40, half_inner in 1usize..70, columns in 1usize..100, gap in 0usize..3,
        [by_rows, transposed, all_cores] in any::<[bool; 3]>(),
    ) {
        let Some(unit) = unit() else { return Ok(()) };
        let inner = 2 * half_inner - usize::from(transposed);
        let left = match transposed {
            true => Strided::new(inner, rows, gap, 1),
            false => Strided::new(rows, inner, 2 * gap, 1),
        };
        let right = match by_rows {
            true => Strided::new(columns, inner, gap, 2),
            false => Strided::new(inner, columns, gap, 2),
        };
        let panels = match by_rows {
            true => Panels::of_rows(unit, right.source()),
            false => Panels::of_columns(unit, right.source()),
        };
        let transposed_rows = TransposedRows::of(unit, left.source());
        let operand = match transposed {
            true => transposed_rows.left(),
            false => Left::rows(&left.values, rows, inner, left.stride),
        };
        let cores = if all_cores { Cores::All } else { Cores::One };
        let mut output = vec![f32::NAN; rows * columns];
        product(operand, &panels, Target::new(Output::F32(&mut output), columns), cores);
        let expected = reference(
            [rows, inner, columns],
            |row, k| if transposed { left.at(k, row) } else { left.at(row, k) },
            |k, column| if by_rows { right.at(column, k) } else { right.at(k, column) },
        );
        check_close(&output, &expected, SUM_ERROR)?;
    }

    #[test]
    fn products_with_a_part_of_the_panels_and_with_its_transpose_equal_plain_loops(
        rows in 1usize..30, inner in 1usize..100, columns in 1usize..200, first in 0usize..7, panels in 1usize..4,
    ) {
        let Some(unit) = unit() else { return Ok(()) };
        let start = (first * 32).min((columns - 1) / 32 * 32);
        let part = start..columns.min(start + 32 * panels);
        let matrix = Strided::new(inner, columns, 1, 3);
        let packed = Panels::of_columns(unit, matrix.source());
        for (right, [inner, columns], is_transposed) in [
            (packed.part(part.clone()), [inner, part.len()], false),
            (packed.transposed(part.clone()), [part.len(), inner], true),
        ] {
            let left = Strided::new(rows, inner, inner % 2, 4);
            let mut values = left.values.clone();
            values.iter_mut().filter(|value| value.is_nan()).for_each(|gap| *gap = bf16::ZERO);
            let operand = Left::rows(&values, rows, inner.next_multiple_of(2), left.stride);
            let output: Vec<f32> = new_product(operand, right, [&[], &[]]);
            let expected = reference(
                [rows, inner, columns],
                |row, k| left.at(row, k),
                |k, column| match is_transposed {
                    true => matrix.at(column, part.start + k),
                    false => matrix.at(k, part.start + column),
                },
            );
            check_close(&output, &expected, SUM_ERROR)?;
        }
    }

    #[test]
    fn targets_scale_add_and_round(
        rows in 1usize..20, half_inner in 1usize..20, columns in 1usize..70, gap in 0usize..3,
        factor in -2.0f32..2.0, to_bf16: bool, accumulates: bool,
    ) {
        let Some(unit) = unit() else { return Ok(()) };
        let inner = 2 * half_inner;
        let (left, right) = (Strided::new(rows, inner, 0, 3), Strided::new(columns, inner, 0, 4));
        let panels = Panels::of_rows(unit, right.source());
        let operand = Left::rows(&left.values, rows, inner, inner);
        let bias: Vec<f32> = numbers(columns, 5).into_iter().map(widen).collect();
        let stride = columns + gap;
        let before: Vec<f32> = numbers(rows * stride, 6).into_iter().map(widen).collect();
        let mut expected = reference([rows, inner, columns], |r, k| left.at(r, k), |k, c| right.at(c, k));
        for (index, (sum, size)) in expected.iter_mut().enumerate() {
            let (row, column) = (index / columns, index % columns);
            let added = f64::from(bias[column]) + f64::from(before[row * stride + column]);
            *sum = f64::from(factor) * *sum + added;
            *size = f64::from(factor.abs()) * *size + added.abs();
        }
        let mut wide = before.clone();
        let mut narrow = vec![bf16::ONE; rows * stride];
        let target = match (to_bf16, accumulates) {
            (true, _) => Target::new(Output::Bf16(&mut narrow), stride).plus(&before),
            (false, true) => Target::new(Output::F32(&mut wide), stride).accumulated(),
            (false, false) => Target::new(Output::F32(&mut wide), stride).plus(&before),
        };
        product(operand, &panels, target.times(factor).plus_bias(&bias), Cores::One);
        let written: Vec<f32> = match to_bf16 {
            true => narrow.into_iter().map(widen).collect(),
            false => wide,
        };
        let untouched = if to_bf16 { vec![1.0; before.len()] } else { before };
        let mut result = Vec::new();
        for (index, value) in written.into_iter().enumerate() {
            match index % stride < columns {
                true => result.push(value),
                false => prop_assert_eq!(value, untouched[index], "a gap was written"),
            }
        }
        // A number of 8 bits is off by up to half of its last one.
        let relative = if to_bf16 { 1.0 / 256.0 } else { SUM_ERROR };
        check_close(&result, &expected, relative)?;
    }

    #[test]
    fn a_row_is_the_same_alone_and_with_any_number_of_threads(
        rows in 1usize..80, half_inner in 1usize..100, columns in 1usize..200, threads in 1usize..6,
    ) {
        let Some(unit) = unit() else { return Ok(()) };
        let inner = 2 * half_inner;
        let (left, right) = (numbers(rows * inner, 7), numbers(columns * inner, 8));
        let panels = Panels::of_rows(unit, Source::bf16(&right, columns, inner, inner));
        let run = |values: &[bf16], cores| {
            let rows = values.len() / inner;
            let mut output = vec![0.0; rows * columns];
            let left = Left::rows(values, rows, inner, inner);
            product(left, &panels, Target::new(Output::F32(&mut output), columns), cores);
            output
        };
        let together = thread_pool(threads).install(|| run(&left, Cores::All));
        for (row, expected) in left.chunks_exact(inner).zip(together.chunks_exact(columns)) {
            prop_assert_eq!(run(row, Cores::One), expected);
        }
    }

    #[test]
    fn floats_are_packed_as_their_nearest_bf16(
        rows in 1usize..50, columns in 1usize..90, gap in 0usize..3, by_rows: bool,
        special in prop::collection::vec(any::<f32>(), 8),
    ) {
        let Some(unit) = unit() else { return Ok(()) };
        let stride = columns + gap;
        let mut values: Vec<f32> = (0..rows * stride).map(|i| (i as f32 * 0.37).sin()).collect();
        for (index, value) in special.iter().enumerate() {
            let place = index * 31 % values.len();
            // The instruction takes denormal numbers for zeros.
            values[place] = if value.is_subnormal() { 0.0 } else { *value };
        }
        let rounded: Vec<bf16> = values.iter().map(|value| round(*value)).collect();
        let pack = |source| match by_rows {
            true => Panels::of_rows(unit, source),
            false => Panels::of_columns(unit, source),
        };
        let from_f32 = pack(Source::f32(&values, rows, columns, stride));
        let from_bf16 = pack(Source::bf16(&rounded, rows, columns, stride));
        for (a, b) in from_f32.numbers().into_iter().zip(from_bf16.numbers()) {
            prop_assert!(a == b || (a.is_nan() && b.is_nan()), "{} is not {}", a, b);
        }
    }

    #[test]
    fn rounding_takes_the_nearest_number(value: f32) {
        let expected = bf16::from_f32(value);
        prop_assert!(round(value) == expected || (value.is_nan() && round(value).is_nan()));
        prop_assert!(widen(expected) == expected.to_f32() || value.is_nan());
    }
}

#[test]
fn large_products_equal_plain_loops() {
    let Some(unit) = unit() else { return };
    for [rows, inner, columns] in [[33, 1538, 1000], [130, 64, 2049]] {
        let (left, right) = (
            Strided::new(rows, inner, 0, 9),
            Strided::new(columns, inner, 0, 10),
        );
        let panels = Panels::of_rows(unit, right.source());
        let mut output = vec![0.0; rows * columns];
        let operand = Left::rows(&left.values, rows, inner, inner);
        product(
            operand,
            &panels,
            Target::new(Output::F32(&mut output), columns),
            Cores::All,
        );
        let expected = reference(
            [rows, inner, columns],
            |r, k| left.at(r, k),
            |k, c| right.at(c, k),
        );
        check_close(&output, &expected, SUM_ERROR).unwrap();
    }
    // Enough for several threads, with an incomplete last group of columns and an odd inner dimension.
    let (inner, rows, columns) = (1537, 70, 33);
    let (left, right) = (
        Strided::new(inner, rows, 0, 11),
        Strided::new(inner, columns, 0, 12),
    );
    let panels = Panels::of_columns(unit, right.source());
    let transposed = TransposedRows::of(unit, left.source());
    let output: Vec<f32> = new_product(transposed.left(), &panels, [&[], &[]]);
    let expected = reference(
        [rows, inner, columns],
        |r, k| left.at(k, r),
        |k, c| right.at(k, c),
    );
    check_close(&output, &expected, SUM_ERROR).unwrap();
}

/// Infinities and NaN reach the rows and columns that they belong to, and no others; denormal numbers count as
/// zeros.
#[test]
fn special_values_stay_in_their_rows_and_columns() {
    let Some(unit) = unit() else { return };
    let inner = 6;
    let (mut left, mut right) = (vec![bf16::ONE; 5 * inner], vec![bf16::ONE; 40 * inner]);
    left[inner + 2] = bf16::INFINITY;
    left[3 * inner + 5] = bf16::NAN;
    left[4 * inner] = bf16::from_bits(1);
    right[33 * inner] = bf16::NEG_INFINITY;
    let panels = Panels::of_rows(unit, Source::bf16(&right, 40, inner, inner));
    let mut output = vec![0.0; 5 * 40];
    let operand = Left::rows(&left, 5, inner, inner);
    product(
        operand,
        &panels,
        Target::new(Output::F32(&mut output), 40),
        Cores::One,
    );
    for (row, values) in output.chunks_exact(40).enumerate() {
        for (column, value) in values.iter().enumerate() {
            match (row, column) {
                (3, _) | (1, 33) | (4, 33) => assert!(value.is_nan(), "{row} {column}: {value}"),
                (1, _) => assert_eq!(*value, f32::INFINITY),
                (_, 33) => assert_eq!(*value, f32::NEG_INFINITY),
                (4, _) => assert_eq!(*value, 5.0),
                _ => assert_eq!(*value, 6.0),
            }
        }
    }
}

#[test]
fn empty_products_are_empty_or_zero() {
    let Some(unit) = unit() else { return };
    let panels = Panels::of_rows(unit, Source::bf16(&[], 3, 0, 0));
    let mut output = vec![1.0; 6];
    let operand = Left::rows(&[], 2, 0, 0);
    product(
        operand,
        &panels,
        Target::new(Output::F32(&mut output), 3),
        Cores::All,
    );
    assert_eq!(output, [0.0; 6]);
    let nothing = Panels::of_rows(unit, Source::bf16(&[], 0, 4, 4));
    let values = numbers(8, 1);
    product(
        Left::rows(&values, 2, 4, 4),
        &nothing,
        Target::new(Output::F32(&mut []), 0),
        Cores::All,
    );
}
