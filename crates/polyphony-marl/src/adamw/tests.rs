//! AdamW against the textbook, and with moments of both formats.

use burn::tensor::{Device, TensorData};
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::saved_state::AlgorithmState;

const LEARNING_RATE: f64 = 0.1;

/// Textbook AdamW in 64-bit floats: the weight after a step for each gradient.
fn reference(mut w: f64, gradients: &[f64], decay: f64) -> f64 {
    let (mut m, mut v) = (0.0, 0.0);
    for (index, g) in gradients.iter().enumerate() {
        let t = index as i32 + 1;
        m = 0.9 * m + 0.1 * g;
        v = 0.99 * v + 0.01 * g * g;
        let (m_hat, v_hat) = (m / (1.0 - 0.9f64.powi(t)), v / (1.0 - 0.99f64.powi(t)));
        w = w - LEARNING_RATE * decay * w - LEARNING_RATE * m_hat / (v_hat.sqrt() + 1e-8);
    }
    w
}

#[test]
fn a_weight_follows_the_textbook() {
    let device = Device::flex();
    let tensor = |value: f64| Tensor::<1>::from_data([value as f32; 3], &device);
    let gradients = [0.5, -0.2, 0.0, 1.5];
    let updates = Updates {
        beta_1: 0.9,
        beta_2: 0.99,
        weight_decay: 0.01,
        // Half of the norm that the steps get.
        max_grad_norm: 3.0,
        ..Updates::default()
    };
    let mut weight = tensor(0.7);
    let mut optimizer = AdamW::default();
    for gradient in gradients {
        let size = StepSize::new(6.0, LEARNING_RATE, &updates);
        // Twice the gradient, halved by the clipping factor.
        weight = optimizer.step_weight(0, weight, 2, tensor(2.0 * gradient), size);
    }
    let expected = reference(0.7, &gradients, 0.01);
    for value in weight.into_data().iter::<f32>() {
        assert!(
            (f64::from(value) - expected).abs() < 1e-6,
            "{value} is not {expected}"
        );
    }
}

fn values(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

#[test]
fn each_weight_counts_its_own_steps() {
    let device = Device::flex();
    let tensor = |value: f32| Tensor::<1>::from_data([value], &device);
    let updates = Updates::default();
    let size = StepSize::new(1.0, LEARNING_RATE, &updates);
    let mut optimizer = AdamW::default();
    let _ = optimizer.step_weight(0, tensor(1.0), 2, tensor(0.5), size);
    let _ = optimizer.step_weight(0, tensor(1.0), 2, tensor(0.5), size);
    // A weight's first step is as long as the learning rate, whenever it happens.
    let late = values(optimizer.step_weight(1, tensor(1.0), 2, tensor(0.01), size))[0];
    assert!(
        (f64::from(late) - (1.0 - LEARNING_RATE)).abs() < 1e-5,
        "{late}"
    );
    let specs = ["a", "b", "c"].map(|name| spec(name, &[1]));
    let stepped = optimizer.stepped(&specs);
    let steps: Vec<_> = stepped
        .iter()
        .map(|stepped| (&*stepped.weight, stepped.steps))
        .collect();
    assert_eq!(steps, [("a", 2), ("b", 1)]);
}

#[test]
fn norms_and_biases_do_not_decay() {
    let device = Device::flex();
    let tensor = |value: f32| Tensor::<1>::from_data([value], &device);
    let updates = Updates {
        weight_decay: 0.5,
        ..Updates::default()
    };
    let size = StepSize::new(1.0, LEARNING_RATE, &updates);
    let [norm, matrix] = [1, 2].map(|dimensions| {
        let mut optimizer = AdamW::default();
        values(optimizer.step_weight(0, tensor(1.0), dimensions, tensor(0.0), size))[0]
    });
    assert_eq!(norm, 1.0);
    assert!(
        (f64::from(matrix) - (1.0 - 0.5 * LEARNING_RATE)).abs() < 1e-6,
        "{matrix}"
    );
}

/// The settings of a run with moments in this format.
fn with_moments(moments: MomentFormat) -> Updates {
    Updates {
        moments,
        ..Updates::default()
    }
}

/// A weight's specification, whose moments can be codes if it has enough values.
fn spec(name: &str, shape: &[usize]) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        shape: shape.to_vec(),
    }
}

/// Random numbers from -0.5 to 0.5.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-0.5..0.5)).collect()
}

fn tensor(values: Vec<f32>) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), &Device::flex())
}

/// A weight and its optimizer after some steps along random gradients.
fn after_steps(values: usize, steps: u64, updates: &Updates) -> (Tensor<1>, AdamW) {
    let (mut weight, mut optimizer) = (tensor(noise(values, 0)), AdamW::default());
    take_steps(&mut weight, &mut optimizer, 1..=steps, updates);
    (weight, optimizer)
}

