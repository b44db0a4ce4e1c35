//! The figures as a Markdown table and as JSON.

use serde_json::{Value, json};

/// One figure of ours and theirs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// The name in JSON, such as `decode/f32/8`.
    pub(super) name: String,
    /// What was done, for the table.
    pub(super) work: String,
    pub(super) unit: &'static str,
    pub(super) peer: &'static str,
    /// Before and after the peer's.
    pub(super) ours: [Option<f64>; 2],
    pub(super) theirs: Option<f64>,
}

impl Row {
    /// The mean of ours, divided by theirs.
    fn ratio(&self) -> Option<f64> {
        let ours: Vec<f64> = self.ours.iter().flatten().copied().collect();
        let mean = ours.iter().sum::<f64>() / ours.len() as f64;
        self.theirs
            .map(|theirs| mean / theirs)
            .filter(|ratio| ratio.is_finite())
    }

    fn cells(&self) -> [String; 7] {
        [
            self.work.clone(),
            self.unit.to_owned(),
            number(self.ours[0]),
            number(self.theirs),
            number(self.ours[1]),
            number(self.ratio()),
            self.peer.to_owned(),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "work": self.work,
            "unit": self.unit,
            "peer": self.peer,
            "ours": self.ours,
            "theirs": self.theirs,
            "ratio": self.ratio(),
        })
    }
}

const HEADINGS: [&str; 7] = [
    "work",
    "unit",
    "ours",
    "theirs",
    "ours again",
    "ours ÷ theirs",
    "peer",
];

/// The columns with numbers, which are aligned at the right.
const NUMBERS: std::ops::Range<usize> = 2..6;

/// The rows as a Markdown table whose columns are aligned in plain text too.
pub(super) fn markdown(rows: &[Row]) -> String {
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    lines.extend(rows.iter().map(Row::cells));
    let widths: [usize; 7] = std::array::from_fn(|column| {
        let cells = lines.iter().map(|cells| cells[column].chars().count());
        cells.max().unwrap_or(0)
    });
    let rule: [String; 7] = std::array::from_fn(|column| match NUMBERS.contains(&column) {
        true => "-".repeat(widths[column] - 1) + ":",
        false => "-".repeat(widths[column]),
    });
    lines.insert(1, rule);
    let line = |cells: &[String; 7]| {
        let cells = cells.iter().zip(widths).enumerate();
        let cells = cells.map(|(column, (cell, width))| match NUMBERS.contains(&column) {
            true => format!("| {cell:>width$} "),
            false => format!("| {cell:<width$} "),
        });
        cells.collect::<String>() + "|\n"
    };
    lines.iter().map(line).collect()
}

/// The rows as a JSON array.
pub(super) fn json(rows: &[Row]) -> Value {
    rows.iter().map(Row::json).collect()
}

/// Three significant digits, which is more than figures repeat to.
fn number(value: Option<f64>) -> String {
    let Some(value) = value else {
        return "–".to_owned();
    };
    let decimals = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: [Option<f64>; 2], theirs: Option<f64>) -> Row {
        Row {
            name: "decode/f32/8".into(),
            work: "decoding pass".into(),
            unit: "ms",
            peer: "transformers",
            ours,
            theirs,
        }
    }

    #[test]
    fn the_ratio_compares_the_mean_of_ours() {
        for (ours, theirs, expected) in [
            ([Some(1.0), Some(3.0)], Some(4.0), Some(0.5)),
            ([None, Some(3.0)], Some(4.0), Some(0.75)),
            ([None, None], Some(4.0), None),
            ([Some(1.0), Some(3.0)], None, None),
            ([Some(1.0), Some(3.0)], Some(0.0), None),
        ] {
            assert_eq!(row(ours, theirs).ratio(), expected, "{ours:?} {theirs:?}");
        }
    }

    #[test]
    fn absent_figures_are_dashes() {
        let rows = [
            row([Some(12.34), Some(12.0)], Some(123.4)),
            row([None, None], Some(0.0123)),
        ];
        let expected = "\
| work          | unit | ours | theirs | ours again | ours ÷ theirs | peer         |
| ------------- | ---- | ---: | -----: | ---------: | ------------: | ------------ |
| decoding pass | ms   | 12.3 |    123 |       12.0 |         0.099 | transformers |
| decoding pass | ms   |    – |  0.012 |          – |             – | transformers |
";
        assert_eq!(markdown(&rows), expected);
        assert_eq!(json(&rows)[1]["ours"], json!([null, null]));
        assert_eq!(json(&rows)[0]["theirs"], 123.4);
    }
}
