//! What a model says of questions: answers, and how likely it thinks given ones.

use super::super::Common;
use super::super::answering::{LocalEngine, LocalSettings};
use super::formats::Question;
use super::scoring::{Given, score};
use crate::engine::{Answer, Choice, Engine, Finish, ImageSource, Prompt, Request, Sampling};
use crate::pipelines::evaluation::Record;
use crate::pipelines::judging::{judged, options};
use crate::pipelines::{PredictedAnswer, Prediction};
use crate::trainer::progress::Progress;
use serde_json::{Value, json};
use std::ops::ControlFlow;

/// How answers are generated.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub(super) sampling: Sampling,
    pub(super) answers: usize,
    pub(super) batch: usize,
}

/// What metrics need of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Needs {
    /// Its own answers.
    answers: bool,
    /// The likelihood of each option.
    options: bool,
    /// The likelihood of the right answer.
    given: bool,
    /// The likelihood of its answers under it and another model.
    divergence: bool,
}

fn needs(metrics: &[String]) -> Needs {
    let mut needs = Needs::default();
    for name in metrics.iter().map(|name| name.trim()) {
        match name {
            "perplexity" => needs.given = true,
            "choice_likelihood" | "choice_likelihood_norm" => needs.options = true,
            "kl" | "kl_answer" => (needs.divergence, needs.answers) = (true, true),
            // What ranks candidates reads the records alone.
            "mrr" | "ndcg" | "retrieval_utility" => {}
            _ if name.starts_with("ndcg_at_") || name.starts_with("recall_at_") => {}
            _ => needs.answers = true,
        }
    }
    needs
}

/// Has the model say what `metrics` need, and puts it into the questions' records. The records that are returned have the right
/// answers in place of the model's; none where nobody needs them.
///
/// One model is in memory at a time.
pub(super) fn answer(
    metrics: &[String],
    local: LocalSettings,
    reference: Option<Common>,
    asking: Asking,
    questions: &mut [Question],
) -> anyhow::Result<Vec<Record>> {
    let needs = needs(metrics);
    let (common, batch) = (local.common.clone(), asking.batch);
    if needs.answers {
        generate(LocalEngine::open(local)?, &asking, questions)?;
    }
    let of_options = if needs.options { options_of(questions)? } else { Vec::new() };
    let of_right = if needs.given { right_answers(questions)? } else { Vec::new() };
    let of_own = if needs.divergence { own_answers(questions) } else { Vec::new() };
    let given: Vec<Given> = [&of_options, &of_right, &of_own].into_iter().flatten().cloned().collect();
    if given.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = score(common, given, batch, "scoring")?.into_iter();
    let options: Vec<Vec<f64>> = found.by_ref().take(of_options.len()).collect();
    let right: Vec<Vec<f64>> = found.by_ref().take(of_right.len()).collect();
    let own: Vec<Vec<f64>> = found.collect();
    put_options(questions, &of_options, &options);
    if let (true, Some(reference)) = (needs.divergence, reference) {
        let theirs = score(reference, of_own.clone(), batch, "scoring with the reference model")?;
        put_divergence(questions, &of_own, own, theirs);
    }
    of_right
        .iter()
        .zip(right)
        .map(|(given, log_probs)| right_record(&questions[given.question], given, log_probs))
        .collect()
}

/// Asks all questions; the answers are put into their records.
fn generate(engine: LocalEngine, asking: &Asking, questions: &mut [Question]) -> anyhow::Result<()> {
    let request = |question: &Question| {
        let images = question.images.iter().map(|path| ImageSource::File(path.clone())).collect();
        let prompt = Prompt::Chat { conversation: question.conversation.clone(), images };
        let mut request = Request::new(question.place.to_string(), prompt);
        (request.sampling, request.n, request.logprobs) = (asking.sampling.clone(), asking.answers, Some(0));
        request
    };
    let requests: Vec<Request> = questions.iter().map(request).collect();
    let progress = Progress::work(requests.len() as u64, "answering");
    let mut failed = None;
    engine.generate(&requests, &mut |index, result| match result {
        Ok(Answer { choices, .. }) => {
            questions[index].record.answers = choices.into_iter().enumerate().map(predicted).collect();
            progress.inc(1);
            ControlFlow::Continue(())
        }
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    });
    progress.finish();
    failed.map_or(Ok(()), |error| Err(error.into()))
}

