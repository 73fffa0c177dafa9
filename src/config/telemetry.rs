//! Where are traces sent? To a collector, at a URL of which only the host is ever shown.

use http::Uri;

use super::typed::Section;

pub(super) fn read(top: &mut Section<'_>) -> Option<Uri> {
    let mut section = top.section("telemetry");
    let traces = section.text("traces").and_then(|typed| {
        let collector = collector(&typed);
        if collector.is_none() {
            section.out_of_bounds(
                "traces",
                "...",
                "the URL of a collector, such as \"http://localhost:4318\": http:// or https://, a host, and no user",
            );
        }
        collector
    });
    section.finish();
    traces
}

fn collector(typed: &str) -> Option<Uri> {
    let uri: Uri = typed.parse().ok()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    // A client would leave a user's name and password out in silence.
    let has_host = uri.authority().is_some_and(|to| !to.host().is_empty() && !to.as_str().contains('@'));
    (is_http && has_host).then_some(uri)
}
