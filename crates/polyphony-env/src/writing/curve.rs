//! The curve of a reward part for a ratio that should be neither too small nor too large.

/// A trapezoid over a closed range: it rises linearly from 0 to 1, stays at 1, and falls linearly to 0.
///
/// The four corners must be in ascending order. With infinite right corners it never falls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trapezoid {
    /// The range's lower end, where the value leaves 0.
    pub(super) from: f64,
    /// The lower end of the plateau.
    pub(super) full_from: f64,
    /// The upper end of the plateau.
    pub(super) full_to: f64,
    /// The range's upper end, where the value is back at 0.
    pub(super) to: f64,
}

impl Trapezoid {
    /// The value in `[0, 1]` at `x`; `None` outside the range. Both ends belong to the range,
    /// although the value there is 0.
    pub(super) fn at(&self, x: f64) -> Option<f64> {
        if !(self.from..=self.to).contains(&x) {
            None
        } else if x < self.full_from {
            Some((x - self.from) / (self.full_from - self.from))
        } else if x <= self.full_to {
            Some(1.0)
        } else {
            Some((self.to - x) / (self.to - self.full_to))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HILL: Trapezoid = Trapezoid {
        from: 1.0,
        full_from: 2.0,
        full_to: 4.0,
        to: 8.0,
    };
    const PLATEAU: Trapezoid = Trapezoid {
        from: 1.0,
        full_from: 2.0,
        full_to: f64::INFINITY,
        to: f64::INFINITY,
    };

    #[test]
    fn a_trapezoid_is_a_closed_range_with_linear_flanks() {
        let rows = [
            (1.0f64.next_down(), None),
            (1.0, Some(0.0)),
            (1.25, Some(0.25)),
            (2.0, Some(1.0)),
            (4.0, Some(1.0)),
            (5.0, Some(0.75)),
            (8.0, Some(0.0)),
            (8.0f64.next_up(), None),
            (f64::INFINITY, None),
            (f64::NAN, None),
        ];
        for (x, expected) in rows {
            assert_eq!(HILL.at(x), expected, "at {x}");
        }
    }

    #[test]
    fn an_infinite_right_side_never_falls() {
        for (x, expected) in [
            (0.5, None),
            (1.5, Some(0.5)),
            (2.0, Some(1.0)),
            (1e9, Some(1.0)),
        ] {
            assert_eq!(PLATEAU.at(x), expected, "at {x}");
        }
    }

    proptest! {
        #[test]
        fn values_rise_then_fall(a in 0.0..10.0f64, b in 0.0..10.0f64) {
            let (low, high) = (a.min(b), a.max(b));
            let value = |x| HILL.at(x).unwrap_or(0.0);
            prop_assert!((0.0..=1.0).contains(&value(low)));
            prop_assert!(value(low) <= value(high) || high > HILL.full_to);
            prop_assert!(value(low) >= value(high) || low < HILL.full_from);
        }
    }
}
