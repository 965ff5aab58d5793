//! The page to chat with.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const HTML: &str = include_str!("page.html");

/// The page, with a policy under which only its own script runs and only its own style is used.
pub(super) fn page() -> Response {
    let mut response = Response::new(Body::from(HTML));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    if let Ok(policy) = HeaderValue::from_str(&policy()) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    response
}

fn policy() -> String {
    let (script, style) = (hash(between("<script>", "</script>")), hash(between("<style>", "</style>")));
    format!(
        "default-src 'none'; script-src '{script}'; style-src '{style}'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

fn between(open: &str, close: &str) -> &'static str {
    let inside = HTML.split_once(open).map_or("", |(_, rest)| rest);
    inside.split_once(close).map_or("", |(inside, _)| inside)
}

fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_outside_and_shows_text_as_text() {
        assert!(between("<script>", "</script>").len() > 1000 && between("<style>", "</style>").len() > 500);
        for forbidden in [
            "innerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "http://",
            "https://",
            "style=",
            "src=\"",
            "onclick=",
        ] {
            assert!(!HTML.contains(forbidden), "{forbidden}");
        }
        assert_eq!(HTML.matches("<script>").count() + HTML.matches("<style>").count(), 2);
        assert!(policy().starts_with("default-src 'none'; script-src 'sha256-"));
    }
}
