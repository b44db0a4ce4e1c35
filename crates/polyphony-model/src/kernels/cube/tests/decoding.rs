//! The kernels for decoding, compared with sums in 64 bits on the host.

use burn::{
    backend::Cube,
    tensor::{DType, Device, Tensor, TensorData},
};
use proptest::prelude::*;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{cases, device};
use crate::kernels::{
    Activation,
    cube::{
        Attend, ChosenExperts, CubeTensor, FewRows, Norm, RowState, RowsOutput, add_experts,
        add_normalized, buffer, choose_experts,
    },
};

/// The largest difference that is allowed, relative to the largest number of a result.
const TOLERANCE: f64 = 1e-5;

const EPSILON: f32 = 1e-5;

/// Numbers on the host and on the device.
struct Both {
    host: Vec<f32>,
    device: CubeTensor,
}

impl Both {
    fn random<const D: usize>(random: &mut ChaCha8Rng, shape: [usize; D], device: &Device) -> Self {
        let count = shape.iter().product();
        // About as a sum of four random numbers is distributed.
        let mut number = || (0..4).map(|_| random.random::<f32>()).sum::<f32>() - 2.0;
        Self::new((0..count).map(|_| number()).collect(), shape, device)
    }

    fn new<const D: usize>(host: Vec<f32>, shape: [usize; D], device: &Device) -> Self {
        let data = TensorData::new(host.clone(), shape);
        Self {
            host,
            device: primitive(Tensor::<D>::from_data(data, &device.clone().inner())),
        }
    }

    fn row(&self, index: usize, width: usize) -> Vec<f64> {
        let row = &self.host[index * width..(index + 1) * width];
        row.iter().copied().map(f64::from).collect()
    }
}

fn primitive<const D: usize>(tensor: Tensor<D>) -> CubeTensor {
    burn_cubecl::kernel::into_contiguous(tensor.try_into_primitive::<Cube>().unwrap())
}

fn numbers<const D: usize>(device: &Device, shape: [usize; D], numbers: &[u32]) -> CubeTensor {
    let like = Both::new(vec![0.0], [1], device).device;
    let tensor = buffer(&like, shape, DType::U32);
    let bytes = cubecl::bytes::Bytes::from_elems(numbers.to_vec());
    tensor.client.write(&tensor.handle, bytes);
    tensor
}

fn read(tensor: &CubeTensor) -> Vec<f32> {
    let bytes = tensor.client.read_one(tensor.handle.clone()).unwrap();
    let numbers = bytes.as_chunks::<4>().0.iter();
    numbers.map(|bytes| f32::from_ne_bytes(*bytes)).collect()
}

fn read_u32(tensor: &CubeTensor) -> Vec<u32> {
    read(tensor).into_iter().map(f32::to_bits).collect()
}

#[track_caller]
fn assert_close(actual: &[f32], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len());
    let largest = expected.iter().fold(1.0, |a: f64, b| a.max(b.abs()));
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let gap = (f64::from(*actual) - expected).abs();
        assert!(
            gap <= TOLERANCE * largest,
            "{index}: {actual} is not {expected}"
        );
    }
}

fn normalized(row: &[f64], weight: &[f64], offset: f32) -> Vec<f64> {
    let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
    let factor = 1.0 / (mean + f64::from(EPSILON)).sqrt();
    let pairs = row.iter().zip(weight);
    pairs
        .map(|(x, w)| x * factor * (w + f64::from(offset)))
        .collect()
}

