//! Settings of the layers that are read, or refused, in the same way for several architectures.

use serde_json::Value;

use super::keys::Keys;
use crate::error::ModelError;

/// The type of a layer that attends to all tokens.
const FULL_ATTENTION: &str = "full_attention";

impl Keys<'_> {
    /// Refuses variants of the layers that only some architectures have: biases in all projections, other
    /// activation functions, a sliding window.
    pub(crate) fn no_variants(&self, layers: usize) -> Result<(), ModelError> {
        self.plain_projections()?;
        self.no_sliding_window(layers)
    }

    /// Refuses biases in all projections, and other activation functions than SiLU.
    pub(crate) fn plain_projections(&self) -> Result<(), ModelError> {
        self.only("hidden_act", "silu")?;
        self.only("attention_bias", false)?;
        self.only("mlp_bias", false)
    }

    /// For each layer whether `layer_types` gives it a sliding window; `None` if the key is absent.
    pub(crate) fn layer_types(&self, layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
        const KEY: &str = "layer_types";
        const WINDOW: &str = "sliding_attention";
        let Some(types) = self.get(KEY) else {
            return Ok(None);
        };
        let list = types.as_array().filter(|list| list.len() == layers);
        let Some(list) = list else {
            let allowed = format!("a list with one type for each of the {layers} layers");
            return Err(self.invalid(KEY, types.clone(), allowed));
        };
        let window = |layer: &Value| match layer.as_str() {
            Some(WINDOW) => Ok(true),
            Some(FULL_ATTENTION) => Ok(false),
            _ => Err(self.unsupported("layer type", layer, "full_attention, sliding_attention")),
        };
        list.iter().map(window).collect::<Result<_, _>>().map(Some)
    }

    /// Accepts the settings of a sliding window only if no layer uses it. As in transformers,
    /// `layer_types` decides; without it, the layers from `max_window_layers` on use the window.
    fn no_sliding_window(&self, layers: usize) -> Result<(), ModelError> {
        const SWITCH: &str = "use_sliding_window";
        let switched_on = self.switch(SWITCH)? == Some(true);
        if let Some(types) = self.get("layer_types").and_then(Value::as_array) {
            return match types.iter().find(|layer| *layer != FULL_ATTENTION) {
                Some(layer) => Err(self.unsupported("layer type", layer, FULL_ATTENTION)),
                None => Ok(()),
            };
        }
        // An absent `sliding_window` means a window of 4096 tokens; only `null` means no window.
        let window = self.object.get("sliding_window") != Some(&Value::Null);
        let first = match self.get("max_window_layers") {
            Some(first) => first.as_u64().unwrap_or(0),
            None => 28,
        };
        if switched_on && window && first < layers as u64 {
            let allowed = format!(
                "false, or without effect: `sliding_window` null, or `max_window_layers` at least \
                 {layers}, the number of layers"
            );
            return Err(self.invalid(SWITCH, true, allowed));
        }
        Ok(())
    }
}
