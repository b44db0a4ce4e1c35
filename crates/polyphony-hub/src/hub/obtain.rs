//! A model on the hub becomes a path in the cache.

use std::path::PathBuf;

use super::{
    download::download,
    explain::offline,
    model::HubModel,
    settings::{HubSettings, Network},
    snapshot::{Kept, Snapshot, is_commit},
};
use crate::{error::HubError, transfer::Transfer};

/// What to do where a model is in the cache but the hub may have a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Take what is in the cache, without a network.
    Cached,
    /// Ask where a branch is now.
    Newest,
}

impl HubModel {
    /// The path of the model in the cache; it is downloaded first if need be.
    ///
    /// # Errors
    /// If the hub refuses it or cannot be reached, or the repository holds no such model: says how
    /// to help.
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
                    log::warn!("taking {self} as it is in the cache: {reason}");
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
