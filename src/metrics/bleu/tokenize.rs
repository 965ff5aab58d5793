//! BLEU's tokenizers, as sacreBLEU has them.

use crate::metrics::words::words;
use regex::Regex;
use std::borrow::Cow;
use std::sync::LazyLock;

/// How BLEU parts a text into tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tokens {
    /// mteval-v13a, WMT's own and sacreBLEU's default: ASCII punctuation stands alone, but for points and commas in numbers.
    #[default]
    Mteval13a,
    /// mteval-v14's international one: punctuation and symbols of all of Unicode.
    International,
    /// Each character that is no white space.
    Characters,
    /// What white space parts.
    Spaces,
}

type Rules = LazyLock<Vec<(Regex, &'static str)>>;

static RULES_13A: Rules = rules(|| {
    compile(&[
        (r"([{-~\[-` -&(-+:-@/])", " $1 "),
        // A point or comma stands alone unless a digit is on both sides.
        (r"([^0-9])([.,])", "$1 $2 "),
        (r"([.,])([^0-9])", " $1 $2"),
        (r"([0-9])(-)", "$1 $2 "),
    ])
});

static RULES_INTERNATIONAL: Rules =
    rules(|| compile(&[(r"(\P{N})(\p{P})", "$1 $2 "), (r"(\p{P})(\P{N})", " $1 $2"), (r"(\p{S})", " $1 ")]));

const fn rules(make: fn() -> Vec<(Regex, &'static str)>) -> Rules {
    LazyLock::new(make)
}

fn compile(rules: &[(&str, &'static str)]) -> Vec<(Regex, &'static str)> {
    rules.iter().map(|(pattern, by)| (Regex::new(pattern).expect("the pattern is a constant"), *by)).collect()
}

impl Tokens {
    /// The tokens of `text`.
    pub fn of(self, text: &str) -> Vec<String> {
        let text = text.trim_end_matches(crate::metrics::words::is_space);
        let owned = |text: &str| words(text).map(str::to_owned).collect();
        match self {
            Self::Mteval13a => owned(&apply(&RULES_13A, Cow::Owned(format!(" {} ", plain(text))))),
            Self::International => owned(&apply(&RULES_INTERNATIONAL, Cow::Borrowed(text))),
            Self::Characters => words(text).flat_map(str::chars).map(String::from).collect(),
            Self::Spaces => owned(text),
        }
    }
}

/// Without what mteval takes for markup.
fn plain(text: &str) -> String {
    let text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
}

fn apply<'a>(rules: &[(Regex, &str)], text: Cow<'a, str>) -> Cow<'a, str> {
    rules.iter().fold(text, |text, (rule, by)| Cow::Owned(rule.replace_all(&text, *by).into_owned()))
}
