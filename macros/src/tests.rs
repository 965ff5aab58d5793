use proc_macro2::TokenStream;

use crate::expand::experiment;
use crate::parse::recipe;
use crate::rules;
use crate::syntax::Literal;

/// Every message about `source`, in order.
fn messages(source: &str) -> Vec<String> {
    let mut recipe = recipe(tokens(source));
    rules::check(&mut recipe);
    recipe.errors.0.iter().map(syn::Error::to_string).collect()
}

fn tokens(source: &str) -> TokenStream {
    source.parse().unwrap()
}

/// Expects exactly one message, which starts with `expected`, and an expansion that is an
/// expression and still holds `kept`.
fn check(source: &str, expected: &str, kept: &[&str]) {
    let messages = messages(source);
    assert_eq!(messages.len(), 1, "{source}: {messages:?}");
    assert!(messages[0].starts_with(expected), "{source}: {}", messages[0]);
    let expansion = experiment(tokens(source));
    syn::parse2::<syn::Expr>(expansion.clone()).unwrap();
    let expansion = expansion.to_string();
    for kept in kept {
        assert!(expansion.contains(kept), "{source}: `{kept}` is not in {expansion}");
    }
}

#[test]
fn unfinished_recipes_keep_what_is_there() {
    let model = "Given :: < Llama >";
    check("model", "write a slot as `model: Llama`", &["Experiment :: builder"]);
    check("model:", "`model:` needs the name of a type", &["Experiment :: builder"]);
    check("model: Llama, ada", "there is no slot `ada`, did you mean", &[model, ". ada"]);
    check("model: Llama, adapter", "write a slot as `adapter: Lora<r: 8>`", &[model]);
    check("model: Llama, adapter:", "`adapter:` needs the name of a type", &[model, ". adapter"]);
    check("adapter: , model: Llama", "`adapter:` needs the name of a type", &[model]);
    check("model: Llama, adapter: mine::", "write a name after `mine::`", &["< mine >"]);
    check("model: Llama, adapter: Lora<", "this `<` is not closed", &[model, "< Lora >"]);
    check("model: Llama, adapter: Lora<r", "write a parameter as `r: value`", &["component . r"]);
    check("model: Llama, adapter: Lora<r:", "`r:` needs a value", &["component . r"]);
    check("model: Llama, adapter: Lora<r: 8", "this `<` is not closed", &[". set (\"r\" , 8"]);
    check("adapter: Lora<r: 8, model: Llama", "this `<` is not closed", &[model, ". set (\"r\""]);
    check("adapter: Lora<r: 8 model: Llama", "this `<` is not closed", &[model, ". set (\"r\""]);
}

#[test]
fn malformed_recipes_get_one_message() {
    check("", "the slot `model` is missing", &["Unwritten"]);
    check("8, model: Llama", "a slot starts with its name", &["< Llama >"]);
    check("model = Llama", "write `model:` instead of `model =`", &["< Llama >"]);
    check("model:: Llama", "write one colon here", &["< Llama >"]);
    check("model: 8", "`model:` needs the name of a type", &[]);
    check("model: Llama adapter: Lora", "write a comma before `adapter`", &["< Lora >"]);
    check("model: Llama; adapter: Lora", "expected a comma and the next slot", &["< Llama >"]);
    check("model: Llama, adapter: Lora<8>", "write parameters as `Lora<name: value>`", &[]);
    check("model: Llama, adapter: Wrap<Lora>", "write a parameter as `Lora: value`; a type", &[]);
    check("model: Llama, adapter: Lora<r = 8>", "write `r: value`, with a colon", &["\"r\" , 8"]);
    check("model: Llama, adapter: Lora<r: 4 * 2>", "put an expression in braces", &["\"r\" , 4"]);
    check("model: Llama, adapter: Lora<r: -RANK>", "put an expression in braces", &["< Lora >"]);
    check("model: Llama, adapter: Lora<r: 8 s: 1>", "write a comma before `s`", &["\"s\" , 1"]);
    check("model: Llama, adapter: Lora<r: 'c'>", "a value is a number, a text", &["< Lora >"]);
    check("model: Llama, adapter: Lora<r: 1, r: 2>", "`r` is given twice", &["< Lora >"]);
    check("model: Llama, model: Mistral", "the slot `model` is given twice", &["< Llama >"]);
    check("model: Llama, vision: Clip", "`vision` needs a `projector`", &["< Clip >"]);
    check("model: Llama, projector: Mlp", "`projector` has nothing to project", &["< Mlp >"]);
    check("model: Llama, visoin: Clip, projector: Mlp", "there is no slot `visoin`, did", &[]);
    check("modle: Llama", "there is no slot `modle`, did you mean `model: Llama`?", &["modle"]);
}

#[test]
fn no_prefix_of_a_recipe_panics() {
    let whole = "model: ::a::Llama, adapter: Lora<r: -8, x: { 4 * 2 }, y: [\"a\"], z: b::C,>, \
                 train: Train<learning_rate: 2e-4>,";
    assert!(messages(whole).is_empty());
    let trees: Vec<_> = tokens(whole).into_iter().collect();
    for end in 0..trees.len() {
        for start in 0..=end {
            let part = trees[start..end].iter().cloned().collect();
            syn::parse2::<syn::Expr>(experiment(part)).unwrap();
        }
    }
}

#[test]
fn literals_are_read() {
    let source = "model: M<a: -8, b: 0x10u8, c: -2e-4, d: true, e: \"t\", f: [\"x\", \"y\"], \
                  g: None, h: { 1 }, i: a::B, j: [1, 2], k: 5_000_000_000>";
    let recipe = recipe(tokens(source));
    assert!(recipe.errors.0.is_empty());
    let component = recipe.slots[0].component.as_ref().unwrap();
    let values: Vec<_> = component.parameters.iter().filter_map(|p| p.value.as_ref()).collect();
    let literals: Vec<_> = values.iter().map(|value| value.literal.clone()).collect();
    let texts = |texts: &[&str]| Literal::Texts(texts.iter().map(|t| t.to_string()).collect());
    let expected = [
        Some(Literal::Integer(-8)),
        Some(Literal::Integer(16)),
        Some(Literal::Number(-2e-4)),
        Some(Literal::Bool(true)),
        Some(Literal::Text("t".to_owned())),
        Some(texts(&["x", "y"])),
        Some(Literal::None),
        None,
        None,
        None,
        Some(Literal::Integer(5_000_000_000)),
    ];
    assert_eq!(literals, expected);
    assert_eq!(values[0].source, "-8");
    assert_eq!(values[10].tokens.to_string(), "5000000000i64");
}

#[test]
fn a_whole_recipe_expands_to_public_calls() {
    let expansion =
        experiment(tokens("model: Llama, adapter: Lora<r: 8>, vision: Clip, projector: Mlp2xGelu, objective: Sft"));
    let expansion = expansion.to_string();
    for part in [
        "check_parameter :: < Lora > (\"r\")",
        "check_value :: < Lora > (\"r\" , :: firebrick :: settings :: Literal :: Integer (8) , \"8\")",
        "fits :: < Llama , Lora , Clip , Mlp2xGelu , Sft ,",
        ". adapter (:: firebrick :: settings :: Given :: < Lora > :: new () . set (\"r\" , 8i64))",
        "DefaultImageData",
        ". with (fits)",
    ] {
        assert!(expansion.contains(part), "`{part}` is not in {expansion}");
    }
    assert!(!expansion.contains("compile_error"));
}