fn activated(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn form() -> impl Strategy<Value = RowsOutput> {
    prop_oneof![
        Just(RowsOutput::Stored),
        Just(RowsOutput::Added),
        Just(RowsOutput::Gated(Activation::Silu)),
        Just(RowsOutput::Gated(Activation::GeluTanh)),
    ]
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn products_of_few_rows(
        rows in 1usize..20,
        inner in 1usize..150,
        written in 1usize..70,
        is_normalized: bool,
        is_biased: bool,
        form in form(),
        seed: u64,
    ) {
        let (_guard, device) = device();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let outputs = if matches!(form, RowsOutput::Gated(_)) { 2 * written } else { written };
        let x = Both::random(&mut random, [rows, inner], &device);
        let w = Both::random(&mut random, [outputs, inner], &device);
        let y = Both::random(&mut random, [rows, written], &device);
        let norm_weight = Both::random(&mut random, [inner], &device);
        let bias = Both::random(&mut random, [written], &device);
        // A bias of the gate alone has no use.
        let is_biased = is_biased && outputs == written;
        let norm = Norm { weight: norm_weight.device.clone(), epsilon: EPSILON, offset: 1.0 };
        FewRows {
            norm: is_normalized.then_some(&norm),
            bias: is_biased.then_some(&bias.device),
            form,
            ..FewRows::new(&x.device, &w.device, &y.device, rows)
        }
        .launch();
        let mut expected = Vec::new();
        for row in 0..rows {
            let mut input = x.row(row, inner);
            if is_normalized {
                input = normalized(&input, &norm_weight.row(0, inner), 1.0);
            }
            for column in 0..written {
                let mut value = dot(&input, &w.row(column, inner));
                if is_biased {
                    value += f64::from(bias.host[column]);
                }
                expected.push(match form {
                    RowsOutput::Stored => value,
                    RowsOutput::Added => value + f64::from(y.host[row * written + column]),
                    RowsOutput::Gated(activation) => {
                        activated(value, activation) * dot(&input, &w.row(written + column, inner))
                    }
                });
            }
        }
        assert_close(&read(&y.device), &expected);
    }

    #[test]
    fn products_with_experts(
        rows in 1usize..6,
        per_row in 1usize..4,
        more_experts in 0usize..6,
        inner in 1usize..80,
        width in 1usize..40,
        are_normalized: bool,
        seed: u64,
    ) {
        let (_guard, device) = device();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (experts, pairs) = (per_row + more_experts, rows * per_row);
        let logits = Both::random(&mut random, [rows, experts], &device);
        let x = Both::random(&mut random, [rows, inner], &device);
        let gate_up = Both::random(&mut random, [experts * 2 * width, inner], &device);
        let down = Both::random(&mut random, [experts * inner, width], &device);
        let like = &x.device;
        let (chosen, factors) = (buffer(like, [pairs], DType::U32), buffer(like, [pairs], DType::F32));
        choose_experts(&logits.device, [&chosen, &factors], rows, (per_row, are_normalized));
        let hidden = buffer(like, [pairs, width], DType::F32);
        let results = buffer(like, [pairs, inner], DType::F32);
        let of_row = |rows_per_input| Some(ChosenExperts { of_row: &chosen, count: experts, rows_per_input });
        FewRows {
            experts: of_row(per_row),
            form: RowsOutput::Gated(Activation::Silu),
            ..FewRows::new(like, &gate_up.device, &hidden, pairs)
        }
        .launch();
        FewRows {
            experts: of_row(1),
            ..FewRows::new(&hidden, &down.device, &results, pairs)
        }
        .launch();
        let residual = Both::random(&mut random, [rows, inner], &device);
        add_experts(&results, &factors, &residual.device, rows, per_row);

        let (chosen, mut expected) = (read_u32(&chosen), Vec::new());
        for row in 0..rows {
            let logits = logits.row(row, experts);
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
            order.truncate(per_row);
            let own = &chosen[row * per_row..(row + 1) * per_row];
            prop_assert_eq!(own.iter().map(|id| *id as usize).collect::<Vec<_>>(), order.clone());
            let of: &[usize] = if are_normalized { &order } else { &(0..experts).collect::<Vec<_>>() };
            let total: f64 = of.iter().map(|&expert| logits[expert].exp()).sum();
            let mut sum = residual.row(row, inner);
            for &expert in &order {
                let input = x.row(row, inner);
                let hidden: Vec<f64> = (0..width).map(|column| {
                    let start = expert * 2 * width + column;
                    activated(dot(&input, &gate_up.row(start, inner)), Activation::Silu)
                        * dot(&input, &gate_up.row(start + width, inner))
                }).collect();
                for (column, sum) in sum.iter_mut().enumerate() {
                    let result = dot(&hidden, &down.row(expert * inner + column, width));
                    *sum += logits[expert].exp() / total * result;
                }
            }
            expected.extend(sum);
        }
        assert_close(&read(&residual.device), &expected);
    }

    #[test]
    fn attention(
        kv_heads in 1usize..3,
        group in 1usize..4,
        half in prop_oneof![1usize..8, Just(32usize), Just(64), Just(65), Just(128)],
        lengths in prop::collection::vec(1usize..180, 1..4),
        filled in prop::collection::vec(0usize..150, 1..5),
        window in prop::option::of(1usize..200),
        has_norms: bool,
        seed: u64,
    ) {
        let (_guard, device) = device();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let case = Case { kv_heads, group, size: 2 * half, lengths, filled, window, has_norms };
        case.check(&mut random, &device);
    }
}

/// A layer's attention for some rows; each prompt is a random selection of packed tokens, each slot belongs to one row.
#[derive(Debug)]
struct Case {
    kv_heads: usize,
    group: usize,
    size: usize,
    /// The length of each prompt.
    lengths: Vec<usize>,
    /// Tokens in the slot of each row.
    filled: Vec<usize>,
    window: Option<usize>,
    has_norms: bool,
}

impl Case {
    fn check(&self, random: &mut ChaCha8Rng, device: &Device) {
        let Self {
            kv_heads,
            group,
            size,
            ref lengths,
            ref filled,
            window,
            has_norms,
        } = *self;
        let rows = filled.len();
        let longest_prompt = lengths.iter().copied().max().unwrap();
        let (packed, longest) = (longest_prompt + 20, filled.iter().max().unwrap() + 3);
        let width = (group + 2) * kv_heads * size;
        let projected = Both::random(random, [rows, width], device);
        let prompts = [(); 2].map(|()| Both::random(random, [kv_heads, packed, size], device));
        let slots = [(); 2].map(|()| Both::random(random, [rows, kv_heads, longest, size], device));
        let norms = [(); 2].map(|()| Both::random(random, [size], device));
        let positions = longest_prompt + longest;
        let angles = Both::random(random, [positions, size / 2], device);
        let table = |f: fn(f32) -> f32| {
            let values = angles.host.iter().map(|angle| f(*angle)).collect();
            Both::new(values, [positions, size / 2], device)
        };
        let tables = [table(f32::cos), table(f32::sin)];
        let mut slot_of: Vec<usize> = (0..rows).collect();
        slot_of.shuffle(random);
        let prompt_of: Vec<usize> = (0..rows).map(|row| row % lengths.len()).collect();
        let mut places = vec![0u32; lengths.len() * longest_prompt];
        for places in places.chunks_exact_mut(longest_prompt) {
            places.fill_with(|| random.random_range(0..packed as u32));
        }
        let states: Vec<u32> = (0..rows)
            .flat_map(|row| {
                RowState {
                    prompt: prompt_of[row] as u32,
                    prompt_length: lengths[prompt_of[row]] as u32,
                    slot: slot_of[row] as u32,
                    filled: filled[row] as u32,
                }
                .numbers()
            })
            .collect();
        let output = buffer(
            &projected.device,
            [rows, group * kv_heads * size],
            DType::F32,
        );
        let weights = norms.each_ref().map(|norm| Norm {
            weight: norm.device.clone(),
            epsilon: EPSILON,
            offset: 0.0,
        });
        let scale = 1.0 / (size as f32).sqrt();
        let tensors = |both: &[Both; 2]| both.each_ref().map(|both| both.device.clone());
        Attend {
            projected: &projected.device,
            norms: has_norms.then_some(&weights),
            angles: &tensors(&tables),
            prompts: &tensors(&prompts),
            places: &numbers(device, [lengths.len(), longest_prompt], &places),
            slots: &tensors(&slots),
            state: &numbers(device, [rows, RowState::NUMBERS], &states),
            output: &output,
            rows,
            scale,
            window,
        }
        .launch();

        let [mut keys, mut values] = slots.each_ref().map(|slots| slots.host.clone());
        let mut expected = Vec::new();
        for row in 0..rows {
            let prompt = prompt_of[row];
            let (length, filled) = (lengths[prompt], filled[row]);
            let turned = |head: usize, norm: &Both| {
                let mut values = projected.row(row * width / size + head, size);
                if has_norms {
                    values = normalized(&values, &norm.row(0, size), 0.0);
                }
                let angles = (length + filled) * size / 2;
                for i in 0..size / 2 {
                    let [c, s] = tables
                        .each_ref()
                        .map(|table| f64::from(table.host[angles + i]));
                    let (a, b) = (values[i], values[i + size / 2]);
                    (values[i], values[i + size / 2]) = (a * c - b * s, b * c + a * s);
                }
                values
            };
            for head in 0..kv_heads {
                let key = turned(group * kv_heads + head, &norms[1]);
                let value = projected.row(row * width / size + (group + 1) * kv_heads + head, size);
                let slot = (slot_of[row] * kv_heads + head) * longest;
                for i in 0..size {
                    keys[(slot + filled) * size + i] = key[i] as f32;
                    values[(slot + filled) * size + i] = value[i] as f32;
                }
                let from_prompt = (0..length).map(|token| {
                    let place = places[prompt * longest_prompt + token] as usize;
                    let at = head * packed + place;
                    (prompts[0].row(at, size), prompts[1].row(at, size))
                });
                let from_slot = (0..filled).map(|token| {
                    let at = slot + token;
                    (slots[0].row(at, size), slots[1].row(at, size))
                });
                let tokens: Vec<_> = from_prompt
                    .chain(from_slot)
                    .chain([(key.clone(), value)])
                    .collect();
                let visible = window.map_or(tokens.len(), |window| window.min(tokens.len()));
                let visible = &tokens[tokens.len() - visible..];
                for query in 0..group {
                    let query = turned(head * group + query, &norms[0]);
                    let weights: Vec<f64> = visible
                        .iter()
                        .map(|(key, _)| (dot(&query, key) * f64::from(scale)).exp())
                        .collect();
                    let total: f64 = weights.iter().sum();
                    expected.extend((0..size).map(|i| {
                        let pairs = weights.iter().zip(visible);
                        pairs
                            .map(|(weight, (_, value))| weight * value[i])
                            .sum::<f64>()
                            / total
                    }));
                }
            }
        }
        assert_close(&read(&output), &expected);
        let widened = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
        assert_close(&read(&slots[0].device), &widened(keys));
        assert_close(&read(&slots[1].device), &widened(values));
    }
}

#[test]
fn a_row_does_not_depend_on_its_company() {
    let (_guard, device) = device();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let (rows, inner, outputs) = (19, 100, 30);
    let x = Both::random(&mut random, [rows, inner], &device);
    let w = Both::random(&mut random, [outputs, inner], &device);
    let product = |x: &CubeTensor, rows| {
        let y = buffer(x, [rows, outputs], DType::F32);
        FewRows::new(x, &w.device, &y, rows).launch();
        read(&y)
    };
    let together = product(&x.device, rows);
    for row in 0..rows {
        let alone = x.host[row * inner..(row + 1) * inner].to_vec();
        let alone = product(&Both::new(alone, [1, inner], &device).device, 1);
        assert_eq!(alone, together[row * outputs..(row + 1) * outputs]);
    }
}

#[test]
fn normalized_rows_are_added() {
    let (_guard, device) = device();
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let (rows, width) = (3, 70);
    let [x, y] = [(); 2].map(|()| Both::random(&mut random, [rows, width], &device));
    let weight = Both::random(&mut random, [width], &device);
    let norm = Norm {
        weight: weight.device.clone(),
        epsilon: EPSILON,
        offset: 1.0,
    };
    add_normalized(&x.device, &norm, &y.device, rows);
    let expected = (0..rows).flat_map(|row| {
        let added = normalized(&x.row(row, width), &weight.row(0, width), 1.0);
        let pairs = added.into_iter().zip(y.row(row, width));
        pairs.map(|(a, b)| a + b).collect::<Vec<_>>()
    });
    assert_close(&read(&y.device), &expected.collect::<Vec<_>>());
}
