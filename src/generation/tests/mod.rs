//! Searches on a model that is a hash of the last two tokens: it needs no device, and the references run on it as well.

mod driver;
mod searches;
mod table;
