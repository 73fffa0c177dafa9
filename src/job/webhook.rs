//! Where are notices sent on one machine? To a URL. What stands in it may be a secret, so that it is never shown whole.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// An `http://` or `https://` URL. Shown, it is scheme and host alone.
#[derive(Clone, Eq, PartialEq)]
pub struct WebhookUrl(Uri);

/// It is no `http://` or `https://` URL with a host, or it names a user.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no http:// or https:// URL")]
pub struct NoUrl;

impl WebhookUrl {
    /// The whole of it, to send to.
    pub fn uri(&self) -> &Uri {
        &self.0
    }
}

impl FromStr for WebhookUrl {
    type Err = NoUrl;

    fn from_str(text: &str) -> Result<Self, NoUrl> {
        let uri: Uri = text.parse().map_err(|_| NoUrl)?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        // Clients would leave a user's name and password out in silence.
        let has_host = uri.authority().is_some_and(|to| !to.host().is_empty() && !to.as_str().contains('@'));
        if is_http && has_host { Ok(Self(uri)) } else { Err(NoUrl) }
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |part: Option<&str>| part.unwrap_or_default().to_owned();
        write!(f, "{}://{}", part(self.0.scheme_str()), part(self.0.authority().map(http::uri::Authority::as_str)))
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_a_url_with_a_host_is_one() {
        for bad in
            ["", "hooks.example", "ftp://hooks.example/x", "http://", "http:///x", "https://me:it@hooks.example/x"]
        {
            assert_eq!(bad.parse::<WebhookUrl>(), Err(NoUrl), "{bad}");
        }
    }

    #[test]
    fn o5_the_secret_in_a_url_is_not_shown() {
        let url: WebhookUrl = "https://hooks.example:8443/services/T0/hunter2?key=hunter2".parse().unwrap();
        assert_eq!(url.to_string(), "https://hooks.example:8443");
        assert_eq!(format!("{url:?}"), "https://hooks.example:8443");
        assert_eq!(url.uri().path(), "/services/T0/hunter2");
    }
}
