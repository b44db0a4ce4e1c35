//! The layers of confinement, and the tiers that have them.
//!
//! Outside this crate's tests, a set of layers only comes from [`Layers::of`], so no layer can be left
//! out. `layers_tests` removes the layers one by one, to check that each of them stops an attack.

use crate::Tier;

/// One layer of confinement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    /// Separate user, process, network, IPC, host name and cgroup namespaces.
    Namespaces,
    /// A mount namespace with a root that contains only the interpreter.
    Root,
    /// Another user, no capabilities, no way to gain privileges.
    Privileges,
    /// Rules on files, network, signals and abstract sockets.
    Landlock,
    /// Limits on memory, files, descriptors, CPU time and threads.
    ResourceLimits,
    /// The system call filter.
    Seccomp,
}

impl Layer {
    const ALL: [Self; 6] = [
        Self::Namespaces,
        Self::Root,
        Self::Privileges,
        Self::Landlock,
        Self::ResourceLimits,
        Self::Seccomp,
    ];
}

/// A set of layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layers(Vec<Layer>);

impl Layers {
    /// The layers of a tier.
    pub(super) fn of(tier: Tier) -> Self {
        let has = |layer: &Layer| match tier {
            Tier::Full => true,
            Tier::Landlock => !matches!(layer, Layer::Namespaces | Layer::Root),
            Tier::Off => *layer == Layer::ResourceLimits,
        };
        Self(Layer::ALL.into_iter().filter(has).collect())
    }

    /// Exactly these layers.
    #[cfg(test)]
    pub(super) fn only(layers: &[Layer]) -> Self {
        Self(layers.to_vec())
    }

    pub(super) fn contain(&self, layer: Layer) -> bool {
        self.0.contains(&layer)
    }
}
