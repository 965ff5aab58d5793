//! Measures over a whole evaluation, as scikit-learn defines them with `average="weighted"`.

use super::{Observation, class_of, values_of};
use std::borrow::Cow;

type Measures = Vec<(Cow<'static, str>, f64)>;

/// The first of the highest scores.
pub(super) fn likeliest(scores: &[f64]) -> usize {
    (1..scores.len()).fold(0, |best, class| if scores[class] > scores[best] { class } else { best })
}

/// Every row has one class.
pub(super) fn of_one_class(observations: &[Observation]) -> Measures {
    let Some(k) = observations.first().map(|first| first.scores.len()) else { return Vec::new() };
    let rows = || observations.iter().map(|row| (class_of(&row.label), &row.scores));
    let mut counts = vec![Counts::default(); k];
    for (class, scores) in rows() {
        counts[class].add(true, likeliest(scores) == class);
        if likeliest(scores) != class {
            counts[likeliest(scores)].add(false, true);
        }
    }
    // Classes that no row has are left out, not counted as never found.
    let recalls: Vec<f64> = counts.iter().filter(|class| class.rows() > 0.0).map(Counts::recall).collect();
    let mut measures = vec![("balanced_accuracy".into(), recalls.iter().sum::<f64>() / recalls.len() as f64)];
    measures.extend(weighted(&counts));
    // The second class of two is the positive one; its scores' difference orders rows as its probability does.
    let classes = if k == 2 { 1..2 } else { 0..k };
    let ranked = classes.map(|class| {
        let ranked = rows().map(|(label, scores)| (log_odds(scores, class), label == class)).collect();
        (counts[class].rows(), area(ranked))
    });
    measures.extend(weighted_area(ranked));
    measures
}

/// Every row has any number of classes.
pub(super) fn of_several_classes(observations: &[Observation]) -> Measures {
    let Some(k) = observations.first().map(|first| first.scores.len()) else { return Vec::new() };
    let column =
        |class: usize| observations.iter().map(move |row| (row.scores[class], values_of(&row.label)[class] == 1.0));
    let counts: Vec<Counts> = (0..k)
        .map(|class| {
            let mut counts = Counts::default();
            column(class).for_each(|(score, is)| counts.add(is, score > 0.0));
            counts
        })
        .collect();
    let mut measures = weighted(&counts);
    measures.extend(weighted_area((0..k).map(|class| (counts[class].rows(), area(column(class).collect())))));
    measures
}

/// How often a class was there, and how often it was said to be.
#[derive(Clone, Debug, Default)]
struct Counts {
    found: f64,
    missed: f64,
    invented: f64,
}

impl Counts {
    fn add(&mut self, is: bool, said: bool) {
        match (is, said) {
            (true, true) => self.found += 1.0,
            (true, false) => self.missed += 1.0,
            (false, true) => self.invented += 1.0,
            (false, false) => {}
        }
    }

    fn rows(&self) -> f64 {
        self.found + self.missed
    }

    fn precision(&self) -> f64 {
        share(self.found, self.found + self.invented)
    }

    fn recall(&self) -> f64 {
        share(self.found, self.rows())
    }

    fn f1(&self) -> f64 {
        share(2.0 * self.found, 2.0 * self.found + self.missed + self.invented)
    }
}

/// A part of nothing is 0.
fn share(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

fn weighted(counts: &[Counts]) -> Measures {
    let rows: f64 = counts.iter().map(Counts::rows).sum();
    let mean = |of: fn(&Counts) -> f64| share(counts.iter().map(|class| class.rows() * of(class)).sum(), rows);
    vec![
        ("precision".into(), mean(Counts::precision)),
        ("recall".into(), mean(Counts::recall)),
        ("f1".into(), mean(Counts::f1)),
    ]
}

/// Mean of the areas that are defined, weighed by their rows; nothing where none is.
fn weighted_area(areas: impl Iterator<Item = (f64, Option<f64>)>) -> Option<(Cow<'static, str>, f64)> {
    let defined = areas.filter_map(|(rows, area)| Some((rows, area?)));
    let (rows, sum) = defined.fold((0.0, 0.0), |(all, sum), (rows, area)| (all + rows, sum + rows * area));
    (rows > 0.0).then(|| ("roc_auc".into(), sum / rows))
}

/// Logarithm of `p/(1 − p)`, `p` the probability of `class`. Unlike `p` itself it does not saturate, so that rows which
/// differ stay apart.
fn log_odds(scores: &[f64], class: usize) -> f64 {
    let mut others: Vec<f64> = scores.iter().enumerate().filter(|(i, _)| *i != class).map(|(_, s)| *s).collect();
    // In order of size: rows whose other scores are the same in another order have the same sum to the last bit.
    others.sort_by(f64::total_cmp);
    let top = others[others.len() - 1];
    scores[class] - top - others.iter().map(|score| (score - top).exp()).sum::<f64>().ln()
}

/// The chance that a row of the class is ranked above one that is not, ties counting half; nothing where either is missing.
fn area(mut ranked: Vec<(f64, bool)>) -> Option<f64> {
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut sum, mut positives) = (0.0, 0.0, 0.0);
    for tied in ranked.chunk_by(|a, b| a.0 == b.0) {
        let inside = tied.iter().filter(|(_, is)| *is).count() as f64;
        let outside = tied.len() as f64 - inside;
        sum += inside * (below + outside / 2.0);
        positives += inside;
        below += outside;
    }
    (positives > 0.0 && below > 0.0).then(|| sum / (positives * below))
}
