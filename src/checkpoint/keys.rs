//! Matching what a model expects with what a folder holds, whatever layout wrote it.

use std::collections::HashMap;

use super::error::{CheckpointError, Mismatch, Misshapen};
use super::shards::{Shards, TensorView};

/// Ordered prefix rules from a file's names to a model's: the first rule whose `from` begins the
/// name replaces it by its `to`, once. A name that no rule begins stays as it is. Several layouts
/// share one list, longer prefixes first:
///
/// ```
/// use firebrick::checkpoint::Rename;
/// let rename = Rename(&[("model.tower.inner.", "tower."), ("model.tower.", "tower.")]);
/// assert_eq!(rename.apply("model.tower.inner.weight"), "tower.weight");
/// assert_eq!(rename.apply("model.tower.weight"), "tower.weight");
/// assert_eq!(rename.apply("tower.weight"), "tower.weight");
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Rename<'a>(
    /// `(from, to)`, tried in order.
    pub &'a [(&'a str, &'a str)],
);

impl Rename<'_> {
    /// The model's name of the file's tensor `name`.
    pub fn apply(&self, name: &str) -> String {
        for (from, to) in self.0 {
            if let Some(rest) = name.strip_prefix(from) {
                return format!("{to}{rest}");
            }
        }
        name.to_owned()
    }
}

/// A tensor that a model asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The model's name.
    pub name: String,
    /// The shape it must have.
    pub shape: Vec<usize>,
    /// Whether the model can do without, e.g. a tied head that some writers save and some do not.
    pub optional: bool,
}

impl Expected {
    /// A tensor that must be there.
    pub fn required(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), shape: shape.into(), optional: false }
    }

    /// A tensor that may be there, and then must have this shape.
    pub fn optional(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), shape: shape.into(), optional: true }
    }
}

/// A tensor that a model asked for and got.
#[derive(Debug, Clone)]
pub struct Resolved<'a> {
    /// What the model asked for.
    pub expected: Expected,
    /// What the folder holds.
    pub view: TensorView<'a>,
}

/// Finds every expected tensor, in the order of `expected`; optional ones that are not there are
/// left out.
///
/// `ignore` lists tensors that may be there and are not looked at: patterns in which `*` stands for
/// any run of characters and which must match the whole name, in the file or after renaming:
/// `*.rotary_emb.inv_freq`, `text_model.*`.
///
/// # Errors
/// [`CheckpointError::Mismatch`] with *all* missing, unexpected and misshapen tensors, and
/// [`CheckpointError::Ambiguous`] where two tensors of the folder have one name of the model.
pub fn resolve<'a>(
    expected: &[Expected],
    available: &'a Shards,
    rename: Rename<'_>,
    ignore: &[&str],
) -> Result<Vec<Resolved<'a>>, CheckpointError> {
    let mut held: HashMap<String, TensorView<'a>> = HashMap::with_capacity(available.len());
    let wanted: HashMap<&str, &Expected> = expected.iter().map(|e| (e.name.as_str(), e)).collect();
    let mut mismatch = Mismatch { dir: available.dir().to_path_buf(), ..Mismatch::default() };
    for view in available.iter() {
        let name = rename.apply(view.name);
        if ignore.iter().any(|pattern| matches(pattern, view.name) || matches(pattern, &name)) {
            continue;
        }
        match wanted.get(name.as_str()) {
            None => mismatch.unexpected.push((view.name.to_owned(), view.shape.to_vec(), view.file.to_path_buf())),
            Some(wanted) if wanted.shape != view.shape => mismatch.misshapen.push(Misshapen {
                name: view.name.to_owned(),
                found: view.shape.to_vec(),
                expected: wanted.shape.clone(),
                path: view.file.to_path_buf(),
            }),
            Some(_) => {}
        }
        if let Some(other) = held.get(&name) {
            return Err(CheckpointError::Ambiguous {
                name,
                first: other.name.to_owned(),
                first_file: other.file.to_path_buf(),
                second: view.name.to_owned(),
                second_file: view.file.to_path_buf(),
            });
        }
        held.insert(name, view);
    }
    let mut found = Vec::with_capacity(expected.len());
    for one in expected {
        match held.get(&one.name) {
            Some(&view) => found.push(Resolved { expected: one.clone(), view }),
            None if one.optional => {}
            None => mismatch.missing.push((one.name.clone(), one.shape.clone())),
        }
    }
    if mismatch.is_empty() { Ok(found) } else { Err(CheckpointError::Mismatch(Box::new(mismatch))) }
}

