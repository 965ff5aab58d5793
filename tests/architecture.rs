//! The plan of the house, held to: which module may import which, and what no file may say.
//!
//! Comments, strings and whatever stands under `#[cfg(test)]` are exempt from the import rule: they may name anything.

mod scan;

use scan::{Import, Source, Strings, blank, files_under, library, line_of, read, relative, root, stem, without_tests};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// Left never imports right, and modules of one layer never import each other.
const LAYERS: &[&[&str]] = &[
    &["settings", "device", "nn", "text", "image", "checkpoint"],
    &["example", "openai"],
    &["data", "models", "vision", "projector", "adapters", "objectives"],
    &["vlm"],
    &["generation"],
    &["engine", "metrics"],
    &["serve", "pipelines"],
    &["trainer"],
    &["recipe"],
];

/// An edge inside a layer that is permitted, and what alone may be named over it.
struct Exception {
    from: &'static str,
    to: &'static str,
    names: &'static [&'static str],
    /// Why there is no way around it.
    reason: &'static str,
}

const EXCEPTIONS: &[Exception] = &[
    Exception {
        from: "projector",
        to: "vision",
        names: &["FeatureKind", "Patches", "NoFeatures"],
        reason: "a projector's type says which kinds of features it accepts",
    },
    Exception {
        from: "adapters",
        to: "models",
        names: &["CausalLm"],
        reason: "an adapter is put on any decoder, through the trait that shows its linear layers",
    },
    Exception {
        from: "checkpoint",
        to: "nn",
        names: &["params", "is_flex", "memory_of"],
        reason: "weights enter and leave burn modules by the names that this visitor gives them, and on the CPU in place",
    },
    Exception {
        from: "checkpoint",
        to: "nn",
        names: &["Blocks", "CodeBytes", "Levels", "NESTED_BLOCK", "QuantFormat", "Scales"],
        reason: "quantized weights stay in the form that their file has: codes and scales as the kernels read them",
    },
];

/// Macros of the library, which stand at its root, and the modules that they come from.
const MACROS: &[(&str, &str)] = &[("component!", "settings"), ("data_component!", "data")];

/// The modules with one folder per component. Only `recipe` may name a component; everything else works with traits.
const KINDS: &[&str] = &["data", "models", "vision", "projector", "adapters", "objectives"];

/// Families of models and their file formats, which `checkpoint` must not know.
const ARCHITECTURES: &[&str] = &["llama", "mistral", "qwen", "gemma", "clip", "llava"];

/// Top folders in which somebody's files lie: a path into one of them works on one machine only.
const PERSONAL: &[&str] = &["home", "root", "Users", "mnt", "work", "workspace", "scratch"];

#[test]
fn imports_go_to_the_left() {
    let mut complaints = Vec::new();
    let mut used = BTreeSet::new();
    let components = components();
    for file in library() {
        for import in file.imports() {
            if let Err(complaint) = judge(&file, &import, &components, &mut used) {
                complaints.push(format!("{}:{}: {complaint}", file.name, import.line));
            }
        }
    }
    for (index, exception) in EXCEPTIONS.iter().enumerate() {
        if !used.contains(&index) {
            let Exception { from, to, reason, .. } = exception;
            complaints.push(format!("nothing uses the exception {from} -> {to} ({reason}) any more: delete it"));
        }
    }
    none(complaints);
}

#[test]
fn every_module_has_a_layer() {
    let root = blank(&read("src/lib.rs"), Strings::Blanked);
    let declared: BTreeSet<&str> =
        root.lines().filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    // The guides are text alone.
    let declared: BTreeSet<&str> = declared.into_iter().filter(|module| *module != "docs").collect();
    let placed: BTreeSet<&str> = LAYERS.iter().copied().flatten().copied().collect();
    assert_eq!(declared, placed, "the modules of src/lib.rs (left) and LAYERS in this test (right) differ");
}

#[test]
fn checkpoint_names_no_architecture() {
    let mut complaints = Vec::new();
    for file in library().iter().filter(|file| file.module[0] == "checkpoint") {
        // Strings count here: a key such as "vision_model." is knowledge of an architecture.
        let code = without_tests(&blank(&file.text, Strings::Kept)).0.to_lowercase();
        for (line, text) in (1..).zip(code.lines()) {
            for word in ARCHITECTURES.iter().filter(|word| text.contains(**word)) {
                complaints.push(format!("{}:{line}: `{word}` belongs into that model's own folder", file.name));
            }
        }
    }
    none(complaints);
}

#[test]
fn nothing_is_left_to_be_done() {
    let mut complaints = Vec::new();
    for file in library() {
        for (line, text) in (1..).zip(file.code.lines()) {
            for word in ["todo!(", "unimplemented!(", "dbg!("].iter().filter(|word| text.contains(**word)) {
                complaints.push(format!("{}:{line}: {word}…)", file.name));
            }
        }
    }
    none(complaints);
}

#[test]
fn every_recipe_is_a_program_and_every_program_a_recipe() {
    let manifest: String = read("Cargo.toml").split_whitespace().collect();
    let recipes: Vec<String> = files_under("recipes", "rs").iter().map(|path| stem(path)).collect();
    assert!(!recipes.is_empty(), "recipes/ is empty");
    for name in &recipes {
        let entry = format!("[[bin]]name=\"{name}\"path=\"recipes/{name}.rs\"");
        assert!(manifest.contains(&entry), "recipes/{name}.rs is no [[bin]] of that name in Cargo.toml");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), recipes.len(), "a [[bin]] of Cargo.toml is not in recipes/");
}

