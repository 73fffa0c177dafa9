//! Where does a process say how it is? A port that somebody asked for must be had; the default one may be another worker's.

use std::sync::Arc;

use crate::config::{Listen, PageToken};
use crate::flow::context::Context;
use crate::page::{Desk, Page};

use super::exit::Report;
use super::terminal::say;

/// Opens the page, which acts for whoever knows the token; `None` if its port is taken and nobody asked for it.
///
/// # Errors
/// A report: the port that was asked for cannot be had.
pub(crate) async fn open(
    listen: Listen,
    context: &Arc<Context>,
    desk: impl Desk + 'static,
    token: Option<&PageToken>,
) -> Result<Option<Page>, Report> {
    let Listen { address, is_set } = listen;
    match Page::open(address, Arc::clone(context), Arc::new(desk), token.cloned()).await {
        Ok(page) => {
            say(&format!(
                "http://{}/ shows how it is, /healthz, /readyz, /api/status and /metrics say it",
                page.address()
            ));
            Ok(Some(page))
        }
        Err(error) if is_set => Err(Report::stuck(format!("cannot listen on {address}: {error}"))
            .hint("name another address with --listen or `worker.listen`; port 0 takes a free one")),
        Err(error) => {
            say(&format!("warning: cannot listen on {address} ({error}), so there is no page, /healthz or /readyz"));
            Ok(None)
        }
    }
}
