//! Decoding on a GPU.
//!
//! A pass is a fixed sequence of kernels on fixed buffers, and nothing of it concerns the host: sampled tokens and the
//! state of the rows stay on the device. The host reads the tokens of several passes at once. A row that finishes in
//! between is computed further, without effect on the others, and leaves the batch at the next reading.

mod passes;

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

use burn::{
    backend::Cube,
    tensor::{DType, Tensor},
};
use burn_cubecl::kernel::into_contiguous;
use cubecl::{bytes::Bytes, server::ServerError};

use self::passes::{PassError, Passes};
use super::{
    draw::SampledToken,
    prompts::Prompts,
    response::{GenerationConfig, Row},
};
use crate::{
    LanguageModel, ModelConfig, ModelError, Sampling,
    device_work::add_sampled_bytes,
    kernels::cube::{
        Attend, ChosenExperts, CubeTensor, FewRows, RowState, RowsOutput, Sample, add_experts,
        add_normalized, buffer, choose_experts, embed,
    },
    network::{DecodeFeedForward, DecodeLayer, DecodeWeights, rope::Rotations},
};

/// Passes between two readings of tokens. A row that has finished is computed for fewer passes than this.
const PASSES: usize = 8;

/// The largest random number. It is the largest 32-bit float below 1.
const MAX_UNIFORM: f32 = 1.0 - f32::EPSILON / 2.0;

/// The rows of a batch on a GPU.
pub(super) struct DeviceDecoder<'a> {
    weights: DecodeWeights,
    sampling: &'a Sampling,
    config: &'a ModelConfig,
    context: Context,
    activations: Activations,
    state: State,
    /// Tokens of the longest response that are run through the network.
    longest: usize,
    /// Whether passes are recorded and replayed.
    records: bool,
    /// Whether a pass with this many rows does what cannot be recorded.
    #[cfg(test)]
    spoils_recording: fn(usize) -> bool,
}

/// Whether recording has failed in this process. It is not tried again.
static CANNOT_RECORD: AtomicBool = AtomicBool::new(false);

/// What rows attend to.
struct Context {
    /// Cosines and sines of all positions, for layers without a window and with one.
    angles: [CubeTensor; 2],
    window_angles: [CubeTensor; 2],
    /// Keys and values of all prompts, per layer.
    prompts: Vec<[CubeTensor; 2]>,
    places: CubeTensor,
    /// Keys and values of all responses, per layer.
    slots: Vec<[CubeTensor; 2]>,
}

/// The buffers of a pass.
struct Activations {
    residual: CubeTensor,
    projected: CubeTensor,
    attended: CubeTensor,
    /// The output of attention or of the feed-forward layer, before it is normalized.
    output: CubeTensor,
    hidden: CubeTensor,
    experts: Option<ExpertBuffers>,
    logits: CubeTensor,
}

struct ExpertBuffers {
    logits: CubeTensor,
    chosen: CubeTensor,
    factors: CubeTensor,
    results: CubeTensor,
}

/// What is known of the rows; see [`Sample`].
struct State {
    rows: CubeTensor,
    tokens: CubeTensor,
    uniforms: CubeTensor,
    drawn: CubeTensor,
    logprobs: CubeTensor,
}

/// A row and where the device keeps it.
struct DeviceRow<'r> {
    row: &'r mut Row,
    slot: usize,
}

impl<'a> DeviceDecoder<'a> {
    /// Prepares the decoding of rows whose first token is drawn, with the weights of the model.
    pub(super) fn new(
        model: &'a LanguageModel,
        weights: DecodeWeights,
        prompts: Prompts,
        rows: &[&mut Row],
        settings: &'a GenerationConfig,
    ) -> Self {
        let longest = settings.max_new_tokens - 1;
        let like = &weights.embeddings;
        let config = model.config();
        Self {
            context: Context::new(model, prompts, rows.len(), longest, like),
            activations: Activations::new(&weights, config, rows.len()),
            state: State::new(rows, longest, like),
            sampling: &settings.sampling,
            config,
            longest,
            records: !CANNOT_RECORD.load(Ordering::Relaxed),
            weights,
            #[cfg(test)]
            spoils_recording: |_| false,
        }
    }

