//! Metrics by name, for the command line.

use super::bleu::{Bleu, BleuMetric, Tokens};
use super::chrf::{Chrf, ChrfMetric};
use super::classes::{Average, ClassFigure, ClassMetric};
use super::distinct::{Distinct, Scope, SelfBleu, entropy};
use super::exact_match::{Normalise, exact_match, word_overlap};
use super::likelihood::{Likelihood, LikelihoodFigure};
use super::pope::{Pope, PopeFigure};
use super::retrieval::{Retrieval, RetrievalFigure};
use super::rouge::{Rouge, rouge};
use super::tools::{ToolCalls, ToolCheck};
use super::words::words;
use super::{Better, Choice, ChoiceRule, LetterRule, Meteor, MetricError, PerAnswer, TextMetric, anls, vqa_accuracy};
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;

/// What a metric may depend on beside the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Tokens in the model's vocabulary, which `ead_*` compares with.
    pub vocabulary: Option<NonZeroUsize>,
}

/// A metric in a box.
pub type AnyMetric = Box<dyn TextMetric>;

type Make = Box<dyn Fn(&Facts) -> Result<AnyMetric, MetricError> + Send + Sync>;

struct Entry {
    help: &'static str,
    make: Make,
}

/// The metrics that have a name.
pub struct Registry {
    entries: BTreeMap<String, Entry>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}

impl Default for Registry {
    /// Every metric of this module.
    fn default() -> Self {
        let mut registry = Self { entries: BTreeMap::new() };
        registry.references();
        registry.classes();
        registry.variety();
        registry.likelihood();
        registry.vision();
        registry.choices();
        registry.tools();
        registry
    }
}

