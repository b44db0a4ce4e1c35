//! Draws compared with a plain sampler in 64-bit floats: tokens, log-probabilities, ties and special values.

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;

const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, -1.0, 1.5];

fn probabilities(temperature: f32) -> Vec<f64> {
    let weights = LOGITS.map(|l| f64::from(l / temperature).exp());
    weights
        .iter()
        .map(|w| w / weights.iter().sum::<f64>())
        .collect()
}

/// How often each token is drawn, over an even grid of uniform numbers.
fn frequencies(sampling: &Sampling) -> Vec<f64> {
    let n = 20_000;
    let mut counts = vec![0.0; LOGITS.len()];
    for i in 0..n {
        let sampled = sample_token(&LOGITS, sampling, (f64::from(i) + 0.5) / f64::from(n));
        counts[sampled.token as usize] += 1.0 / f64::from(n);
    }
    counts
}

#[test]
fn tokens_are_drawn_with_their_probability() {
    for temperature in [0.5, 1.0, 2.0] {
        let sampling = Sampling {
            temperature,
            ..Sampling::default()
        };
        for (frequency, expected) in frequencies(&sampling)
            .iter()
            .zip(probabilities(temperature))
        {
            assert!(
                (frequency - expected).abs() < 1e-3,
                "{frequency} is not {expected}"
            );
        }
    }
}

#[test]
fn truncation_keeps_the_most_likely_tokens_in_proportion() {
    let p = probabilities(1.0);
    let top_two = Sampling {
        top_k: Some(2),
        ..Sampling::default()
    };
    let frequency = frequencies(&top_two);
    assert!((frequency[1] - p[1] / (p[1] + p[4])).abs() < 1e-3);
    assert_eq!((frequency[0], frequency[2], frequency[3]), (0.0, 0.0, 0.0));
    // p[1] is 0.46 and p[4] 0.28: three quarters need a third token, p[2].
    let nucleus = Sampling {
        top_p: 0.75,
        ..Sampling::default()
    };
    let frequency = frequencies(&nucleus);
    assert!((frequency[2] - p[2] / (p[1] + p[4] + p[2])).abs() < 1e-3);
    assert_eq!((frequency[0], frequency[3]), (0.0, 0.0));
}

#[test]
fn log_probabilities_ignore_truncation_and_follow_temperature() {
    let sampling = Sampling {
        temperature: 0.7,
        top_p: 0.5,
        top_k: Some(2),
    };
    let sampled = sample_token(&LOGITS, &sampling, 0.1);
    assert_eq!(sampled.token, 1);
    assert!((f64::from(sampled.logprob) - probabilities(0.7)[1].ln()).abs() < 1e-6);
}

#[test]
fn temperature_zero_takes_the_first_of_the_most_likely_tokens() {
    let sampled = sample_token(&[1.0, 3.0, 3.0], &Sampling::greedy(), 0.99);
    assert_eq!(sampled.token, 1);
    assert!((f64::from(sampled.logprob) - (1.0 / (2.0 + (-2f64).exp())).ln()).abs() < 1e-6);
}

/// Sums of equal weights are not rounded, so every boundary is exact.
#[test]
fn a_nucleus_of_equal_tokens_ends_exactly_where_it_reaches_top_p() {
    for (size, top_p, kept) in [
        (1, 0.5, 1),
        (8, 0.5, 4),
        (10, 0.5, 5),
        (1000, 0.125, 125),
        (1000, 0.9, 900),
        (65_536, 0.25, 16_384),
    ] {
        let sampling = Sampling {
            top_p,
            ..Sampling::default()
        };
        let logits = vec![1.5; size];
        let draw = |uniform| sample_token(&logits, &sampling, uniform).token;
        for token in [0, kept / 3, kept / 2, kept - 1] {
            let uniform = (f64::from(token) + 0.5) / f64::from(kept);
            assert_eq!(draw(uniform), token, "{size} tokens, top-p {top_p}");
        }
        assert_eq!(draw(1.0 - f64::EPSILON / 2.0), kept - 1, "{size} tokens");
    }
}

