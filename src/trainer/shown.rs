//! What a model says of chosen records, as tables and as lines of a prediction file.

use super::answers::{Answer, asked};
use super::evaluate::Judgement;
use super::watch::likeliest;
use crate::data::Sample;
use crate::data::message::chat_row;
use crate::example::{Label, Shape};
use crate::objectives::{Head, Level};
use crate::pipelines::{PredictedAnswer, Prediction};
use crate::text::{Message, Role};
use serde_json::{Map, Value, json};

/// What a model says to some records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// Its answers.
    pub answers: Vec<Answer>,
    /// What it says of their rows.
    pub judgements: Vec<Judgement>,
}

impl Said {
    /// The answer to a record.
    pub fn answer(&self, index: usize) -> Option<&Answer> {
        self.answers.iter().find(|answer| answer.index == index)
    }

    /// What it says of a record's row.
    pub fn row(&self, index: usize, row: usize) -> &[f64] {
        let judgement = self.judgements.iter().find(|judgement| judgement.index == index);
        judgement.and_then(|judgement| judgement.rows.get(row)).map_or(&[], Vec::as_slice)
    }
}

/// What the numbers are that a model says of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowReading {
    /// One log-probability, in nats.
    LogProb,
    /// One score: the higher the better.
    Score,
    /// A score for each class, one of which holds.
    Class,
    /// A score for each class, any number of which hold.
    Classes,
    /// Numbers, as they are.
    Numbers,
}

impl RowReading {
    /// Of a model with this head, or of one that says words.
    pub fn of(head: Option<Head>) -> Self {
        match head {
            None => Self::LogProb,
            Some(Head { level: Level::Token, .. }) => Self::Numbers,
            Some(head) => match head.problem_type {
                Some("single_label_classification") => Self::Class,
                Some("multi_label_classification") => Self::Classes,
                None if head.outputs == 1 => Self::Score,
                _ => Self::Numbers,
            },
        }
    }

    /// The label that these scores speak for; `None` where they speak for none.
    pub fn predicted(self, scores: &[f64]) -> Option<Value> {
        match self {
            _ if scores.is_empty() => None,
            Self::Class => Some(json!(likeliest(scores))),
            Self::Classes => Some(json!(scores.iter().map(|score| u8::from(*score > 0.0)).collect::<Vec<u8>>())),
            Self::Numbers | Self::Score | Self::LogProb => None,
        }
    }

    /// The probability of each class; `None` of scores that are none.
    pub fn probabilities(self, scores: &[f64]) -> Option<Vec<f64>> {
        match self {
            _ if scores.is_empty() => None,
            Self::Class => {
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
                let sum: f64 = weights.iter().sum();
                Some(weights.iter().map(|weight| weight / sum).collect())
            }
            Self::Classes => Some(scores.iter().map(|score| 1.0 / (1.0 + (-score).exp())).collect()),
            Self::Numbers | Self::Score | Self::LogProb => None,
        }
    }
}

/// What a record's label is, as files have it.
pub fn label_of<S: Shape>(sample: &Sample<S>) -> Option<Value> {
    S::facts(&sample.target).label.map(|label| match label {
        Label::Class(class) => json!(class),
        Label::Values(values) => json!(whole(&values)),
    })
}

/// Zeros and ones as whole numbers.
fn whole(values: &[f64]) -> Vec<Value> {
    values.iter().map(|&value| if value == 0.0 || value == 1.0 { json!(value as u8) } else { json!(value) }).collect()
}

/// Whether a prediction is the label; `None` where there is none to compare.
pub fn is_right(label: &Value, predicted: &Value) -> Option<bool> {
    (label.is_number() == predicted.is_number()).then(|| label == predicted)
}

/// Metrics of single records: name and values, one for each record.
pub type PerRecord<'a> = &'a [super::watch::Value];

/// Everything about some records at one step, for files and tables.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a, S: Shape> {
    /// The records.
    pub samples: &'a [(usize, Sample<S>)],
    /// What the model says now.
    pub now: &'a Said,
    /// What it said before training.
    pub before: &'a Said,
    /// How numbers about rows are meant.
    pub reading: RowReading,
    /// Metrics of answers, in the order of `now.answers`.
    pub values: PerRecord<'a>,
}

