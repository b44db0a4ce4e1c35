//! What ranks send to one another, and how long that takes.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// What ranks send to one another. Bytes are counted by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Message {
    /// Responses and whether the next prompts fit, from every part to all ranks.
    Responses,
    /// Rewards and observations, from the rank that scored a joint action to all ranks.
    Outcomes,
    /// Responses with their log-probabilities, and scores, between the replicas of a part.
    Samples,
    /// Gradients, between the replicas of a part.
    Gradients,
    /// Metrics, records and what keeps ranks in step.
    Records,
}

impl Message {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::Responses,
        Self::Outcomes,
        Self::Samples,
        Self::Gradients,
        Self::Records,
    ];

    /// What the metric about its bytes means.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Responses => "Bytes of responses that all ranks have sent",
            Self::Outcomes => "Bytes of rewards and observations that all ranks have sent",
            Self::Samples => "Bytes of samples and scores that replicas have sent",
            Self::Gradients => "Bytes of gradients that replicas have sent",
            Self::Records => "Bytes of metrics and records that all ranks have sent",
        }
    }

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Responses => "responses",
            Self::Outcomes => "outcomes",
            Self::Samples => "samples",
            Self::Gradients => "gradients",
            Self::Records => "records",
        }
    }
}

/// What this rank has sent so far, and how long it has waited for others.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    bytes: [AtomicU64; Message::ALL.len()],
    nanos: AtomicU64,
}

/// A total of traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficTotal {
    /// Bytes that this rank has sent, by kind in the order of [`Message::ALL`].
    pub bytes: [u64; Message::ALL.len()],
    /// The time that this rank has spent in communication, which includes waiting for other ranks.
    pub time: Duration,
}

impl TrafficTotal {
    /// The traffic since an earlier total.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            bytes: std::array::from_fn(|kind| self.bytes[kind] - earlier.bytes[kind]),
            time: self.time.saturating_sub(earlier.time),
        }
    }
}

impl Traffic {
    pub(crate) fn count(&self, kind: Message, bytes: u64) {
        self.bytes[kind as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts the time of a communication.
    pub(crate) fn timed<T>(&self, communicate: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = communicate();
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        result
    }

    pub(crate) fn total(&self) -> TrafficTotal {
        TrafficTotal {
            bytes: std::array::from_fn(|kind| self.bytes[kind].load(Ordering::Relaxed)),
            time: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
        }
    }
}
