//! Special tokens that a tokenizer lacks, and the embeddings that new ones begin with.

use super::{TextError, Tokenizer};

/// A special token with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpecialRole {
    /// Begin of sequence.
    Bos,
    /// End of sequence.
    Eos,
    /// Padding.
    Pad,
    /// Unknown.
    Unk,
    /// Separator.
    Sep,
}

impl SpecialRole {
    /// The name in a tokenizer's configuration.
    pub fn key(self) -> &'static str {
        match self {
            Self::Bos => "bos_token",
            Self::Eos => "eos_token",
            Self::Pad => "pad_token",
            Self::Unk => "unk_token",
            Self::Sep => "sep_token",
        }
    }
}

/// Special tokens that a tokenizer should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedTokens {
    /// Tokens for roles; each is taken where the tokenizer has none in that role.
    pub roles: Vec<(SpecialRole, String)>,
    /// Tokens without a role.
    pub additional: Vec<String>,
    /// For some of them, the text whose tokens' embeddings are averaged for theirs.
    pub origins: Vec<(String, String)>,
}

/// What [`Tokenizer::add_wanted`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddedTokens {
    /// The tokens that the vocabulary lacked, by id.
    pub new: Vec<NewToken>,
    /// What was asked for and not needed, a sentence each.
    pub notes: Vec<String>,
}

/// A token that is new to the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// Its text.
    pub text: String,
    /// Its id: the row of the input and the output embeddings.
    pub id: u32,
    /// The rows whose mean its own begins with, in both tables; empty for the mean of all rows that the table had.
    pub from: Vec<u32>,
}

impl Tokenizer {
    /// Adds special tokens and gives them their roles. A role that the tokenizer has stays as it is. A token that is in the
    /// vocabulary already becomes special and keeps its id and its embedding.
    ///
    /// # Errors
    /// [`TextError::Special`] for an empty token, or an origin that is empty or of a token that nobody knows;
    /// [`TextError::Tokenize`] where the tokenizer refuses one. The tokenizer is then as it was.
    pub fn add_wanted(&mut self, wanted: &WantedTokens) -> Result<AddedTokens, TextError> {
        // Rows are averaged over tokens that the model has learned: the texts are read as the old vocabulary does.
        let before = self.clone();
        let mut after = self.clone();
        let mut added = AddedTokens::default();
        let texts = wanted.roles.iter().map(|(_, token)| token).chain(&wanted.additional);
        if texts.clone().any(|text| text.trim().is_empty()) {
            return Err(special("a special token is empty; write its text, or leave it out".to_owned()));
        }
        for (role, token) in &wanted.roles {
            match after.role(*role).and_then(|id| after.token(id)) {
                Some(own) if own == *token => {}
                Some(own) => {
                    added
                        .notes
                        .push(format!("the tokenizer's own {} {own:?} stays, {token:?} is not needed", role.key()));
                }
                None => {
                    after.set_role(*role, token)?;
                }
            }
        }
        after.add_additional(&wanted.additional)?;
        for text in texts {
            let known = before.token_id(text).is_some() || added.new.iter().any(|new| new.text == *text);
            if let (false, Some(id)) = (known, after.token_id(text)) {
                added.new.push(NewToken { text: text.clone(), id, from: before.origin(wanted, text)? });
            }
        }
        added.new.sort_by_key(|new| new.id);
        for (token, _) in &wanted.origins {
            match (added.new.iter().any(|new| new.text == *token), after.token_id(token)) {
                (true, _) => {}
                (false, Some(_)) => added.notes.push(format!("{token:?} is not new: its embedding stays as it is")),
                (false, None) => {
                    return Err(special(format!(
                        "an embedding is given to {token:?}, which is no token; add it as one"
                    )));
                }
            }
        }
        *self = after;
        Ok(added)
    }

    /// The rows that a new token's embedding is the mean of.
    fn origin(&self, wanted: &WantedTokens, token: &str) -> Result<Vec<u32>, TextError> {
        let Some((_, text)) = wanted.origins.iter().find(|(new, _)| new == token) else { return Ok(Vec::new()) };
        let ids: Vec<u32> = self.encode(text)?.iter().map(|token| token.id).collect();
        if ids.is_empty() {
            return Err(special(format!("the embedding of {token:?} comes from {text:?}, which has no token")));
        }
        Ok(ids)
    }
}

fn special(reason: String) -> TextError {
    TextError::Special { reason }
}