#[test]
fn the_readme_shows_the_recipe_as_it_is() {
    let recipe = read("recipes/llava_sft.rs");
    let code: Vec<&str> = recipe.lines().skip_while(|line| line.starts_with("//!") || line.is_empty()).collect();
    assert!(
        read("README.md").contains(&code.join("\n")),
        "README.md does not show recipes/llava_sft.rs, from its first `use` to its end, as it is now"
    );
}

#[test]
fn no_file_points_into_somebody_s_folders() {
    let mut complaints = Vec::new();
    let folders = ["src", "macros", "recipes", "tests", "benches", ".ci"];
    let mut paths: Vec<PathBuf> = folders.iter().flat_map(|folder| files_under(folder, "")).collect();
    let top = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    paths.extend(top.filter(|path| path.extension().is_some_and(|e| e == "md" || e == "toml")));
    for path in paths {
        // Pictures and weights are not text.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for place in PERSONAL {
            let needle = format!("/{place}/");
            for (at, _) in text.match_indices(&needle).filter(|(at, _)| is_absolute(&text, *at)) {
                complaints.push(format!("{}:{}: {needle}…", relative(&path), line_of(&text, at)));
            }
        }
    }
    none(complaints);
}

/// Fails with all complaints at once.
fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Whether a path begins at `at`, rather than going on there (`docs/home/`, `host.org/home/`).
fn is_absolute(text: &str, at: usize) -> bool {
    !text[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~/<>*\\)}".contains(c))
}

fn judge(
    file: &Source,
    import: &Import,
    components: &BTreeSet<(String, String)>,
    used: &mut BTreeSet<usize>,
) -> Result<(), String> {
    let from = file.module[0].as_str();
    let first = import.path[0].as_str();
    let to = MACROS.iter().find(|(name, _)| *name == first).map_or(first, |(_, home)| home);
    let second = import.path.get(1).map_or("", String::as_str);
    let Some(to_layer) = layer(to) else { return Err(format!("`{to}` is no module of the library")) };
    let from_layer = layer(from).ok_or_else(|| format!("`{from}` is no module of the library"))?;
    if to == from {
        // models/llama may use models, and not models/mistral.
        let sibling = file.module.get(1).is_some_and(|own| is_component_folder(from, own) && own != second);
        return match sibling && is_component_folder(from, second) {
            true => Err(format!("`{}` imports its sibling `{to}::{second}`", file.module[..2].join("::"))),
            false => Ok(()),
        };
    }
    if to_layer < from_layer {
        let named = components.contains(&(to.to_owned(), second.to_owned())) || is_component_folder(to, second);
        return match named && from != "recipe" {
            true => Err(format!("`{from}` names the component `{to}::{second}`; only `recipe` may, use its trait")),
            false => Ok(()),
        };
    }
    match EXCEPTIONS.iter().position(|e| e.from == from && e.to == to && e.names.contains(&second)) {
        Some(index) => {
            used.insert(index);
            Ok(())
        }
        None if to_layer == from_layer => {
            Err(format!("`{from}` imports `{to}::{second}`, which is beside it in one layer"))
        }
        None => Err(format!("`{from}` imports `{to}::{second}`, which is to its right")),
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn is_component_folder(kind: &str, name: &str) -> bool {
    KINDS.contains(&kind) && !name.is_empty() && name != "tests" && root().join("src").join(kind).join(name).is_dir()
}

/// What `component!` defines in the folders of the kinds: module and name.
fn components() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for file in library().into_iter().filter(|file| KINDS.contains(&file.module[0].as_str())) {
        for (at, _) in file.code.match_indices("component!") {
            let name = file.code[at..].split("pub struct ").nth(1).and_then(|rest| rest.split(',').next());
            found.extend(name.map(|name| (file.module[0].clone(), name.trim().to_owned())));
        }
    }
    assert!(found.contains(&("models".to_owned(), "Llama".to_owned())), "the scan finds no components: {found:?}");
    found
}

#[test]
fn forbidden_edges_are_refused_and_say_why() {
    let refusal = |from: &str, path: &str| {
        let module = from.split("::").map(str::to_owned).collect();
        let file = Source { name: String::new(), text: String::new(), code: String::new(), module };
        let import = Import { line: 1, path: path.split("::").map(str::to_owned).collect() };
        judge(&file, &import, &components(), &mut BTreeSet::new()).err().unwrap_or_default()
    };
    for (from, path, expected) in [
        ("recipe::zoo", "models::Llama", ""),
        ("vlm", "models::CausalLm", ""),
        ("adapters::lora", "models::CausalLm", ""),
        ("data::llava", "component!", ""),
        ("models", "models::llama", ""),
        ("data", "trainer::Plan", "to its right"),
        ("adapters::lora", "models::Llama", "beside it"),
        ("text", "image::Rgb8", "beside it"),
        ("trainer", "vision::Clip", "names the component"),
        ("generation", "models::llama", "names the component"),
        ("vision::clip", "vision::clip", ""),
        ("projector::mlp", "projector::linear", "sibling"),
        ("vlm", "metrics::Mean", "to its right"),
    ] {
        let found = refusal(from, path);
        assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{from} -> {path}: {found:?}");
    }
}
