//! Where the hub is, where its cache is, and who asks.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::HubError;
use super::retry::Retries;
use crate::checkpoint::CheckpointError;

/// The public hub.
const ENDPOINT: &str = "https://huggingface.co";

/// How long a silent server is waited for, as Python's library does.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How the hub is reached and where its files go.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// Address of the hub, without a slash at its end.
    pub endpoint: String,
    /// Folder of the cache; `models--owner--name` stand in it.
    pub cache: PathBuf,
    /// Who asks; `None` is anyone.
    pub token: Option<Token>,
    /// Take what the cache holds and ask nobody.
    pub offline: bool,
    /// Whether snapshots point to their blobs, or hold the files themselves.
    pub symlinks: bool,
    /// Longest wait for a connection, and for the beginning of an answer.
    pub answer_timeout: Duration,
    /// Longest wait for the next bytes of an answer.
    pub read_timeout: Duration,
    /// How often a failing request is repeated.
    pub retries: Retries,
    /// Certificates (PEM) to trust in place of Mozilla's.
    pub certificates: Option<PathBuf>,
}

impl HubSettings {
    /// The settings that the environment describes; see the [module](super) for the variables.
    ///
    /// # Errors
    /// [`HubError::Variable`], [`HubError::Token`], and files of the token or of certificates that
    /// cannot be read.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_variables(&Environment { get: &|name| env::var_os(name), home: env::home_dir() })
    }

    fn from_variables(env: &Environment<'_>) -> Result<Self, HubError> {
        let home = match env.path("HF_HOME") {
            Some(home) => home,
            None => {
                let base = env.path("XDG_CACHE_HOME").or_else(|| env.home.clone().map(|home| home.join(".cache")));
                base.ok_or(HubError::Variable {
                    variable: "HF_HOME",
                    value: String::new(),
                    expected: "a folder: this user has no home folder to keep a cache in",
                })?
                .join("huggingface")
            }
        };
        let cache = env.path("HF_HUB_CACHE").or_else(|| env.path("HUGGINGFACE_HUB_CACHE"));
        Ok(Self {
            endpoint: endpoint(env)?,
            cache: cache.unwrap_or_else(|| home.join("hub")),
            token: token(env, &home)?,
            offline: env.flag("HF_HUB_OFFLINE").or_else(|| env.flag("TRANSFORMERS_OFFLINE")).unwrap_or(false),
            symlinks: !env.flag("HF_HUB_DISABLE_SYMLINKS").unwrap_or(false),
            answer_timeout: env.seconds("HF_HUB_ETAG_TIMEOUT")?.unwrap_or(TIMEOUT),
            read_timeout: env.seconds("HF_HUB_DOWNLOAD_TIMEOUT")?.unwrap_or(TIMEOUT),
            retries: Retries::default(),
            certificates: env.path("SSL_CERT_FILE").or_else(|| env.path("REQUESTS_CA_BUNDLE")),
        })
    }
}

/// A secret that says who asks, and where it was found. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    secret: String,
    origin: String,
}

impl Token {
    /// A token; `origin` is for messages, e.g. `HF_TOKEN`.
    ///
    /// # Errors
    /// [`HubError::Token`] where it holds anything but printable ASCII characters.
    pub fn new(secret: &str, origin: &str) -> Result<Self, HubError> {
        let secret = secret.trim();
        if secret.is_empty() || !secret.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(HubError::Token { origin: origin.to_owned() });
        }
        Ok(Self { secret: secret.to_owned(), origin: origin.to_owned() })
    }

    /// The secret itself.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Where it was found.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(from {})", self.origin)
    }
}

fn endpoint(env: &Environment<'_>) -> Result<String, HubError> {
    let Some(value) = env.text("HF_ENDPOINT") else {
        return Ok(ENDPOINT.to_owned());
    };
    let trimmed = value.trim_end_matches('/');
    let uri = trimmed.parse::<ureq::http::Uri>().ok();
    let schemes = [Some("https"), Some("http")];
    let good = |uri: &ureq::http::Uri| {
        schemes.contains(&uri.scheme_str())
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && uri.query().is_none()
    };
    match uri.is_some_and(|uri| good(&uri)) {
        true => Ok(trimmed.to_owned()),
        false => {
            let expected = "an address such as https://host or http://host:8080/path";
            Err(HubError::Variable { variable: "HF_ENDPOINT", value, expected })
        }
    }
}

fn token(env: &Environment<'_>, home: &Path) -> Result<Option<Token>, HubError> {
    for variable in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(secret) = env.text(variable).filter(|text| !text.trim().is_empty()) {
            return Token::new(&secret, variable).map(Some);
        }
    }
    if env.flag("HF_HUB_DISABLE_IMPLICIT_TOKEN").unwrap_or(false) {
        return Ok(None);
    }
    let path = env.path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
    match fs::read_to_string(&path) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => Token::new(&text, &path.display().to_string()).map(Some),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(CheckpointError::io(&path, "reading the token")(error).into()),
    }
}

/// The variables, so that tests can have others than the process.
struct Environment<'a> {
    get: &'a dyn Fn(&str) -> Option<OsString>,
    home: Option<PathBuf>,
}

