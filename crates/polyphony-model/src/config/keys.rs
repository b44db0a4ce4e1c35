//! Typed access to a configuration's keys.

use std::path::Path;

use serde_json::Value;

use crate::error::ModelError;

/// The largest size accepted anywhere in a configuration, so that the product of two sizes does not
/// overflow. Products of more sizes are in `memory.rs`.
const MAX_SIZE: usize = i32::MAX as usize;

/// Typed access to the keys of one JSON object. A key whose value is `null` counts as absent.
pub(crate) struct Keys<'a> {
    pub(crate) object: &'a Value,
    pub(crate) path: &'a Path,
}

impl Keys<'_> {
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key is there with the value `null`.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.object.get(key) == Some(&Value::Null)
    }

    pub(crate) fn invalid(
        &self,
        key: &str,
        given: impl Into<Value>,
        allowed: impl Into<String>,
    ) -> ModelError {
        ModelError::InvalidValue {
            path: self.path.to_owned(),
            key: key.to_owned(),
            given: given.into().to_string(),
            allowed: allowed.into(),
        }
    }

    pub(crate) fn unsupported(&self, what: &str, given: &Value, supported: &str) -> ModelError {
        let given = given
            .as_str()
            .map_or_else(|| given.to_string(), str::to_owned);
        ModelError::Unsupported {
            path: self.path.to_owned(),
            what: what.to_owned(),
            given,
            supported: supported.to_owned(),
        }
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.optional_size(key)?
            .ok_or_else(|| ModelError::MissingKey {
                path: self.path.to_owned(),
                key: key.to_owned(),
                expected: "a whole number of at least 1".to_owned(),
            })
    }

    pub(crate) fn optional_size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        match size {
            Some(size) if (1..=MAX_SIZE).contains(&size) => Ok(Some(size)),
            _ => {
                let allowed = format!("a whole number from 1 to {MAX_SIZE}");
                Err(self.invalid(key, value.clone(), allowed))
            }
        }
    }

    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if number > 0.0 => Ok(Some(number)),
            _ => Err(self.invalid(key, value.clone(), "a number above 0")),
        }
    }

    pub(crate) fn switch(&self, key: &str) -> Result<Option<bool>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_bool() {
            Some(switch) => Ok(Some(switch)),
            None => Err(self.invalid(key, value.clone(), "true or false")),
        }
    }

    /// Refuses every value but one; an absent key is accepted. Numbers are compared by value, since
    /// JSON writers turn 1.0 into 1.
    pub(crate) fn only(&self, key: &str, supported: impl Into<Value>) -> Result<(), ModelError> {
        let supported = supported.into();
        let same = |value: &Value| {
            let equal = value.as_f64().zip(supported.as_f64());
            equal.map_or(*value == supported, |(given, wanted)| given == wanted)
        };
        match self.get(key) {
            Some(value) if !same(value) => Err(self.invalid(
                key,
                value.clone(),
                format!("{supported} (all that is supported)"),
            )),
            _ => Ok(()),
        }
    }

    /// Refuses a key that is there, unless it is `null`.
    pub(crate) fn absent(&self, key: &str) -> Result<(), ModelError> {
        match self.get(key) {
            Some(value) => Err(self.invalid(key, value.clone(), "null (all that is supported)")),
            None => Ok(()),
        }
    }

    /// Refuses a list that is not empty.
    pub(crate) fn only_empty(&self, key: &str) -> Result<(), ModelError> {
        match self.get(key) {
            Some(value) if value.as_array().is_none_or(|list| !list.is_empty()) => {
                Err(self.invalid(key, value.clone(), "an empty list (all that is supported)"))
            }
            _ => Ok(()),
        }
    }
}