impl<S: Shape> Shown<'_, S> {
    /// A table with a line for each record.
    pub fn table(&self) -> Table {
        if !self.now.answers.is_empty() {
            return self.answers();
        }
        match self.samples.first().and_then(|(_, sample)| label_of(sample)) {
            Some(_) => self.classes(),
            None => self.rows(),
        }
    }

    fn answers(&self) -> Table {
        let mut columns = vec!["id", "prompt", "expected", "before", "now"];
        columns.extend(self.values.iter().map(|value| value.name.as_str()));
        let line = |(index, sample): &(usize, Sample<S>)| {
            let answer = self.now.answer(*index)?;
            let place = self.now.answers.iter().position(|one| one.index == *index)?;
            let before = self.before.answer(*index).map(texts).unwrap_or_default();
            let mut line = vec![sample.id.clone(), prompt(sample), answer.expected.clone(), before, texts(answer)];
            line.extend(self.values.iter().map(|value| number(value.each.get(place).copied().flatten())));
            Some(line)
        };
        Table::new(&columns, self.samples.iter().filter_map(line).collect())
    }

    fn rows(&self) -> Table {
        let what = if self.reading == RowReading::LogProb { "log-probability" } else { "score" };
        let mut columns = vec!["id".to_owned(), "context".to_owned()];
        for place in S::PLACES {
            columns.extend([(*place).to_owned(), format!("{what} before"), format!("{what} now")]);
        }
        let line = |(index, sample): &(usize, Sample<S>)| {
            let mut line = vec![sample.id.clone(), context(sample)];
            for (row, conversation) in sample.rows().iter().enumerate() {
                let text = conversation.messages.last().filter(|last| last.role == Role::Assistant);
                line.push(text.map(Message::words).unwrap_or_default());
                line.extend([self.before, self.now].map(|said| numbers(said.row(*index, row))));
            }
            line
        };
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        Table::new(&columns, self.samples.iter().map(line).collect())
    }

    fn classes(&self) -> Table {
        let line = |(index, sample): &(usize, Sample<S>)| {
            let label = label_of(sample).map(|label| label.to_string()).unwrap_or_default();
            let predicted = |said: &Said| {
                self.reading.predicted(said.row(*index, 0)).map(|label| label.to_string()).unwrap_or_default()
            };
            let scores = self.now.row(*index, 0);
            let shares = self.reading.probabilities(scores).unwrap_or_else(|| scores.to_vec());
            let (before, now) = (predicted(self.before), predicted(self.now));
            vec![sample.id.clone(), whole_text(sample), label, before, now, numbers(&shares)]
        };
        let last = if self.reading == RowReading::Numbers { "scores" } else { "probabilities" };
        let columns = ["id", "text", "label", "predicted before", "predicted now", last];
        Table::new(&columns, self.samples.iter().map(line).collect())
    }

    /// A line of a prediction file for each record.
    pub fn predictions(&self, step: usize) -> Vec<Prediction> {
        self.samples.iter().map(|(index, sample)| self.prediction(step, *index, sample)).collect()
    }

    fn prediction(&self, step: usize, index: usize, sample: &Sample<S>) -> Prediction {
        let file = sample.place.file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let mut line = Prediction {
            id: sample.id.clone(),
            dataset_name: file.unwrap_or_default(),
            rest: Map::from_iter([("step".to_owned(), json!(step))]),
            ..Prediction::default()
        };
        match self.now.answers.iter().position(|answer| answer.index == index) {
            Some(place) => {
                let answer = &self.now.answers[place];
                line.messages = rows_of(&asked(sample).messages, sample);
                line.label = Some(json!(answer.expected));
                line.answers = generated(answer);
                let values = self
                    .values
                    .iter()
                    .filter_map(|value| Some((value.name.clone(), json!(value.each.get(place).copied().flatten()?))));
                let values: Map<String, Value> = values.collect();
                if !values.is_empty() {
                    line.rest.insert("metrics".to_owned(), values.into());
                }
                let judged: Vec<PredictedAnswer> = self.judged(index, sample);
                if !judged.is_empty() {
                    line.rest.insert("judged".to_owned(), json!(judged));
                }
            }
            None => {
                line.messages = rows_of(&sample.conversation.messages, sample);
                line.label = label_of(sample);
                let scores = self.now.row(index, 0);
                line.predicted_label = self.reading.predicted(scores);
                if let Some(shares) = self.reading.probabilities(scores) {
                    line.rest.insert("probabilities".to_owned(), json!(shares));
                }
                if line.label.is_some() {
                    line.rest.insert("scores".to_owned(), json!(scores));
                    return line;
                }
                line.answers = self.judged(index, sample);
                if self.reading == RowReading::Score {
                    let rewards = S::PLACES
                        .iter()
                        .enumerate()
                        .filter_map(|(row, place)| Some(((*place).to_owned(), *self.now.row(index, row).first()?)));
                    // JSON has no infinity; a reader would refuse what stands in its place.
                    line.rewards = Some(rewards.filter(|(_, reward)| reward.is_finite()).collect());
                }
            }
        }
        line
    }

    /// The texts of a record's rows with what the model says of them.
    fn judged(&self, index: usize, sample: &Sample<S>) -> Vec<PredictedAnswer> {
        let rows = sample.rows();
        let one = |(row, place): (usize, &&str)| {
            let values = self.now.row(index, row);
            let last = rows.get(row)?.messages.last().filter(|last| last.role == Role::Assistant)?;
            let mut answer =
                PredictedAnswer { id: (*place).to_owned(), content: last.words(), ..PredictedAnswer::default() };
            match self.reading {
                _ if values.is_empty() => return None,
                RowReading::LogProb => answer.sequence_score = values.first().copied(),
                _ => drop(answer.rest.insert("scores".to_owned(), json!(values))),
            }
            Some(answer)
        };
        S::PLACES.iter().enumerate().filter_map(one).collect()
    }
}

