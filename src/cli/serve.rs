//! Where does a process say how it is? A port that somebody asked for must be had; the default one may be another worker's.

use std::sync::Arc;

use crate::config::Listen;
use crate::flow::context::Context;
use crate::page::Page;

use super::exit::Report;
use super::terminal::say;

/// Opens the page; `None` if its port is taken and nobody asked for it.
///
/// # Errors
/// A report: the port that was asked for cannot be had.
pub(crate) async fn open(listen: Listen, context: &Arc<Context>) -> Result<Option<Page>, Report> {
    let Listen { address, is_set } = listen;
    match Page::open(address, Arc::clone(context)).await {
        Ok(page) => {
            say(&format!("http://{0}/healthz, /readyz, /api/status and /metrics say how it is", page.address()));
            Ok(Some(page))
        }
        Err(error) if is_set => Err(Report::stuck(format!("cannot listen on {address}: {error}"))
            .hint("name another address with --listen or `worker.listen`; port 0 takes a free one")),
        Err(error) => {
            say(&format!("warning: cannot listen on {address} ({error}), so /healthz and /readyz are not served"));
            Ok(None)
        }
    }
}
