//! Models on disk: opening, reading, converting and saving them.
//!
//! [`ModelFiles::open`] opens a Hugging Face directory or a GGUF file, and returns the same form for
//! both: configuration, weights by Hugging Face name, tokenizer, chat template and stop tokens.
//! [`save`] writes a Hugging Face directory. Nothing here depends on burn.

pub(crate) mod adapter;
mod assets;
mod contain;
mod conversation;
mod dequantize;
#[cfg(test)]
mod families;
mod gguf;
mod huggingface;
mod model_files;
mod open;
mod provenance;
mod python;
mod read;
mod safetensors;
mod save;
mod shards;
mod stop_tokens;
mod template;
mod tokenizer;
mod weights;

pub use self::adapter::Adapter;
pub use self::assets::ModelAssets;
pub use self::contain::is_catching_panic;
pub use self::conversation::{encode_continuation, encode_conversation};
pub(crate) use self::gguf::ModelKeys;
pub use self::model_files::ModelFiles;
pub(crate) use self::save::save_adapter;
pub use self::save::{TensorValues, convert, save, save_tensors};
pub use self::template::{ChatTemplate, Message, MessageRole};
pub use self::tokenizer::Tokenizer;
pub use self::weights::{TensorSpec, Weights};