/// Even where rounding leaves the sum of all weights below the threshold.
#[test]
fn tokens_without_probability_are_never_drawn() {
    let mut logits = vec![f32::NEG_INFINITY; 10_000];
    for (id, logit) in logits[..5000].iter_mut().enumerate() {
        *logit = (id * 7919 % 1013) as f32 / 506.5;
    }
    // A weight of e⁻²⁰⁰.
    logits[6000] = -198.0;
    for (top_p, top_k) in [
        (1.0, None),
        (1.0, Some(9000)),
        (1.0, Some(10_000)),
        (0.999_999_94, None),
        (0.999_999_94, Some(9000)),
    ] {
        for temperature in 1..50 {
            let sampling = Sampling {
                temperature: 0.02 * temperature as f32,
                top_p,
                top_k,
            };
            for uniform in [0.0, 0.999, 1.0 - f64::EPSILON / 2.0] {
                let sampled = sample_token(&logits, &sampling, uniform);
                assert!(
                    sampled.token < 5000 && sampled.logprob.is_finite(),
                    "{sampled:?} with {sampling:?}"
                );
            }
        }
    }
}

#[test]
fn logits_that_are_not_finite_give_no_finite_log_probability() {
    let mut rows = vec![vec![f32::NEG_INFINITY; 100], vec![f32::NAN; 100]];
    for value in [f32::NAN, -f32::NAN, f32::INFINITY] {
        for id in [0, 15, 64, 99] {
            let mut logits = vec![0.5; 100];
            logits[id] = value;
            rows.push(logits);
        }
    }
    for (temperature, top_p, top_k) in [
        (0.0, 1.0, None),
        (0.7, 1.0, None),
        (0.7, 0.9, None),
        (0.7, 1.0, Some(5)),
        (0.7, 0.9, Some(5)),
    ] {
        let sampling = Sampling {
            temperature,
            top_p,
            top_k,
        };
        for logits in &rows {
            let logprob = sample_token(logits, &sampling, 0.5).logprob;
            assert!(
                !logprob.is_finite(),
                "{logprob} with {sampling:?}, {logits:?}"
            );
        }
    }
}

#[test]
fn weights_are_accurate_and_the_same_on_every_processor() {
    let logits: Vec<f32> = (0..10_000).map(|i| 3.0 - 0.007 * i as f32).collect();
    for temperature in [0.001, 0.1, 0.7, 1.0, 30.0, 1e38] {
        let weights = Weights::new(logits[0], temperature);
        let vector = weights.of_each(logits.clone());
        let scalar = WeightOfEach {
            logits: logits.clone(),
            weights,
        };
        assert_eq!(vector, scalar.with_simd(pulp::Scalar));
        for (weight, logit) in vector.into_iter().zip(&logits) {
            let scaled = f64::from(logit - logits[0]) / f64::from(temperature);
            let expected = scaled.exp();
            let error = (f64::from(weight) / expected - 1.0).abs();
            assert!(
                error < 1.5e-7 || (weight == 0.0 && expected < 1.2e-38),
                "e^{scaled} is {expected}, not {weight}"
            );
        }
    }
}

/// How far a random number may be from a boundary of the cumulative distribution, and top-p from a sum of
/// probabilities, for a neighbouring token to be drawn.
const ROUNDING: f64 = 1e-6;

/// Checks a draw against one that is computed in 64 bits and sorts the whole vocabulary.
fn check(logits: &[f32], sampling: &Sampling, uniform: f64) -> Result<(), TestCaseError> {
    let sampled = sample_token(logits, sampling, uniform);
    let token = sampled.token as usize;
    let temperature = f64::from(sampling.scoring_temperature());
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scaled = |id: usize| (f64::from(logits[id]) - f64::from(max)) / temperature;
    let weight = |id: usize| scaled(id).exp();

    let total: f64 = (0..logits.len()).map(weight).sum();
    let expected = scaled(token) - total.ln();
    let error = (f64::from(sampled.logprob) - expected).abs();
    // Half a unit in the last place of a large number is more than the error of the computation.
    prop_assert!(
        error < 5e-7 + f64::from(f32::EPSILON) / 2.0 * expected.abs(),
        "the log-probability is {}, not {expected}",
        sampled.logprob
    );

    let by_logit = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    let mut order: Vec<usize> = (0..logits.len()).collect();
    if sampling.temperature == 0.0 {
        prop_assert_eq!(Some(token), order.into_iter().min_by(by_logit));
        return Ok(());
    }
    if sampling.truncates() {
        order.sort_by(by_logit);
        order.truncate(sampling.top_k.unwrap_or(logits.len()));
    }
    let mut before = 0.0;
    let sums: Vec<(f64, f64)> = order
        .iter()
        .map(|&id| {
            let sums = (before, before + weight(id));
            before = sums.1;
            sums
        })
        .collect();
    let (_, kept) = sums[sums.len() - 1];
    let place = order.iter().position(|&id| id == token);
    let (from, to) = place.map_or((f64::NAN, f64::NAN), |place| sums[place]);
    let is_drawn = |top_p: f64| {
        let nucleus = match sampling.top_p < 1.0 {
            true => sums.iter().find(|sums| sums.1 >= top_p * kept),
            false => None,
        };
        let nucleus = nucleus.map_or(kept, |sums| sums.1);
        from < to
            && to <= nucleus
            && (from / nucleus - ROUNDING..to / nucleus + ROUNDING).contains(&uniform)
    };
    let top_p = f64::from(sampling.top_p);
    prop_assert!(
        [top_p, top_p * (1.0 - ROUNDING), top_p * (1.0 + ROUNDING)]
            .into_iter()
            .any(is_drawn),
        "token {token} was drawn for {uniform}: sums {from} to {to} of {kept}"
    );
    Ok(())
}

