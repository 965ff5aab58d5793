//! Messages with a role and content, as turbo-alignment and Hugging Face write them.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::row::{self, Row};
use super::{DataError, Place, RecordError, turns};
use crate::text::{Message, Part, Role};

pub use super::tools::tools;
pub(super) use super::tools::written_calls;

const CHAT_ROLES: &str = "\"user\", \"bot\" or \"assistant\", \"system\" and \"tool\"";
const ROLES: &str = "\"user\", \"assistant\", \"system\" or \"developer\", and \"tool\"";

/// Reads the messages of one record and gathers the images they show.
#[derive(Clone, Debug)]
pub struct Messages<'place> {
    place: &'place Place,
    form: Form,
    /// The images that the row names beside its messages.
    beside: Vec<PathBuf>,
    /// The places for images so far, with their files where the messages name them.
    places: Vec<Option<PathBuf>>,
}

/// Whose form the messages have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// turbo-alignment's.
    Chat,
    /// Hugging Face's, with images.
    HuggingFace,
    /// Hugging Face's, of text alone.
    Text,
}

impl<'place> Messages<'place> {
    /// turbo-alignment's messages: `{"role": "user" | "bot" | …, "content": "…", "type"?: "text" | "image",
    /// "disable_loss"?}`.
    ///
    /// The content of an image message is a file's path. Such a message is one turn with its neighbour of the same role,
    /// since an image belongs to the words beside it.
    pub fn chat(place: &'place Place) -> Self {
        Self { place, form: Form::Chat, beside: Vec::new(), places: Vec::new() }
    }

    /// Hugging Face's messages: `{"role", "content": "…" | [{"type": "text", "text"}, {"type": "image"}, …],
    /// "reasoning_content"?, "tool_calls"?, "tool_call_id"?, "name"?, "disable_loss"?}`, with the images of the row's
    /// `images` (or `image`).
    ///
    /// An image part may name its file (`path`, `image`, `url` or `image_url`); without, it stands for the next one of the
    /// row's images, as `<image>` in the words of a user's message does where the row has images.
    ///
    /// # Errors
    /// Those of [`row::images`].
    pub fn hugging_face(row: &Row, place: &'place Place) -> Result<Self, DataError> {
        let mut beside = row::images(row, "images", place)?;
        if beside.is_empty() {
            beside = row::images(row, "image", place)?;
        }
        Ok(Self { place, form: Form::HuggingFace, beside, places: Vec::new() })
    }

    /// As [`hugging_face`](Self::hugging_face), of text alone: `<image>` is a word.
    ///
    /// # Errors
    /// [`RecordError::TextOnly`] where the row has images.
    pub fn text(row: &Row, place: &'place Place) -> Result<Self, DataError> {
        let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
        let images = ["images", "image"].into_iter().find(|key| row::given(row, key).is_some_and(|v| !is_empty(v)));
        match images {
            Some(field) => Err(text_only(field.to_owned(), place)),
            None => Ok(Self { place, form: Form::Text, beside: Vec::new(), places: Vec::new() }),
        }
    }

    /// The messages of the list `row[key]`.
    ///
    /// # Errors
    /// [`DataError::MissingField`], [`DataError::WrongType`], [`DataError::UnknownRole`], and a [`RecordError`] for media
    /// that are not read.
    pub fn list(&mut self, row: &Row, key: &str) -> Result<Vec<Message>, DataError> {
        let mut messages: Vec<Message> = Vec::new();
        for (i, object) in row::objects(row, key, self.place)?.into_iter().enumerate() {
            let message = self.message(object, i, &format!("{key}[{i}]"))?;
            match messages.last_mut() {
                Some(last) if self.form == Form::Chat && belong_together(last, &message) => {
                    last.content.extend(message.content);
                }
                _ => messages.push(message),
            }
        }
        Ok(messages)
    }