fn predicted((number, choice): (usize, Choice)) -> PredictedAnswer {
    let logprobs: Vec<f64> = choice.tokens.iter().filter_map(|token| token.logprob).map(f64::from).collect();
    let mut answer = PredictedAnswer {
        id: number.to_string(),
        content: choice.text.trim().to_owned(),
        sequence_score: Some(logprobs.iter().sum()),
        logprobs: Some(logprobs),
        ..PredictedAnswer::default()
    };
    answer.rest.insert("finish_reason".into(), choice.finish.as_str().into());
    answer
}

fn given(number: usize, question: &Question, answer: &str, with_end: bool) -> Given {
    Given {
        question: number,
        conversation: question.conversation.clone(),
        images: question.images.clone(),
        answer: answer.to_owned(),
        with_end,
        place: question.place.clone(),
    }
}

fn options_of(questions: &[Question]) -> anyhow::Result<Vec<Given>> {
    let mut all = Vec::new();
    for (number, question) in questions.iter().enumerate() {
        let options = options(&question.record, &question.place)?;
        if options.is_empty() {
            let (place, id) = (&question.place, &question.record.id);
            anyhow::bail!("{place}: the record `{id}` has no `choices` whose likelihood could be asked for");
        }
        all.extend(options.iter().map(|option| given(number, question, &option.text, false)));
    }
    Ok(all)
}

fn right_answers(questions: &[Question]) -> anyhow::Result<Vec<Given>> {
    let right = |(number, question): (usize, &Question)| {
        let judged = judged(&question.record, &question.place)?;
        let (place, id) = (&question.place, &question.record.id);
        let first = judged.references.first().filter(|text| !text.trim().is_empty());
        let first = first.ok_or_else(|| {
            anyhow::anyhow!("{place}: the record `{id}` has no right answer, which `perplexity` is over")
        })?;
        Ok(given(number, question, first, true))
    };
    questions.iter().enumerate().map(right).collect()
}

fn own_answers(questions: &[Question]) -> Vec<Given> {
    let of = |(number, question): (usize, &Question)| {
        let ended = |answer: &PredictedAnswer| {
            answer.rest.get("finish_reason").and_then(Value::as_str) == Some(Finish::Stop.as_str())
        };
        let answers = question.record.answers.iter();
        answers.map(|answer| given(number, question, &answer.content, ended(answer))).collect::<Vec<_>>()
    };
    questions.iter().enumerate().flat_map(of).collect()
}

/// The summed log-probability of each option, beside the options.
fn put_options(questions: &mut [Question], options: &[Given], log_probs: &[Vec<f64>]) {
    for (given, own) in options.iter().zip(log_probs) {
        let rest = &mut questions[given.question].record.rest;
        let scores = rest.entry("scores").or_insert_with(|| json!([]));
        if let Value::Array(scores) = scores {
            scores.push(json!(own.iter().sum::<f64>()));
        }
    }
}

/// What both models think of the answers' tokens.
fn put_divergence(questions: &mut [Question], answers: &[Given], own: Vec<Vec<f64>>, theirs: Vec<Vec<f64>>) {
    let mut number = (usize::MAX, 0);
    for ((given, own), theirs) in answers.iter().zip(own).zip(theirs) {
        number = if number.0 == given.question { (number.0, number.1 + 1) } else { (given.question, 0) };
        let answer = &mut questions[given.question].record.answers[number.1];
        answer.logprobs = Some(own);
        answer.rest.insert("reference_logprobs".into(), json!(theirs));
    }
}

/// The record with the right answer as its own.
fn right_record(question: &Question, given: &Given, log_probs: Vec<f64>) -> anyhow::Result<Record> {
    let answer = PredictedAnswer {
        id: "0".to_owned(),
        content: given.answer.clone(),
        logprobs: Some(log_probs),
        ..PredictedAnswer::default()
    };
    let record = Prediction { answers: vec![answer], ..question.record.clone() };
    Ok(Record::of(record, question.place.clone())?)
}
