//! What evaluation computes from texts and numbers, on the host.
//!
//! A metric ([`TextMetric`]) makes of each record ([`Judged`]) a value of its own, where it has one, and statistics that add up;
//! its value over many records is computed from their sum. So [`Bootstrap`] resamples any of them without reading a text twice,
//! and [`compare`] pairs two systems record by record. [`by_name`] finds a metric for the command line; other crates add theirs to
//! a [`Registry`].
//!
//! ```
//! use firebrick::metrics::{Bootstrap, Facts, Judged, by_name, compare, evaluate};
//!
//! let bleu = by_name("bleu", &Facts::default())?;
//! let references = ["the cat is on the mat", "there is a dog in the garden"];
//! let system = |answers: [&str; 2]| -> Vec<Judged> {
//!     answers.iter().zip(references).map(|(text, right)| Judged::new("", *text, &[right])).collect()
//! };
//! let first = evaluate(&*bleu, &system(["the cat sat on the mat", "a dog is in the garden"]))?;
//! let second = evaluate(&*bleu, &system(["the cat is on the mat", "there is a dog in the park"]))?;
//! let comparison = compare(&*bleu, &first.measured, &second.measured, &Bootstrap::default())?;
//! assert!(comparison.difference > 0.0);
//! # Ok::<(), firebrick::metrics::MetricError>(())
//! ```
//!
//! Scales are those of the reference implementations: BLEU and chrF from 0 to 100, everything else that is a share from 0 to 1.
//! Sums are in f64. Texts are Unicode; none is too odd or too empty for a metric to have a value.

mod anls;
mod bleu;
mod bootstrap;
mod choice;
mod chrf;
mod classes;
mod distinct;
mod error;
mod exact_match;
mod likelihood;
mod meteor;
mod metric;
mod paired;
mod pope;
mod porter;
mod registry;
mod retrieval;
mod rouge;
mod sample;
mod summary;
mod tools;
mod vqa;
mod words;

#[cfg(test)]
mod tests;

pub use crate::text::{ToolCall, ToolCallError, parse_tool_calls};
pub use anls::{ANLS_THRESHOLD, anls};
pub use bleu::{Bleu, BleuMetric, Smoothing, Tokens, self_bleu};
pub use bootstrap::{Bootstrap, Interval, Method, bca_interval, percentile_interval};
pub use choice::{Choice, ChoiceRule, LetterRule, letter, most_likely};
pub use chrf::{Chrf, ChrfMetric};
pub use classes::{Average, ClassCounts, ClassFigure, ClassMetric, Confusion};
pub use distinct::{Distinct, Scope, SelfBleu, distinct, entropy, expectation_adjusted_distinct};
pub use error::MetricError;
pub use exact_match::{Normalise, exact_match, word_overlap};
pub use likelihood::{Likelihood, LikelihoodFigure, mean_kl, perplexity};
pub use meteor::Meteor;
pub use metric::{Asked, Better, Measured, PerAnswer, Scored, Statistics, TextMetric, evaluate};
pub use paired::{Comparison, Counts, McNemar, compare, pair, shifted_p_value};
pub use pope::{Pope, PopeFigure, says_yes};
pub use porter::stem;
pub use registry::{AnyMetric, Facts, Registry, by_name};
pub use retrieval::{Retrieval, RetrievalFigure, ndcg, recall_at, reciprocal_rank, utility};
pub use rouge::{Overlap, Rouge, rouge};
pub use sample::{Candidate, Generated, Judged, Tool};
pub use summary::{Summary, quantile};
pub use tools::{ToolCalls, ToolCheck};
pub use vqa::{normalise as vqa_normalise, vqa_accuracy};
pub use words::words;
