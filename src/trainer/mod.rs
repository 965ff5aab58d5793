//! One training loop for every model, modality and objective; schedules, evaluation, logs, reports.

pub mod chart;
mod evaluate;
mod log;
mod optimizer;
mod plan;
mod policy;
pub mod progress;
pub mod report;
mod run;
mod schedule;
mod settings;
pub mod state;
pub mod track;

pub use evaluate::{Answer, EvalData, Evaluation, Images, answer, evaluate_loss, exact_match};
pub use log::MetricsLog;
pub use optimizer::{AdamW, GradientSum, Moments, decays};
pub use plan::Plan;
pub use policy::{Policy, RowLogProbs, Scored};
pub use run::{Ended, TrainData, TrainError, Trained, Trainer};
pub use schedule::Schedule;
pub use settings::{Train, TrainBuilder, TrainSettings};
