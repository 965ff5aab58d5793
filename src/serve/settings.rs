//! Where the server listens, who may ask, and how much.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::error::ServeError;

/// How a server is run.
#[derive(Clone, Debug, PartialEq)]
pub struct ServeSettings {
    /// Where it listens; port 0 lets the system choose.
    pub address: SocketAddr,
    /// What clients must show.
    pub token: Option<Secret>,
    /// Files under this folder may be named as pictures; `None` allows none.
    pub images_root: Option<PathBuf>,
    /// Answers that the backend works on at once.
    pub slots: usize,
    /// Prompts that may wait for a slot.
    pub queue: usize,
    /// What one request may ask for.
    pub limits: Limits,
    /// Longest wait for a request's head, also between two requests of a connection.
    pub head_timeout: Duration,
    /// Longest wait for a request's body.
    pub body_timeout: Duration,
    /// Longest wait for a client that does not read its answer.
    pub write_timeout: Duration,
    /// How long requests may still take once the server is to stop.
    pub grace: Duration,
}

impl Default for ServeSettings {
    /// This machine only, port 8000, no token, no files; 8 slots, 256 waiting; 30 s to stop.
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            token: None,
            images_root: None,
            slots: 8,
            queue: 256,
            limits: Limits::default(),
            head_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            grace: Duration::from_secs(30),
        }
    }
}

impl ServeSettings {
    /// # Errors
    /// [`ServeError::Setting`].
    pub(super) fn check(&self) -> Result<(), ServeError> {
        let Limits { body_bytes, all_bodies_bytes, choices, prompts, messages, connections, max_tokens, .. } =
            self.limits;
        for (setting, value) in [
            ("slots", self.slots),
            ("queue", self.queue),
            ("limits.body_bytes", body_bytes),
            ("limits.choices", choices),
            ("limits.prompts", prompts),
            ("limits.messages", messages),
            ("limits.connections", connections),
            ("limits.max_tokens", max_tokens as usize),
        ] {
            if value == 0 || value > 1 << 30 {
                let expected = format!("a number from 1 to {}", 1 << 30);
                return Err(ServeError::Setting { setting, value: value.to_string(), expected });
            }
        }
        if all_bodies_bytes < body_bytes {
            let expected = format!("at least `limits.body_bytes`, {body_bytes}");
            let value = all_bodies_bytes.to_string();
            return Err(ServeError::Setting { setting: "limits.all_bodies_bytes", value, expected });
        }
        Ok(())
    }
}

/// What one request may ask for. More is refused, with the limit's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Bytes of all bodies that are being worked on; beyond it clients are asked to come back later.
    pub all_bodies_bytes: usize,
    /// Messages of a conversation.
    pub messages: usize,
    /// Pictures.
    pub images: usize,
    /// Bytes of a picture's file.
    pub image_bytes: usize,
    /// Pixels of all pictures together.
    pub pixels: u64,
    /// New tokens of an answer; also where the request names no number.
    pub max_tokens: u32,
    /// Answers to one prompt.
    pub choices: usize,
    /// Prompts of one request, and texts to embed or score.
    pub prompts: usize,
    /// Connections at once; further ones wait.
    pub connections: usize,
}

impl Default for Limits {
    /// 32 MiB a body and 256 MiB in all; 512 messages; 16 pictures of 16 MiB and 50 million pixels together; 4096 tokens;
    /// 16 answers; 128 prompts; 1024 connections.
    fn default() -> Self {
        Self {
            body_bytes: 32 << 20,
            all_bodies_bytes: 256 << 20,
            messages: 512,
            images: 16,
            image_bytes: 16 << 20,
            pixels: 50_000_000,
            max_tokens: 4096,
            choices: 16,
            prompts: 128,
            connections: 1024,
        }
    }
}

/// A word that must not be shown. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret; `None` where it is empty or holds anything but printable ASCII characters, which no header can carry.
    pub fn new(secret: &str) -> Option<Self> {
        let secret = secret.trim();
        (!secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Self(secret.to_owned()))
    }

    /// Whether `word` is the secret. Takes equally long whichever word it is.
    pub(super) fn is(&self, word: &[u8]) -> bool {
        use sha2::{Digest, Sha256};
        use subtle::ConstantTimeEq;
        // Of their hashes, so that the length does not show either.
        let (own, other) = (Sha256::digest(self.0.as_bytes()), Sha256::digest(word));
        own.as_slice().ct_eq(other.as_slice()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