/// Distributions that take different paths.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// A few tokens have nearly all of the probability.
    Peaked,
    /// Normally distributed, with this standard deviation.
    Normal(f32),
    /// Whole multiples of a step, so that many logits are equal.
    Ties(f32),
}

/// A row of logits, of which a part is −∞.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let shape = prop::sample::select(vec![
        Shape::Peaked,
        Shape::Normal(0.001),
        Shape::Normal(1.0),
        Shape::Normal(5.0),
        Shape::Ties(0.0),
        Shape::Ties(0.5),
        Shape::Ties(4.0),
    ]);
    let size = prop_oneof![1usize..200, 200usize..5000, 5000usize..70_000];
    let masked = prop::sample::select(vec![0.0, 0.0, 0.2, 0.99]);
    let offset = prop::sample::select(vec![0.0f32, -20.0, 1000.0]);
    (any::<u64>(), shape, size, masked, offset).prop_map(|(seed, shape, size, masked, offset)| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut uniform = || (random.next_u32() >> 8) as f32 / (1 << 24) as f32;
        let mut logits: Vec<f32> = (0..size)
            .map(|_| {
                let normal = (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
                let logit = match shape {
                    Shape::Peaked => normal - 2.0 * uniform().max(1e-7).ln(),
                    Shape::Normal(deviation) => deviation * normal,
                    Shape::Ties(step) => step * (9.0 * uniform()).floor(),
                };
                let masked = uniform() < masked;
                if masked {
                    f32::NEG_INFINITY
                } else {
                    logit + offset
                }
            })
            .collect();
        logits[size / 2] = logits[size / 2].max(offset);
        logits
    })
}

fn settings() -> impl Strategy<Value = Sampling> {
    let temperature = prop::sample::select(vec![0.0f32, 0.05, 0.7, 1.0, 3.0]);
    let top_p = prop::sample::select(vec![1.0f32, 1.0, 0.999, 0.9, 0.3, 1e-4]);
    let top_k = prop_oneof![
        3 => Just(None),
        1 => Just(Some(1)),
        1 => Just(Some(50)),
        1 => (1usize..70_000).prop_map(Some),
    ];
    (temperature, top_p, top_k).prop_map(|(temperature, top_p, top_k)| Sampling {
        temperature,
        top_p,
        top_k,
    })
}

proptest! {
    #[test]
    fn draws_agree_with_a_plain_computation(
        logits in logits(),
        sampling in settings(),
        uniform in prop_oneof![0.0..1.0f64, 0.0..1.0f64, Just(0.0), Just(1.0 - f64::EPSILON / 2.0)],
    ) {
        check(&logits, &sampling, uniform)?;
    }

    #[test]
    fn a_large_vocabulary_is_ranked_as_far_as_needed(
        seed in 0u64..1000,
        size in 1usize..3000,
        scale in prop::sample::select(vec![0.0f32, 0.5, 4.0]),
        top_p in prop::sample::select(vec![1.0f32, 0.99, 0.9, 0.3]),
        top_k in prop::option::of(1usize..3000),
        uniform in 0.0..1.0f64,
    ) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // Whole multiples of `scale`, so that many logits are equal.
        let logits: Vec<f32> =
            (0..size).map(|_| scale * (random.next_u32() % 9) as f32).collect();
        let sampling = Sampling { temperature: 1.0, top_p, top_k };
        check(&logits, &sampling, uniform)?;
    }

    #[test]
    fn ranks_are_ordered_by_falling_logit_and_rising_id(
        a in (any::<u32>(), any::<f32>()),
        b in (any::<u32>(), any::<f32>()),
    ) {
        let ranked = |(id, logit): (u32, f32)| Ranked::new(id as usize, logit);
        let expected = b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        prop_assert_eq!(ranked(a).cmp(&ranked(b)), expected);
        prop_assert_eq!(ranked(a).id(), a.0 as usize);
        prop_assert_eq!(ranked(a).logit().to_bits(), a.1.to_bits());
    }
}
