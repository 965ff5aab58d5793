//! What is emitted: checks on the user's tokens, and calls of public builders.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};

use crate::syntax::{Component, Literal, Parameter, Recipe};
use crate::{parse, rules};

/// The whole expansion, an expression whatever the input.
pub(crate) fn experiment(input: TokenStream) -> TokenStream {
    let mut recipe = parse::recipe(input);
    rules::check(&mut recipe);
    let errors = recipe.errors.0.iter().map(syn::Error::to_compile_error);
    let checks = recipe.slots.iter().filter_map(|slot| slot.component.as_ref()).map(checks);
    let required = required(&recipe);
    let generation = generation(&recipe);
    let parts: Vec<Part> = parts(&recipe);
    let packing = packing(&recipe, &parts);
    // Where the encoder is no encoder, its features have no type, and the compiler says so on the
    // path of the call: on the user's token it is the same message as that of the slot, shown once.
    let vision = parts.iter().find(|part| part.name == "vision");
    let at = vision.and_then(Part::span).unwrap_or(Span::call_site());
    let types = parts.iter().filter(|part| part.name != "train").map(|part| &part.path);
    // A recipe that is refused already is not checked for parts that go together: the second
    // message would be about a part that is not there.
    let fits = if recipe.errors.0.is_empty() { "fits" } else { "refused" };
    let fits = Ident::new(fits, at);
    let fits = quote_spanned!(at=> ::firebrick::recipe::#fits::<#(#types),*>());
    let train = parts.iter().find(|part| part.name == "train").map(|part| {
        let path = &part.path;
        quote!(let train = ::firebrick::recipe::fits_train::<#path>();)
    });
    let editor = editor(&recipe);
    let calls = parts.iter().map(Part::call);
    quote! {
        {
            #(#errors)*
            #(#checks)*
            #required
            #generation
            #packing
            #editor
            let fits = #fits;
            #train
            // The braces of `{ expression }` are the macro's syntax.
            #[allow(unused_braces)]
            let experiment = ::firebrick::recipe::Experiment::builder()
                .name(::core::module_path!())
                #(#calls)*
                .with(fits);
            experiment
        }
    }
}

/// Names as an editor can complete them: parameters as fields, slots as methods. The compiler never
/// sees them; to it, an unfinished name would be a second error beside the macro's own.
fn editor(recipe: &Recipe) -> TokenStream {
    let components = recipe.slots.iter().filter_map(|slot| slot.component.as_ref());
    let fields = components.flat_map(|component| {
        let path = &component.path;
        component.parameters.iter().map(move |parameter| {
            let name = &parameter.name;
            quote!(let _ = |component: &#path| { let _ = &component.#name; };)
        })
    });
    let slots = recipe.unknown.iter();
    let names = quote! {
        #(#fields)*
        #(::firebrick::recipe::Experiment::builder().#slots();)*
    };
    if names.is_empty() {
        return names;
    }
    quote! {
        #[allow(unexpected_cfgs)]
        const _: () = {
            #[cfg(rust_analyzer)]
            fn names() {
                #names
            }
        };
    }
}

/// One slot as it is emitted.
struct Part {
    /// The builder's method; on the user's token where there is one.
    name: Ident,
    path: TokenStream,
    settings: TokenStream,
}

impl Part {
    fn span(&self) -> Option<Span> {
        self.path.clone().into_iter().next().map(|token| token.span())
    }

    fn call(&self) -> TokenStream {
        let Self { name, path, settings } = self;
        let given = quote!(::firebrick::settings::Given::<#path>::new() #settings);
        match name == "train" {
            true => quote!(.#name(train(#given))),
            false => quote!(.#name(#given)),
        }
    }
}

/// Every slot in the order of the experiment's types, with defaults where it was left out.
fn parts(recipe: &Recipe) -> Vec<Part> {
    let images = rules::filled(recipe, "vision", "NoVision").is_some();
    let data = if images { "DefaultImageData" } else { "DefaultTextData" };
    let order = [
        ("model", Some(quote!(::firebrick::recipe::Unwritten))),
        ("adapter", Some(quote!(::firebrick::adapters::NoAdapter))),
        ("vision", Some(quote!(::firebrick::vision::NoVision))),
        ("projector", Some(quote!(::firebrick::projector::NoProjector))),
        ("objective", Some(quote!(::firebrick::recipe::DefaultObjective))),
        ("data", Some(default_data(data))),
        ("reference", Some(quote!(::firebrick::recipe::NoReference))),
        ("train", None),
    ];
    order
        .into_iter()
        .filter_map(|(name, default)| {
            let slot = recipe.slots.iter().find(|slot| slot.name == name);
            let given = slot.and_then(|slot| slot.component.as_ref());
            let name = slot.map_or(Ident::new(name, Span::call_site()), |slot| slot.name.clone());
            match given {
                Some(component) => Some(Part {
                    name,
                    path: component.path.clone(),
                    settings: component.parameters.iter().filter_map(set).collect(),
                }),
                None => default.map(|path| Part { name, path, settings: TokenStream::new() }),
            }
        })
        .collect()
}

fn default_data(name: &str) -> TokenStream {
    let name = Ident::new(name, Span::call_site());
    quote!(::firebrick::recipe::#name)
}

fn set(parameter: &Parameter) -> Option<TokenStream> {
    let name = parameter.name.to_string();
    let value = &parameter.value.as_ref()?.tokens;
    Some(quote!(.set(#name, #value)))
}

/// The checks that run while the recipe compiles. They are free items, because an inline `const {}`
/// block is not evaluated by `cargo check`.
fn checks(component: &Component) -> TokenStream {
    component.parameters.iter().map(|parameter| check(component, parameter)).collect()
}

/// An objective may have a parameter without a default. The other slots' components have none, and a part that is none at
/// all would be refused twice.
fn required(recipe: &Recipe) -> TokenStream {
    let slot = recipe.slots.iter().find(|slot| slot.name == "objective");
    let Some(component) = slot.and_then(|slot| slot.component.as_ref()) else { return TokenStream::new() };
    let path = &component.path;
    let names = component.parameters.iter().map(|parameter| parameter.name.to_string());
    let at = path.clone().into_iter().next().map_or(Span::call_site(), |token| token.span());
    let check = quote_spanned!(at=> ::firebrick::settings::check_required::<#path>(&[#(#names),*]));
    quote!(const _: () = #check;)
}

/// Settings of the training loop that are about generated answers, beside an objective whose model may give none.
fn generation(recipe: &Recipe) -> TokenStream {
    const ABOUT_ANSWERS: [&str; 3] = ["eval_generate", "eval_shuffled_images", "max_new_tokens"];
    let component = |name: &str| recipe.slots.iter().find(|slot| slot.name == name)?.component.as_ref();
    let (Some(objective), Some(train)) = (component("objective"), component("train")) else {
        return TokenStream::new();
    };
    let path = &objective.path;
    let about = train.parameters.iter().filter(|p| ABOUT_ANSWERS.iter().any(|name| p.name == name));
    about
        .map(|parameter| {
            let check = quote_spanned!(parameter.name.span()=> ::firebrick::recipe::check_generates::<#path>());
            quote!(const _: () = #check;)
        })
        .collect()
}

/// `packing: true` of the training loop, beside parts whose rows may not be packed.
fn packing(recipe: &Recipe, parts: &[Part]) -> TokenStream {
    let train = recipe.slots.iter().find(|slot| slot.name == "train").and_then(|slot| slot.component.as_ref());
    let parameter = train.and_then(|train| train.parameters.iter().find(|parameter| parameter.name == "packing"));
    let value = |parameter: &Parameter| parameter.value.as_ref().and_then(|value| value.literal.clone());
    let Some(parameter) = parameter.filter(|p| value(p) == Some(Literal::Bool(true))) else {
        return TokenStream::new();
    };
    let path = |name: &str| parts.iter().find(|part| part.name == name).map(|part| &part.path);
    let (adapter, vision, objective) = (path("adapter"), path("vision"), path("objective"));
    let check = quote_spanned! {parameter.name.span()=>
        ::firebrick::recipe::check_packs::<#adapter, #vision, #objective>()
    };
    quote!(const _: () = #check;)
}

/// The compiler marks the tokens of a call from its first to its last one. Both ends, of the path as
/// of the arguments, must lie on the user's own tokens: a single one that lies on the macro's name
/// makes the whole invocation the place of the error. The rest of the item must not: where the type
/// is unknown, each would be offered as the place for a type parameter.
fn check(component: &Component, parameter: &Parameter) -> TokenStream {
    let path = &component.path;
    let name = parameter.name.to_string();
    let known = quote_spanned! {parameter.name.span()=>
        ::firebrick::settings::check_parameter::<#path>(#name)
    };
    let value = parameter.value.as_ref().and_then(|value| {
        let literal = literal(value.literal.as_ref()?);
        let source = &value.source;
        let (first, last) = value.span;
        let function = quote_spanned!(first=> ::firebrick::settings::check_value::<#path>);
        let arguments = quote_spanned!(last=> (#name, ::firebrick::settings::Literal::#literal, #source));
        Some(quote!(const _: () = #function #arguments;))
    });
    quote!(const _: () = #known; #value)
}

fn literal(literal: &Literal) -> TokenStream {
    match literal {
        Literal::Integer(value) => {
            let value = proc_macro2::Literal::i128_unsuffixed(*value);
            quote!(Integer(#value))
        }
        Literal::Number(value) if value.is_finite() => quote!(Number(#value)),
        // `1e999`, which Rust refuses as a literal.
        Literal::Number(_) => quote!(Other),
        Literal::Bool(value) => quote!(Bool(#value)),
        Literal::Text(text) => quote!(Text(#text)),
        Literal::Texts(texts) => quote!(Texts(&[#(#texts),*])),
        Literal::None => quote!(None),
    }
}
