//! One training loop for every model, modality and objective; schedules, evaluation, logs, reports.

pub mod anchor;
mod answers;
pub mod chart;
mod early_stopping;
mod evaluate;
pub mod generations;
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
mod shown;
pub mod state;
mod step;
mod stepper;
#[cfg(all(test, feature = "cpu"))]
mod tests;
pub mod track;
mod watch;

pub use anchor::{AdapterOff, Anchor, AnyReference, FrozenCopy, NoReference, Others, Reference, Stored, Synced};
pub use answers::{Answer, AnswerError, Images, Reply, answer, asked, exact_match};
pub use evaluate::{EvalData, Evaluation, Evaluator, Judgement, judge};
pub use log::MetricsLog;
pub use moments::{Held, Home, Moments, Optim, Precision};
pub use optimizer::{AdamW, GradientSum, decays};
pub use plan::Plan;
pub use policy::{Policy, Scored, Signal};
pub use run::evaluation::spread;
pub use run::{Ended, TrainData, TrainError, Trained, Trainer};
pub use schedule::Schedule;
pub use settings::{GENERATION_ONLY, Train, TrainBuilder, TrainSettings};
pub use shown::{PerRecord, RowReading, Said, Shown, Table, is_right, label_of, prompt};
pub use stepper::{Stepped, Stepper};
pub use watch::{RewardScorer, Rewarded, Value as MetricValue, Watch, judged};
