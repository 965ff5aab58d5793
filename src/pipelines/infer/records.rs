//! Records of any data kind, as a model is asked about them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::{PredictedAnswer, Prediction};
use crate::data::{DataError, DataKind, Dataset, Place, Row, Sample, expand, row};
use crate::example::Shape;
use crate::text::{Conversation, Message, Part, Role, ToolCall};

/// A record, as a model is asked about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its number in its data set, counted from 0.
    pub index: usize,
    /// Where it stands.
    pub place: Place,
    /// The turns that await an answer: those of the record without its last answer.
    pub question: Conversation,
    /// The answers that the record itself has.
    pub answers: Vec<RecordAnswer>,
    /// The images, in the order of their places in the question; those of an answer follow.
    pub images: Vec<PathBuf>,
    /// What is written of it, before anybody has said anything: id, data set, turns, label and meta.
    pub prediction: Prediction,
}

/// An answer that a record has.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordAnswer {
    /// What is said.
    pub messages: Vec<Message>,
    /// What is written of it.
    pub written: PredictedAnswer,
}

impl Record {
    /// The question with one of the answers.
    pub fn answered(&self, answer: &RecordAnswer) -> Conversation {
        let mut conversation = self.question.clone();
        conversation.messages.extend_from_slice(&answer.messages);
        conversation
    }

    /// All turns of the record: the question, and its own answer where it has but one.
    pub fn whole(&self) -> Conversation {
        match self.answers.as_slice() {
            [only] => self.answered(only),
            _ => self.question.clone(),
        }
    }

    /// About how long it is, in bytes of text: an image counts as many as some hundred words.
    pub fn size(&self) -> usize {
        const IMAGE: usize = 2048;
        let words = |message: &Message| message.words().len();
        let answers = self.answers.iter().flat_map(|answer| &answer.messages).map(words).max().unwrap_or(0);
        self.question.messages.iter().map(words).sum::<usize>() + answers + IMAGE * self.images.len()
    }
}

/// Records, whatever their kind.
pub trait Records: Send + Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads one; `index` is below [`len`](Self::len).
    ///
    /// # Errors
    /// What is wrong with it, with file and line.
    fn record(&self, index: usize) -> Result<Record, DataError>;

    /// Its id and data set, as far as they can be read.
    fn named(&self, index: usize) -> Prediction;

    /// The data files.
    fn files(&self) -> Vec<PathBuf>;

    /// What tells this data from other data.
    fn fingerprint(&self) -> String;
}

impl<K: DataKind> Records for Dataset<K> {
    fn len(&self) -> usize {
        Dataset::len(self)
    }

    fn record(&self, index: usize) -> Result<Record, DataError> {
        let row = self.row(index)?;
        // Of a row that ends with a question an answer is made up, so that it can be read; nobody is shown it.
        let longer = self.kind().awaiting(&row);
        let sample = self.read(index, longer.as_ref().unwrap_or(&row))?;
        let names = image_names(self, index, longer.as_ref().unwrap_or(&row))?;
        let (question, mut answers) = parts(&sample);
        let reference = (longer.is_none() && is_right(&sample)).then(|| answers.first().map(|a| a.written.said()));
        if longer.is_some() {
            answers.clear();
        }
        let mut prediction = self.named(index);
        prediction.id = sample.id.clone();
        prediction.messages = written(&question.messages, &names);
        prediction.label = row::given(&row, "label").cloned().or(reference.flatten().map(Value::from));
        prediction.meta = row::given(&row, "meta").cloned();
        prediction.rest = besides(&row, K::FIELDS);
        match row::given(&row, "answers") {
            Some(said) if are_predictions(said) => answers = predicted(&row, &sample.place)?,
            Some(people) => drop(prediction.rest.entry("references").or_insert_with(|| people.clone())),
            None => {}
        }
        Ok(Record { index, place: sample.place, question, answers, images: sample.images, prediction })
    }

    fn named(&self, index: usize) -> Prediction {
        let row = self.row(index).unwrap_or_default();
        let id = row::id(&row, &self.place(index)).unwrap_or_default();
        let id = if id.is_empty() { index.to_string() } else { id };
        let source = self.sources().nth(self.source_of(index));
        let named = source.map_or(String::new(), |source| match Path::new(&source.name) == source.file {
            // A file's name without its folder: the same on every machine.
            true => source
                .file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .split('.')
                .next()
                .unwrap_or_default()
                .to_owned(),
            false => source.name.clone(),
        });
        let dataset_name = row.get("dataset_name").and_then(Value::as_str).map_or(named, str::to_owned);
        Prediction { id, dataset_name, ..Prediction::default() }
    }

    fn files(&self) -> Vec<PathBuf> {
        Dataset::files(self).map(Path::to_owned).collect()
    }

    fn fingerprint(&self) -> String {
        Dataset::fingerprint(self)
    }
}

