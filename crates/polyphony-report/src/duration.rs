//! Readable durations.

/// A duration as text: in seconds if it is short, otherwise to the minute.
pub fn duration_text(secs: f64) -> String {
    let minutes = (secs / 60.0).round() as u64;
    match minutes {
        0..2 => format!("{secs:.0} s"),
        2..120 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_durations_are_given_to_the_minute() {
        for (secs, text) in [
            (5.4, "5 s"),
            (89.0, "89 s"),
            (600.0, "10 min"),
            (9000.0, "2 h 30 min"),
        ] {
            assert_eq!(duration_text(secs), text);
        }
    }
}