    /// Decodes until every row is finished.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn run(
        mut self,
        mut rows: Vec<&mut Row>,
        settings: &GenerationConfig,
        on_pass: &mut dyn FnMut(usize),
    ) -> Result<(), ModelError> {
        let mut reported = 0;
        let mut report = |tokens| {
            reported += tokens;
            on_pass(tokens);
        };
        let error = match self.decode(&mut rows, settings, &mut report) {
            Ok(()) => return Ok(()),
            Err(PassError::Failed(error)) => return Err(failed(error)),
            Err(PassError::NotRecorded(error)) => error,
        };
        if !CANNOT_RECORD.swap(true, Ordering::Relaxed) {
            log::warn!(
                "this device cannot record a decoding pass, so each of its kernels is launched separately, which is \
                 slower: {error}"
            );
        }
        self.records = false;
        rows.iter_mut().for_each(|row| row.keep_first());
        let like = &self.weights.embeddings;
        self.activations = Activations::new(&self.weights, self.config, rows.len());
        self.state = State::new(&rows, self.longest, like);
        self.context
            .replace_slots(self.config, rows.len(), self.longest);
        // The same tokens are drawn again, and reported once.
        let mut report = |tokens: usize| {
            let repeated = tokens.min(reported);
            reported -= repeated;
            if tokens > repeated || tokens == 0 {
                on_pass(tokens - repeated);
            }
        };
        let decoded = self.decode(&mut rows, settings, &mut report);
        decoded.map_err(|error| match error {
            PassError::NotRecorded(error) | PassError::Failed(error) => failed(error),
        })
    }

    fn decode(
        &self,
        rows: &mut [&mut Row],
        settings: &GenerationConfig,
        on_pass: &mut dyn FnMut(usize),
    ) -> Result<(), PassError> {
        let rows = rows.iter_mut().enumerate();
        let mut active: Vec<DeviceRow<'_>> =
            rows.map(|(slot, row)| DeviceRow { row, slot }).collect();
        let mut filled = 0;
        while !active.is_empty() {
            self.state.write(&active, filled);
            let count = active.len();
            let launch = || self.pass(count);
            let mut passes = Passes::new(&self.weights.embeddings.client, &launch, self.records);
            // To compute a finished row costs little, and to record the pass for fewer rows costs two passes. So
            // finished rows stay until they are half of all.
            let mut unfinished = count;
            while 2 * unfinished > count {
                let batch = PASSES.min(self.longest - filled);
                for pass in 0..batch {
                    passes.run(self.longest - filled - pass == 1)?;
                }
                filled += batch;
                self.read(&mut active, batch, settings, on_pass)?;
                let rows = active.iter();
                unfinished = rows.filter(|row| row.row.finish.is_none()).count();
            }
            active.retain(|row| row.row.finish.is_none());
        }
        Ok(())
    }

    /// Reads the tokens of the last passes.
    fn read(
        &self,
        rows: &mut [DeviceRow<'_>],
        passes: usize,
        settings: &GenerationConfig,
        on_pass: &mut dyn FnMut(usize),
    ) -> Result<(), PassError> {
        let State {
            drawn, logprobs, ..
        } = &self.state;
        let handles = vec![drawn.handle.clone(), logprobs.handle.clone()];
        let read = drawn.client.read(handles);
        let read = read.map_err(PassError::Failed)?;
        add_sampled_bytes(read.iter().map(|bytes| bytes.len()).sum());
        let [drawn, logprobs] = [&read[0], &read[1]].map(|bytes| bytes.as_chunks::<4>().0);
        let count = rows.len();
        for pass in 0..passes {
            let mut added = 0;
            for (index, row) in rows.iter_mut().enumerate() {
                if row.row.finish.is_none() {
                    let at = pass * count + index;
                    let token = SampledToken {
                        token: u32::from_ne_bytes(drawn[at]),
                        logprob: f32::from_ne_bytes(logprobs[at]),
                    };
                    row.row.push(token, settings);
                    added += 1;
                }
            }
            on_pass(added);
        }
        Ok(())
    }

    /// Runs the network on the last token of each row, and draws the next one.
    fn pass(&self, rows: usize) {
        #[cfg(test)]
        if (self.spoils_recording)(rows) {
            upload(&self.weights.embeddings, [1], &[0]);
        }
        let (weights, activations) = (&self.weights, &self.activations);
        embed(
            &weights.embeddings,
            &self.state.tokens,
            &activations.residual,
            rows,
            weights.embedding_scale,
        );
        for index in 0..weights.layers.len() {
            self.attention(index, rows);
            self.feed_forward(&weights.layers[index], rows);
        }
        FewRows {
            norm: Some(&weights.norm),
            ..FewRows::new(
                &activations.residual,
                &weights.head,
                &activations.logits,
                rows,
            )
        }
        .launch();
        Sample {
            logits: &activations.logits,
            uniforms: &self.state.uniforms,
            state: &self.state.rows,
            tokens: &self.state.tokens,
            drawn: &self.state.drawn,
            logprobs: &self.state.logprobs,
            rows,
            sampling: self.sampling,
        }
        .launch();
    }

    fn attention(&self, index: usize, rows: usize) {
        let layer = &self.weights.layers[index];
        let (activations, context) = (&self.activations, &self.context);
        FewRows {
            norm: Some(&layer.input_norm),
            bias: layer.bias.as_ref(),
            ..FewRows::new(
                &activations.residual,
                &layer.projections,
                &activations.projected,
                rows,
            )
        }
        .launch();
        Attend {
            projected: &activations.projected,
            norms: layer.query_key_norms.as_ref(),
            angles: match layer.window {
                Some(_) => &context.window_angles,
                None => &context.angles,
            },
            prompts: &context.prompts[index],
            places: &context.places,
            slots: &context.slots[index],
            state: &self.state.rows,
            output: &activations.attended,
            rows,
            scale: layer.query_factor / (self.config.head_size as f32).sqrt(),
            window: layer.window,
        }
        .launch();
        let product = |output, form| FewRows {
            form,
            ..FewRows::new(&activations.attended, &layer.output, output, rows)
        };
        match &layer.after_attention {
            Some(norm) => {
                product(&activations.output, RowsOutput::Stored).launch();
                add_normalized(&activations.output, norm, &activations.residual, rows);
            }
            None => product(&activations.residual, RowsOutput::Added).launch(),
        }
    }

    fn feed_forward(&self, layer: &DecodeLayer, rows: usize) {
        let activations = &self.activations;
        let DecodeFeedForward {
            gate_up,
            down,
            activation,
            experts,
        } = &layer.feed_forward;
        let norm = Some(&layer.feed_forward_norm);
        let (residual, hidden) = (&activations.residual, &activations.hidden);
        if let (Some(router), Some(buffers)) = (experts, &activations.experts) {
            FewRows {
                norm,
                ..FewRows::new(residual, &router.weight, &buffers.logits, rows)
            }
            .launch();
            let choice = (router.chosen, router.normalized);
            choose_experts(
                &buffers.logits,
                [&buffers.chosen, &buffers.factors],
                rows,
                choice,
            );
            let [count, _] = router.weight.meta.shape().dims();
            let experts = |rows_per_input| {
                Some(ChosenExperts {
                    of_row: &buffers.chosen,
                    count,
                    rows_per_input,
                })
            };
            let pairs = rows * router.chosen;
            FewRows {
                norm,
                experts: experts(router.chosen),
                form: RowsOutput::Gated(*activation),
                ..FewRows::new(residual, gate_up, hidden, pairs)
            }
            .launch();
            FewRows {
                experts: experts(1),
                ..FewRows::new(hidden, down, &buffers.results, pairs)
            }
            .launch();
            add_experts(
                &buffers.results,
                &buffers.factors,
                residual,
                rows,
                router.chosen,
            );
            return;
        }
        FewRows {
            norm,
            form: RowsOutput::Gated(*activation),
            ..FewRows::new(residual, gate_up, hidden, rows)
        }
        .launch();
        let product = |output, form| FewRows {
            form,
            ..FewRows::new(hidden, down, output, rows)
        };
        match &layer.after_feed_forward {
            Some(norm) => {
                product(&activations.output, RowsOutput::Stored).launch();
                add_normalized(&activations.output, norm, residual, rows);
            }
            None => product(residual, RowsOutput::Added).launch(),
        }
    }
}