fn generated(answer: &Answer) -> Vec<PredictedAnswer> {
    let one = |(number, reply): (usize, &super::Reply)| {
        let logprobs = reply.chosen_at.clone().or_else(|| reply.log_probs.clone());
        let logprobs = logprobs.filter(|all| all.iter().all(|value| value.is_finite()));
        let rest = reply.reward.map(|reward| ("reward".to_owned(), json!(reward)));
        PredictedAnswer {
            id: number.to_string(),
            content: reply.text.clone(),
            sequence_score: reply.score,
            logprobs,
            rest: rest.into_iter().collect(),
        }
    };
    answer.replies.iter().enumerate().map(one).collect()
}

fn rows_of<S: Shape>(messages: &[Message], sample: &Sample<S>) -> Vec<Value> {
    match chat_row(messages, &sample.images) {
        Value::Array(rows) => rows,
        other => vec![other],
    }
}

/// The words of the last question.
pub fn prompt<S: Shape>(sample: &Sample<S>) -> String {
    let context = asked(sample);
    let last = context.messages.iter().rev().find(|message| message.role == Role::User);
    last.or(context.messages.last()).map(Message::words).unwrap_or_default().trim().to_owned()
}

/// The words of the last question before the answers.
fn context<S: Shape>(sample: &Sample<S>) -> String {
    let last = sample.conversation.messages.iter().rev().find(|message| message.role == Role::User);
    last.map(Message::words).unwrap_or_default().trim().to_owned()
}

/// All that is said in a record.
fn whole_text<S: Shape>(sample: &Sample<S>) -> String {
    let said = sample.conversation.messages.iter().map(|message| message.words().trim().to_owned());
    said.filter(|words| !words.is_empty()).collect::<Vec<_>>().join("\n")
}

/// Several answers below one another.
fn texts(answer: &Answer) -> String {
    answer.replies.iter().map(|reply| reply.text.trim()).collect::<Vec<_>>().join("\n———\n")
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value.fract() == 0.0 && value.abs() < 1e15 => format!("{value}"),
        Some(value) => format!("{value:.3}"),
    }
}

fn numbers(values: &[f64]) -> String {
    values.iter().map(|value| format!("{value:.3}")).collect::<Vec<_>>().join(", ")
}

/// A table of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The headings.
    pub columns: Vec<String>,
    /// The lines, each with as many cells as there are headings.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    fn new(columns: &[&str], rows: Vec<Vec<String>>) -> Self {
        Self { columns: columns.iter().map(|&column| column.to_owned()).collect(), rows }
    }
}

#[cfg(test)]
mod tests {
    use super::super::answers::Reply;
    use super::*;
    use crate::data::Place;
    use crate::example::{Labelled, Pair, Pairs, Plain, Supervised};
    use crate::text::Conversation;
    use std::path::Path;

