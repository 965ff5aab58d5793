//! What evaluations compute of generated answers and predicted classes, besides the objective's own.

use super::anchor::{Anchor, Others};
use super::answers::{Answer, Reply, asked};
use super::policy::Policy;
use crate::data::{DataError, Encoded, PadSide, Padding, Place, Sample, collate};
use crate::example::{Label, Shape};
use crate::metrics::{AnyMetric, Generated, Judged, MetricError, TextMetric, Tool, evaluate};
use crate::objectives::Observation;
use crate::text::{Conversation, Message, Role};
use burn::tensor::Device;
use std::fmt;
use std::path::PathBuf;

/// A model that says how good an answer is.
pub trait RewardScorer: Send + Sync {
    /// One score for each conversation, read at its end.
    ///
    /// # Errors
    /// [`DataError`] of a conversation that the model cannot read.
    fn score(&self, rows: &[Rewarded]) -> Result<Vec<f64>, DataError>;
}

/// A conversation that ends with the answer to be scored.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewarded {
    /// Its turns.
    pub conversation: Conversation,
    /// The files of its images, in order.
    pub images: Vec<PathBuf>,
    /// The record that asks.
    pub place: Place,
}

/// Metrics that an evaluation computes, and a reward model that it asks.
#[derive(Default)]
pub struct Watch {
    metrics: Vec<Watched>,
    /// Scores generated answers.
    pub reward: Option<Box<dyn RewardScorer>>,
}

struct Watched {
    metric: AnyMetric,
    reads: Reads,
}

/// Log-probabilities of an answer under another model.
type LogProbsOf = fn(&Reply) -> &Option<Vec<f64>>;

/// What a metric reads of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reads {
    /// Its words.
    Words,
    /// The log-probabilities of its tokens.
    LogProbs,
    /// Those under another model as well.
    Both,
}

/// A metric's value over all records, and that of each record which has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// What logs call it, without `eval_`.
    pub name: String,
    /// Over all records.
    pub all: f64,
    /// Of each record.
    pub each: Vec<Option<f64>>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.metrics.iter().map(|watched| watched.metric.name()).collect();
        f.debug_struct("Watch").field("metrics", &names).field("reward", &self.reward.is_some()).finish()
    }
}

impl Watch {
    /// Watches these metrics; `probe` is a record as an evaluation will have them, without log-probabilities.
    ///
    /// # Errors
    /// [`MetricError`] of a metric that cannot be computed of such records, whatever log-probabilities are given.
    pub fn new(metrics: Vec<AnyMetric>, probe: &Judged) -> Result<Self, MetricError> {
        let watched = |metric: AnyMetric| {
            let reads = reads(&*metric, probe)?;
            Ok(Watched { metric, reads })
        };
        Ok(Self { metrics: metrics.into_iter().map(watched).collect::<Result<_, _>>()?, reward: None })
    }

    /// Whether the metrics can be computed of a record, once models have scored its answers.
    ///
    /// # Errors
    /// [`MetricError`] of the first metric that cannot.
    pub fn check(&self, record: &Judged) -> Result<(), MetricError> {
        let mut record = record.clone();
        for answer in &mut record.answers {
            answer.log_probs = Some(vec![-1.0]);
            answer.reference_log_probs = Some(vec![-1.0]);
        }
        self.metrics.iter().try_for_each(|watched| watched.metric.measure(&record).map(drop))
    }

    /// The metrics that compare with another model.
    pub fn comparing(&self) -> impl Iterator<Item = &str> {
        self.metrics.iter().filter(|watched| watched.reads == Reads::Both).map(|watched| watched.metric.name())
    }

