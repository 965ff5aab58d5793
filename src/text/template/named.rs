//! A checkpoint's chat templates by name, as transformers reads them.

use super::super::TextError;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const DEFAULT: &str = "default";

/// The folder of templates besides `chat_template.jinja`.
const ADDITIONAL: &str = "additional_chat_templates";

/// The templates of a folder. Files go before the configuration, all or none:
/// `chat_template.jinja` is `default`, `additional_chat_templates/NAME.jinja` is `NAME`. Else `chat_template.json`, else
/// `tokenizer_config.json`, whose `chat_template` is one text, or a list or an object of named ones.
pub(super) fn read(dir: &Path) -> Result<BTreeMap<String, String>, TextError> {
    let mut templates = BTreeMap::new();
    let file = dir.join("chat_template.jinja");
    templates.extend(text(&file)?.map(|text| (DEFAULT.to_owned(), text)));
    for file in jinja_files(&dir.join(ADDITIONAL))? {
        if let (Some(name), Some(text)) = (file.file_stem(), text(&file)?) {
            templates.insert(name.to_string_lossy().into_owned(), text);
        }
    }
    for name in ["chat_template.json", "tokenizer_config.json"] {
        if !templates.is_empty() {
            break;
        }
        let file = dir.join(name);
        let Some(text) = text(&file)? else { continue };
        let config: Value = serde_json::from_str(&text)
            .map_err(|e| TextError::Malformed { path: file.clone(), reason: e.to_string() })?;
        if let Some(given) = config.get("chat_template").filter(|given| !given.is_null()) {
            templates = named(given).ok_or_else(|| TextError::Malformed {
                path: file,
                reason:
                    "`chat_template` is neither a text, nor a list of {\"name\", \"template\"}, nor an object of texts"
                        .to_owned(),
            })?;
        }
    }
    Ok(templates)
}

/// The files of named templates, as `additional_chat_templates/NAME.jinja` with their bytes, in order.
pub(in super::super) fn additional(dir: &Path) -> Result<Vec<(String, Vec<u8>)>, TextError> {
    let mut files = jinja_files(&dir.join(ADDITIONAL))?;
    files.sort();
    let bytes = |path: std::path::PathBuf| -> Result<(String, Vec<u8>), TextError> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let bytes = std::fs::read(&path).map_err(|source| TextError::Io { path, source })?;
        Ok((format!("{ADDITIONAL}/{name}"), bytes))
    };
    files.into_iter().map(bytes).collect()
}

/// The template to use without tools, and the one for tools where it is another: transformers' choice.
pub(super) fn choose(templates: &BTreeMap<String, String>) -> Option<(&str, Option<&str>)> {
    let default = templates.get(DEFAULT)?;
    Some((default, templates.get("tool_use").map(String::as_str)))
}

fn named(given: &Value) -> Option<BTreeMap<String, String>> {
    let entry = |name: &Value, template: &Value| Some((name.as_str()?.to_owned(), template.as_str()?.to_owned()));
    match given {
        Value::String(text) => Some([(DEFAULT.to_owned(), text.clone())].into()),
        Value::Array(list) => list.iter().map(|item| entry(item.get("name")?, item.get("template")?)).collect(),
        Value::Object(map) => map.iter().map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))).collect(),
        _ => None,
    }
}

fn text(file: &Path) -> Result<Option<String>, TextError> {
    let io = |source| TextError::Io { path: file.to_owned(), source };
    match std::fs::read(file) {
        Ok(bytes) => String::from_utf8(bytes)
            .map(Some)
            .map_err(|e| TextError::Malformed { path: file.to_owned(), reason: format!("not UTF-8: {e}") }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io(e)),
    }
}

fn jinja_files(dir: &Path) -> Result<Vec<std::path::PathBuf>, TextError> {
    let io = |source| TextError::Io { path: dir.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io(e)),
    };
    let files = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(io)?;
    Ok(files.into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "jinja")).collect())
}
