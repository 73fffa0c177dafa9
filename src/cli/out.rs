//! The door for data: standard output. A reader that has gone away is no failure of ours to report twice.

use std::io::Write;
use std::os::fd::AsFd as _;

use tokio::io::Interest;
use tokio::net::unix::pipe;

use super::exit::Report;

/// One line of data.
///
/// # Errors
/// A report: standard output is gone.
pub(crate) fn line(text: &str) -> Result<(), Report> {
    bytes(text.as_bytes())
}

/// One line of data; `false` if nobody reads it any more.
///
/// # Errors
/// A report: standard output is gone otherwise.
pub(crate) fn line_is_read(text: &str) -> Result<bool, Report> {
    match write(text.as_bytes()) {
        Ok(()) => Ok(true),
        Err(error) if is_enough(&error) => Ok(false),
        Err(error) => Err(gone(&error)),
    }
}

/// One line of data, as it lies in the store.
///
/// # Errors
/// A report: standard output is gone.
pub(crate) fn bytes(line: &[u8]) -> Result<(), Report> {
    match write(line) {
        Err(error) if !is_enough(&error) => Err(gone(&error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Returns once nobody reads it any more, as far as that shows before something is written: at a pipe it does.
pub(crate) async fn is_unread() {
    let watched = async {
        let pipe = std::io::stdout().as_fd().try_clone_to_owned()?;
        // Unchecked, since a check would also set it to non-blocking, for all who share it.
        pipe::Sender::from_owned_fd_unchecked(pipe)?.ready(Interest::ERROR).await
    };
    // What cannot be watched, as a file, has no reader who could go.
    if watched.await.is_err() {
        std::future::pending().await
    }
}

fn write(line: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(line).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush())
}

fn gone(error: &std::io::Error) -> Report {
    Report::stuck(format!("cannot write to standard output: {error}"))
}

/// The reader has seen what it wanted, as `head` does.
pub(crate) fn is_enough(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::BrokenPipe
}
