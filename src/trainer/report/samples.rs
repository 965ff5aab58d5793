//! The records that a report shows, with what the model made of them.

use super::escape;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write;

/// One record with what the model answered before and after training.
#[derive(Clone, Debug, Default)]
pub struct SamplePicture {
    /// Media type and bytes of each picture, e.g. `("image/png", …)`.
    pub images: Vec<(String, Vec<u8>)>,
    /// The question.
    pub question: String,
    /// The answer of the data set.
    pub expected: String,
    /// The model's answers before training, where it was asked.
    pub before: Vec<AnswerPicture>,
    /// Its answers after training.
    pub after: Vec<AnswerPicture>,
    /// What the model says of the record's rows, where it judges instead of answering.
    pub judged: Vec<JudgedRow>,
    /// The record's label and what was predicted, where it has one.
    pub class: Option<ClassPicture>,
    /// What the evaluations of the run have of it, in order.
    pub moments: Vec<Moment>,
}

/// Something that a model said.
#[derive(Clone, Debug, Default)]
pub struct AnswerPicture {
    /// Its words.
    pub text: String,
    /// Whether it counts as right, where that can be told.
    pub right: Option<bool>,
}

/// A label and what a model makes of its record before and after training.
#[derive(Clone, Debug)]
pub struct ClassPicture {
    /// The label.
    pub label: String,
    /// The label predicted before training.
    pub before: Option<AnswerPicture>,
    /// And after.
    pub after: Option<AnswerPicture>,
    /// What the prediction is made of.
    pub shares: Shares,
}

/// Numbers for each class or output, before and after training.
#[derive(Clone, Debug)]
pub enum Shares {
    /// From 0 to 1.
    Probabilities(Vec<f64>, Vec<f64>),
    /// As the head yields them.
    Scores(Vec<f64>, Vec<f64>),
}

/// What a model answered at one evaluation.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Optimizer steps done.
    pub step: usize,
    /// Its answers.
    pub texts: Vec<String>,
    /// Metrics of this record.
    pub values: Vec<(String, f64)>,
}

/// One row of a record with what the model said of it before and after training.
#[derive(Clone, Debug, Default)]
pub struct JudgedRow {
    /// What it is: `chosen`, `rejected`, …
    pub name: String,
    /// Its words.
    pub text: String,
    /// Log-probability or scores before training.
    pub before: Vec<f64>,
    /// And after.
    pub after: Vec<f64>,
}

/// The section of the page.
pub(super) fn section(samples: &[SamplePicture], html: &mut String) {
    if samples.is_empty() {
        return;
    }
    html.push_str("<section>\n<h2>Samples, before and after</h2>\n<div class=\"samples\">\n");
    for sample in samples {
        html.push_str("<article class=\"sample\">");
        if !sample.images.is_empty() {
            html.push_str("<div class=\"images\">");
            for (i, (mime, bytes)) in sample.images.iter().enumerate() {
                let (mime, data) = (escape(mime), STANDARD.encode(bytes));
                let _ = write!(html, "<img alt=\"picture {}\" src=\"data:{mime};base64,{data}\">", i + 1);
            }
            html.push_str("</div>");
        }
        let _ = write!(html, "<div class=\"text\"><p class=\"question\">{}</p><dl>", escape(&sample.question));
        if !sample.expected.is_empty() {
            let _ = write!(html, "<dt>expected</dt><dd>{}</dd>", escape(&sample.expected));
        }
        sample.judged.iter().for_each(|row| judged(row, html));
        sample.class.iter().for_each(|found| class(found, html));
        answers("before", &sample.before, html);
        answers("after", &sample.after, html);
        let values = sample.moments.last().map_or(&[][..], |moment| &moment.values);
        if !values.is_empty() {
            let _ = write!(html, "<dt>metrics</dt><dd class=\"values\">{}</dd>", metrics(values));
        }
        html.push_str("</dl>");
        moments(&sample.moments, html);
        html.push_str("</div></article>\n");
    }
    html.push_str("</div>\n</section>\n");
}

fn judged(row: &JudgedRow, html: &mut String) {
    let values = |values: &[f64]| {
        // Of several scores, the highest stands out: it is what the model decides for.
        let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mark = |value: &f64| match values.len() > 1 && *value == highest {
            true => format!("<b>{value:.2}</b>"),
            false => format!("{value:.2}"),
        };
        values.iter().map(mark).collect::<Vec<_>>().join(", ")
    };
    let (name, text) = (escape(&row.name), escape(&row.text));
    let _ = write!(html, "<dt>{name}</dt><dd>{text}");
    if !row.before.is_empty() || !row.after.is_empty() {
        let (before, after) = (values(&row.before), values(&row.after));
        let _ = write!(html, " <span class=\"judged\">{before} → {after}</span>");
    }
    html.push_str("</dd>");
}

/// Name and number of each, kept together where lines break.
fn metrics(values: &[(String, f64)]) -> String {
    let one = |(name, value): &(String, f64)| {
        let digits = if value.fract() == 0.0 { 0 } else { 3 };
        format!("<span>{} <b>{value:.digits$}</b></span>", escape(&name.replace('_', " ")))
    };
    values.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn class(found: &ClassPicture, html: &mut String) {
    let _ = write!(html, "<dt>label</dt><dd>{}</dd>", escape(&found.label));
    for (name, predicted) in [("predicted before", &found.before), ("predicted after", &found.after)] {
        answers(name, predicted.as_slice(), html);
    }
    let (name, before, after) = match &found.shares {
        Shares::Probabilities(before, after) => ("probabilities", before, after),
        Shares::Scores(before, after) => ("scores", before, after),
    };
    if before.is_empty() && after.is_empty() {
        return;
    }
    let _ = write!(html, "<dt>{name}</dt><dd><table class=\"shares\"><tbody>");
    for output in 0..before.len().max(after.len()) {
        let cell = |values: &[f64]| values.get(output).map_or("–".to_owned(), |value| format!("{value:.3}"));
        let _ = write!(
            html,
            "<tr><td>{output}</td><td class=\"number\">{} → <b>{}</b></td></tr>",
            cell(before),
            cell(after)
        );
    }
    html.push_str("</tbody></table></dd>");
}

/// The answers of all evaluations, folded away: most readers want the first and the last.
fn moments(moments: &[Moment], html: &mut String) {
    if moments.len() < 2 {
        return;
    }
    let _ = write!(html, "<details><summary>{} evaluations</summary><ol class=\"moments\">", moments.len());
    for Moment { step, texts, values } in moments {
        let _ = write!(html, "<li><span class=\"step\">step {step}</span>");
        for text in texts {
            let _ = write!(html, "<div class=\"said\">{}</div>", words(text));
        }
        if !values.is_empty() {
            let _ = write!(html, "<div class=\"values\">{}</div>", metrics(values));
        }
        html.push_str("</li>");
    }
    html.push_str("</ol></details>");
}

fn answers(name: &str, said: &[AnswerPicture], html: &mut String) {
    if said.is_empty() {
        return;
    }
    let _ = write!(html, "<dt>{name}</dt><dd>");
    for AnswerPicture { text, right } in said {
        let class = match right {
            Some(true) => "answer right",
            Some(false) => "answer wrong",
            None => "answer",
        };
        let _ = write!(html, "<div><span class=\"{class}\">{}</span></div>", words(text));
    }
    html.push_str("</dd>");
}

fn words(text: &str) -> String {
    if text.trim().is_empty() { "<span class=\"empty\">nothing</span>".to_owned() } else { escape(text.trim()) }
}
