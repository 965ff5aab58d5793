//! `report.html`: what a run did, on one page.

use super::RecipeError;
use crate::checkpoint::{CheckpointError, read_json, write_file};
use crate::data::DataKind;
use crate::device::Chosen;
use crate::example::Shape;
use crate::pipelines::Prediction;
use crate::settings::Resolved;
use crate::text::{Message, Part, Role};
use crate::trainer::report::{
    AnswerPicture, ClassPicture, JudgedRow, Moment, Report, SamplePicture, Setting, Shares, render,
};
use crate::trainer::state::Counters;
use crate::trainer::track::{Sample, Tracker, Trackers};
use crate::trainer::{
    Answer, EvalData, Images, Judgement, Policy, Reply, RowReading, Said, Signal, answer, generations, is_right, judge,
    label_of,
};
use burn::tensor::Device;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

/// Larger pictures are left out of the page, which has to stay openable.
const LARGEST_PICTURE: u64 = 2 << 20;

/// The records that the report shows, with what an untrained and a trained model say to them.
pub struct Samples<D: DataKind> {
    data: Option<EvalData<D>>,
    indices: Vec<usize>,
    /// Whether the model answers their questions.
    answers: bool,
    /// Whether it judges their rows.
    judges: bool,
    /// How numbers about rows are meant.
    reading: RowReading,
}

impl<D: DataKind> Samples<D> {
    /// These held-out records; none where nothing is held out. Records of one learned answer are shown with it alone; of
    /// others the model also says what it reads of their rows.
    pub fn new(
        eval: Option<&EvalData<D>>,
        indices: Vec<usize>,
        answers: bool,
        judges: bool,
        reading: RowReading,
    ) -> Self {
        Self { data: eval.filter(|_| !indices.is_empty()).cloned(), indices, answers, judges, reading }
    }

    /// The numbers of the records.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }

    /// What the untrained model says: asked, or found in the folder of a run that is resumed.
    ///
    /// # Errors
    /// [`RecipeError::Data`], [`RecipeError::Checkpoint`].
    pub fn before<S: Signal, P: Policy>(
        &self,
        run: &Path,
        resumed: bool,
        model: &P,
        device: &Device,
    ) -> Result<Said, RecipeError> {
        let path = run.join("before.json");
        if resumed && path.is_file() {
            let held = read_json(&path)?;
            let all = held.as_array().map(Vec::as_slice).unwrap_or_default();
            return Ok(Said {
                answers: all.iter().filter(|value| !value["generated"].is_null()).map(from_json).collect(),
                judgements: all.iter().filter_map(judgement_from_json).collect(),
            });
        }
        let said = self.ask::<S, P>(model, device)?;
        let judged = said.judgements.iter().map(|j| json!({"index": j.index, "rows": j.rows}));
        let rows: Vec<Value> = said.answers.iter().map(to_json).chain(judged).collect();
        write_file(&path, json!(rows).to_string().as_bytes())?;
        Ok(said)
    }

    /// What a model says.
    ///
    /// # Errors
    /// [`RecipeError::Data`].
    pub fn ask<S: Signal, P: Policy>(&self, model: &P, device: &Device) -> Result<Said, RecipeError> {
        let Some(data) = &self.data else { return Ok(Said::default()) };
        let model = model.valid();
        Ok(Said {
            answers: match self.answers {
                true => answer(&model, data, &self.indices, Images::Own, device)?,
                false => Vec::new(),
            },
            judgements: match self.judges {
                true => judge::<S, P, D>(&model, data, &self.indices, device)?,
                false => Vec::new(),
            },
        })
    }

    /// The answers for the trackers, in the report's order.
    ///
    /// # Errors
    /// [`RecipeError::Checkpoint`] where a log cannot be written.
    pub fn track(&self, trackers: &mut Trackers, step: usize, said: &Said) -> Result<(), RecipeError> {
        if trackers.is_empty() || !self.answers {
            return Ok(());
        }
        let pictures = self.pictures(said, &Said::default(), &[]);
        let several = |picture: &SamplePicture| {
            picture.before.iter().map(|answer| answer.text.as_str()).collect::<Vec<_>>().join(APART)
        };
        let generated: Vec<String> = pictures.iter().map(several).collect();
        let samples: Vec<Sample<'_>> = pictures
            .iter()
            .zip(&generated)
            .map(|(picture, generated)| Sample {
                images: &picture.images,
                question: &picture.question,
                expected: &picture.expected,
                generated,
            })
            .collect();
        Ok(trackers.samples(step, &samples)?)
    }

