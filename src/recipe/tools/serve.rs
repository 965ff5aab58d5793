//! A checkpoint behind the HTTP interface that OpenAI's clients speak.

use super::answering::{LocalBackend, LocalEngine, LocalSettings};
use super::{Common, at_least_one};
use crate::generation::Reuse;
use crate::recipe::RecipeError;
use crate::serve::{Secret, ServeSettings, Server};
use clap::Parser;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// Tokens of conversations that are kept. A model of 7 billion parameters takes half a megabyte for each, in 16 bits.
const REUSED_TOKENS: usize = 32_768;

/// Answers over HTTP: /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models, /score and /classify (reward models and
/// classifiers), /health, /metrics, and a chat page at /.
///
/// An adapter given with --adapter answers where no model is named; the base answers under its own name as well.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
pub struct Serve {
    /// What every tool takes.
    #[command(flatten)]
    pub common: Common,
    /// Further adapters on the same base, which requests choose by `model`
    #[arg(long, value_name = "NAME=DIR", num_args = 1.., value_parser = named)]
    pub adapters: Vec<(String, PathBuf)>,
    /// Address to listen at; only this machine's own unless told otherwise
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub host: IpAddr,
    /// Port; 0 lets the system choose
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// Environment variable with the token that clients must show
    #[arg(long, value_name = "VARIABLE")]
    pub token_from: Option<String>,
    /// Pictures may be named as files under this folder; without it, none may
    #[arg(long, value_name = "DIR")]
    pub images_root: Option<PathBuf>,
    /// Answers that are written at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one)]
    pub max_num_seqs: usize,
    /// Prompts that may wait; more are told to come back later
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_one)]
    pub max_queue: usize,
    /// Conversations of each model that stay in memory, so that only what is new of their next prompt is read (at most
    /// 32768 tokens of all together); 0 keeps none
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub reuse_prompts: usize,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = at_least_one)]
    pub max_tokens: usize,
}

impl Serve {
    /// Loads the model and answers until Ctrl-C; what is being answered then may end, a second Ctrl-C ends it at once.
    ///
    /// # Errors
    /// A checkpoint that cannot be loaded, and an address that cannot be had.
    pub fn main(self) -> anyhow::Result<()> {
        let token = self.token()?;
        let mut settings = ServeSettings {
            address: SocketAddr::new(self.host, self.port),
            token,
            images_root: self.images_root,
            slots: self.max_num_seqs,
            queue: self.max_queue,
            ..ServeSettings::default()
        };
        settings.limits.max_tokens = u32::try_from(self.max_tokens).unwrap_or(u32::MAX);
        let reuse = Reuse { rows: self.reuse_prompts, tokens: REUSED_TOKENS };
        let local = LocalSettings { common: self.common, adapters: self.adapters, lanes: self.max_num_seqs, reuse };
        let backend = LocalBackend::new(LocalEngine::open(local)?);
        let server = Server::bind(settings, Arc::new(backend))?;
        let handle = server.handle();
        ctrlc::set_handler(move || handle.shut_down())?;
        say!("listening on http://{}; the chat page is there too; Ctrl-C ends", server.address());
        Ok(server.run()?)
    }

    fn token(&self) -> Result<Option<Secret>, RecipeError> {
        let Some(variable) = &self.token_from else { return Ok(None) };
        let advice = "set it to one word of printable ASCII characters, or leave --token-from out";
        match std::env::var(variable).ok().as_deref().map(Secret::new) {
            Some(Some(secret)) => Ok(Some(secret)),
            Some(None) => Err(RecipeError::Usage(format!("{variable} cannot be a token; {advice}"))),
            None => Err(RecipeError::Usage(format!("--token-from names {variable}, which is not set; {advice}"))),
        }
    }
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, dir)) if !name.is_empty() && !dir.is_empty() => Ok((name.to_owned(), dir.into())),
        _ => Err("write NAME=DIR".to_owned()),
    }
}