fn take_steps(
    weight: &mut Tensor<1>,
    optimizer: &mut AdamW,
    steps: std::ops::RangeInclusive<u64>,
    updates: &Updates,
) {
    for step in steps {
        let gradient = tensor(noise(weight.dims()[0], step));
        let size = StepSize::new(1.0, LEARNING_RATE, updates);
        *weight = optimizer.step_weight(0, weight.clone(), 2, gradient, size);
    }
}

fn bits(weight: Tensor<1>) -> Vec<u32> {
    values(weight).into_iter().map(f32::to_bits).collect()
}

/// The bytes of an optimizer's tensors, each with its name and shape.
fn state_bytes(optimizer: &AdamW, weights: &[TensorSpec]) -> Vec<(TensorSpec, Vec<u8>)> {
    let tensors = optimizer.tensors("poet.", weights).into_iter();
    let bytes = tensors.map(|(spec, tensor)| match tensor {
        StateTensor::Bytes(bytes) => (spec, bytes.to_vec()),
        StateTensor::Numbers(tensor) => {
            let bytes = values(tensor).into_iter().flat_map(f32::to_le_bytes);
            (spec, bytes.collect())
        }
    });
    bytes.collect()
}

fn restored(
    optimizer: &AdamW,
    weights: &[TensorSpec],
    updates: &Updates,
) -> Result<AdamW, MarlError> {
    let state = AlgorithmState {
        values: String::new(),
        tensors: optimizer.tensors("poet.", weights),
    };
    let saved = SavedState::new("", &state, updates);
    let stepped = optimizer.stepped(weights);
    AdamW::from_state("poet.", weights, &stepped, &Device::flex(), &saved)
}

/// Minimizes `Σ h (w − 1)² / 2` with noise in its gradient. The curvatures `h` differ by a factor of 10,000
/// within each block. Returns the loss before, after 50 steps, and how far each weight has moved.
fn descend(moments: MomentFormat) -> (f64, f64, Vec<f32>) {
    let count = 3 * 2048 + 100;
    let curvature = |index: usize| 10_f32.powf(-4.0 * (index % 101) as f32 / 100.0);
    let loss = |weights: &[f32]| -> f64 {
        let terms = weights.iter().enumerate();
        terms
            .map(|(index, w)| f64::from(curvature(index) * (w - 1.0).powi(2)) / 2.0)
            .sum()
    };
    let updates = with_moments(moments);
    let start = noise(count, 0);
    let mut weights = start.clone();
    let mut optimizer = AdamW::default();
    for step in 1..=50 {
        let pairs = weights.iter().zip(noise(count, step)).enumerate();
        let gradient = pairs.map(|(index, (w, noise))| curvature(index) * (w - 1.0 + noise));
        let gradient = tensor(gradient.collect());
        let size = StepSize::new(1.0, 0.02, &updates);
        weights = values(optimizer.step_weight(0, tensor(weights), 2, gradient, size));
    }
    let moved = weights.iter().zip(&start).map(|(w, start)| w - start);
    (loss(&start), loss(&weights), moved.collect())
}

#[test]
fn training_with_8_bits_is_near_training_with_32() {
    let (before, exact_loss, exact) = descend(MomentFormat::F32);
    let (_, loss, moved) = descend(MomentFormat::Int8);
    assert!(exact_loss < 0.1 * before, "{exact_loss} after {before}");
    assert!(
        (loss - exact_loss).abs() < 0.02 * (before - exact_loss),
        "{loss} instead of {exact_loss}"
    );
    let length = |moves: &mut dyn Iterator<Item = f32>| moves.map(|x| x * x).sum::<f32>().sqrt();
    let mut differences = moved.iter().zip(&exact).map(|(a, b)| a - b);
    let off = length(&mut differences) / length(&mut exact.iter().copied());
    // If small second moments became 0, weights would be off by several times the way.
    assert!(off > 0.0 && off < 0.4, "{off} of the way");
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    // Several parts for threads, and a block that is not full.
    let count = 5 * CHUNK + 100;
    for moments in [MomentFormat::F32, MomentFormat::Int8] {
        let outcome = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap().install(|| {
                let (weight, optimizer) = after_steps(count, 3, &with_moments(moments));
                (
                    bits(weight),
                    state_bytes(&optimizer, &[spec("a", &[count])]),
                )
            })
        };
        let single = outcome(1);
        for threads in [2, 5] {
            assert!(outcome(threads) == single, "{moments:?}, {threads} threads");
        }
    }
}

#[test]
fn a_restored_optimizer_continues_with_the_same_bits() {
    let shape = [3, 2048 + 7];
    let weights = [spec("a", &shape)];
    for moments in [MomentFormat::F32, MomentFormat::Int8] {
        let updates = with_moments(moments);
        let (mut weight, mut optimizer) = after_steps(shape.iter().product(), 4, &updates);
        let mut copy = restored(&optimizer, &weights, &updates).unwrap();
        assert_eq!(copy.stepped(&weights), optimizer.stepped(&weights));
        assert!(state_bytes(&copy, &weights) == state_bytes(&optimizer, &weights));
        let mut weight_of_copy = weight.clone();
        take_steps(&mut weight, &mut optimizer, 5..=7, &updates);
        take_steps(&mut weight_of_copy, &mut copy, 5..=7, &updates);
        assert!(bits(weight_of_copy) == bits(weight), "{moments:?}");
        assert!(state_bytes(&copy, &weights) == state_bytes(&optimizer, &weights));
    }
}