    /// The records with what was said before and after training, and at the evaluations between.
    fn pictures(&self, before: &Said, after: &Said, told: &[(usize, Vec<Prediction>)]) -> Vec<SamplePicture> {
        let Some(data) = &self.data else { return Vec::new() };
        let one = |&index: &usize| {
            let sample = data.dataset.sample(index).ok()?;
            let rows = sample.rows();
            let messages = &rows.first()?.messages;
            let last = messages.iter().rposition(|m| m.role == Role::Assistant);
            let question = messages[..last.unwrap_or(messages.len())].iter().rev().find(|m| m.role == Role::User);
            let label = label_of(&sample);
            let judged = rows.iter().zip(D::Shape::PLACES).enumerate().filter(|_| self.judges && label.is_none());
            let judged = judged.map(|(i, (row, name))| JudgedRow {
                name: (*name).to_owned(),
                text: row.messages.last().filter(|m| m.role == Role::Assistant).map(words).unwrap_or_default(),
                before: before.row(index, i).to_vec(),
                after: after.row(index, i).to_vec(),
            });
            let judged = judged.collect();
            let (was, is) = (before.answer(index), after.answer(index));
            Some(SamplePicture {
                images: sample.images.iter().filter_map(|path| picture(path)).collect(),
                question: question.map(words).unwrap_or_default(),
                expected: last.filter(|_| !self.judges).map(|last| words(&messages[last])).unwrap_or_default(),
                judged,
                class: label.map(|label| self.class(&label, before.row(index, 0), after.row(index, 0))),
                before: was.map(pictures_of).unwrap_or_default(),
                after: is.map(pictures_of).unwrap_or_default(),
                moments: moments(&sample.id, told),
            })
        };
        self.indices.iter().filter_map(one).collect()
    }

    /// A record's label with what was predicted.
    fn class(&self, label: &Value, before: &[f64], after: &[f64]) -> ClassPicture {
        let predicted = |scores: &[f64]| {
            let found = self.reading.predicted(scores)?;
            Some(AnswerPicture { text: found.to_string(), right: is_right(label, &found) })
        };
        let shares = |scores: &[f64]| self.reading.probabilities(scores);
        ClassPicture {
            label: label.to_string(),
            before: predicted(before),
            after: predicted(after),
            shares: match (shares(before), shares(after)) {
                (Some(before), Some(after)) => Shares::Probabilities(before, after),
                _ => Shares::Scores(before.to_vec(), after.to_vec()),
            },
        }
    }
}

/// What evaluations have of one record, from the run's prediction files.
fn moments(id: &str, told: &[(usize, Vec<Prediction>)]) -> Vec<Moment> {
    let one = |(step, lines): &(usize, Vec<Prediction>)| {
        let line = lines.iter().find(|line| line.id == id)?;
        let values = line.rest.get("metrics").and_then(Value::as_object);
        let values = values.into_iter().flatten().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)));
        let answers = line.answers.iter();
        let generated = answers.filter(|answer| answer.id.bytes().all(|byte| byte.is_ascii_digit()));
        let texts: Vec<String> = generated.map(|answer| answer.content.trim().to_owned()).collect();
        (!texts.is_empty()).then(|| Moment { step: *step, texts, values: values.collect() })
    };
    told.iter().filter_map(one).collect()
}

/// What stands between several answers to one question.
const APART: &str = "\n———\n";

fn pictures_of(answer: &Answer) -> Vec<AnswerPicture> {
    let right = |text: &str| Some(text.trim() == answer.expected.trim());
    answer.replies.iter().map(|reply| AnswerPicture { text: reply.text.clone(), right: right(&reply.text) }).collect()
}

fn words(message: &Message) -> String {
    let text = |part: &Part| match part {
        Part::Text(text) => Some(text.trim().to_owned()),
        Part::Image => None,
    };
    message.content.iter().filter_map(text).collect()
}

fn to_json(answer: &Answer) -> Value {
    let texts: Vec<&str> = answer.replies.iter().map(|reply| reply.text.as_str()).collect();
    json!({"index": answer.index, "expected": answer.expected, "generated": texts})
}

fn judgement_from_json(value: &Value) -> Option<Judgement> {
    let rows = value["rows"].as_array()?;
    let numbers = |row: &Value| row.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    Some(Judgement { index: value["index"].as_u64()? as usize, rows: rows.iter().map(numbers).collect() })
}

fn from_json(value: &Value) -> Answer {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // A run of an earlier version has one text.
    let said = &value["generated"];
    let replies = said.as_array().map_or_else(|| std::slice::from_ref(said), Vec::as_slice).iter();
    Answer {
        index: value["index"].as_u64().unwrap_or_default() as usize,
        expected: text(&value["expected"]),
        replies: replies.map(|said| Reply { text: text(said), ..Reply::default() }).collect(),
    }
}

/// Media type and bytes of a picture that a browser shows.
fn picture(path: &Path) -> Option<(String, Vec<u8>)> {
    if std::fs::metadata(path).ok()?.len() > LARGEST_PICTURE {
        return None;
    }
    let bytes = std::fs::read(path).ok()?;
    let kind = match bytes.get(..4)? {
        [0x89, b'P', b'N', b'G'] => "image/png",
        [0xFF, 0xD8, ..] => "image/jpeg",
        [b'G', b'I', b'F', _] => "image/gif",
        [b'R', b'I', b'F', b'F'] => "image/webp",
        [b'B', b'M', ..] => "image/bmp",
        _ => return None,
    };
    Some((kind.to_owned(), bytes))
}

