//! Learning-rate schedules, as transformers defines them.

use super::Train;

/// Shape of the learning rate over the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    kind: Kind,
    warmup: usize,
    total: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Linear,
    Cosine,
    Constant,
}

impl Schedule {
    /// The schedule of a run of `total` optimizer steps.
    pub fn new(settings: &Train, total: usize) -> Self {
        let by_ratio = (settings.warmup_ratio * total as f64).ceil() as usize;
        let warmup = settings.warmup_steps.unwrap_or(by_ratio);
        let (kind, warmup) = match settings.lr_scheduler_type.as_str() {
            "linear" => (Kind::Linear, warmup),
            "constant_with_warmup" => (Kind::Constant, warmup),
            // transformers' `constant` knows no warmup.
            "constant" => (Kind::Constant, 0),
            _ => (Kind::Cosine, warmup),
        };
        Self { kind, warmup, total }
    }

    /// Factor on the peak rate for the step after `done` steps; 0 for the first step of a warmup.
    pub fn factor(&self, done: usize) -> f64 {
        if done < self.warmup {
            return done as f64 / self.warmup.max(1) as f64;
        }
        let span = self.total.saturating_sub(self.warmup).max(1) as f64;
        let progress = ((done - self.warmup) as f64 / span).min(1.0);
        match self.kind {
            Kind::Constant => 1.0,
            Kind::Linear => 1.0 - progress,
            Kind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: &str, warmup: usize, points: &[(usize, f64)]) {
        let settings = Train { lr_scheduler_type: kind.into(), warmup_steps: Some(warmup), ..Train::default() };
        let schedule = Schedule::new(&settings, 10);
        for &(done, expected) in points {
            let found = schedule.factor(done);
            assert!((found - expected).abs() < 1e-12, "{kind} after {done}: {found}, not {expected}");
        }
    }

    #[test]
    fn values_of_transformers_schedules() {
        check("linear", 2, &[(0, 0.0), (1, 0.5), (2, 1.0), (6, 0.5), (10, 0.0)]);
        check("cosine", 0, &[(0, 1.0), (5, 0.5), (10, 0.0)]);
        check("constant_with_warmup", 4, &[(0, 0.0), (2, 0.5), (9, 1.0)]);
        check("constant", 4, &[(0, 1.0), (9, 1.0)]);
    }

    #[test]
    fn past_the_end_the_rate_stays_down() {
        check("cosine", 0, &[(12, 0.0), (20, 0.0)]);
        check("linear", 0, &[(12, 0.0)]);
    }
}
