//! What the names of slots and parameters alone show to be wrong.

use std::collections::BTreeSet;

use proc_macro2::Span;

use crate::parse::example;
use crate::syntax::{Component, Errors, Recipe, SLOTS, Slot, nearest};

/// Refuses unknown, repeated, missing and unpaired slots, and parameters given twice.
///
/// Of a repeated slot the first one stays; an unknown one is taken out. Says nothing of missing
/// slots where the form is already wrong: what is missing may be what could not be read.
pub(crate) fn check(recipe: &mut Recipe) {
    let well_formed = recipe.errors.0.is_empty();
    let errors = &mut recipe.errors;
    let mut seen = BTreeSet::new();
    let mut misspelled = BTreeSet::new();
    recipe.slots.retain(|slot| {
        let name = slot.name.to_string();
        if !SLOTS.contains(&name.as_str()) {
            misspelled.extend(unknown(slot, errors));
            recipe.unknown.push(slot.name.clone());
            return false;
        }
        let first = seen.insert(name.clone());
        if !first {
            let message = format!("the slot `{name}` is given twice; keep one of them");
            errors.at(slot.name.span(), message);
        }
        first
    });
    for component in recipe.slots.iter().filter_map(|slot| slot.component.as_ref()) {
        repeated_parameters(component, errors);
    }
    let there = |name: &str| seen.contains(name) || misspelled.contains(name);
    if well_formed && !there("model") {
        let message = "the slot `model` is missing; add a language model, for example `model: Llama`";
        errors.at(Span::call_site(), message);
    }
    if well_formed {
        pair(recipe, &misspelled);
    }
}

/// Whether a slot is filled with more than the type that stands for leaving it out.
pub(crate) fn filled<'r>(recipe: &'r Recipe, name: &str, empty: &str) -> Option<&'r Slot> {
    recipe
        .slots
        .iter()
        .find(|slot| slot.name == name && slot.component.as_ref().is_none_or(|component| component.last != empty))
}

fn pair(recipe: &mut Recipe, misspelled: &BTreeSet<&str>) {
    let vision = filled(recipe, "vision", "NoVision").map(|slot| slot.name.span());
    let projector = filled(recipe, "projector", "NoProjector").map(|slot| slot.name.span());
    match (vision, projector) {
        (Some(span), None) if !misspelled.contains("projector") => recipe.errors.at(
            span,
            "`vision` needs a `projector` that maps its features to the language model's width; \
             add `projector: Mlp2xGelu`",
        ),
        (None, Some(span)) if !misspelled.contains("vision") => recipe.errors.at(
            span,
            "`projector` has nothing to project without `vision`; add `vision: Clip` or remove \
             `projector`",
        ),
        _ => {}
    }
}

fn unknown(slot: &Slot, errors: &mut Errors) -> Option<&'static str> {
    let name = slot.name.to_string();
    let meant = nearest(&name, &SLOTS);
    let hint = match meant {
        Some(meant) => format!(", did you mean `{}`?", example(meant)),
        None => ";".to_owned(),
    };
    let known = SLOTS.join("`, `");
    errors.at(slot.name.span(), format!("there is no slot `{name}`{hint} the slots are `{known}`"));
    meant
}

fn repeated_parameters(component: &Component, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for parameter in &component.parameters {
        let name = parameter.name.to_string();
        if !seen.insert(name.clone()) {
            let message = format!("`{name}` is given twice; keep one of them");
            errors.at(parameter.name.span(), message);
        }
    }
}