    /// The message `row[key]`.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn one(&mut self, row: &Row, key: &str) -> Result<Message, DataError> {
        let expected = "a message";
        let value = row.get(key).ok_or_else(|| row::missing(self.place, key, expected))?;
        let object = value.as_object().ok_or_else(|| row::wrong_type(self.place, key, expected, value))?;
        self.message(object, 0, key)
    }

    /// The user's question `row[key]`, a string.
    ///
    /// # Errors
    /// As [`turns::question`].
    pub fn question(&mut self, row: &Row, key: &str) -> Result<Message, DataError> {
        self.asked(row::text(row, key, self.place)?, key)
    }

    /// The user's question of these words, which stand in `field`.
    ///
    /// # Errors
    /// As [`turns::question`].
    pub fn asked(&mut self, words: &str, field: &str) -> Result<Message, DataError> {
        let message = turns::question(words, self.beside.len(), field, self.place)?;
        self.places.resize(self.places.len() + message.image_count(), None);
        Ok(message)
    }

    /// The image files in the order of their places in `messages`, all that were read. Where the messages have no place
    /// and the row has images, they are shown before the user's first words.
    ///
    /// # Errors
    /// [`RecordError::ImagePlaces`].
    pub fn images(self, messages: &mut [Message]) -> Result<Vec<PathBuf>, DataError> {
        let open = self.places.iter().filter(|place| place.is_none()).count();
        let images = self.beside.len();
        let wrong = RecordError::ImagePlaces { places: open, images };
        if self.places.is_empty() && images > 0 {
            let first = messages.iter_mut().find(|message| message.role == Role::User);
            turns::show_first(first.ok_or_else(|| wrong.at(self.place))?, images);
            return Ok(self.beside);
        }
        if open != images {
            return Err(wrong.at(self.place));
        }
        let mut beside = self.beside.into_iter();
        let files: Vec<PathBuf> = self.places.into_iter().filter_map(|file| file.or_else(|| beside.next())).collect();
        // A message that was dropped may have shown some of them.
        let places = messages.iter().map(Message::image_count).sum();
        if places != files.len() {
            return Err(RecordError::ImagePlaces { places, images: files.len() }.at(self.place));
        }
        Ok(files)
    }

    fn message(&mut self, object: &Row, i: usize, path: &str) -> Result<Message, DataError> {
        let place = self.place;
        let field = |key: &'static str| move || format!("{path}.{key}");
        let role = self.role(row::string(object, "role", field("role"), place)?, i)?;
        let mut message = Message::new(role, Vec::new());
        message.train = !row::flag(object, "disable_loss", field("disable_loss"), place)?;
        if self.form != Form::Chat {
            let thoughts = ["reasoning_content", "thinking"].into_iter().find(|key| row::given(object, key).is_some());
            if let Some(key) = thoughts {
                message.reasoning = Some(row::string(object, key, field(key), place)?.to_owned());
            }
            message.tool_calls = super::tools::calls(object, path, place)?;
        }
        let optional =
            |key: &'static str| row::optional_text(object, key, field(key), place).map(|text| text.map(str::to_owned));
        message.tool_call_id = optional("tool_call_id")?;
        message.name = optional("name")?;
        message.content = match self.form {
            Form::Chat => self.chat_content(object, path)?,
            _ => self.content(object, &message, path)?,
        };
        Ok(message)
    }

    fn role(&self, role: &str, i: usize) -> Result<Role, DataError> {
        let is_chat = self.form == Form::Chat;
        Ok(match role {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "bot" if is_chat => Role::Assistant,
            "system" => Role::System,
            "developer" if !is_chat => Role::System,
            "tool" => Role::Tool,
            other => {
                let (place, allowed) = (self.place.clone(), if is_chat { CHAT_ROLES } else { ROLES });
                return Err(DataError::UnknownRole { place, turn: i + 1, role: other.to_owned(), allowed });
            }
        })
    }

    /// turbo-alignment: the type is the message's.
    fn chat_content(&mut self, object: &Row, path: &str) -> Result<Vec<Part>, DataError> {
        let field = |key: &'static str| move || format!("{path}.{key}");
        let content = row::string(object, "content", field("content"), self.place)?;
        match row::optional_text(object, "type", field("type"), self.place)? {
            None | Some("text") => Ok(vec![Part::Text(content.to_owned())]),
            Some("image") => {
                self.places.push(Some(row::image(&Value::from(content), field("content"), self.place)?));
                Ok(vec![Part::Image])
            }
            Some(other) => Err(RecordError::Media { field: path.to_owned(), media: other.to_owned() }.at(self.place)),
        }
    }

    /// Hugging Face: a string, or parts with types of their own.
    fn content(&mut self, object: &Row, message: &Message, path: &str) -> Result<Vec<Part>, DataError> {
        let path = format!("{path}.content");
        let expected = "a string or a list of parts";
        match object.get("content") {
            None | Some(Value::Null) if !message.tool_calls.is_empty() => Ok(Vec::new()),
            None => Err(row::missing(self.place, path, expected)),
            Some(Value::String(words)) if message.role == Role::User && !self.beside.is_empty() => {
                let parts = turns::split_images(words);
                let images = parts.iter().filter(|part| matches!(part, Part::Image)).count();
                self.places.resize(self.places.len() + images, None);
                Ok(parts)
            }
            Some(Value::String(words)) => Ok(vec![Part::Text(words.clone())]),
            Some(Value::Array(parts)) => {
                let parts = parts.iter().enumerate();
                parts.map(|(i, part)| self.part(part, &format!("{path}[{i}]"))).collect()
            }
            Some(other) => Err(row::wrong_type(self.place, path, expected, other)),
        }
    }

    fn part(&mut self, part: &Value, path: &str) -> Result<Part, DataError> {
        let object = match part {
            Value::String(words) => return Ok(Part::Text(words.clone())),
            part => part.as_object().ok_or_else(|| row::wrong_type(self.place, path, "a part", part))?,
        };
        let kind = row::string(object, "type", || format!("{path}.type"), self.place)?;
        match kind {
            "text" => {
                let words = row::string(object, "text", || format!("{path}.text"), self.place)?;
                Ok(Part::Text(words.to_owned()))
            }
            "image" | "image_url" if self.form == Form::Text => Err(text_only(path.to_owned(), self.place)),
            "image" | "image_url" => {
                let keys = ["path", "image", "url", "image_url"];
                let named = keys.into_iter().find_map(|key| Some((key, row::given(object, key)?)));
                let file = named.map(|(key, value)| row::image(value, || format!("{path}.{key}"), self.place));
                self.places.push(file.transpose()?);
                Ok(Part::Image)
            }
            other => Err(RecordError::Media { field: path.to_owned(), media: other.to_owned() }.at(self.place)),
        }
    }
}