fn failed(error: ServerError) -> ModelError {
    ModelError::Device(error.to_string())
}

impl Context {
    fn new(
        model: &LanguageModel,
        prompts: Prompts,
        rows: usize,
        longest: usize,
        like: &CubeTensor,
    ) -> Self {
        let config = model.config();
        let dtype = model.precision().dtype();
        let device = model.device();
        let length = |path: &[Range<usize>]| path.iter().map(ExactSizeIterator::len).sum();
        let lengths = prompts.cached.iter().map(|prompt| length(&prompt.path));
        let longest_prompt: usize = lengths.max().unwrap_or_default();
        let positions: Vec<usize> = (0..longest_prompt + longest).collect();
        let rotations = Rotations::new(&positions, config, &device);
        let angles = |has_window| rotations.of_layer(has_window).tables().map(primitive);
        // Where the tokens of each cache start among those of all caches.
        let mut starts = Vec::with_capacity(prompts.caches.len());
        let mut packed = 0;
        for cache in &prompts.caches {
            starts.push(packed);
            packed += cache.layers.first().map_or(0, |(keys, _)| keys.dims()[1]);
        }
        let mut places = vec![0u32; prompts.cached.len() * longest_prompt];
        let rows_of_places = places.chunks_exact_mut(longest_prompt);
        for (places, prompt) in rows_of_places.zip(&prompts.cached) {
            let tokens = prompt.path.iter().cloned().flatten();
            for (place, token) in places.iter_mut().zip(tokens) {
                *place = (starts[prompt.cache] + token) as u32;
            }
        }
        // Layer by layer, so that only one layer's keys and values are there twice.
        let caches = prompts.caches.into_iter();
        let mut caches: Vec<_> = caches.map(|cache| cache.layers.into_iter()).collect();
        let joined = |parts: Vec<Tensor<3>>| {
            let parts = parts.into_iter().map(|part| part.inner().cast(dtype));
            primitive(Tensor::cat(parts.collect(), 1))
        };
        let pools = (0..config.layers).map(|_| {
            let (keys, values) = caches.iter_mut().filter_map(Iterator::next).unzip();
            [joined(keys), joined(values)]
        });
        let mut context = Self {
            angles: angles(false),
            window_angles: angles(true),
            prompts: pools.collect(),
            places: upload(like, [prompts.cached.len(), longest_prompt], &places),
            slots: Vec::new(),
        };
        context.replace_slots(config, rows, longest);
        context
    }