impl Environment<'_> {
    /// A variable that is set to something.
    fn text(&self, name: &str) -> Option<String> {
        (self.get)(name).filter(|value| !value.is_empty()).map(|value| value.to_string_lossy().into_owned())
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.text(name).map(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str()))
    }

    fn seconds(&self, name: &'static str) -> Result<Option<Duration>, HubError> {
        let Some(value) = self.text(name) else { return Ok(None) };
        match value.trim().parse::<u32>() {
            Ok(seconds) if seconds > 0 => Ok(Some(Duration::from_secs(seconds.into()))),
            _ => Err(HubError::Variable { variable: name, value, expected: "a whole number of seconds, at least 1" }),
        }
    }

    /// A path, with `~` and variables replaced as Python's library does: container files and
    /// service units set them where no shell does it.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let value = (self.get)(name).filter(|value| !value.is_empty())?;
        let Some(text) = value.to_str() else { return Some(value.into()) };
        let text = match (text.strip_prefix('~'), &self.home) {
            (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => format!("{}{rest}", home.display()),
            _ => text.to_owned(),
        };
        Some(self.expand(&text).into())
    }

    /// Replaces `$NAME` and `${NAME}`; unknown ones stay.
    fn expand(&self, text: &str) -> String {
        let mut done = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            done.push_str(before);
            let (name, behind) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                Some(braced) => braced,
                None => after.split_at(after.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(after.len())),
            };
            match (self.get)(name).filter(|_| !name.is_empty()) {
                Some(value) => {
                    done.push_str(&value.to_string_lossy());
                    rest = behind;
                }
                None => {
                    done.push('$');
                    rest = after;
                }
            }
        }
        done + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)], home: &Path) -> Result<HubSettings, HubError> {
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        HubSettings::from_variables(&Environment { get: &get, home: Some(home.to_path_buf()) })
    }

    #[test]
    fn the_cache_is_where_python_looks_for_it() {
        let home = Path::new("/nobody");
        for (variables, expected) in [
            (&[][..], "/nobody/.cache/huggingface/hub"),
            (&[("HF_HOME", "")], "/nobody/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/x")], "/nobody/hf/hub"),
            (&[("HF_HOME", "$BASE/${SUB}x/$none"), ("BASE", "/b"), ("SUB", "s")], "/b/sx/$none/hub"),
            (&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HOME", "/h")], "/old"),
            (&[("HF_HUB_CACHE", "/new"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/new"),
        ] {
            assert_eq!(with(variables, home).unwrap().cache, Path::new(expected), "{variables:?}");
        }
    }

    #[test]
    fn the_token_comes_from_the_first_place_that_has_one() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path();
        let found = |variables: &[(&str, &str)]| {
            let token = with(variables, at).unwrap().token;
            token.map(|token| (token.secret().to_owned(), token.origin().to_owned()))
        };
        assert_eq!(found(&[]), None);
        fs::create_dir_all(at.join(".cache/huggingface")).unwrap();
        let file = at.join(".cache/huggingface/token");
        fs::write(&file, "hf_file\r\n").unwrap();
        assert_eq!(found(&[]), Some(("hf_file".into(), file.display().to_string())));
        assert_eq!(found(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        fs::write(at.join("mine"), "hf_mine").unwrap();
        assert_eq!(found(&[("HF_TOKEN_PATH", "~/mine")]).unwrap().0, "hf_mine");
        let both = [("HF_TOKEN", " hf_env\n"), ("HUGGING_FACE_HUB_TOKEN", "hf_old")];
        assert_eq!(found(&both), Some(("hf_env".into(), "HF_TOKEN".into())));
        assert_eq!(found(&both[1..]).unwrap().0, "hf_old");
    }

    #[test]
    fn a_token_is_never_shown() {
        let home = Path::new("/nobody");
        let settings = with(&[("HF_TOKEN", "hf_secret")], home).unwrap();
        assert!(!format!("{settings:?}").contains("secret"));
        let error = with(&[("HF_TOKEN", "hf_sec ret")], home).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("sec ret") && error.to_string().contains("HF_TOKEN"), "{error}");
    }

    #[test]
    fn variables_that_cannot_be_obeyed_are_refused() {
        let home = Path::new("/nobody");
        for (variable, value) in [
            ("HF_ENDPOINT", "huggingface.co"),
            ("HF_ENDPOINT", "ftp://host"),
            ("HF_ENDPOINT", "https://"),
            ("HF_ENDPOINT", "https://user:word@host"),
            ("HF_ENDPOINT", "https://host?x"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "soon"),
            ("HF_HUB_ETAG_TIMEOUT", "0"),
        ] {
            let error = with(&[(variable, value)], home).unwrap_err().to_string();
            assert!(error.contains(variable) && error.contains(value), "{error}");
        }
        let none = HubSettings::from_variables(&Environment { get: &|_| None, home: None }).unwrap_err().to_string();
        assert!(none.contains("HF_HOME"), "{none}");
        let good = with(&[("HF_ENDPOINT", "http://host:1/hub/"), ("HF_HUB_DOWNLOAD_TIMEOUT", "7")], home).unwrap();
        assert_eq!((good.endpoint.as_str(), good.read_timeout), ("http://host:1/hub", Duration::from_secs(7)));
    }

    #[test]
    fn offline_by_either_variable() {
        let home = Path::new("/nobody");
        for (variables, expected) in [
            (&[][..], false),
            (&[("HF_HUB_OFFLINE", "1")], true),
            (&[("HF_HUB_OFFLINE", "true")], true),
            (&[("HF_HUB_OFFLINE", "0")], false),
            (&[("TRANSFORMERS_OFFLINE", "yes")], true),
            (&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")], false),
        ] {
            assert_eq!(with(variables, home).unwrap().offline, expected, "{variables:?}");
        }
    }
}
