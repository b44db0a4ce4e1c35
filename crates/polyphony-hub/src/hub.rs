//! Models on the Hugging Face hub, through the cache that Python's `huggingface_hub` keeps.
//!
//! Start reading at [`HubModel::obtain`] in `obtain.rs`.

mod blob;
mod client;
mod download;
mod explain;
mod listing;
mod model;
mod obtain;
mod settings;
mod snapshot;

pub(crate) use self::{listing::cached_models, obtain::Freshness};
pub use self::{model::HubModel, settings::HubConfig};

#[cfg(test)]
mod tests;
