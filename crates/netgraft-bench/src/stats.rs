//! Medians and ratios.

use serde::Serialize;

/// The middle of some figures and how far they spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// Sums up figures; `None` if there are none. A figure that is no number is passed over.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().filter(|figure| figure.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        Some(Self { median, min, max })
    }
}

/// Sums up a comparison round by round: `compare(figure, base)` for every round that has both.
///
/// A round's two runs are neighbours in time, so that what slows the whole machine down for a while
/// slows both down and leaves their ratio alone.
pub(crate) fn by_round(
    figures: &[Option<f64>],
    bases: &[Option<f64>],
    compare: impl Fn(f64, f64) -> f64,
) -> Option<Summary> {
    Summary::of(figures.iter().zip(bases).filter_map(|(figure, base)| Some(compare((*figure)?, (*base)?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers() {
        let summary = |figures: &[f64]| Summary::of(figures.iter().copied());
        assert_eq!(summary(&[]), None);
        assert_eq!(summary(&[f64::NAN]), None);
        assert_eq!(summary(&[3.0]), Some(Summary { median: 3.0, min: 3.0, max: 3.0 }));
        assert_eq!(summary(&[9.0, 1.0, 2.0]), Some(Summary { median: 2.0, min: 1.0, max: 9.0 }));
        assert_eq!(summary(&[4.0, 1.0, 2.0, 9.0]), Some(Summary { median: 3.0, min: 1.0, max: 9.0 }));
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine was half as fast in the second round; each ratio is 0.5 all the same.
        let ratio = by_round(&[Some(50.0), Some(25.0)], &[Some(100.0), Some(50.0)], |a, b| a / b);
        assert_eq!(ratio, Some(Summary { median: 0.5, min: 0.5, max: 0.5 }));
    }

    #[test]
    fn a_round_with_a_failure_has_no_ratio() {
        let ratio = by_round(&[None, Some(3.0), Some(1.0)], &[Some(1.0), None, Some(2.0)], |a, b| a / b);
        assert_eq!(ratio, Some(Summary { median: 0.5, min: 0.5, max: 0.5 }));
        assert_eq!(by_round(&[None], &[Some(1.0)], |a, b| a / b), None);
    }
}