    /// What logs call the numbers, without `eval_`, where these models can be compared with.
    pub(super) fn logged<P>(&self, others: &Others<P>) -> Vec<String> {
        let compared = [("", matches!(others.anchor, Anchor::Model(..))), ("_sft", others.observer.is_some())];
        let of = |watched: &Watched| -> Vec<String> {
            let name = watched.metric.name();
            match watched.reads {
                Reads::Both => compared.iter().filter(|c| c.1).map(|(suffix, _)| format!("{name}{suffix}")).collect(),
                _ => vec![name.to_owned()],
            }
        };
        self.metrics.iter().flat_map(of).chain(self.reward.as_ref().map(|_| "reward".to_owned())).collect()
    }

    /// Has the models score the answers, as far as metrics read that.
    pub(super) fn score<P: Policy>(
        &self,
        model: &P,
        others: &Others<P>,
        prompts: &[Encoded],
        answers: &mut [Answer],
        padding: Padding,
        device: &Device,
    ) {
        let Some(most) = self.metrics.iter().map(|watched| watched.reads).max() else { return };
        if most == Reads::Words {
            return;
        }
        let padding = Padding { side: PadSide::Right, ..padding };
        // As many rows at once as there were prompts.
        let rows: Vec<(usize, usize)> =
            answers.iter().enumerate().flat_map(|(i, a)| (0..a.replies.len()).map(move |j| (i, j))).collect();
        for chunk in rows.chunks(prompts.len().max(1)) {
            let encoded: Vec<Encoded> =
                chunk.iter().map(|&(i, j)| answered(&prompts[i], &answers[i].replies[j].ids)).collect();
            let batch = collate(&encoded, &padding);
            let ask = |model: &P| -> Vec<Vec<f64>> {
                let scored = model.score(&batch, device).log_probs.into_iter();
                scored.map(|row| row.into_iter().map(f64::from).collect()).collect()
            };
            let mut put = |found: Vec<Vec<f64>>, place: fn(&mut Reply) -> &mut Option<Vec<f64>>| {
                for (&(i, j), values) in chunk.iter().zip(found) {
                    *place(&mut answers[i].replies[j]) = Some(values);
                }
            };
            put(ask(model), |reply| &mut reply.log_probs);
            if most == Reads::Both {
                if let Anchor::Model(reference, _) = &others.anchor {
                    put(ask(reference), |reply| &mut reply.reference);
                }
                if let Some(observer) = &others.observer {
                    put(ask(observer), |reply| &mut reply.observer);
                }
            }
        }
    }

    /// Has the reward model score the answers.
    ///
    /// # Errors
    /// [`DataError`] of a conversation that it cannot read.
    pub(super) fn reward<S: Shape>(&self, samples: &[Sample<S>], answers: &mut [Answer]) -> Result<(), DataError> {
        let Some(reward) = &self.reward else { return Ok(()) };
        let mut rows = Vec::new();
        for (sample, answer) in samples.iter().zip(answers.iter()) {
            let context = asked(sample);
            rows.extend(answer.replies.iter().map(|reply| {
                let mut conversation = context.clone();
                conversation.messages.push(Message::text(Role::Assistant, reply.text.clone()));
                let images = sample.images.iter().take(conversation.image_count()).cloned().collect();
                Rewarded { conversation, images, place: sample.place.clone() }
            }));
        }
        let mut scores = reward.score(&rows)?.into_iter();
        for reply in answers.iter_mut().flat_map(|answer| &mut answer.replies) {
            reply.reward = scores.next();
        }
        Ok(())
    }