    fn sample<S: Shape>(turns: &[(Role, &str)], target: S::Target) -> (usize, Sample<S>) {
        let messages = turns.iter().map(|(role, text)| Message::text(*role, *text)).collect();
        let sample = Sample {
            id: "r-1".to_owned(),
            conversation: Conversation::new(messages),
            target,
            images: Vec::new(),
            dropped_leading: 0,
            place: Place::new(Path::new("some/held_out.jsonl"), 4),
        };
        (7, sample)
    }

    fn judged(rows: &[&[f64]]) -> Said {
        let rows = rows.iter().map(|row| row.to_vec()).collect();
        Said { judgements: vec![Judgement { index: 7, rows }], answers: Vec::new() }
    }

    fn answered(texts: &[&str]) -> Said {
        let reply = |text: &&str| Reply { text: (*text).to_owned(), reward: Some(0.5), ..Reply::default() };
        let answer = Answer { index: 7, expected: "yes".to_owned(), replies: texts.iter().map(reply).collect() };
        Said { answers: vec![answer], judgements: Vec::new() }
    }

    #[test]
    fn answers_stand_beside_what_is_expected() {
        let samples = [sample::<Supervised>(&[(Role::User, "Is it?"), (Role::Assistant, "yes")], ())];
        let values = [super::super::watch::Value { name: "rouge_l".to_owned(), all: 0.25, each: vec![Some(0.25)] }];
        let (now, before) = (answered(&["yes", "no"]), answered(&["?"]));
        let shown =
            Shown { samples: &samples, now: &now, before: &before, reading: RowReading::LogProb, values: &values };
        let table = shown.table();
        assert_eq!(table.columns, ["id", "prompt", "expected", "before", "now", "rouge_l"]);
        assert_eq!(table.rows, [["r-1", "Is it?", "yes", "?", "yes\n———\nno", "0.250"]]);
        let line = serde_json::to_value(&shown.predictions(3)[0]).unwrap();
        assert_eq!(
            line,
            json!({
                "id": "r-1", "dataset_name": "held_out", "messages": [{"role": "user", "content": "Is it?"}], "label": "yes",
                "answers": [{"id": "0", "content": "yes", "reward": 0.5}, {"id": "1", "content": "no", "reward": 0.5}],
                "step": 3, "metrics": {"rouge_l": 0.25}
            })
        );
    }

    #[test]
    fn both_texts_of_a_pair_stand_with_their_scores() {
        let said = |text: &str| vec![Message::text(Role::Assistant, text)];
        let pair = Pair { chosen: said("three"), rejected: said("four"), extra: Plain };
        let samples = [sample::<Pairs>(&[(Role::User, "How many?")], pair)];
        let (now, before) = (judged(&[&[1.5], &[-2.0]]), judged(&[&[0.0], &[0.25]]));
        let shown = Shown { samples: &samples, now: &now, before: &before, reading: RowReading::Score, values: &[] };
        let table = shown.table();
        assert_eq!(table.columns[2..5], ["chosen", "score before", "score now"]);
        assert_eq!(table.rows, [["r-1", "How many?", "three", "0.000", "1.500", "four", "0.250", "-2.000"]]);
        let line = &shown.predictions(3)[0];
        assert_eq!(line.rewards.as_ref().unwrap()["rejected"], -2.0);
        assert_eq!((line.answers[0].id.as_str(), line.answers[0].content.as_str()), ("chosen", "three"));
    }

    #[test]
    fn classes_have_probabilities() {
        let samples = [sample::<Labelled>(&[(Role::User, "a text")], Label::Class(1))];
        let (now, before) = (judged(&[&[0.0, 3f64.ln()]]), judged(&[&[1.0, 0.0]]));
        let shown = Shown { samples: &samples, now: &now, before: &before, reading: RowReading::Class, values: &[] };
        assert_eq!(shown.table().rows, [["r-1", "a text", "1", "0", "1", "0.250, 0.750"]]);
        let line = &shown.predictions(0)[0];
        assert_eq!((&line.label, &line.predicted_label), (&Some(json!(1)), &Some(json!(1))));
        assert!(line.answers.is_empty());
        assert_eq!(RowReading::Classes.predicted(&[1.0, -1.0]), Some(json!([1, 0])));
        assert_eq!(is_right(&json!([1, 0]), &json!([1, 0])), Some(true));
        assert_eq!(is_right(&json!([1, 0]), &json!(1)), None);
    }
}
