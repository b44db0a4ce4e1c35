//! The crate's error type.
//!
//! Every message names the file, tensor or key, states what was given and what is allowed, and ends
//! with the way out.

use std::io;
use std::path::PathBuf;

/// Why a model could not be read, used or saved.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A required file or directory does not exist.
    #[error("{path} does not exist: expected {expected}")]
    Missing {
        /// What was looked for.
        path: PathBuf,
        /// What should be there, and how to get it.
        expected: String,
    },

    /// The operating system refused to read a file.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// The path is not a regular file, but a directory or a device, for example.
    #[error("{path} is {found}: a model consists of regular files, so copy its contents into one")]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What kind of file it is.
        found: &'static str,
    },

    /// A file is larger than those of any known model, so reading stopped at the bound.
    #[error(
        "{path} has more than {bound}, which no known model needs; check where the model comes from"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        bound: String,
    },

    /// The operating system refused to write a file, for example because the disk is full.
    #[error("cannot write {path}: {source}; no partial file was left behind")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// Saving a model would overwrite something.
    #[error("{path} already exists: remove it, or save under another name")]
    TargetExists {
        /// The directory to write.
        path: PathBuf,
    },

    /// A file is not valid JSON, or lacks the expected structure.
    #[error("{path} is not valid JSON: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and how it fails to parse.
        source: serde_json::Error,
    },

    /// A required key of a configuration is absent.
    #[error("{path} has no key `{key}`: expected {expected}")]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What its value should be.
        expected: String,
    },

    /// A key's value is out of range or of the wrong kind.
    #[error("{path}: `{key}` is {given}, but must be {allowed}")]
    InvalidValue {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The value found.
        given: String,
        /// The values allowed.
        allowed: String,
    },

    /// The file asks for something that this crate does not implement.
    #[error("{path}: {what} `{given}` is not supported; supported: {supported}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What kind of thing it is, such as `rope type`.
        what: String,
        /// What the file asks for.
        given: String,
        /// What is supported instead.
        supported: String,
    },

    /// A file is truncated or its contents contradict themselves.
    #[error("{path} is damaged: {reason}; download or copy it again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },

    /// A tensor that the model needs is not in the file.
    #[error(
        "{path} holds no tensor `{tensor}`: check that weights and configuration belong together"
    )]
    MissingTensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
    },

    /// A tensor's shape differs from the one that the configuration implies.
    #[error(
        "{path}: tensor `{tensor}` has shape {found:?}, but the configuration implies \
         {expected:?}: check that weights and configuration belong together"
    )]
    TensorShape {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape that the configuration implies.
        expected: Vec<usize>,
    },

    /// A tensor is stored as a number type that cannot be read.
    #[error("{path}: tensor `{tensor}` is stored as {given}; supported: {supported}")]
    TensorType {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The stored type.
        given: String,
        /// The types that can be read.
        supported: String,
    },

    /// The values of a tensor to save do not match its specification.
    #[error("tensor `{tensor}` cannot be saved: it has {given}, but must have {expected}")]
    TensorValues {
        /// The tensor's name.
        tensor: String,
        /// The values that it has.
        given: String,
        /// The values that it must have.
        expected: String,
    },

    /// The names in a weights file are not those of the architecture.
    #[error(
        "{path} does not hold the tensors of this architecture; missing: {}; unexpected: {}",
        name_list(.missing), name_list(.unexpected)
    )]
    TensorNames {
        /// The weights file.
        path: PathBuf,
        /// Names that the architecture needs and the file lacks.
        missing: Vec<String>,
        /// Names in the file that the architecture does not know.
        unexpected: Vec<String>,
    },

    /// A tokenizer can produce ids that the model has no embedding for.
    #[error(
        "the tokenizer of {path} does not fit the model: token `{token}` has id {id}, but the \
         model's vocabulary has {vocab_size} entries (0 to {}): use the tokenizer that came with \
         the weights", .vocab_size - 1
    )]
    TokenizerVocabulary {
        /// The file that the tokenizer came from.
        path: PathBuf,
        /// The token with the largest id.
        token: String,
        /// Its id.
        id: u32,
        /// Entries in the model's vocabulary.
        vocab_size: usize,
    },

    /// A tokenizer could not be built or failed on a text.
    #[error("the tokenizer of {path} failed: {reason}")]
    Tokenizer {
        /// The file that the tokenizer came from.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },

    /// A chat template could not be parsed or failed on a conversation.
    #[error("the chat template of {path} failed: {reason}")]
    Template {
        /// The file that the template came from.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },

    /// A token id has no embedding.
    #[error("token id {id} is outside the vocabulary of {vocab_size} entries (0 to {})", .vocab_size - 1)]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Entries in the model's vocabulary.
        vocab_size: usize,
    },

    /// A prompt has no tokens.
    #[error("the prompt is empty: a model needs at least one token to continue")]
    EmptyPrompt,

    /// A group to score has no responses, or a response has no tokens.
    #[error("there is no response to score: every response needs at least one token")]
    EmptyResponse,

    /// Generation was asked for no tokens.
    #[error("`max_new_tokens` is 0, but must be at least 1")]
    NoNewTokens,

    /// Prompt and longest response do not fit into the context.
    #[error(
        "the prompt has {prompt} tokens and a response may have {new}, but the model's context \
         holds {max_positions}: shorten the prompt or lower `max_new_tokens`"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// The maximum length of a response, in tokens.
        new: usize,
        /// Tokens that the model's context holds.
        max_positions: usize,
    },

    /// A sequence does not fit into the context.
    #[error("the sequence has {tokens} tokens, but the model's context holds {max_positions}")]
    ContextTooLong {
        /// Tokens of the sequence.
        tokens: usize,
        /// Tokens that the model's context holds.
        max_positions: usize,
    },

    /// The model's logits are infinite or NaN.
    #[error(
        "the model's logits are not finite: its weights are damaged, or training has diverged (a \
         lower `learning_rate` helps)"
    )]
    LogitsNotFinite,

    /// A device stopped while it computed.
    #[error(
        "the device failed: {0} (if it ran out of memory, sample fewer responses at once, shorten them, or use a \
         smaller model)"
    )]
    Device(String),

    /// A device cannot compute with bfloat16.
    #[error("{device} does not compute with bfloat16: use the precision F32")]
    NoBf16 {
        /// The device.
        device: String,
    },

    /// The processor lacks the instructions for products in bfloat16.
    #[error(
        "the precision Bf16 needs a processor with AVX512-BF16, but this one has {vector_unit}: \
         use the precision F32"
    )]
    NoBf16OnCpu {
        /// The widest vector instructions of the processor.
        vector_unit: &'static str,
    },

    /// New adapters cannot be added to a model that already has adapters.
    #[error("the model already has low-rank adapters: merge them into its weights first")]
    AdaptersAttached,

    /// The network is not run on this token, so the token has no hidden state.
    #[error(
        "there is no hidden state at index {index}: the network runs a packed row of {tokens} \
         tokens, the prompt and all but the last token of each response"
    )]
    NoHiddenState {
        /// The requested index in the packed row.
        index: usize,
        /// Tokens of the row.
        tokens: usize,
    },

    /// A setting of sampling or of adapters is out of range.
    #[error("`{key}` is {given}, but must be {allowed}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// Its value.
        given: String,
        /// The values allowed.
        allowed: &'static str,
    },
}

fn name_list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// Truncates a text to this many characters, and appends `…` if it was longer.
pub(crate) fn truncated(mut text: String, max_chars: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(max_chars) {
        text.truncate(end);
        text.push('…');
    }
    text
}
