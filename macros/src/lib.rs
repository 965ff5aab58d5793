//! The `experiment!` macro of firebrick.
//!
//! It parses a recipe leniently (`parse`), refuses what the syntax alone shows to be wrong
//! (`rules`), and emits calls of public builders and checks on the user's own tokens
//! (`expand`). It knows the names of the slots and no component: types are left to the compiler.

mod cursor;
mod expand;
mod parse;
mod rules;
mod syntax;
#[cfg(test)]
mod tests;

use proc_macro::TokenStream;

/// Writes an experiment: slots, and the component in each of them.
///
/// ```text
/// experiment! {
///     model: Llama,
///     adapter: Lora<r: 8>,
///     vision: Clip,
///     projector: Mlp2xGelu,
/// }
/// ```
///
/// The slots are `model`, `adapter`, `vision`, `projector`, `objective`, `data`, `reference` and
/// `train`, in any order; only `model` must be there, and `vision` and `projector` come together.
/// Without `objective` it is supervised fine-tuning; without `data`, LLaVA's records where there is
/// a `vision` slot and chat messages where there is none.
///
/// A component is any type in scope, or a path to one, whose trait is that of the slot. Its
/// parameters follow in `<name: value, …>`; a value is a literal (`8`, `-2`, `2e-4`, `"v1"`, `true`,
/// `["q_proj", "v_proj"]`, `None`), a constant (`config::RANK`), or any expression in braces
/// (`{ 2 * RANK }`). Literals are checked by the compiler, everything else when the recipe runs.
///
/// The result is an expression of a concrete type, here
/// `Experiment<Llama, Lora, Clip, Mlp, Sft, LlavaData, NoReference>`. It is made of public calls
/// that can be written by hand as well:
///
/// ```text
/// {
///     const _: () = ::firebrick::settings::check_parameter::<Lora>("r");
///     const _: () = ::firebrick::settings::check_value::<Lora>(
///         "r", ::firebrick::settings::Literal::Integer(8), "8");
///     let fits = ::firebrick::recipe::fits::<Llama, Lora, Clip, Mlp2xGelu,
///         ::firebrick::recipe::DefaultObjective, ::firebrick::recipe::DefaultImageData,
///         ::firebrick::recipe::NoReference>();
///     ::firebrick::recipe::Experiment::builder()
///         .name(::core::module_path!())
///         .model(::firebrick::settings::Given::<Llama>::new())
///         .adapter(::firebrick::settings::Given::<Lora>::new().set("r", 8))
///         .vision(::firebrick::settings::Given::<Clip>::new())
///         .projector(::firebrick::settings::Given::<Mlp2xGelu>::new())
///         .objective(::firebrick::settings::Given::<::firebrick::recipe::DefaultObjective>::new())
///         .data(::firebrick::settings::Given::<::firebrick::recipe::DefaultImageData>::new())
///         .reference(::firebrick::settings::Given::<::firebrick::recipe::NoReference>::new())
///         .with(fits)
/// }
/// ```
///
/// The first two lines are what makes `r: 0` an error of the compiler, and `fits` is where a part
/// that does not go with the others is refused.
#[proc_macro]
pub fn experiment(input: TokenStream) -> TokenStream {
    expand::experiment(input.into()).into()
}