/// Whether `pattern`, in which `*` stands for any run of characters, matches the whole of `name`.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(rest) = name.strip_prefix(head) else {
        return false;
    };
    (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| matches(tail, rest)))
}

#[cfg(test)]
mod tests {
    use super::super::tensors::Dtype;
    use super::super::writer::{Pending, write_safetensors};
    use super::*;
    use proptest::prelude::*;

    fn shards(dir: &std::path::Path, tensors: &[(&str, &[usize])]) -> Shards {
        let path = dir.join("model.safetensors");
        let mut file = std::fs::File::create(&path).unwrap();
        let pending = tensors
            .iter()
            .map(|(name, shape)| Pending::owned(*name, shape.to_vec(), Dtype::U8, vec![0; shape.iter().product()]))
            .collect();
        write_safetensors(&mut file, &path, pending).unwrap();
        Shards::open(dir).unwrap()
    }

    const RULES: Rename<'static> = Rename(&[
        ("tower.model.", "tower."),
        ("lm.model.", "lm."),
        ("model.lm.", "lm."),
        ("lm.head.", "head."),
        ("model.", ""),
    ]);

    #[test]
    fn several_layouts_meet_in_one_name() {
        let expected = [
            Expected::required("lm.a", [2]),
            Expected::required("tower.w", [3]),
            Expected::optional("head.weight", [4]),
            Expected::optional("bias", [1]),
        ];
        let layouts: [&[(&str, &[usize])]; 3] = [
            &[("lm.model.a", &[2]), ("tower.model.w", &[3]), ("lm.head.weight", &[4])],
            &[("model.lm.a", &[2]), ("model.tower.w", &[3]), ("lm.inv_freq", &[9])],
            &[("lm.a", &[2]), ("tower.w", &[3]), ("bias", &[1]), ("text_model.x.y", &[1])],
        ];
        let counts = layouts.map(|layout| {
            let dir = tempfile::tempdir().unwrap();
            let shards = shards(dir.path(), layout);
            let found = resolve(&expected, &shards, RULES, &["*.inv_freq", "text_model.*"]).unwrap();
            assert_eq!((found[0].expected.name.as_str(), found[0].view.shape), ("lm.a", &[2][..]));
            found.len()
        });
        assert_eq!(counts, [3, 2, 3]);
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..12).map(|i| format!("extra.{i:02}")).collect();
        let mut held: Vec<(&str, &[usize])> = names.iter().map(|name| (name.as_str(), &[1][..])).collect();
        held.push(("lm.model.a", &[2, 3]));
        let shards = shards(dir.path(), &held);
        let expected = [Expected::required("lm.a", [3, 2]), Expected::required("head.weight", [4, 5])];
        let error = resolve(&expected, &shards, RULES, &[]).unwrap_err().to_string();
        for part in [
            "1 missing:\n    `head.weight`, expected [4, 5]",
            "12 unexpected:\n    `extra.00` [1] in model.safetensors",
            "and 2 more",
            "1 misshapen:\n    `lm.model.a` is [2, 3] in model.safetensors, expected [3, 2]",
            &dir.path().display().to_string(),
        ] {
            assert!(error.contains(part), "{error}\nlacks {part}");
        }
        assert!(!error.contains("extra.10"), "{error}");
    }

    #[test]
    fn two_names_for_one_tensor_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let shards = shards(dir.path(), &[("lm.a", &[2]), ("lm.model.a", &[2])]);
        let error = resolve(&[Expected::required("lm.a", [2])], &shards, RULES, &[]).unwrap_err().to_string();
        assert!(error.contains("are both `lm.a` of the model"), "{error}");
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("a.*", "a.b.c", true),
            ("a.*", "a", false),
            ("*.inv_freq", "layers.0.inv_freq", true),
            ("*.inv_freq", "layers.0.inv_freq.x", false),
            ("a", "ab", false),
            ("*", "", true),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1c2b", false),
            ("*é", "aé", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    proptest! {
        /// Whatever the rules, a renamed name keeps its own tail and only the first fitting rule
        /// acts.
        #[test]
        fn the_first_fitting_rule_acts(
            rules in prop::collection::vec(("[ab.]{0,3}", "[xy.]{0,3}"), 0..5), name in "[ab.]{0,8}"
        ) {
            let borrowed: Vec<(&str, &str)> =
                rules.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
            let renamed = Rename(&borrowed).apply(&name);
            match rules.iter().find(|(from, _)| name.starts_with(from.as_str())) {
                Some((from, to)) => prop_assert_eq!(renamed, format!("{to}{}", &name[from.len()..])),
                None => prop_assert_eq!(renamed, name),
            }
        }
    }
}
