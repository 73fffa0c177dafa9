//! Which lines does this stream hold?
//!
//! One line after the other, whatever its size: plain, gzip or zstd (told by the first bytes, for a stream has no name), with a BOM
//! or without, ended by LF or CRLF or by the end of the stream. A line that no job could be ([`MAX_LINE`]) is measured and passed
//! over without being held. Reading blocks: call it where blocking is fine.

use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

/// The longest line that is read, in bytes without its end: 32 MiB, above the service's own limit of 25,000,000
/// bytes for a request.
pub const MAX_LINE: u64 = 32 << 20;

/// Inputs are read in pieces of this size; decompression and `memchr` are fastest well below the cache.
const PIECE: usize = 128 << 10;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const BOM: &[u8] = &[0xef, 0xbb, 0xbf];

/// What there is of a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LineKind {
    /// All of it, in the caller's buffer, without its end.
    Text,
    /// Nothing: it is longer than [`MAX_LINE`], and the buffer is empty.
    TooLong {
        /// Its length in bytes, without its line feed.
        length: u64,
    },
}

/// The lines of one stream.
pub struct LineReader {
    reader: Box<dyn BufRead + Send>,
    number: u64,
}

impl LineReader {
    /// Reads the first bytes, to tell how it is compressed.
    ///
    /// # Errors
    /// What the stream said.
    pub fn new(raw: Box<dyn Read + Send>) -> io::Result<Self> {
        Ok(Self { reader: plain(raw)?, number: 0 })
    }

    /// Lines read so far; blank ones count.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next line that is not blank, read into `buf` in place of what was there; `None` after the last.
    ///
    /// # Errors
    /// What the stream said, or that what it holds is damaged. Every line up to [`number`](Self::number) was read whole.
    pub fn next_line(&mut self, buf: &mut Vec<u8>) -> io::Result<Option<LineKind>> {
        loop {
            let Some(length) = read_line(&mut self.reader, buf)? else { return Ok(None) };
            self.number += 1;
            if length > MAX_LINE {
                buf.clear();
                return Ok(Some(LineKind::TooLong { length }));
            }
            if self.number == 1 && buf.starts_with(BOM) {
                buf.drain(..BOM.len());
            }
            if buf.last() == Some(&b'\r') {
                buf.pop();
            }
            if !buf.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(LineKind::Text));
            }
        }
    }
}

impl fmt::Debug for LineReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineReader").field("number", &self.number).finish_non_exhaustive()
    }
}

/// What is in it, decompressed if its first bytes say so.
fn plain(mut raw: Box<dyn Read + Send>) -> io::Result<Box<dyn BufRead + Send>> {
    let mut first = Vec::with_capacity(ZSTD.len());
    raw.by_ref().take(ZSTD.len() as u64).read_to_end(&mut first)?;
    let is = |magic: &[u8]| first.starts_with(magic);
    let (gzip, zstd) = (is(GZIP), is(ZSTD));
    let whole = BufReader::with_capacity(PIECE, Cursor::new(first).chain(raw));
    Ok(if gzip {
        Box::new(BufReader::with_capacity(PIECE, MultiGzDecoder::new(whole)))
    } else if zstd {
        Box::new(BufReader::with_capacity(PIECE, zstd::stream::read::Decoder::with_buffer(whole)?))
    } else {
        Box::new(whole)
    })
}

/// Reads up to the next line feed and returns the line's length without it; `None` at the end. Of a line longer
/// than [`MAX_LINE`] the buffer holds no more than the beginning.
fn read_line(reader: &mut dyn BufRead, buf: &mut Vec<u8>) -> io::Result<Option<u64>> {
    buf.clear();
    let mut length = 0_u64;
    loop {
        let piece = match reader.fill_buf() {
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if piece.is_empty() {
            return Ok((length > 0).then_some(length));
        }
        let (text, used, ended) = match memchr::memchr(b'\n', piece) {
            Some(end) => (piece.get(..end).unwrap_or_default(), end + 1, true),
            None => (piece, piece.len(), false),
        };
        length += text.len() as u64;
        if length <= MAX_LINE {
            buf.extend_from_slice(text);
        } else {
            // One such line must not cost its length in memory for the rest of the run.
            *buf = Vec::new();
        }
        reader.consume(used);
        if ended {
            return Ok(Some(length));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::io::Write as _;

    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_pipe_that_gives_one_byte_at_a_time_is_read_like_a_file() {
        struct Trickle(Cursor<Vec<u8>>);
        impl Read for Trickle {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                let one = buf.len().min(1);
                self.0.read(buf.get_mut(..one).unwrap())
            }
        }
        for content in [b"a\r\nb".to_vec(), gzip(b"a\nb\n"), zstd::stream::encode_all(&b"a\nb"[..], 1).unwrap()] {
            let mut source = LineReader::new(Box::new(Trickle(Cursor::new(content)))).unwrap();
            let mut buf = Vec::new();
            for expected in [b"a", b"b"] {
                assert_eq!(source.next_line(&mut buf).unwrap(), Some(LineKind::Text));
                assert_eq!(buf, expected);
            }
            assert_eq!(source.next_line(&mut buf).unwrap(), None);
        }
    }
}