/// The question of a record, and its answers by their names.
fn parts<S: Shape>(sample: &Sample<S>) -> (Conversation, Vec<RecordAnswer>) {
    let rows = sample.rows();
    let context = sample.conversation.messages.len();
    let beside = rows.first().is_some_and(|row| row.messages.len() > context);
    let mut question = sample.conversation.clone();
    let mut cut = context;
    if !beside {
        let is_answer = |message: &&Message| message.role == Role::Assistant;
        cut -= question.messages.iter().rev().take_while(is_answer).count();
        question = question.up_to(cut);
    }
    let answer = |(number, row): (usize, &Conversation)| {
        let messages = row.messages.get(cut..).filter(|messages| !messages.is_empty())?.to_vec();
        let id = if rows.len() == 1 { number.to_string() } else { S::PLACES[number].to_owned() };
        let mut said = messages.iter().filter(|message| message.role == Role::Assistant);
        // Of several messages (a call, its result, the answer) the last one is the answer.
        let last = said.next_back();
        let content = last.map(Message::words).unwrap_or_default();
        let mut written = PredictedAnswer { id, content, ..PredictedAnswer::default() };
        let calls: Vec<Value> = last.iter().flat_map(|last| &last.tool_calls).map(ToolCall::to_json).collect();
        written.rest.extend((!calls.is_empty()).then(|| ("tool_calls".to_owned(), calls.into())));
        Some(RecordAnswer { messages, written })
    };
    let answers = rows.iter().enumerate().filter_map(answer).collect();
    (question, answers)
}

/// Whether the first answer is a right one.
fn is_right<S: Shape>(sample: &Sample<S>) -> bool {
    let facts = S::facts(&sample.target);
    // Of a pair of safety the chosen answer is the more harmful one.
    let shown = S::SHOWS && facts.safe.is_none() && facts.steps.iter().all(|right| *right);
    shown || facts.desirable == Some(true)
}

/// What a row says besides its conversation, its images and what predictions have fields of their own for. `used`: the fields
/// that its kind reads.
fn besides(row: &Row, used: &[&str]) -> Row {
    const NAMED: &[&str] = &[
        "id",
        "dataset_name",
        "messages",
        "label",
        "meta",
        "answers",
        "predicted_label",
        "rewards",
        "image",
        "images",
    ];
    // An error is that of the run that wrote it.
    let is_told = |name: &str| NAMED.contains(&name) || name == "error";
    let is_used = |name: &str| used.iter().any(|field| field.split(['[', '.']).next() == Some(name));
    // The kinds that read `tools` put them into no message.
    let is_kept = |name: &str| name == "tools" || !is_told(name) && !is_used(name);
    let kept = row.iter().filter(|(name, value)| is_kept(name) && !value.is_null());
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Whether `answers` are those of a prediction file's line; else they are what people answered, as VQA's data has them.
fn are_predictions(answers: &Value) -> bool {
    let Value::Array(answers) = answers else { return false };
    answers.is_empty() || answers.iter().any(|answer| answer.get("content").is_some())
}

/// The answers of a prediction file's line.
fn predicted(row: &Row, place: &Place) -> Result<Vec<RecordAnswer>, DataError> {
    let read = |(i, value): (usize, &Value)| {
        let written: PredictedAnswer = serde_json::from_value(value.clone()).map_err(|_| {
            row::wrong_type(place, format!("answers[{i}]"), "an answer with an `id` and `content`", value)
        })?;
        Ok(RecordAnswer { messages: vec![Message::text(Role::Assistant, written.said())], written })
    };
    row::list(row, "answers", place)?.iter().enumerate().map(read).collect()
}

/// The images as the record names them, which is the same on every machine.
fn image_names<K: DataKind>(data: &Dataset<K>, index: usize, row: &Row) -> Result<Vec<PathBuf>, DataError> {
    let place = data.place(index);
    let parsed = match K::EXPANDS {
        true => data.kind().parse(&expand::nth(data.kind(), row.clone(), data.part(index), &place)?, &place)?,
        false => data.kind().parse(row, &place)?,
    };
    Ok(parsed.images)
}

/// Messages as turbo-alignment writes them: an image is a message of its own, with a file's path as its content.
pub(super) fn written(messages: &[Message], images: &[PathBuf]) -> Vec<Value> {
    let mut images = images.iter();
    let mut all = Vec::new();
    for message in messages {
        let role = if message.role == Role::Assistant { "bot" } else { message.role.as_str() };
        for part in &message.content {
            all.push(match part {
                Part::Text(text) => json!({"role": role, "content": text}),
                Part::Image => {
                    let file = images.next().map(|path| path.display().to_string()).unwrap_or_default();
                    json!({"role": role, "type": "image", "content": file})
                }
            });
        }
        if message.content.is_empty() {
            all.push(json!({"role": role, "content": ""}));
        }
        let Some(Value::Object(last)) = all.last_mut() else { continue };
        let mut put = |name: &str, value: Option<Value>| value.map(|value| last.insert(name.to_owned(), value));
        put("reasoning_content", message.reasoning.clone().map(Value::from));
        put("tool_call_id", message.tool_call_id.clone().map(Value::from));
        put("name", message.name.clone().map(Value::from));
        let calls: Vec<Value> = message.tool_calls.iter().map(ToolCall::to_json).collect();
        put("tool_calls", (!calls.is_empty()).then_some(calls.into()));
    }
    all
}
