//! One training loop for every model, modality and objective; schedules, evaluation, logs, reports.

pub mod anchor;
pub mod chart;
mod evaluate;
mod in_backward;
mod log;
mod moments;
mod optimizer;
mod plan;
mod policy;
pub mod progress;
pub mod report;
mod run;
mod schedule;
mod settings;
pub mod state;
mod step;
mod stepper;
#[cfg(all(test, feature = "cpu"))]
mod tests;
pub mod track;

pub use anchor::{AdapterOff, Anchor, AnyReference, FrozenCopy, NoReference, Others, Reference, Stored, Synced};
pub use evaluate::{Answer, EvalData, Evaluation, Evaluator, Images, Judgement, answer, exact_match, judge};
pub use log::MetricsLog;
pub use moments::{Held, Home, Moments, Optim, Precision};
pub use optimizer::{AdamW, GradientSum, decays};
pub use plan::Plan;
pub use policy::{Policy, Scored, Signal};
pub use run::{Ended, TrainData, TrainError, Trained, Trainer};
pub use schedule::Schedule;
pub use settings::{GENERATION_ONLY, Train, TrainBuilder, TrainSettings};
pub use stepper::{Stepped, Stepper};
