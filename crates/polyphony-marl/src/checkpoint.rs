//! What has to be kept of an agent so that it learns on as if it had never stopped.
//!
//! Random numbers need nothing: their streams are named by seed and step. The reference policy is the
//! model that the agent started from.

use burn::tensor::{Tensor, TensorData};
use polyphony_model::{ModelError, TensorSpec};
use serde::{Deserialize, Serialize};

use crate::{adamw::AdamW, agent::Agent, update::JudgedGroup};

/// Of an agent everything that learning changes, but for its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentState {
    /// Gradient steps taken.
    pub gradient_steps: usize,
    /// Updates refused in a row because a loss or gradient was not finite.
    pub refused_in_a_row: usize,
    /// The names of the weights that have moments.
    pub moments: Vec<String>,
    /// What it will learn from, once there is enough of it.
    pub buffer: Vec<JudgedGroup>,
}

/// The names under which the two moments of a weight are kept.
fn moment_names(weight: &str) -> [String; 2] {
    ["first", "second"].map(|moment| format!("{moment}_moment.{weight}"))
}

impl Agent {
    /// Its state without tensors.
    pub fn state(&self) -> AgentState {
        let names = self.model.named_weights();
        let moments = self.optimizer.moments();
        AgentState {
            gradient_steps: self.optimizer.steps(),
            refused_in_a_row: self.refused_in_a_row,
            moments: moments
                .map(|(place, _)| names[place].0.name.clone())
                .collect(),
            buffer: self.buffer.clone(),
        }
    }

    /// The tensors of its state, each flat, under their names: the weights that learn, and the two
    /// moments of those that a gradient step has changed.
    pub fn state_tensors(&self) -> Vec<(TensorSpec, Tensor<1>)> {
        let names = self.model.named_weights();
        let moments = self.optimizer.moments().flat_map(|(place, pair)| {
            let spec = &names[place].0;
            let named = moment_names(&spec.name).into_iter().zip(pair);
            named.map(|(name, moment)| {
                let shape = spec.shape.clone();
                (TensorSpec { name, shape }, moment)
            })
        });
        self.model
            .learned_weights()
            .into_iter()
            .chain(moments)
            .collect()
    }

    /// Puts the agent into a state that was kept. `read` gives the values of the tensors, row after
    /// row.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    ///
    /// # Panics
    /// If `read` gives another number of values than a tensor has.
    pub fn restore(
        &mut self,
        state: AgentState,
        read: &mut dyn FnMut(&TensorSpec) -> Result<Vec<f32>, ModelError>,
    ) -> Result<(), ModelError> {
        self.model.replace_learned(&mut *read)?;
        let device = self.model.device();
        let mut moments = Vec::new();
        for (spec, _) in self.model.named_weights() {
            if !state.moments.contains(&spec.name) {
                moments.push(None);
                continue;
            }
            let shape = spec.shape;
            let [first, second] = moment_names(&spec.name).map(|name| {
                let shape = shape.clone();
                let values = read(&TensorSpec { name, shape })?;
                let count = values.len();
                Ok(Tensor::from_data(TensorData::new(values, [count]), &device))
            });
            moments.push(Some([first?, second?]));
        }
        self.optimizer = AdamW::resumed(state.gradient_steps, moments);
        self.refused_in_a_row = state.refused_in_a_row;
        self.buffer = state.buffer;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use polyphony_model::LoraConfig;

    use super::*;
    use crate::{
        config::{Algorithm, Updates},
        fixture::{Duet, agent, lengths, task, weight_bits},
        rollout::{IndexedTask, LongPrompts, ResponseConfig, RolloutWeights},
        step::{StepConfig, train_step},
    };

    fn step(agents: &mut [Agent], step: u32) {
        let task = task("a", "one");
        let indexed = [IndexedTask {
            index: 0,
            task: &task,
        }];
        let config = StepConfig {
            algorithm: Algorithm::default(),
            updates: Updates {
                learning_rate: 1e-3,
                buffer: 2,
                ..Updates::default()
            },
            responses: ResponseConfig {
                sampling: polyphony_model::Sampling::default(),
                max_new_tokens: 30,
                weights: RolloutWeights::Full,
                long_prompts: LongPrompts::Fail,
            },
            steps: 9,
            key: polyphony_model::StreamKey {
                seed: 3,
                step,
                ..Default::default()
            },
        };
        train_step(agents, &Duet::new(lengths), &indexed, &config, &mut |_| ()).unwrap();
    }

    /// Two agents, the second one with adapters.
    fn team() -> [Agent; 2] {
        let mut team = ["first", "second"].map(agent);
        let language = crate::agent::Language {
            stop_tokens: (0..256).step_by(8).collect(),
            ..crate::fixture::plain_language()
        };
        let language = std::sync::Arc::new(language);
        for agent in &mut team {
            agent.language = std::sync::Arc::clone(&language);
        }
        let lora = LoraConfig::default();
        team[1].model = team[1].model.clone().with_lora(&lora, 1, 0).unwrap();
        team
    }

    #[test]
    fn a_restored_team_learns_on_as_if_it_had_never_stopped() {
        let mut whole = team();
        (0..3).for_each(|index| step(&mut whole, index));
        // The buffer holds the node of the third step.
        let kept = whole.each_ref().map(|agent| {
            let text = ron::to_string(&agent.state()).unwrap();
            let tensors = agent.state_tensors().into_iter();
            let tensors: HashMap<String, Vec<f32>> = tensors
                .map(|(spec, tensor)| (spec.name, tensor.into_data().try_into_vec().unwrap()))
                .collect();
            (text, tensors)
        });
        let mut resumed = team();
        for (agent, (text, tensors)) in resumed.iter_mut().zip(&kept) {
            let state: AgentState = ron::from_str(text).unwrap();
            assert_eq!((state.buffer.len(), state.gradient_steps), (1, 2));
            let mut read = |spec: &TensorSpec| Ok(tensors[&spec.name].clone());
            agent.restore(state, &mut read).unwrap();
        }
        for index in 3..6 {
            step(&mut whole, index);
            step(&mut resumed, index);
        }
        for (whole, resumed) in whole.iter().zip(&resumed) {
            assert!(weight_bits(&whole.model) == weight_bits(&resumed.model));
            assert_eq!(whole.state(), resumed.state());
        }
        let adapters = &kept[1].1;
        assert!(
            adapters.keys().all(|name| name.contains(".adapter.")),
            "{:?}",
            adapters.keys()
        );
    }

    #[test]
    fn a_tensor_that_is_not_there_leaves_the_weights_as_they_were() {
        let [mut agent, _] = team();
        let before = weight_bits(&agent.model);
        let state = agent.state();
        let mut left = 3;
        let error = agent.restore(state, &mut |spec| {
            left -= 1;
            match left {
                0 => Err(ModelError::EmptyPrompt),
                _ => Ok(vec![7.0; spec.shape.iter().product()]),
            }
        });
        assert!(error.is_err());
        assert!(weight_bits(&agent.model) == before);
    }
}
