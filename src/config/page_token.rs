//! What must somebody know who acts from the page? A text that no message, log or `{:?}` shows.

use std::fmt;
use std::sync::Arc;

use super::typed::Section;

/// Short enough to be guessed is as good as none.
const LEAST: usize = 16;

/// `worker.page_token`.
#[derive(Clone, Eq, PartialEq)]
pub struct PageToken(Arc<str>);

impl PageToken {
    /// `None` if it is shorter than 16 characters, or has any that are not visible ASCII.
    pub fn new(token: &str) -> Option<Self> {
        let fits = token.len() >= LEAST && token.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(token.into()))
    }

    /// What it says, to compare it with.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PageToken(..)")
    }
}

pub(super) fn read(section: &mut Section<'_>) -> Option<PageToken> {
    let typed = section.secret("page_token")?;
    let token = PageToken::new(&typed);
    if token.is_none() {
        section.out_of_bounds("page_token", "..", format!("at least {LEAST} visible ASCII characters"));
    }
    token
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SECRET: &str = "a-secret-of-many-letters";

    fn resolve(text: &str, env: &[(&str, &str)]) -> Result<Option<PageToken>, String> {
        let env: BTreeMap<_, _> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let settings = crate::config::resolve(Some(("aquifer.toml", text)), &env, |_| Err(String::new()));
        settings.map(|settings| settings.worker.page_token).map_err(|errors| errors.to_string())
    }

    #[test]
    fn it_comes_from_the_file_or_the_environment_and_is_shown_nowhere() {
        let token = PageToken::new(SECRET);
        assert_eq!(resolve(&format!("[worker]\npage_token = '{SECRET}'"), &[]), Ok(token.clone()));
        assert_eq!(resolve("", &[("AQUIFER_WORKER_PAGE_TOKEN", SECRET)]), Ok(token.clone()));
        // Text that would be a number, were it another key's.
        let digits = "12345678901234567890";
        assert_eq!(resolve("", &[("AQUIFER_WORKER_PAGE_TOKEN", digits)]), Ok(PageToken::new(digits)));
        assert_eq!(resolve("", &[]), Ok(None));
        assert_eq!(format!("{:?}", token.unwrap()), "PageToken(..)");
    }

    #[test]
    fn what_is_wrong_with_it_is_said_without_it() {
        for (text, said) in [
            ("page_token = 'hunter2'", "`worker.page_token` must be at least 16 visible ASCII characters"),
            (
                "page_token = 'hunter2 and some more'",
                "`worker.page_token` must be at least 16 visible ASCII characters",
            ),
            ("page_token = 77777777777777777", "`worker.page_token` must be a string"),
            ("page_token = ['hunter2']", "`worker.page_token` must be a string"),
        ] {
            let error = resolve(&format!("[worker]\n{text}"), &[]).unwrap_err();
            assert!(error.contains(said), "{error}");
            assert!(!error.contains("hunter2") && !error.contains("777"), "{error}");
        }
    }
}
