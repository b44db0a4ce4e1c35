//! From a model on the hub to a path in the cache.

use std::path::PathBuf;

use super::{
    download::download,
    explain::offline,
    model::HubModel,
    settings::{HubConfig, Network},
    snapshot::{Kept, Snapshot, is_commit},
};
use crate::{error::HubError, transfer::Transfer};

/// What to do if a model is cached but the hub may have a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Use the cached one, without a network.
    Cached,
    /// Ask for the current commit of a branch.
    Newest,
}

impl HubModel {
    /// The path of the model in the cache; it is downloaded first if needed.
    ///
    /// # Errors
    /// If the repository has no such model, or the hub refuses or cannot be reached and the cache does not
    /// hold what is needed; the message says what would help.
    pub(crate) fn obtain(
        &self,
        settings: &HubConfig,
        freshness: Freshness,
        on_transfer: &dyn Fn(Transfer<'_>),
    ) -> Result<PathBuf, HubError> {
        let kept = match Snapshot::of_revision(self, settings) {
            Some(snapshot) => snapshot.kept(&self.form),
            None => Kept::Not,
        };
        let kept = match kept {
            Kept::Whole(path) if freshness == Freshness::Cached || is_commit(&self.revision) => {
                return Ok(path);
            }
            Kept::Whole(path) | Kept::Enough(path) => Some(path),
            Kept::Not => None,
        };
        let outcome = match settings.network {
            Network::On => download(self, settings, on_transfer),
            Network::Off => Err(offline(self, settings)),
        };
        let source = match outcome {
            Ok(path) => return Ok(path),
            Err(source) => source,
        };
        match (kept, withheld(&source)) {
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

/// Why the hub sends nothing now, where that says nothing against what it sent before: it is silent, out
/// of order or too busy, or does not let this user in, perhaps since a token has expired.
fn withheld(error: &HubError) -> Option<String> {
    match error {
        HubError::Unreachable { reason, .. } => Some(reason.clone()),
        HubError::RateLimited { .. } | HubError::Gated { .. } | HubError::Hidden { .. } => {
            Some(error.to_string())
        }
        HubError::Refused { status, .. } if status.is_server_error() => Some(error.to_string()),
        _ => None,
    }
}
