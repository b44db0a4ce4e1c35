//! Charts as JSON for plotly.js.
//!
//! Colours have names: `$0`, `$1`, … for lines, `~0`, `~1`, … for bands, and `$ink` for text. The page's
//! script replaces these names by the colours of the theme, but only in the values of keys such as `color`.
//!
//! plotly.js interprets markup in names and titles, which come from files. All of them go through [`plain`].

use serde::Serialize;
use serde_json::{Value, json};

use crate::statistics::Estimate;

/// The number of colours in a theme.
const COLOURS: usize = 8;

/// A curve, a set of dots or a set of bars in a chart.
pub(super) type Trace = Value;

/// A chart with its heading.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Chart {
    pub(super) title: String,
    /// The meaning of its values.
    pub(super) caption: String,
    /// The data and the layout for plotly.js.
    pub(super) plot: Value,
    pub(super) is_small: bool,
}

impl Chart {
    /// `layout` is an object with the axes.
    pub(super) fn new(
        title: impl Into<String>,
        caption: impl Into<String>,
        traces: Vec<Trace>,
        layout: Value,
    ) -> Self {
        Self {
            title: title.into(),
            caption: caption.into(),
            plot: json!({"data": traces, "layout": layout}),
            is_small: false,
        }
    }

    pub(super) fn small(self) -> Self {
        Self {
            is_small: true,
            ..self
        }
    }
}

/// Escapes a text, so that plotly.js shows it as it is.
pub(super) fn plain(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The layout of a chart over the steps, with a title for the axis of values.
pub(super) fn over_steps(values: &str) -> Value {
    json!({"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": plain(values)}}})
}

pub(super) fn colour(index: usize) -> String {
    format!("${}", index % COLOURS)
}

pub(super) fn band_colour(index: usize) -> String {
    format!("~{}", index % COLOURS)
}

/// The dash style of a line, by which lines of the same colour differ.
fn dash(index: usize) -> &'static str {
    match index / COLOURS {
        0 => "solid",
        1 => "dash",
        _ => "dot",
    }
}

/// Splits points into their x and y values.
pub(super) fn points<X: Serialize, Y: Serialize>(
    values: impl IntoIterator<Item = (X, Y)>,
) -> (Vec<X>, Vec<Y>) {
    values.into_iter().unzip()
}

/// A line; `index` chooses its colour.
pub(super) fn line(
    series: impl IntoIterator<Item = (usize, f64)>,
    name: &str,
    index: usize,
    width: f64,
) -> Trace {
    let (steps, values) = points(series);
    json!({
        "type": "scatter",
        "name": plain(name),
        "mode": "lines",
        "x": steps,
        "y": values,
        "line": {"color": colour(index), "width": width, "dash": dash(index)},
    })
}

/// Dots.
pub(super) fn dots(x: Value, y: Value, name: &str, marker: Value) -> Trace {
    json!({"type": "scatter", "name": plain(name), "mode": "markers", "x": x, "y": y, "marker": marker})
}

/// Bars.
pub(super) fn bars(x: Value, y: Value, name: &str, index: usize) -> Trace {
    json!({"type": "bar", "name": plain(name), "x": x, "y": y, "marker": {"color": colour(index)}})
}

/// A trace with one more property.
pub(super) fn with(mut trace: Trace, key: &str, value: impl Into<Value>) -> Trace {
    trace[key] = value.into();
    trace
}

pub(super) fn means(estimates: &[Estimate]) -> Vec<f64> {
    estimates.iter().map(|estimate| estimate.mean).collect()
}

/// The intervals of estimates as error bars, for `error_x` and `error_y`.
pub(super) fn errors(estimates: &[Estimate], colour: &str) -> Value {
    let (below, above): (Vec<f64>, Vec<f64>) = estimates.iter().map(Estimate::error_bars).unzip();
    json!({
        "type": "data",
        "symmetric": false,
        "array": above,
        "arrayminus": below,
        "color": colour,
        "thickness": 1.5,
    })
}
