//! From a model on the hub to a path in the cache.

use std::path::PathBuf;

use super::{
    download::download,
    explain::offline,
    model::HubModel,
    settings::{HubSettings, Network},
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
    /// If the hub refuses or cannot be reached, or the repository has no such model; the message says what
    /// would help.
    pub(crate) fn obtain(
        &self,
        settings: &HubSettings,
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
        match (outcome, kept) {
            (Err(HubError::Unreachable { reason, .. }), Some(path)) => {
                if settings.network == Network::On {
                    log::warn!("using {self} from the cache: {reason}");
                }
                Ok(path)
            }
            (outcome, _) => outcome.map_err(|source| HubError::Hub {
                model: self.to_string(),
                source: Box::new(source),
            }),
        }
    }
}
