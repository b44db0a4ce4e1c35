//! Bounds on the time and memory that a chat template uses while it runs.
//!
//! The engine's fuel bounds the instructions, the text and the output. The filters in this file, which
//! [`program`](super::program) inserts between the instructions, bound what the engine does not
//! measure: the number of parts of a value, where a shared part counts each time, and how deeply the
//! parts are nested. Measuring a value consumes fuel, so that the time is bounded as well.

use minijinja::value::{DynObject, ObjectRepr, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, escape_formatter};

/// The fuel of one rendering. An instruction costs one unit, and so do 64 bytes of created text. This much
/// fuel is enough for 2,000 messages of a kilobyte in the templates of known models.
pub(in super::super) const FUEL: u64 = 1_000_000;

/// The most parts of one value.
const MAX_PARTS: usize = 100_000;

/// The most bytes of text in one value.
const MAX_TEXT: usize = 1 << 25;

/// The deepest nesting of lists and maps.
const MAX_DEPTH: usize = 64;

/// The deepest nesting of macro calls and loops, as the engine counts it.
const MAX_RECURSION: usize = 100;

/// The most arguments of a filter. Some filters call the filters that their arguments name.
const MAX_FILTER_ARGUMENTS: usize = 8;

/// The most items of a `range`.
const MAX_RANGE: i128 = 100_000;

/// Bytes of text for one unit of fuel, as in the engine.
const BYTES_PER_FUEL: usize = 64;

// The names of the filters. They are not valid in a template's source, so no template can call them.
pub(super) const MEASURED: &str = "(measured)";
pub(super) const STORED: &str = "(stored)";
pub(super) const ITEM: &str = "(item)";
pub(super) const SLICE: &str = "(slice)";
pub(super) const CONCAT: &str = "(concat)";
pub(super) const FILTERED: &str = "(filtered)";

/// Adds the bounds to an environment.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_formatter(emit);
    environment.add_filter(MEASURED, |state: &State, value: ValueOrKwargs| {
        measured(state, value.into_value())
    });
    environment.add_filter(STORED, stored);
    environment.add_filter(ITEM, item);
    environment.add_filter(SLICE, slice);
    environment.add_filter(CONCAT, concat);
    environment.add_filter(FILTERED, filtered);
    environment.add_function("range", range);
    // transformers has neither: `debug` prints all variables, and `chain` creates nested maps.
    environment.remove_global("debug");
    environment.remove_filter("chain");
}

/// The error for a template that exceeds a bound.
pub(in super::super) fn refused(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// The text of an error. The engine's texts about its fuel and about recursion do not name the bound and are
/// replaced.
pub(super) fn explain(error: &Error) -> String {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let engine_error: Option<&Error> = error.downcast_ref();
        if engine_error.and_then(Error::detail) == Some("recursion limit exceeded") {
            return format!(
                "it exceeds the recursion limit of {MAX_RECURSION} nested scopes, where a macro call \
                 counts as about five"
            );
        }
        if engine_error.map(Error::kind) == Some(ErrorKind::OutOfFuel) {
            return format!(
                "it does more work than the {FUEL} steps that a chat template may take, each an \
                 instruction or {BYTES_PER_FUEL} bytes of text"
            );
        }
        cause = error.source();
    }
    error.to_string()
}

/// The size of a value.
#[derive(Default)]
pub(in super::super) struct Size {
    /// The value itself and everything in it; a part that is shared counts each time.
    pub(in super::super) parts: usize,
    /// Bytes of text.
    pub(in super::super) text: usize,
    /// How deeply lists and maps are nested.
    pub(in super::super) depth: usize,
}

impl Size {
    /// # Errors
    /// If the value exceeds a bound.
    pub(in super::super) fn of(value: &Value) -> Result<Self, Error> {
        let mut size = Self::default();
        size.add(value, 0)?;
        Ok(size)
    }

    /// The fuel that traversing the value costs.
    pub(in super::super) fn fuel(&self) -> usize {
        self.parts - 1 + self.text / BYTES_PER_FUEL
    }

    fn add(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.parts += 1;
        self.depth = self.depth.max(depth);
        if let Some(bytes) = value.as_bytes() {
            self.text += bytes.len();
        }
        if self.parts > MAX_PARTS {
            return Err(refused(format!("a value has more than {MAX_PARTS} parts")));
        }
        if self.text > MAX_TEXT {
            let reason = format!("a value has more than {MAX_TEXT} bytes of text");
            return Err(refused(reason));
        }
        let Some(object) = value.as_object() else {
            return Ok(());
        };
        if depth > 0 && is_mutable(object) {
            return Err(refused(CANNOT_BE_STORED.to_owned()));
        }
        if depth == MAX_DEPTH {
            let reason = format!("lists or maps are nested more than {MAX_DEPTH} deep");
            return Err(refused(reason));
        }
        if is_loop(object) {
            return Ok(());
        }
        if object.repr() == ObjectRepr::Map {
            for (key, value) in object.try_iter_pairs().into_iter().flatten() {
                self.add(&key, depth + 1)?;
                self.add(&value, depth + 1)?;
            }
        } else {
            for item in object.try_iter().into_iter().flatten() {
                self.add(&item, depth + 1)?;
            }
        }
        Ok(())
    }
}

const CANNOT_BE_STORED: &str = "a namespace or a loop cannot be stored in another value";

/// Whether this is a namespace or a loop, the only objects that a template could store in themselves.
fn is_mutable(object: &DynObject) -> bool {
    is_loop(object) || object.type_name().ends_with("::Namespace")
}

fn is_loop(object: &DynObject) -> bool {
    object.type_name().ends_with("::Loop")
}