    /// Every number about generated answers.
    ///
    /// # Errors
    /// [`MetricError`] of a record that lacks what a metric reads.
    pub fn of_answers<S: Shape>(&self, samples: &[Sample<S>], answers: &[Answer]) -> Result<Vec<Value>, MetricError> {
        let mut values = Vec::new();
        if answers.is_empty() {
            return Ok(values);
        }
        let records = |other: LogProbsOf| -> Vec<Judged> {
            samples.iter().zip(answers).map(|(sample, answer)| judged(sample, answer, other)).collect()
        };
        let against: [(&str, LogProbsOf); 2] = [("", |reply| &reply.reference), ("_sft", |reply| &reply.observer)];
        let there =
            |other: LogProbsOf| answers.iter().flat_map(|answer| &answer.replies).any(|reply| other(reply).is_some());
        for Watched { metric, reads } in &self.metrics {
            for (suffix, other) in against {
                let wanted = if *reads == Reads::Both { there(other) } else { suffix.is_empty() };
                if wanted {
                    values.push(value(format!("{}{suffix}", metric.name()), &**metric, &records(other))?);
                }
            }
        }
        let rewards: Vec<Option<f64>> = answers.iter().map(mean_reward).collect();
        if rewards.iter().any(Option::is_some) {
            let found: Vec<f64> = rewards.iter().flatten().copied().collect();
            let all = found.iter().sum::<f64>() / found.len() as f64;
            values.push(Value { name: "reward".to_owned(), all, each: rewards });
        }
        Ok(values)
    }

    /// Every number about predicted classes.
    ///
    /// # Errors
    /// [`MetricError`] of a metric that reads more than classes.
    pub fn of_classes(&self, observations: &[Observation]) -> Result<Vec<Value>, MetricError> {
        let records: Vec<Judged> =
            observations.iter().enumerate().filter_map(|(i, seen)| classified(i, seen)).collect();
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let metrics = self.metrics.iter();
        metrics.map(|Watched { metric, .. }| value(metric.name().to_owned(), &**metric, &records)).collect()
    }
}

/// The least that a metric can be computed from.
fn reads(metric: &dyn TextMetric, probe: &Judged) -> Result<Reads, MetricError> {
    let Err(refused) = metric.measure(probe) else { return Ok(Reads::Words) };
    let mut probe = probe.clone();
    probe.answers.iter_mut().for_each(|answer| answer.log_probs = Some(vec![-1.0]));
    if metric.measure(&probe).is_ok() {
        return Ok(Reads::LogProbs);
    }
    probe.answers.iter_mut().for_each(|answer| answer.reference_log_probs = Some(vec![-1.0]));
    match metric.measure(&probe) {
        Ok(_) => Ok(Reads::Both),
        Err(_) => Err(refused),
    }
}

fn value(name: String, metric: &dyn TextMetric, records: &[Judged]) -> Result<Value, MetricError> {
    let scored = evaluate(metric, records)?;
    Ok(Value { name, all: scored.corpus, each: scored.measured.into_iter().map(|one| one.value).collect() })
}

