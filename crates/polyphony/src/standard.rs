//! Registers everything that ships with the program, in the same way as a user's own types.

use polyphony_env::{Arxiv, Coding, Embedded, File, Problems, Process, SingleAgent, Tldr};
use polyphony_marl::{IndependentActorCritic, Magrpo};
use polyphony_runner::Registry;

macro_rules! recipes {
    ($registry:expr, $($name:literal),* $(,)?) => {
        $registry$(.recipe($name, include_str!(concat!("../recipes/", $name, ".ron"))))*
    };
}

/// All environments, algorithms, data sets and recipes that ship. The first algorithm and the first
/// recipe are the defaults.
pub(crate) fn registry() -> Registry {
    let registry = Registry::new()
        .environment::<Tldr>("Tldr")
        .environment::<Arxiv>("Arxiv")
        .environment::<Coding>("Coding")
        .environment::<Process>("Process")
        .single_agent("SingleAgent", |team| Box::new(SingleAgent::new(team)))
        .algorithm::<Magrpo>("Magrpo")
        .algorithm::<IndependentActorCritic>("IndependentActorCritic")
        .task_source::<Embedded>("Embedded")
        .task_source::<File>("File")
        .task_source::<Problems>("Problems");
    // First the recipes for a small machine, then those of the paper's experiments.
    recipes!(
        registry,
        "tldr-smollm2",
        "tldr-smollm2-single-agent",
        "arxiv-smollm2",
        "arxiv-smollm2-single-agent",
        "coop-smollm2",
        "coop-smollm2-single-agent",
        "humaneval-smollm2",
        "humaneval-smollm2-two-turns",
        "tldr-qwen3",
        "tldr-qwen3-single-agent",
        "arxiv-qwen3",
        "arxiv-qwen3-single-agent",
        "humaneval-qwen-coder",
        "humaneval-qwen-coder-single-agent",
        "humaneval-qwen-coder-two-turns",
        "humaneval-qwen-coder-two-turns-single-agent",
        "coophumaneval-qwen-coder",
        "coophumaneval-qwen-coder-single-agent",
        "coophumaneval-qwen-coder-two-turns",
        "coophumaneval-qwen-coder-two-turns-single-agent",
    )
}
