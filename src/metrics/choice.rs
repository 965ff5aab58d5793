//! Multiple choice: by the letter that a text names, and by likelihood.

use super::{Asked, Better, Judged, Measured, MetricError, TextMetric};
use regex::Regex;
use std::sync::LazyLock;

/// How a letter is found in a free text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterRule {
    /// ScienceQA's, as LLaVA applies it: the answer is a letter from A to E alone, or begins with one, a point and a space, or has
    /// `The answer is X` followed by some character exactly once.
    ScienceQa,
    /// Whatever a person would take for the choice: a letter alone, also in brackets, bold or with a mark after it; one at the
    /// start with such a mark; the last one after `answer`, `option` or `choice` (`The correct answer is (B)`, `Answer: b`,
    /// `\boxed{C}`); else the only capital that stands in the text as a word, but for an `A` that is an article.
    Free,
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is a constant")
}

static STATED: LazyLock<Regex> = LazyLock::new(|| pattern(r"The answer is ([A-Z])."));
static ALONE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[\s(\[{*_`]*([A-Za-z])[\s)\]}*_`.:,]*$"));
static FIRST: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^\s*(?:[(\[]([A-Za-z])[)\]]|\*{1,2}\(?([A-Za-z])[).:]*\*{1,2}|([A-Za-z])[).:](?:\s|$))")
});
static NAMED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i:\b(?:answer|option|choice)(?:\s+is|\s*:|\s*=)?[\s:]*)[*_`(\[]*(?:\\boxed\{)?([A-Z])(?:[^\p{L}\p{N}'’]|$)",
        r"|(?i:\b(?:answer|option|choice)\s*(?::|=|\bis\b)\s*)[*_`(\[]*([a-z])(?:[)\].*_`]|\s*$)",
        r"|\\boxed\{\s*(?:\\text\{)?\s*([A-Za-z])\s*\}",
    ))
});
static ARTICLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"\bA\s+\p{Ll}"));

/// The number of the option, from 0, that a text names among `options` of them; `None` where it names none of them.
///
/// # Source
/// [`LetterRule::ScienceQa`]: Lu et al. 2022 and LLaVA's `eval_science_qa`. [`LetterRule::Free`] is this library's own.
pub fn letter(rule: LetterRule, text: &str, options: usize) -> Option<usize> {
    let (found, options) = match rule {
        // It knows no letters after E.
        LetterRule::ScienceQa => (science_qa(text)?, options.min(5)),
        LetterRule::Free => (free(text, options)?, options),
    };
    let place = usize::from(found.to_ascii_uppercase() as u8 - b'A');
    (place < options).then_some(place)
}

fn science_qa(text: &str) -> Option<char> {
    let mut characters = text.chars();
    let first = characters.next().filter(|c| ('A'..='E').contains(c));
    let rest = characters.as_str();
    if first.is_some() && (rest.is_empty() || rest.starts_with(". ")) {
        return first;
    }
    let mut stated = STATED.captures_iter(text);
    match (stated.next(), stated.next()) {
        (Some(only), None) => only[1].chars().next(),
        _ => None,
    }
}

fn free(text: &str, options: usize) -> Option<char> {
    let offered = |c: &char| usize::from(c.to_ascii_uppercase() as u8 - b'A') < options;
    let of = |found: regex::Captures<'_>| {
        found.iter().skip(1).flatten().find_map(|group| group.as_str().chars().next()).filter(offered)
    };
    let named = || NAMED.captures_iter(text).filter_map(of).last();
    let lone = || {
        let mut all = lone_capitals(&ARTICLE.replace_all(text, "a ")).into_iter().filter(offered);
        let first = all.next()?;
        all.all(|other| other == first).then_some(first)
    };
    ALONE.captures(text).and_then(of).or_else(|| FIRST.captures(text).and_then(of)).or_else(named).or_else(lone)
}

/// The capitals that stand as words of their own.
fn lone_capitals(text: &str) -> Vec<char> {
    let in_word = |c: &char| c.is_alphanumeric() || matches!(c, '\'' | '’');
    let mut found = Vec::new();
    let mut before = None;
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        if c.is_ascii_uppercase() && !before.as_ref().is_some_and(in_word) && !characters.peek().is_some_and(in_word) {
            found.push(c);
        }
        before = Some(c);
    }
    found
}

/// The number of the candidate with the highest score, the first of equals; `None` of none. With `lengths`, each score is first
/// divided by its candidate's length.
///
/// # Source
/// lm-evaluation-harness: `acc`, and with the lengths of the choices in characters `acc_norm`.
pub fn most_likely(scores: &[f64], lengths: Option<&[usize]>) -> Option<usize> {
    let score = |i: usize| match lengths {
        // An empty choice has no length to share its score over.
        Some(lengths) => scores[i] / lengths.get(i).copied().unwrap_or(1).max(1) as f64,
        None => scores[i],
    };
    (0..scores.len()).fold(None, |best, i| match best {
        Some(b) if score(b) >= score(i) || score(i).is_nan() => best,
        _ => Some(i),
    })
}

/// Which candidate counts as chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChoiceRule {
    /// The one whose letter an answer names.
    Letter(LetterRule),
    /// The one with the highest score: lm-evaluation-harness' `acc`.
    Likelihood,
    /// The one with the highest score per character: its `acc_norm`.
    LikelihoodPerCharacter,
}

/// Share of the multiple-choice questions that are answered right, as a metric.
///
/// By letter, the options are the record's candidates (26 where none has a text, as those that rewards make), and right is the first
/// of them with a relevance above 0, or else the letter that the label names. By likelihood, the chosen candidate is right where its relevance is above 0.
#[derive(Clone, Debug)]
pub struct Choice {
    name: String,
    rule: ChoiceRule,
}

impl Choice {
    /// The metric `name`.
    pub fn new(name: impl Into<String>, rule: ChoiceRule) -> Self {
        Self { name: name.into(), rule }
    }
}

/// Options of a question that lists none.
const LETTERS: usize = 26;

fn by_letter(asked: &Asked<'_>, rule: LetterRule) -> Result<f64, MetricError> {
    let has_texts = asked.sample.candidates.iter().any(|candidate| !candidate.text.is_empty());
    let candidates = if has_texts { asked.sample.candidates.as_slice() } else { &[] };
    let options = if candidates.is_empty() { LETTERS } else { candidates.len().min(LETTERS) };
    let labelled = || asked.label().ok().and_then(|label| letter(LetterRule::Free, label, options));
    let right = candidates.iter().position(|candidate| candidate.relevance > 0.0).or_else(labelled);
    let right = right.ok_or_else(|| asked.missing("label that is one of its options' letters"))?;
    let answers = asked.answers()?;
    let hits = answers.iter().filter(|answer| letter(rule, &answer.text, options) == Some(right)).count();
    Ok(hits as f64 / answers.len() as f64)
}

impl TextMetric for Choice {
    fn name(&self) -> &str {
        &self.name
    }

    fn better(&self) -> Better {
        Better::Higher
    }

    fn measure(&self, sample: &Judged) -> Result<Measured, MetricError> {
        let asked = Asked { metric: &self.name, sample };
        let right = |chosen: Option<usize>| match sample.candidates.iter().any(|one| one.relevance > 0.0) {
            true => Ok(f64::from(chosen.is_some_and(|at| sample.candidates[at].relevance > 0.0))),
            false => Err(asked.missing("candidate with a relevance above 0, which is the right one")),
        };
        let value = match self.rule {
            ChoiceRule::Letter(rule) => by_letter(&asked, rule)?,
            ChoiceRule::Likelihood => right(most_likely(&asked.scores()?, None))?,
            ChoiceRule::LikelihoodPerCharacter => {
                let lengths: Vec<usize> = sample.candidates.iter().map(|one| one.text.chars().count()).collect();
                right(most_likely(&asked.scores()?, Some(&lengths)))?
            }
        };
        Ok(Measured::mean(value))
    }
}