impl Registry {
    /// Adds a metric, or replaces the one of that name. `help` is one line about it.
    pub fn add<F>(&mut self, name: impl Into<String>, help: &'static str, make: F)
    where
        F: Fn(&Facts) -> Result<AnyMetric, MetricError> + Send + Sync + 'static,
    {
        self.entries.insert(name.into(), Entry { help, make: Box::new(make) });
    }

    /// The metric of this name.
    ///
    /// # Errors
    /// [`MetricError::Unknown`] with the nearest name, [`MetricError::Setting`] where `facts` lack what it needs.
    pub fn by_name(&self, name: &str, facts: &Facts) -> Result<AnyMetric, MetricError> {
        let entry = self.entries.get(name);
        let entry = entry.ok_or_else(|| MetricError::Unknown { name: name.to_owned(), hint: self.hint(name) })?;
        (entry.make)(facts)
    }

    /// The names in alphabetical order, each with a line about it.
    pub fn names(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry.help))
    }

    /// The nearest name, where one is near enough to be what was meant.
    fn hint(&self, name: &str) -> String {
        // Below this similarity a suggestion is more often wrong than right.
        const CLOSE: f64 = 0.7;
        let near = self.entries.keys().map(|known| (strsim::jaro_winkler(name, known), known));
        let best = near.filter(|(similarity, _)| *similarity >= CLOSE).max_by(|a, b| a.0.total_cmp(&b.0));
        best.map(|(_, known)| format!(" (did you mean `{known}`?)")).unwrap_or_default()
    }

    /// Adds a metric that needs no facts.
    fn plain<M: TextMetric + 'static>(&mut self, name: &str, help: &'static str, make: fn(String) -> M) {
        let own = name.to_owned();
        self.add(name, help, move |_| Ok(Box::new(make(own.clone()))));
    }

    fn references(&mut self) {
        self.plain("exact_match", "share of answers equal to a reference, white space around them aside", |name| {
            PerAnswer::new(name, Better::Higher, |asked, answer| {
                Ok(f64::from(exact_match(Normalise::Trim, &answer.text, asked.references()?)))
            })
        });
        self.plain("exact_match_squad", "the same without case, punctuation and articles, as SQuAD", |name| {
            PerAnswer::new(name, Better::Higher, |asked, answer| {
                Ok(f64::from(exact_match(Normalise::Squad, &answer.text, asked.references()?)))
            })
        });
        self.plain("f1_squad", "F-score of words, as SQuAD", |name| {
            PerAnswer::new(name, Better::Higher, |asked, answer| Ok(word_overlap(&answer.text, asked.references()?).f1))
        });
        self.plain("bleu", "BLEU-4 (sacreBLEU, 13a), 0 to 100", |name| BleuMetric::new(name, Bleu::default()));
        let bleu = |tokens| Bleu { tokens, ..Bleu::default() };
        for (name, tokens) in
            [("bleu_intl", Tokens::International), ("bleu_char", Tokens::Characters), ("bleu_none", Tokens::Spaces)]
        {
            self.add(name, "BLEU-4 with another tokenizer", move |_| Ok(Box::new(BleuMetric::new(name, bleu(tokens)))));
        }
        self.plain("chrf", "chrF2 (sacreBLEU), 0 to 100", |name| ChrfMetric::new(name, Chrf::default()));
        self.plain("chrf_pp", "chrF2++, with words", |name| ChrfMetric::new(name, Chrf::plus_plus()));
        for (name, kind) in
            [("rouge_1", Rouge::N(1)), ("rouge_2", Rouge::N(2)), ("rouge_l", Rouge::L), ("rouge_lsum", Rouge::Lsum)]
        {
            self.rouge(name.to_owned(), kind, false);
            self.rouge(format!("{name}_stemmed"), kind, true);
        }
        self.plain("meteor_stem", "METEOR over equal words and stems, without WordNet's synonyms, 0 to 1", |name| {
            PerAnswer::new(name, Better::Higher, |asked, answer| {
                Ok(Meteor::default().score(&answer.text, asked.references()?))
            })
        });
        self.plain("anls", "normalised Levenshtein similarity (DocVQA), 0 to 1", |name| {
            PerAnswer::new(name, Better::Higher, |asked, answer| Ok(anls(&answer.text, asked.references()?)))
        });
    }

    fn rouge(&mut self, name: String, kind: Rouge, stemmed: bool) {
        let help = if stemmed { "the same over Porter stems" } else { "F-score of ROUGE (rouge-score), 0 to 1" };
        self.add(name.clone(), help, move |_| {
            Ok(Box::new(PerAnswer::new(name.clone(), Better::Higher, move |asked, answer| {
                Ok(rouge(kind, stemmed, &answer.text, asked.references()?).f1)
            })))
        });
    }

    fn classes(&mut self) {
        let averages = [("macro", Average::Macro), ("micro", Average::Micro), ("weighted", Average::Weighted)];
        self.plain("accuracy", "share of answers equal to the label", |name| {
            ClassMetric::new(name, ClassFigure::Accuracy)
        });
        for (suffix, average) in averages {
            for (prefix, figure) in [
                ("precision", ClassFigure::Precision(average)),
                ("recall", ClassFigure::Recall(average)),
                ("f1", ClassFigure::F1(average)),
            ] {
                let name = format!("{prefix}_{suffix}");
                let own = name.clone();
                self.add(name, "of answers as classes (scikit-learn)", move |_| {
                    Ok(Box::new(ClassMetric::new(own.clone(), figure)))
                });
            }
        }
    }

    fn variety(&mut self) {
        for n in 1..=4 {
            for (prefix, scope) in [("", Scope::Record), ("corpus_", Scope::Corpus)] {
                let name = format!("{prefix}distinct_{n}");
                let instead = name.clone();
                let own = name.clone();
                self.add(name, "share of n-grams of words that are different", move |_| {
                    Ok(Box::new(Distinct::new(own.clone(), n, None, scope)))
                });
                let name = format!("{prefix}ead_{n}");
                let own = name.clone();
                self.add(
                    name,
                    "the same, adjusted for length by the vocabulary's size (Liu et al. 2022)",
                    move |facts| {
                        let what = "the size of the vocabulary";
                        let missing = || MetricError::Setting { metric: own.clone(), what, instead: instead.clone() };
                        let vocabulary = facts.vocabulary.ok_or_else(missing)?;
                        Ok(Box::new(Distinct::new(own.clone(), n, Some(vocabulary), scope)))
                    },
                );
            }
            let name = format!("entropy_{n}");
            let own = name.clone();
            self.add(name, "entropy of an answer's n-grams of words, in nats", move |_| {
                Ok(Box::new(PerAnswer::new(own.clone(), Better::Higher, move |_, answer| {
                    Ok(entropy(&words(&answer.text).collect::<Vec<_>>(), n, None))
                })))
            });
        }
        self.plain("self_bleu", "BLEU-4 of each answer to a record against its others, 0 to 100", |name| {
            SelfBleu::new(name, Bleu::sentence())
        });
    }

    fn likelihood(&mut self) {
        self.plain("length_chars", "characters of an answer", |name| {
            PerAnswer::new(name, Better::Neither, |_, answer| Ok(answer.text.chars().count() as f64))
        });
        self.plain("length_words", "words of an answer", |name| {
            PerAnswer::new(name, Better::Neither, |_, answer| Ok(words(&answer.text).count() as f64))
        });
        self.plain("length_tokens", "tokens of an answer, by its log-probabilities", |name| {
            PerAnswer::new(name, Better::Neither, |asked, answer| {
                let tokens = answer.log_probs.as_ref().map(|all| all.len() as f64);
                tokens.ok_or_else(|| asked.missing("log-probability of the answer's tokens"))
            })
        });
        self.plain("perplexity", "exp of the mean negative log-probability of all tokens", |name| {
            Likelihood::new(name, LikelihoodFigure::Perplexity)
        });
        self.plain("kl", "mean log-ratio to the reference model per token, in nats", |name| {
            Likelihood::new(name, LikelihoodFigure::Kl)
        });
        self.plain("kl_answer", "mean over answers of the summed log-ratio to the reference model, in nats", |name| {
            Likelihood::new(name, LikelihoodFigure::KlPerAnswer)
        });
    }

    fn vision(&mut self) {
        self.plain("vqa_accuracy", "agreement with ten people's answers (VQA v2)", |name| {
            PerAnswer::new(name, Better::Higher, |asked, answer| Ok(vqa_accuracy(&answer.text, asked.references()?)))
        });
        for (name, figure) in [
            ("pope_accuracy", PopeFigure::Accuracy),
            ("pope_precision", PopeFigure::Precision),
            ("pope_recall", PopeFigure::Recall),
            ("pope_f1", PopeFigure::F1),
            ("pope_yes_rate", PopeFigure::YesRate),
        ] {
            self.add(name, "answers yes or no about objects (POPE)", move |_| Ok(Box::new(Pope::new(name, figure))));
        }
    }

    fn choices(&mut self) {
        for (name, rule, help) in [
            ("science_qa", ChoiceRule::Letter(LetterRule::ScienceQa), "share of right letters, by ScienceQA's rule"),
            ("choice_letter", ChoiceRule::Letter(LetterRule::Free), "share of right letters, found in free text"),
            ("choice_likelihood", ChoiceRule::Likelihood, "share of right options by likelihood (lm-eval's acc)"),
            (
                "choice_likelihood_norm",
                ChoiceRule::LikelihoodPerCharacter,
                "the same per character (lm-eval's acc_norm)",
            ),
        ] {
            self.add(name, help, move |_| Ok(Box::new(Choice::new(name, rule))));
        }
        let mut figures = vec![
            ("mrr".to_owned(), RetrievalFigure::ReciprocalRank, "mean reciprocal rank of the first relevant candidate"),
            ("ndcg".to_owned(), RetrievalFigure::Ndcg(None), "normalised discounted gain of the ranking"),
            ("retrieval_utility".to_owned(), RetrievalFigure::Utility, "mean gain of documents in log-probability"),
        ];
        for k in [1, 3, 5, 10, 20, 50, 100] {
            figures.push((
                format!("recall_at_{k}"),
                RetrievalFigure::RecallAt(k),
                "share of the relevant among the best",
            ));
            figures.push((
                format!("ndcg_at_{k}"),
                RetrievalFigure::Ndcg(Some(k)),
                "normalised discounted gain of the best",
            ));
        }
        for (name, figure, help) in figures {
            self.add(name.clone(), help, move |_| Ok(Box::new(Retrieval::new(name.clone(), figure))));
        }
    }

    fn tools(&mut self) {
        for (name, check, help) in [
            ("tool_call_json", ToolCheck::Readable, "share of answers whose tool calls can be read"),
            ("tool_call_name", ToolCheck::KnownName, "and call known functions only"),
            ("tool_call_arguments", ToolCheck::Arguments, "and satisfy their JSON schemas"),
            ("tool_call_match", ToolCheck::Matches, "share of answers that make a reference's calls"),
        ] {
            self.add(name, help, move |_| Ok(Box::new(ToolCalls::new(name, check))));
        }
    }
}

/// The metric of this name, of those that this module has.
///
/// ```
/// use firebrick::metrics::{Facts, Judged, by_name, evaluate};
///
/// let metric = by_name("rouge_l", &Facts::default())?;
/// let samples = [Judged::new("1", "the cat sat", &["the cat sat down"])];
/// assert!((evaluate(&*metric, &samples)?.corpus - 6.0 / 7.0).abs() < 1e-12);
///
/// let error = by_name("rougeL", &Facts::default()).err().map(|error| error.to_string());
/// assert_eq!(error.as_deref(), Some("there is no metric `rougeL` (did you mean `rouge_l`?); `names()` lists them"));
/// # Ok::<(), firebrick::metrics::MetricError>(())
/// ```
///
/// # Errors
/// See [`Registry::by_name`].
pub fn by_name(name: &str, facts: &Facts) -> Result<AnyMetric, MetricError> {
    Registry::default().by_name(name, facts)
}
