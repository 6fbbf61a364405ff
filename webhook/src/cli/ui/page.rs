//! The page: one file in this program. Nothing is fetched from anywhere else, and the browser is told not to.

use axum::http::HeaderValue;
use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};

/// The page as it is sent.
const TEXT: &str = include_str!("page.html");

/// The page, and what the browser may do with it.
pub(super) struct Page {
    pub(super) text: &'static str,
    /// `Content-Security-Policy`: this very script and this very style, requests to this very address, and nothing besides.
    pub(super) policy: HeaderValue,
}

impl Page {
    pub(super) fn new() -> Self {
        let policy = format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
            hash("script"),
            hash("style"),
        );
        // Of base64 and the words above: nothing that a header may not have.
        let policy = HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
        Self { text: TEXT, policy }
    }
}

/// The hash of what stands in the page's one element of this name.
fn hash(element: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(content(element).unwrap_or_default())))
}

fn content(element: &str) -> Option<&'static str> {
    let (_, rest) = TEXT.split_once(&format!("<{element}>"))?;
    Some(rest.split_once(&format!("</{element}>"))?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_script_and_one_style_of_its_own() {
        for element in ["script", "style"] {
            assert_eq!(TEXT.matches(&format!("<{element}")).count(), 1, "{element}");
            assert!(content(element).unwrap().len() > 100, "{element}");
        }
        let policy = Page::new().policy;
        let policy = policy.to_str().unwrap();
        assert!(policy.contains("script-src 'sha256-") && policy.contains("style-src 'sha256-"), "{policy}");
    }

    /// What comes from the cluster is text, never markup; and the browser refuses what the policy does not name.
    #[test]
    fn nothing_is_made_of_text_and_nothing_is_fetched() {
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "http://",
            "https://",
            " style=",
            " onclick=",
        ] {
            assert!(!TEXT.contains(forbidden), "the page has {forbidden}");
        }
    }
}
