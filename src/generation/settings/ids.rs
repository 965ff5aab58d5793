//! Token ids as settings: lists of texts are what a settings file and a command line hold.

use serde::{Deserialize, Serialize};

/// Ids of tokens, written with spaces between: `12 7`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenIds(pub Vec<u32>);

impl TokenIds {
    /// The ids of several, one after another.
    pub fn all(lists: &[Self]) -> Vec<u32> {
        lists.iter().flat_map(|list| list.0.iter().copied()).collect()
    }
}

impl TryFrom<String> for TokenIds {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let ids: Option<Vec<u32>> = text.split_whitespace().map(|id| id.parse().ok()).collect();
        match ids {
            Some(ids) if !ids.is_empty() => Ok(Self(ids)),
            _ => Err(format!("\"{text}\" are no token ids; write whole numbers with spaces between, as in \"12 7\"")),
        }
    }
}

impl From<TokenIds> for String {
    fn from(ids: TokenIds) -> Self {
        let texts: Vec<String> = ids.0.iter().map(u32::to_string).collect();
        texts.join(" ")
    }
}

/// Ids of tokens and a number that is added to the last one's logit: `12 7=-2.5`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BiasedIds {
    /// The sequence.
    pub ids: TokenIds,
    /// What is added.
    pub bias: f32,
}

impl TryFrom<String> for BiasedIds {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no bias; write token ids and a finite number, as in \"12 7=-2.5\"");
        let (ids, bias) = text.split_once('=').ok_or_else(wrong)?;
        let bias: f32 = bias.trim().parse().ok().filter(|bias: &f32| bias.is_finite()).ok_or_else(wrong)?;
        Ok(Self { ids: TokenIds::try_from(ids.to_owned())?, bias })
    }
}

impl From<BiasedIds> for String {
    fn from(biased: BiasedIds) -> Self {
        format!("{}={}", Self::from(biased.ids), biased.bias)
    }
}
