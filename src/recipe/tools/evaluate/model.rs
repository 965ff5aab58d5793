//! What a model says of questions: answers, and how likely it thinks given ones.

use super::super::Common;
use super::super::answering::{LocalEngine, LocalSettings};
use super::formats::Question;
use super::scoring::{Given, score};
use crate::engine::{Answer, Choice, Engine, Finish, ImageSource, Prompt, Request, Sampling};
use crate::pipelines::evaluation::Record;
use crate::pipelines::judging::{judged, options};
use crate::pipelines::{PredictedAnswer, Prediction};
use crate::text::ToolCall;
use crate::trainer::progress::Progress;
use serde_json::{Value, json};
use std::collections::BTreeMap;
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
    if !choice.tool_calls.is_empty() {
        let calls: Vec<Value> = choice.tool_calls.iter().map(ToolCall::to_json).collect();
        answer.rest.insert("tool_calls".into(), calls.into());
    }
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
            let finish = answer.rest.get("finish_reason").and_then(Value::as_str);
            [Finish::Stop, Finish::ToolCalls].iter().any(|end| Some(end.as_str()) == finish)
        };
        let answers = question.record.answers.iter();
        answers.map(|answer| given(number, question, &answer.said(), ended(answer))).collect::<Vec<_>>()
    };
    questions.iter().enumerate().flat_map(of).collect()
}

/// The summed log-probability of each option, beside the options, in place of what the data says of them.
fn put_options(questions: &mut [Question], options: &[Given], log_probs: &[Vec<f64>]) {
    let mut scores: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for (given, own) in options.iter().zip(log_probs) {
        scores.entry(given.question).or_default().push(own.iter().sum());
    }
    for (question, scores) in scores {
        questions[question].record.rest.insert("scores".into(), json!(scores));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Place;
    use crate::engine::Token;
    use crate::text::Conversation;

    fn question(record: Value) -> Question {
        Question {
            record: serde_json::from_value(record).unwrap(),
            place: Place::new(std::path::Path::new("q.jsonl"), 1),
            conversation: Conversation::new(Vec::new()),
            images: Vec::new(),
        }
    }

    #[test]
    fn the_scores_of_options_replace_those_of_the_data() {
        let of = |scores: Value| question(json!({"id": 1, "choices": ["a", "b"], "answer": 0, "scores": scores}));
        let mut questions = [of(json!([1, 2])), of(json!(null)), of(json!([7, 8]))];
        let options = options_of(&questions).unwrap();
        let log_probs: Vec<Vec<f64>> = (0..6).map(|i| vec![-0.5, -f64::from(i)]).collect();
        put_options(&mut questions, &options, &log_probs);
        for (i, question) in questions.iter().enumerate() {
            let first = -0.5 - 2.0 * i as f64;
            assert_eq!(question.record.rest["scores"], json!([first, first - 1.0]));
        }
    }

    #[test]
    fn calls_are_judged_as_the_model_wrote_them() {
        let token = Token { text: "x".to_owned(), bytes: None, logprob: Some(-0.5), top: Vec::new() };
        let choice = Choice {
            text: "I look. ".to_owned(),
            tokens: vec![token],
            score: None,
            tool_calls: vec![ToolCall::new("look", json!({"at": "it"}))],
            finish: Finish::ToolCalls,
        };
        let mut question = question(json!({"id": 1}));
        question.record.answers = vec![predicted((0, choice))];
        let said = "I look.\n<tool_call>{\"name\":\"look\",\"arguments\":{\"at\":\"it\"}}</tool_call>";
        let own = own_answers(std::slice::from_ref(&question)).remove(0);
        assert_eq!((own.answer.as_str(), own.with_end), (said, true));
        let judged = judged(&question.record, &question.place).unwrap();
        let calls = crate::text::parse_tool_calls(&judged.answers[0].text).unwrap();
        assert_eq!(calls, [ToolCall::new("look", json!({"at": "it"}))]);
    }
}
