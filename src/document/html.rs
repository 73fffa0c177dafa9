//! Which text does a reader of this page see? Markdown, so that headings, lists and tables are told from prose.

use htmd::HtmlToMarkdown;

use crate::job::document::Kind;

use super::extract::Unreadable;

/// What is on the page but not read.
const UNREAD: [&str; 8] = ["script", "style", "noscript", "template", "svg", "head", "iframe", "object"];

pub(super) fn to_markdown(page: &str) -> Result<String, Unreadable> {
    let converter = HtmlToMarkdown::builder().skip_tags(UNREAD.to_vec()).build();
    converter.convert(page).map_err(|_| Unreadable::Corrupt { kind: Kind::Html, why: "it does not parse".to_owned() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_markdown_without_its_scripts() {
        let page = "<html><head><title>t</title><style>p{}</style></head><body><h1>Head</h1><script>x()</script>\
                    <p>One &amp; two</p><ul><li>item</li></ul></body></html>";
        let text = to_markdown(page).unwrap();
        assert!(text.starts_with("# Head") && text.contains("One & two") && text.contains("item"), "{text}");
        assert!(!text.contains("x()") && !text.contains("p{}"), "{text}");
    }
}