fn mean_reward(answer: &Answer) -> Option<f64> {
    let found: Vec<f64> = answer.replies.iter().filter_map(|reply| reply.reward).collect();
    (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
}

/// A record with its answers as metrics take it.
pub fn judged<S: Shape>(sample: &Sample<S>, answer: &Answer, other: impl Fn(&Reply) -> &Option<Vec<f64>>) -> Judged {
    let context = asked(sample);
    let question = context.messages.iter().rev().find(|message| message.role == Role::User);
    Judged {
        id: sample.id.clone(),
        question: question.map(Message::words).unwrap_or_default(),
        answers: answer
            .replies
            .iter()
            .map(|reply| Generated {
                text: reply.text.clone(),
                log_probs: reply.log_probs.clone(),
                reference_log_probs: other(reply).clone(),
            })
            .collect(),
        references: vec![answer.expected.clone()],
        tools: context.tools.iter().filter_map(Tool::from_json).collect(),
        ..Judged::default()
    }
}

/// A record with its class as metrics take it; `None` where it has not exactly one.
fn classified(number: usize, seen: &Observation) -> Option<Judged> {
    let Label::Class(class) = &seen.label else { return None };
    Some(Judged {
        id: number.to_string(),
        answers: vec![Generated::new(likeliest(&seen.scores).to_string())],
        label: Some(class.to_string()),
        ..Judged::default()
    })
}

/// The first of the highest scores.
pub(super) fn likeliest(scores: &[f64]) -> usize {
    (1..scores.len()).fold(0, |best, class| if scores[class] > scores[best] { class } else { best })
}

/// The prompt with an answer behind it, which alone is supervised.
fn answered(prompt: &Encoded, ids: &[u32]) -> Encoded {
    let mut row = prompt.clone();
    row.input_ids.extend(ids);
    row.supervised = vec![false; prompt.input_ids.len()];
    row.supervised.resize(row.input_ids.len(), true);
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Facts, by_name};

    fn metric(name: &str) -> AnyMetric {
        by_name(name, &Facts::default()).unwrap()
    }

    fn sample() -> Sample {
        let messages = vec![Message::text(Role::User, "How many?"), Message::text(Role::Assistant, "three")];
        Sample {
            id: "a".to_owned(),
            conversation: Conversation::new(messages),
            target: (),
            images: Vec::new(),
            dropped_leading: 0,
            place: Place::new(std::path::Path::new("data.jsonl"), 1),
        }
    }

    fn answer(texts: &[(&str, f64)]) -> Answer {
        let reply = |(text, log_prob): &(&str, f64)| Reply {
            text: (*text).to_owned(),
            log_probs: Some(vec![*log_prob; 2]),
            reference: Some(vec![log_prob - 0.5; 2]),
            observer: Some(vec![log_prob - 1.0; 2]),
            ..Reply::default()
        };
        Answer { index: 0, expected: "three".to_owned(), replies: texts.iter().map(reply).collect() }
    }

    #[test]
    fn metrics_read_what_they_need_and_name_both_comparisons() {
        let probe = judged(&sample(), &Answer { replies: vec![Reply::default()], ..answer(&[]) }, |_| &None);
        let metrics = ["exact_match", "perplexity", "kl"].map(metric).into();
        let watch = Watch::new(metrics, &probe).unwrap();
        assert_eq!(
            watch.metrics.iter().map(|w| w.reads).collect::<Vec<_>>(),
            [Reads::Words, Reads::LogProbs, Reads::Both]
        );
        assert_eq!(watch.comparing().collect::<Vec<_>>(), ["kl"]);
        let answers = [answer(&[("three", -1.0)]), answer(&[("four", -1.0)])];
        let values = watch.of_answers(&[sample(), sample()], &answers).unwrap();
        let found: Vec<(&str, f64)> = values.iter().map(|value| (value.name.as_str(), value.all)).collect();
        let e = 1f64.exp();
        assert_eq!(found, [("exact_match", 0.5), ("perplexity", e), ("kl", 0.5), ("kl_sft", 1.0)]);
        assert_eq!(values[0].each, [Some(1.0), Some(0.0)]);
    }

    #[test]
    fn what_cannot_be_computed_is_refused_with_what_is_missing() {
        let probe = judged(&sample(), &Answer { replies: vec![Reply::default()], ..answer(&[]) }, |_| &None);
        for (name, missing) in [("mrr", "candidate"), ("self_bleu", "second generated answer")] {
            let error = Watch::new(vec![metric(name)], &probe).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
        }
    }

    #[test]
    fn classes_are_those_with_the_highest_score() {
        let seen = |class, scores: &[f64]| Observation { label: Label::Class(class), scores: scores.to_vec() };
        let probe = classified(0, &seen(0, &[1.0, 0.0])).unwrap();
        let watch = Watch::new(["accuracy", "recall_macro"].map(metric).into(), &probe).unwrap();
        let all = [seen(0, &[2.0, 1.0]), seen(0, &[1.0, 1.0]), seen(0, &[0.0, 1.0]), seen(1, &[0.0, 3.0])];
        let values = watch.of_classes(&all).unwrap();
        assert_eq!(values.iter().map(|value| value.all).collect::<Vec<_>>(), [0.75, (2.0 / 3.0 + 1.0) / 2.0]);
        let several = Observation { label: Label::Values(vec![1.0]), scores: vec![0.0] };
        assert_eq!(watch.of_classes(&[several]).unwrap(), []);
    }
}
