//! The choice of experts for decoding, and the sum of their results, each in one launch.

use cubecl::prelude::*;

use super::{CubeTensor, UNITS, cube_max, cube_min, cube_sum, cubes, cubes_of_units, units};

/// Chooses the experts with the largest router logits, of equal ones the first, and their factors.
///
/// # Shapes
/// `R` rows, `E` experts, `k` of them per row:
/// - logits `[R, E]`, chosen and factors `[R · k]`
pub(crate) fn choose_experts(
    logits: &CubeTensor,
    [chosen, factors]: [&CubeTensor; 2],
    rows: usize,
    (per_row, normalized): (usize, bool),
) {
    let [_, experts] = logits.meta.shape().dims();
    choose::launch(
        &logits.client,
        cubes(rows),
        units(),
        logits.clone().into_buffer_arg(),
        chosen.clone().into_buffer_arg(),
        factors.clone().into_buffer_arg(),
        rows as u32,
        experts,
        per_row,
        normalized,
        UNITS,
    );
}

#[cube(launch)]
fn choose(
    logits: &[f32],
    chosen: &mut [u32],
    factors: &mut [f32],
    rows: u32,
    #[comptime] experts: usize,
    #[comptime] per_row: usize,
    #[comptime] normalized: bool,
    #[comptime] units: usize,
) {
    let unit = UNIT_POS as usize;
    let mut left = Shared::<[f32]>::new_slice(experts);
    let mut parts = Shared::<[f32]>::new_slice(units);
    let mut ids = Shared::<[u32]>::new_slice(units);
    let mut row = CUBE_POS;
    while row < rows as usize {
        let mut i = unit;
        let mut max = f32::new(-3.0e38);
        while i < experts {
            left[i] = logits[row * experts + i];
            max = f32::max(max, left[i]);
            i += units;
        }
        let max = cube_max(max, &mut parts, units);
        let mut weights = 0.0f32;
        i = unit;
        while i < experts {
            weights += (left[i] - max).exp();
            i += units;
        }
        let total = cube_sum(weights, &mut parts, units);
        let mut chosen_weight = 0.0f32.runtime();
        for place in 0..per_row {
            let mut best = f32::new(-3.0e38);
            i = unit;
            while i < experts {
                best = f32::max(best, left[i]);
                i += units;
            }
            let best = cube_max(best, &mut parts, units);
            let mut id = comptime!(experts as u32).runtime();
            i = unit;
            while i < experts {
                if left[i] == best {
                    id = u32::min(id, i as u32);
                }
                i += units;
            }
            // If logits are not numbers, none is the largest.
            let id = u32::min(cube_min(id, &mut ids, units), comptime!(experts as u32 - 1));
            let weight = (best - max).exp();
            chosen_weight += weight;
            if unit == 0 {
                chosen[row * per_row + place] = id;
                factors[row * per_row + place] = weight / total;
                left[id as usize] = f32::new(-3.0e38);
            }
            sync_cube();
        }
        if normalized && unit == 0 {
            for place in 0..per_row {
                factors[row * per_row + place] *= total / chosen_weight;
            }
        }
        row += CUBE_COUNT;
    }
}

/// Adds the results of each row's experts, times their factors, to the residual stream.
///
/// # Shapes
/// - results `[R · k, D]`, factors `[R · k]`, residual `[R, D]`
pub(crate) fn add_experts(
    results: &CubeTensor,
    factors: &CubeTensor,
    residual: &CubeTensor,
    rows: usize,
    per_row: usize,
) {
    let [_, width] = residual.meta.shape().dims();
    add::launch(
        &residual.client,
        cubes_of_units(rows * width),
        units(),
        results.clone().into_buffer_arg(),
        factors.clone().into_buffer_arg(),
        residual.clone().into_buffer_arg(),
        (rows * width) as u32,
        width,
        per_row,
    );
}

#[cube(launch)]
fn add(
    results: &[f32],
    factors: &[f32],
    residual: &mut [f32],
    numbers: u32,
    #[comptime] width: usize,
    #[comptime] per_row: usize,
) {
    let mut number = ABSOLUTE_POS;
    while number < numbers as usize {
        let (row, column) = (number / width, number % width);
        let mut sum = 0.0f32.runtime();
        for place in 0..per_row {
            let result = row * per_row + place;
            sum += factors[result] * results[result * width + column];
        }
        residual[number] += sum;
        number += CUBE_COUNT * CUBE_DIM as usize;
    }
}
