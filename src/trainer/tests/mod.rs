//! Steps of a small vision-language model, with and without what saves memory.

mod model;
mod moments;
mod recompute;
