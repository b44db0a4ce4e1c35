//! Obtains a model on the hub: returns its path in the cache, after a download if needed.

use std::path::PathBuf;

use super::{
    download::download,
    explain::offline,
    model::HubModel,
    settings::{HubConfig, Network},
    snapshot::{CacheState, Snapshot, is_commit},
};
use crate::{error::HubError, transfer::Transfer};

/// What to do if a model is cached but the hub may have a newer version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Use the cached version, without a network.
    Cached,
    /// Ask the hub for the current commit of a branch.
    Newest,
}

impl HubModel {
    /// The path of the model in the cache. The model is downloaded first if needed.
    ///
    /// # Errors
    /// If the repository has no such model, or the hub refuses or cannot be reached and the cache does not
    /// contain what is needed. The message suggests what would help.
    pub(crate) fn obtain(
        &self,
        settings: &HubConfig,
        freshness: Freshness,
        on_transfer: &dyn Fn(Transfer<'_>),
    ) -> Result<PathBuf, HubError> {
        let state = match Snapshot::of_revision(self, settings) {
            Some(snapshot) => snapshot.cache_state(&self.form),
            None => CacheState::Missing,
        };
        let cached = match state {
            CacheState::Complete(path)
                if freshness == Freshness::Cached || is_commit(&self.revision) =>
            {
                return Ok(path);
            }
            CacheState::Complete(path) | CacheState::Usable(path) => Some(path),
            CacheState::Missing => None,
        };
        let outcome = match settings.network {
            Network::On => download(self, settings, on_transfer),
            Network::Off => Err(offline(self, settings)),
        };
        let source = match outcome {
            Ok(path) => return Ok(path),
            Err(source) => source,
        };
        match (cached, reason_to_use_cache(&source)) {
            (Some(path), Some(reason)) => {
                if settings.network == Network::On {
                    log::warn!("using {self} from the cache: {reason}");
                }
                Ok(path)
            }
            _ => Err(HubError::Hub {
                model: self.to_string(),
                source: Box::new(source),
            }),
        }
    }
}

/// The reason why the hub sends nothing now, if the cached version may still be used: the hub does not
/// answer, fails, is too busy, or refuses this user, perhaps because a token has expired. `None` for any
/// other error, which the cached version must not hide.
fn reason_to_use_cache(error: &HubError) -> Option<String> {
    match error {
        HubError::Unreachable { reason, .. } => Some(reason.clone()),
        HubError::RateLimited { .. } | HubError::Gated { .. } | HubError::Hidden { .. } => {
            Some(error.to_string())
        }
        HubError::Refused { status, .. } if status.is_server_error() => Some(error.to_string()),
        _ => None,
    }
}