#[test]
fn the_state_of_8_bits_is_a_quarter_of_that_of_32() {
    let count = 10 * 2048;
    let size = |moments, count: usize| -> usize {
        let (_, optimizer) = after_steps(count, 1, &with_moments(moments));
        let tensors = state_bytes(&optimizer, &[spec("a", &[count])]);
        let bytes: usize = tensors.iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(bytes as u64, moments.bytes(count as u64, true));
        bytes
    };
    assert_eq!(size(MomentFormat::F32, count), 8 * count);
    assert_eq!(size(MomentFormat::Int8, count), 2 * count + 2 * 10 * 4);
    // Small weights keep 32-bit floats.
    for count in [1, 4095] {
        assert_eq!(size(MomentFormat::Int8, count), 8 * count);
    }
    let on_gpu = MomentFormat::Int8.bytes(count as u64, false);
    assert_eq!(on_gpu, 8 * count as u64);
}

#[test]
fn moments_of_another_format_are_refused() {
    let weights = [spec("small", &[10]), spec("large", &[64, 64])];
    for (saved, wanted) in [
        (MomentFormat::F32, MomentFormat::Int8),
        (MomentFormat::Int8, MomentFormat::F32),
    ] {
        let mut optimizer = AdamW::default();
        for (index, spec) in weights.iter().enumerate() {
            let count = spec.shape.iter().product();
            let updates = with_moments(saved);
            let size = StepSize::new(1.0, LEARNING_RATE, &updates);
            let [weight, gradient] = [0, 1].map(|seed| tensor(noise(count, seed)));
            let _ = optimizer.step_weight(index, weight, 2, gradient, size);
        }
        assert!(restored(&optimizer, &weights, &with_moments(saved)).is_ok());
        let error = restored(&optimizer, &weights, &with_moments(wanted)).unwrap_err();
        let expected = format!(
            "the saved state of the algorithm does not fit: the moments of the weight `large` were saved as \
             {saved:?}, but `moments` is {wanted:?}: set it to {saved:?}, as in the run that saved them"
        );
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn step_counts_from_before_there_was_a_choice_are_those_of_32_bits() {
    let count: WeightStepCount = ron::from_str("(weight: \"a\", steps: 3)").unwrap();
    assert_eq!((count.steps, count.moments), (3, MomentFormat::F32));
}

#[test]
fn a_state_that_does_not_fit_is_named() {
    let stepped = |weight: &str, moments| WeightStepCount {
        weight: weight.to_owned(),
        steps: 1,
        moments,
    };
    let (f32, int8) = (MomentFormat::F32, MomentFormat::Int8);
    let numbers = |count| StateTensor::Numbers(tensor(vec![0.0; count]));
    let bytes = |count| StateTensor::Bytes(vec![0; count].into());
    let moment = "poet.first_moment.known";
    let rows = [
        (
            stepped("other", f32),
            vec![],
            "moments of the weight `other`",
        ),
        (
            stepped("known", f32),
            vec![],
            "it has no tensor `poet.first_moment.known` of the shape [64, 100]",
        ),
        (
            stepped("known", f32),
            vec![(spec(moment, &[64, 100]), numbers(5))],
            "`poet.first_moment.known` has 5 values, but should have the shape [64, 100]",
        ),
        (
            stepped("known", f32),
            vec![(spec(moment, &[64, 100]), bytes(6400))],
            "`poet.first_moment.known` holds bytes, but should hold numbers",
        ),
        (
            stepped("known", int8),
            vec![(spec(moment, &[64, 100]), numbers(6400))],
            "`poet.first_moment.known` holds numbers, but should hold bytes",
        ),
        (
            stepped("known", int8),
            vec![(spec(moment, &[64, 100]), bytes(5))],
            "`poet.first_moment.known` has 5 values, but should have the shape [64, 100]",
        ),
        (
            stepped("known", int8),
            vec![
                (spec(moment, &[64, 100]), bytes(6400)),
                (spec(&format!("{moment}.block_maxima"), &[4]), numbers(3)),
            ],
            "`poet.first_moment.known.block_maxima` has 3 values, but should have the shape [4]",
        ),
    ];
    for (stepped, tensors, expected) in rows {
        let state = AlgorithmState {
            values: String::new(),
            tensors,
        };
        let updates = with_moments(stepped.moments);
        let saved = SavedState::new("", &state, &updates);
        let weights = [spec("known", &[64, 100])];
        let restored = AdamW::from_state("poet.", &weights, &[stepped], &Device::flex(), &saved);
        let message = restored.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}\nlacks: {expected}");
    }
}
