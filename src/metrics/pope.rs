//! POPE: whether a model sees objects that are not there.

use super::{Asked, Better, Judged, Measured, MetricError, Statistics, TextMetric};

/// Whether an answer says yes: its first sentence, commas taken out, has none of the words `No`, `no` and `not` between spaces.
///
/// # Source
/// Li et al. 2023, the rule of POPE's own evaluation.
pub fn says_yes(answer: &str) -> bool {
    let sentence = answer.split('.').next().unwrap_or_default().replace(',', "");
    !sentence.split(' ').any(|word| matches!(word, "No" | "no" | "not"))
}

/// Which number of yes and no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PopeFigure {
    /// Share of the answers that are right.
    Accuracy,
    /// Share of the answers "yes" that are right.
    Precision,
    /// Share of the records with "yes" that are answered so.
    Recall,
    /// Harmonic mean of both.
    F1,
    /// Share of the answers that are "yes".
    YesRate,
}

/// A number of [`says_yes`] as a metric; the record's label is `yes` or `no`. Where POPE's own evaluation divides
/// by zero, the value is 0. A record's own value is the share of its answers that are right, or that are yes.
#[derive(Clone, Debug)]
pub struct Pope {
    name: String,
    figure: PopeFigure,
}

impl Pope {
    /// The metric `name`.
    pub fn new(name: impl Into<String>, figure: PopeFigure) -> Self {
        Self { name: name.into(), figure }
    }
}

impl TextMetric for Pope {
    fn name(&self) -> &str {
        &self.name
    }

    fn better(&self) -> Better {
        if self.figure == PopeFigure::YesRate { Better::Neither } else { Better::Higher }
    }

    fn measure(&self, sample: &Judged) -> Result<Measured, MetricError> {
        let asked = Asked { metric: &self.name, sample };
        let right = match asked.label()?.trim().to_lowercase().as_str() {
            "yes" => true,
            "no" => false,
            _ => return Err(asked.missing("label `yes` or `no`")),
        };
        // True and false positives, false and true negatives.
        let mut table = [0.0; 4];
        for answer in asked.answers()? {
            let place = match (says_yes(&answer.text), right) {
                (true, true) => 0,
                (true, false) => 1,
                (false, true) => 2,
                (false, false) => 3,
            };
            table[place] += 1.0;
        }
        let hits = if self.figure == PopeFigure::YesRate { table[0] + table[1] } else { table[0] + table[3] };
        let value = hits / table.iter().sum::<f64>();
        Ok(Measured { value: Some(value), statistics: Statistics::Sums(table.to_vec()) })
    }

    fn corpus(&self, pooled: &Statistics) -> f64 {
        let &[tp, fp, fn_, tn] = pooled.sums() else { return 0.0 };
        let (part, whole) = match self.figure {
            PopeFigure::Accuracy => (tp + tn, tp + fp + fn_ + tn),
            PopeFigure::Precision => (tp, tp + fp),
            PopeFigure::Recall => (tp, tp + fn_),
            PopeFigure::F1 => (2.0 * tp, 2.0 * tp + fp + fn_),
            PopeFigure::YesRate => (tp + fp, tp + fp + fn_ + tn),
        };
        if whole == 0.0 { 0.0 } else { part / whole }
    }
}
