//! Statistics of a list of numbers: lengths, scores.

/// What is usually asked about a list of numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How many there are.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, with `n − 1`; 0 of a single one.
    pub deviation: f64,
    /// The smallest.
    pub min: f64,
    /// The first quartile.
    pub first_quartile: f64,
    /// The median.
    pub median: f64,
    /// The third quartile.
    pub third_quartile: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// Of some numbers, in any order; `None` of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let count = sorted.len();
        let mean = sorted.iter().sum::<f64>() / count as f64;
        let squares: f64 = sorted.iter().map(|value| (value - mean).powi(2)).sum();
        let at = |share| quantile(&sorted, share);
        Some(Self {
            count,
            mean,
            deviation: (squares / (count - 1).max(1) as f64).sqrt(),
            min,
            first_quartile: at(0.25),
            median: at(0.5),
            third_quartile: at(0.75),
            max,
        })
    }
}

/// The value below which a share of `sorted` lies, between two neighbours linearly (NumPy's default); NaN of an empty list.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let (a, b) = (sorted[below], sorted[(below + 1).min(last)]);
    if part == 0.0 { a } else { a + (b - a) * part }
}
