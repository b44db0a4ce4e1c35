//! Blocks of moments as codes: the error of the codes, and special values.

use proptest::prelude::*;

use super::*;

/// The largest distance of two codes of the first moment, in maxima of the block.
const FIRST_STEP: f32 = 15.0 / 16.0 / 64.0;

/// The same for the second moment.
const SECOND_STEP: f32 = 15.0 / 16.0 / 128.0;

/// The dithers of a block at this step.
fn start(step: u64) -> Dithers {
    dithers(step, 0)[0]
}

fn first_round_trip(values: &[f32], dithers: Dithers) -> Vec<f32> {
    let mut codes = vec![0; values.len()];
    let maximum = encode_first(values, dithers, &mut codes);
    let mut decoded = vec![0.0; values.len()];
    decode_first(&codes, maximum, &mut decoded);
    decoded
}

fn second_round_trip(values: &[f32], dithers: Dithers) -> Vec<f32> {
    let mut codes = vec![0; values.len()];
    let maximum = encode_second(values, dithers, &mut codes);
    let mut decoded = vec![0.0; values.len()];
    decode_second(&codes, maximum, &mut decoded);
    decoded
}

/// A value of any magnitude that moments have, and 0.
fn moment() -> impl Strategy<Value = f32> {
    let any = (-26.0..30.0f32).prop_map(|exponent| 10_f32.powf(exponent));
    let usual = (-6.0..-2.0f32).prop_map(|exponent| 10_f32.powf(exponent));
    prop_oneof![1 => any, 100 => usual, 10 => Just(0.0)]
}

proptest! {
    #[test]
    fn decoded_values_are_near(
        magnitudes in prop::collection::vec((moment(), any::<bool>()), 1..=BLOCK),
        step: u64,
    ) {
        let sign = |negative: bool| if negative { -1.0 } else { 1.0 };
        let signed = magnitudes.iter().map(|(value, negative)| sign(*negative) * value);
        let values: Vec<f32> = signed.collect();
        let maximum = values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
        for (value, decoded) in values.iter().zip(first_round_trip(&values, start(step))) {
            prop_assert!((value - decoded).abs() <= 1.001 * FIRST_STEP * maximum);
            prop_assert!(value * decoded >= 0.0, "{} became {}", value, decoded);
            if value.abs() == maximum || *value == 0.0 {
                prop_assert_eq!(*value, decoded);
            }
        }
        let values: Vec<f32> = magnitudes.into_iter().map(|(value, _)| value).collect();
        for (value, decoded) in values.iter().zip(second_round_trip(&values, start(step))) {
            prop_assert!((value - decoded).abs() <= 1.001 * SECOND_STEP * maximum);
            prop_assert_eq!(*value == 0.0, decoded == 0.0, "{} became {}", value, decoded);
            if *value == maximum {
                prop_assert_eq!(*value, decoded);
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_do_not_spread() {
    for special in [f32::NAN, f32::INFINITY, -f32::INFINITY] {
        let values = [special, 1.0, 0.0, -2.0];
        let decoded = first_round_trip(&values, start(0));
        assert!(decoded.iter().all(|value| value.is_finite()), "{decoded:?}");
        assert_eq!((decoded[0].abs(), decoded[2]), (f32::MAX, 0.0));
        let decoded = second_round_trip(&values.map(f32::abs), start(0));
        assert!(decoded.iter().all(|value| value.is_finite()), "{decoded:?}");
        assert_eq!((decoded[0], decoded[2]), (f32::MAX, 0.0));
    }
}

#[test]
fn the_smallest_floats_stay_in_order() {
    for smallest in [f32::from_bits(1), f32::MIN_POSITIVE, 1e-30] {
        let decoded = second_round_trip(&[smallest, 0.0], start(0));
        assert!(decoded[0] > 0.0 && decoded[1] == 0.0, "{decoded:?}");
        let decoded = first_round_trip(&[smallest, 0.0], start(0));
        assert!(decoded[0] >= 0.0 && decoded[1] == 0.0, "{decoded:?}");
    }
    assert_eq!(first_round_trip(&[0.0, -0.0], start(7)), [0.0, 0.0]);
}

#[test]
fn the_maximum_is_exact_however_it_is_rounded() {
    for index in 1..2000 {
        let maximum = 1e-4 * index as f32;
        // The first and the last dither.
        for dithers in [Dithers(0), Dithers(u32::MAX)] {
            assert_eq!(first_round_trip(&[-maximum], dithers), [-maximum]);
            assert_eq!(second_round_trip(&[maximum], dithers), [maximum]);
        }
    }
}

#[test]
fn bytes_are_those_of_codes_and_maxima() {
    for values in [1, BLOCK - 1, BLOCK, 3 * BLOCK + 5] {
        let Int8Moments { first, second } = Int8Moments::zeros(values);
        let size = |codes: &Codes| size_of_val(&*codes.codes) + size_of_val(&*codes.maxima);
        let expected = (size(&first) + size(&second)) as u64;
        assert_eq!(bytes(values as u64), expected, "{values}");
    }
}