    /// Makes slots for this many rows, in the type of the prompts' keys and values.
    fn replace_slots(&mut self, config: &ModelConfig, rows: usize, longest: usize) {
        let shape = [rows, config.kv_heads, longest.max(1), config.head_size];
        let layers = self.prompts.iter();
        let slots = layers.map(|prompts| {
            prompts
                .each_ref()
                .map(|like| buffer(like, shape, like.dtype))
        });
        self.slots = slots.collect();
    }
}

impl Activations {
    fn new(weights: &DecodeWeights, config: &ModelConfig, rows: usize) -> Self {
        let like = &weights.embeddings;
        let floats = |rows: usize, width: usize| buffer(like, [rows, width], DType::F32);
        let queries = config.heads * config.head_size;
        let projected = queries + 2 * config.kv_heads * config.head_size;
        let sizes = config.parts.experts.as_ref();
        let pairs = sizes.map_or(rows, |sizes| rows * sizes.chosen);
        let hidden = sizes.map_or(config.intermediate_size, |sizes| sizes.intermediate_size);
        Self {
            residual: floats(rows, config.hidden_size),
            projected: floats(rows, projected),
            attended: floats(rows, queries),
            output: floats(rows, config.hidden_size),
            hidden: floats(pairs, hidden),
            experts: sizes.map(|sizes| ExpertBuffers {
                logits: floats(rows, sizes.count),
                chosen: buffer(like, [pairs], DType::U32),
                factors: floats(1, pairs),
                results: floats(pairs, config.hidden_size),
            }),
            logits: floats(rows, config.vocab_size),
        }
    }
}

impl State {
    fn new(rows: &[&mut Row], longest: usize, like: &CubeTensor) -> Self {
        let uniform = |row: &Row, position| (row.key.uniform(position) as f32).min(MAX_UNIFORM);
        let uniforms = rows
            .iter()
            .flat_map(|row| (0..=longest).map(|at| uniform(row, at).to_bits()));
        let count = rows.len();
        Self {
            rows: buffer(like, [count, RowState::NUMBERS], DType::U32),
            tokens: buffer(like, [count], DType::U32),
            uniforms: upload(like, [count, longest + 1], &uniforms.collect::<Vec<u32>>()),
            drawn: buffer(like, [PASSES, count], DType::U32),
            logprobs: buffer(like, [PASSES, count], DType::F32),
        }
    }

    /// Writes the state of the rows, whose slots have `filled` tokens.
    fn write(&self, rows: &[DeviceRow<'_>], filled: usize) {
        let states = rows.iter().flat_map(|DeviceRow { row, slot }| {
            RowState {
                prompt: row.group as u32,
                prompt_length: row.prompt_length as u32,
                slot: *slot as u32,
                filled: filled as u32,
            }
            .numbers()
        });
        let tokens = rows.iter().filter_map(|row| row.row.tokens.last().copied());
        write(&self.rows, &states.collect::<Vec<_>>());
        write(&self.tokens, &tokens.collect::<Vec<_>>());
    }
}

/// The tensor in row-major order. It is on the model's device, a GPU.
fn primitive<const D: usize>(tensor: Tensor<D>) -> CubeTensor {
    let tensor = tensor.try_into_primitive::<Cube>();
    into_contiguous(tensor.unwrap_or_else(|_| unreachable!("the weights are on a GPU")))
}

fn bytes(numbers: &[u32]) -> Bytes {
    Bytes::from_elems(numbers.to_vec())
}

/// A tensor of numbers of 32 bits on the device of another one.
fn upload<const D: usize>(like: &CubeTensor, shape: [usize; D], numbers: &[u32]) -> CubeTensor {
    let tensor = buffer(like, shape, DType::U32);
    write(&tensor, numbers);
    tensor
}

/// Replaces the first numbers of a tensor.
fn write(tensor: &CubeTensor, numbers: &[u32]) {
    tensor.client.write(&tensor.handle, bytes(numbers));
}

#[cfg(test)]
#[cfg(feature = "wgpu")]
mod tests;