fn text_only(field: String, place: &Place) -> DataError {
    RecordError::TextOnly { field, instead: "`MessagesImagesData`, `ChatData` or `LlavaData`" }.at(place)
}

/// Whether two messages are one turn: an image and what stands beside it, by one speaker.
fn belong_together(last: &Message, next: &Message) -> bool {
    let shows = matches!(last.content.last(), Some(Part::Image)) || matches!(next.content.first(), Some(Part::Image));
    shows && last.role == next.role && last.train == next.train
}

/// Messages as turbo-alignment's rows have them: each image is a message of its own, with its file as the content.
pub fn chat_row(messages: &[Message], images: &[PathBuf]) -> Value {
    let mut images = images.iter();
    let mut written = Vec::new();
    for message in messages {
        let role = if message.role == Role::Assistant { "bot" } else { message.role.as_str() };
        for part in &message.content {
            written.push(match part {
                Part::Text(text) => json!({"role": role, "content": text.trim_start_matches('\n')}),
                Part::Image => {
                    let file = images.next().map(|path| path.display().to_string()).unwrap_or_default();
                    json!({"role": role, "type": "image", "content": file})
                }
            });
        }
    }
    Value::Array(written)
}

/// The one message of an answer, as a row has it.
pub fn answer_row(answer: &[Message]) -> Value {
    json!({"role": "bot", "content": answer.iter().map(Message::words).collect::<String>()})
}
