//! The layers of confinement, and which of them a tier has.
//!
//! Outside this crate's own tests a set of layers comes from [`Layers::of`] alone: there is no way to
//! leave one out. `layers_tests` takes them away one by one, to see that each of them holds something.

use crate::Tier;

/// One layer of confinement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    /// User, process, network, IPC, host name and cgroup namespaces of its own.
    Namespaces,
    /// A mount namespace with a root that holds the interpreter alone.
    Root,
    /// Another user, no capabilities, no way to new privileges.
    Privileges,
    /// Rules on files, network, signals and abstract sockets.
    Landlock,
    /// Memory, files, descriptors, processor time, threads.
    ResourceLimits,
    /// The filter of system calls.
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

    /// These and no others.
    #[cfg(test)]
    pub(super) fn only(layers: &[Layer]) -> Self {
        Self(layers.to_vec())
    }

    pub(super) fn contain(&self, layer: Layer) -> bool {
        self.0.contains(&layer)
    }
}