/// The settings as pages and trackers show them.
pub fn table(resolved: &Resolved) -> Vec<Setting> {
    let row = |s: &crate::settings::Setting| Setting {
        key: s.key.clone(),
        value: s.value.to_string(),
        origin: s.origin.to_string(),
    };
    resolved.settings().iter().map(row).collect()
}

/// How this process was called.
pub fn command() -> String {
    std::env::args().collect::<Vec<_>>().join(" ")
}

/// What the page is made of.
pub struct Page<'a> {
    /// The recipe.
    pub name: &'a str,
    /// The device.
    pub chosen: &'a Chosen,
    /// The settings.
    pub resolved: &'a Resolved,
    /// When this process began.
    pub started: SystemTime,
    /// What the preflight said.
    pub notes: &'a [String],
    /// Records that the preflight took out of training, by reason.
    pub left_out: &'a BTreeMap<String, usize>,
    /// The run's counters.
    pub counters: &'a Counters,
    /// Every row of `metrics.jsonl`.
    pub metrics: &'a [Map<String, Value>],
}

impl Page<'_> {
    /// Writes `report.html`.
    ///
    /// # Errors
    /// [`RecipeError::Checkpoint`] where it cannot be written.
    pub fn write<D: DataKind>(
        &self,
        run: &Path,
        samples: &Samples<D>,
        before: &Said,
        after: &Said,
    ) -> Result<(), RecipeError> {
        let report = Report {
            title: self.name.to_owned(),
            command: command(),
            started: time(self.started),
            ended: time(SystemTime::now()),
            device: format!("{} ({})", self.chosen.name, self.chosen.reason),
            summary: self.summary(),
            settings: table(self.resolved),
            metrics: self.metrics.to_vec(),
            samples: samples.pictures(before, after, &generations::read(run)?),
            dropped: self.dropped(),
            notes: self.notes.to_vec(),
        };
        let written: Result<(), CheckpointError> = write_file(&run.join("report.html"), render(&report).as_bytes());
        Ok(written?)
    }

    /// What was not learned from: records that the preflight took out, and those that failed when they were read, once
    /// per pass.
    fn dropped(&self) -> Vec<(String, usize)> {
        let before = self.left_out.iter().map(|(reason, n)| (reason.clone(), *n));
        let during = self.counters.skipped.iter().map(|(reason, n)| (format!("in training: {reason}"), *n));
        before.chain(during).collect()
    }

    fn summary(&self) -> Vec<(String, String)> {
        let last = |key: &str| self.metrics.iter().rev().find_map(|row| row.get(key)?.as_f64());
        let first = |key: &str| self.metrics.iter().find_map(|row| row.get(key)?.as_f64());
        let mut summary = vec![("Steps".to_owned(), self.counters.step.to_string())];
        let mut add = |name: &str, value: Option<String>| {
            summary.extend(value.map(|value| (name.to_owned(), value)));
        };
        let percent = |value: f64| format!("{:.1}%", value * 100.0);
        let rise = |key: &str| match (first(key), last(key)) {
            (Some(first), Some(last)) if first != last => Some(format!("{} → {}", percent(first), percent(last))),
            (_, last) => last.map(percent),
        };
        add("Preference accuracy", rise("eval_rewards/accuracies"));
        add("Accuracy", rise("eval_accuracy"));
        let number = |key: &str| match (first(key), last(key)) {
            (Some(first), Some(last)) => Some(format!("{first:.3} → {last:.3}")),
            _ => None,
        };
        add("Reward margin", number("eval_rewards/margins"));
        add("Exact match", rise("eval_exact_match"));
        add("Exact match, images shuffled", last("eval_exact_match_shuffled_images").map(percent));
        add("Token accuracy", rise("eval_token_accuracy"));
        add("Evaluation loss", last("eval_loss").map(|v| format!("{v:.4}")));
        if self.counters.stopped_early {
            add(
                "Stopped early",
                Some(format!("after {} evaluations without improvement", self.counters.stale_evaluations)),
            );
        }
        add("Training loss", last("loss").map(|v| format!("{v:.4}")));
        add("Tokens", Some(self.counters.num_tokens.to_string()));
        let seconds = self.counters.train_seconds;
        add("Training time", Some(format!("{seconds:.0} s")));
        let speed = self.counters.num_tokens as f64 / seconds.max(1e-9);
        add("Tokens per second", Some(format!("{speed:.0}")));
        summary
    }
}

/// UTC, to the second.
fn time(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date, after Howard Hinnant's algorithm over 400-year eras.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", rest / 3600, rest % 3600 / 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_across_leap_years() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 UTC"),
            (1_795_219_200, "2026-11-21 00:00:00 UTC"),
        ] {
            assert_eq!(time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }
}