/// Consumes fuel, for work that the engine does not count.
///
/// # Errors
/// If the fuel is used up.
pub(in super::super) fn pay(state: &State, fuel: usize) -> Result<(), Error> {
    state.consume_fuel(fuel as u64)
}

/// Measures a value and pays for it. A lazily computed value becomes a list, so that lazy values cannot
/// be nested a thousand deep.
///
/// # Errors
/// If the value exceeds a bound or the fuel is used up.
pub(in super::super) fn measured(state: &State, value: Value) -> Result<Value, Error> {
    let Some(object) = value.as_object() else {
        pay(state, value.as_str().map_or(0, str::len) / BYTES_PER_FUEL)?;
        return Ok(value);
    };
    pay(state, Size::of(&value)?.fuel())?;
    if object.repr() == ObjectRepr::Iterable {
        let items: Vec<Value> = object.try_iter().into_iter().flatten().collect();
        return Ok(items.into());
    }
    Ok(value)
}

/// [`measured`] for a value that is about to be stored in a namespace or a loop.
fn stored(state: &State, value: Value) -> Result<Value, Error> {
    if value.as_object().is_some_and(is_mutable) {
        return Err(refused(CANNOT_BE_STORED.to_owned()));
    }
    measured(state, value)
}

/// Writes a value.
fn emit(output: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.as_object().is_some() {
        measured(state, value.clone())?;
    }
    escape_formatter(output, state, value)
}

/// `container[key]`
fn item(state: &State, container: &Value, key: &Value) -> Result<Value, Error> {
    if let Some(text) = container.as_str() {
        pay(state, text.len() / BYTES_PER_FUEL)?;
    }
    if key.as_object().is_some() {
        pay(state, Size::of(key)?.fuel())?;
    }
    container.get_item(key)
}

/// `value[start:stop:step]`, which the engine would recompute each time that it is read.
fn slice(
    state: &State,
    value: &Value,
    start: Option<i64>,
    stop: Option<i64>,
    step: Option<i64>,
) -> Result<Value, Error> {
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(refused("a slice has a step of 0".to_owned()));
    }
    if let Some(text) = value.as_str() {
        pay(state, text.len() / BYTES_PER_FUEL)?;
        let characters: Vec<char> = text.chars().collect();
        let indices = slice_indices(characters.len(), start, stop, step);
        return Ok(indices
            .map(|index| characters[index])
            .collect::<String>()
            .into());
    }
    match value.kind() {
        ValueKind::None | ValueKind::Undefined => Ok(Vec::<Value>::new().into()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            let indices = slice_indices(items.len(), start, stop, step);
            pay(state, items.len())?;
            Ok(indices.map(|index| items[index].clone()).collect())
        }
        kind => Err(refused(format!("a {kind} cannot be sliced"))),
    }
}

/// The indices of a slice, as in Python.
fn slice_indices(
    length: usize,
    start: Option<i64>,
    stop: Option<i64>,
    step: i64,
) -> impl Iterator<Item = usize> {
    let length = length as i128;
    let (low, high) = if step > 0 {
        (0, length)
    } else {
        (-1, length - 1)
    };
    let clamp = |index: i64| {
        let index = i128::from(index);
        let index = if index < 0 { index + length } else { index };
        index.clamp(low, high.max(low))
    };
    let (first, last) = if step > 0 { (low, high) } else { (high, low) };
    let (start, stop) = (start.map_or(first, clamp), stop.map_or(last, clamp));
    let step = i128::from(step);
    let count = (stop - start + step - step.signum()) / step;
    (0..count.max(0)).map(move |index| (start + index * step) as usize)
}

/// `left ~ right`
fn concat(state: &State, left: &Value, right: &Value) -> Result<String, Error> {
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        return Ok([left, right].concat());
    }
    for value in [left, right] {
        if value.as_object().is_some() {
            pay(state, Size::of(value)?.fuel())?;
        }
    }
    Ok(format!("{left}{right}"))
}

/// Applies a filter of the template, whose name is the last argument.
fn filtered(state: &mut State<'_, '_>, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let mut arguments = arguments.into_values();
    let name = arguments.pop().unwrap_or_default();
    let name = name.as_str().unwrap_or_default();
    if arguments.len() > MAX_FILTER_ARGUMENTS {
        let reason = format!("`{name}` has more than {MAX_FILTER_ARGUMENTS} arguments");
        return Err(refused(reason));
    }
    for argument in &arguments {
        if argument.as_object().is_some() {
            pay(state, Size::of(argument)?.fuel())?;
        } else if let Some(text) = argument.as_str() {
            pay(state, text.len() / BYTES_PER_FUEL)?;
        }
    }
    let result = state.apply_filter(name, &arguments).map_err(|error| {
        if error.kind() == ErrorKind::UnknownFilter && error.detail().is_none() {
            let reason = format!("filter {name} is unknown");
            return Error::new(ErrorKind::UnknownFilter, reason);
        }
        error
    })?;
    measured(state, result)
}

/// Python's `range`.
fn range(first: i64, second: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let (start, stop) = second.map_or((0, first), |stop| (first, stop));
    let (start, stop) = (i128::from(start), i128::from(stop));
    let step = i128::from(step.unwrap_or(1));
    if step == 0 {
        return Err(refused("a range has a step of 0".to_owned()));
    }
    let count = ((stop - start + step - step.signum()) / step).max(0);
    if count > MAX_RANGE {
        let reason = format!("a range has {count} items; the most is {MAX_RANGE}");
        return Err(refused(reason));
    }
    let number = move |index: i128| Value::from((start + index * step) as i64);
    Ok(Value::make_iterable(move || (0..count).map(number)))
}
