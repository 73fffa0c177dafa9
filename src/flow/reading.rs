//! How does a worker read an input that is an object? As a stream, whatever its size: its bytes come on one side, are cut into lines
//! and read as jobs on a thread of their own, and lots of lines go on to whoever takes them, never more than a few at a time.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use serde::de::IgnoredAny;
use tokio::sync::mpsc;

use crate::job::failure::Class;
use crate::ports::inputs::{Edition, InputStream, Inputs, Unread};
use crate::ports::{StoreError, StoreTrouble};

use super::intake::{Intake, LOT, Place, Read};
use super::line_reader::{LineKind, LineReader};
use super::proof::Exit;

/// Pieces of the object, and lots of lines, on their way at a time.
const AHEAD: usize = 4;

/// Of text in a lot, or one line more: lines may be long.
const LOT_BYTES: usize = 4 << 20;

/// What was read, to its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Whole {
    /// Which edition of the object.
    pub edition: Edition,
    /// Lines that are not blank.
    pub lines: u64,
    /// Whether one of them is JSON.
    pub is_json: bool,
}

/// Who takes lines as they are read.
#[async_trait]
pub trait Takes: Send {
    /// The next lot of them, in order.
    ///
    /// # Errors
    /// Nothing is read on.
    async fn take(&mut self, lines: Vec<Read>) -> Result<(), Exit>;
}

/// Reads the object of that URI, this edition of it or its newest, and hands its lines on, in order.
///
/// # Errors
/// What `taker` said; [`Exit::Reject`] if it cannot be read, with the reason; [`Exit::Store`] if that may pass.
pub async fn read(
    inputs: &dyn Inputs,
    uri: &str,
    edition: Option<&Edition>,
    intake: &Arc<Intake>,
    taker: &mut dyn Takes,
) -> Result<Whole, Exit> {
    let mut stream = inputs.open(uri, edition).await.map_err(|unread| exit(uri, unread))?;
    let (pieces, pipe) = mpsc::channel(AHEAD);
    let (out, mut lots) = mpsc::channel(AHEAD);
    let (name, rules) = (Arc::from(uri), Arc::clone(intake));
    let reading =
        tokio::task::spawn_blocking(move || cut(Pipe { pieces: pipe, piece: Bytes::new() }, &name, &rules, &out));
    let taking = async {
        while let Some(lot) = lots.recv().await {
            taker.take(lot).await?;
        }
        Ok::<_, Exit>(())
    };
    let (fed, ()) = tokio::try_join!(async { Ok(feed(&mut *stream, pieces).await) }, taking)?;
    let edition = stream.edition().clone();
    let cut = reading.await.map_err(|error| away(uri, error.to_string()))?;
    // Where it could not be fetched, what was read of it breaks off: that is not the object's fault.
    fed.map_err(|unread| exit(uri, unread))?;
    let (lines, is_json) = cut.map_err(|Broken { line, why }| {
        let at = if line == 0 { "before its first line".to_owned() } else { format!("after line {line}") };
        Exit::Reject { reason: format!("{}: {uri}: reading stopped {at}: {why}", Class::BadInput) }
    })?;
    Ok(Whole { edition, lines, is_json })
}

async fn feed(stream: &mut dyn InputStream, pieces: mpsc::Sender<io::Result<Bytes>>) -> Result<(), Unread> {
    loop {
        let piece = match stream.next().await {
            Ok(Some(piece)) => Ok(piece),
            Ok(None) => return Ok(()),
            Err(unread) => {
                // The rest of a line is no line.
                let _ = pieces.send(Err(io::Error::other("not all of it could be fetched"))).await;
                return Err(unread);
            }
        };
        // Who reads has found it damaged, or has nobody to read for.
        if pieces.send(piece).await.is_err() {
            return Ok(());
        }
    }
}

struct Broken {
    line: u64,
    why: io::Error,
}

/// Cuts it into lots until its end, or until nobody takes them; how many lines, and whether one was JSON.
fn cut(pipe: Pipe, name: &Arc<str>, intake: &Intake, out: &mpsc::Sender<Vec<Read>>) -> Result<(u64, bool), Broken> {
    let mut lines = LineReader::new(Box::new(pipe)).map_err(|why| Broken { line: 0, why })?;
    let (mut buffer, mut lot) = (Vec::new(), Vec::with_capacity(LOT));
    let (mut position, mut is_json, mut bytes) = (0, false, 0);
    loop {
        let kind = match lines.next_line(&mut buffer) {
            Ok(Some(kind)) => kind,
            Ok(None) => break,
            Err(why) => return Err(Broken { line: lines.number(), why }),
        };
        is_json = is_json || (kind == LineKind::Text && serde_json::from_slice::<IgnoredAny>(&buffer).is_ok());
        let place = Place { file: Arc::clone(name), number: lines.number(), position };
        lot.push(Read { place, parsed: intake.read(kind, &buffer) });
        (position, bytes) = (position + 1, bytes + buffer.len());
        if lot.len() == LOT || bytes >= LOT_BYTES {
            bytes = 0;
            if out.blocking_send(std::mem::replace(&mut lot, Vec::with_capacity(LOT))).is_err() {
                return Ok((position, is_json));
            }
        }
    }
    if !lot.is_empty() {
        let _ = out.blocking_send(lot);
    }
    Ok((position, is_json))
}

/// What comes on a channel, for who can only read.
struct Pipe {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl io::Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let read = (&self.piece[..]).read(buf)?;
        self.piece.advance(read);
        Ok(read)
    }
}

fn exit(uri: &str, unread: Unread) -> Exit {
    match unread {
        Unread::Refused { why } => Exit::Reject { reason: format!("{}: {uri}: {why}", Class::BadInput) },
        Unread::Away { why } => away(uri, why),
    }
}

fn away(uri: &str, why: String) -> Exit {
    Exit::Store(StoreError { kind: StoreTrouble::Away, doing: format!("reading {uri}"), why })
}
