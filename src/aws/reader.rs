//! What are the results of a batch? Its lines, from wherever they lie, at the same memory for ten as for ten million.
//!
//! In the order of the input they follow the batch's newest roll: five thousand rows say where their lines lie, and neighbours are
//! read together, some MiB at a time. In the order in which jobs ended the batch's segments are read from end to end.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::rolls::{Place, Rolls};
use super::segment_lines::SegmentLines;
use super::{Fleet, Inner, look_up, spans, trouble};
use crate::job::ident::BatchName;
use crate::job::outcome::Pointer;
use crate::ports::{StoreError, StoreTrouble};

const DOING: &str = "reading results";
/// Lines are read until they come to this, or one is longer by itself.
const WINDOW_BYTES: u64 = 16 << 20;
/// And up to so many.
const WINDOW_LINES: usize = 1_000;

/// In which order results come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// As the lines of the newest input that was enqueued. A batch that only producers sent had none: as [`Order::Done`].
    Input,
    /// Lines that were refused before they became jobs, then all jobs of the batch as they ended: exactly within one worker, and to
    /// the second between them.
    Done,
}

/// The result lines of a batch, of all its tenants, each without its line feed. What has not ended is left out.
#[derive(Debug)]
pub struct ResultLines {
    inner: Arc<Inner>,
    source: Source,
    ready: VecDeque<Bytes>,
}

#[derive(Debug)]
enum Source {
    /// A roll, and what of its last part is not read yet.
    Roll {
        roll: Rolls,
        listed: VecDeque<Line>,
    },
    /// Refused lines of a roll, and then the segments.
    Refused {
        roll: Rolls,
        segments: Box<SegmentLines>,
    },
    Segments(Box<SegmentLines>),
    Done,
}

#[derive(Debug)]
enum Line {
    Here(Bytes),
    At(Pointer),
}

impl Fleet {
    /// The results of a batch.
    ///
    /// # Errors
    /// `Other` if there is no such batch, else what table or bucket said.
    pub async fn results(&self, batch: &BatchName, order: Order) -> Result<ResultLines, StoreError> {
        let inner = &self.inner;
        let roll = Rolls::newest(inner, batch).await?;
        if roll.is_none() && !self.has_batch(batch).await? {
            return Err(trouble::of_ours(StoreTrouble::Other, DOING, format!("there is no batch {batch}")));
        }
        let source = match (roll, order) {
            (Some(roll), Order::Input) => Source::Roll { roll, listed: VecDeque::new() },
            (Some(roll), Order::Done) => {
                Source::Refused { roll, segments: Box::new(SegmentLines::of(inner, batch, None).await?) }
            }
            (None, Order::Input | Order::Done) => {
                Source::Segments(Box::new(SegmentLines::of(inner, batch, None).await?))
            }
        };
        Ok(ResultLines { inner: Arc::clone(inner), source, ready: VecDeque::new() })
    }
}

impl ResultLines {
    /// The next line; `None` behind the last, and after an error.
    pub async fn next(&mut self) -> Option<Result<Bytes, StoreError>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(Ok(line));
            }
            let source = std::mem::replace(&mut self.source, Source::Done);
            match self.turn(source).await {
                Ok(Source::Done) if self.ready.is_empty() => return None,
                Ok(source) => self.source = source,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Makes some lines ready, or none yet; where it goes on after them.
    async fn turn(&mut self, source: Source) -> Result<Source, StoreError> {
        match source {
            Source::Roll { mut roll, mut listed } => {
                if listed.is_empty() {
                    let Some(part) = roll.next_part().await? else { return Ok(Source::Done) };
                    listed = self.ended(part).await?;
                }
                let window = window(&mut listed);
                self.ready = self.read(window).await?.into();
                Ok(Source::Roll { roll, listed })
            }
            Source::Refused { mut roll, segments } => {
                let Some(part) = roll.next_part().await? else { return Ok(Source::Segments(segments)) };
                self.ready.extend(part.into_iter().filter_map(|place| match place {
                    Place::Refused(refused) => Some(refused.result),
                    Place::Job(_) => None,
                }));
                Ok(Source::Refused { roll, segments })
            }
            Source::Segments(mut segments) => {
                let Some(lines) = segments.next().await? else { return Ok(Source::Done) };
                self.ready.extend(lines.into_iter().map(|ended| ended.line));
                Ok(Source::Segments(segments))
            }
            Source::Done => Ok(Source::Done),
        }
    }

    /// Where the lines lie of what has ended.
    async fn ended(&self, part: Vec<Place>) -> Result<VecDeque<Line>, StoreError> {
        let jobs = part.iter().filter_map(|place| match place {
            Place::Job(job) => Some(job.clone()),
            Place::Refused(_) => None,
        });
        let mut rows = look_up::rows(&self.inner, DOING, jobs).await?;
        let line = |place| match place {
            Place::Refused(refused) => Some(Line::Here(refused.result)),
            Place::Job(job) => Some(Line::At(rows.remove(&job)?.ended?.ending.result)),
        };
        Ok(part.into_iter().filter_map(line).collect())
    }

    async fn read(&self, window: Vec<Line>) -> Result<Vec<Bytes>, StoreError> {
        let pointers: Vec<Pointer> = window
            .iter()
            .filter_map(|line| match line {
                Line::At(pointer) => Some(pointer.clone()),
                Line::Here(_) => None,
            })
            .collect();
        let mut read = spans::read(&self.inner, DOING, &pointers).await?.into_iter();
        let lines = window.into_iter().filter_map(|line| match line {
            Line::Here(line) => Some(line),
            Line::At(_) => read.next(),
        });
        Ok(lines.collect())
    }
}

/// As many lines as are read at once.
fn window(listed: &mut VecDeque<Line>) -> Vec<Line> {
    let mut window = Vec::new();
    let mut bytes = 0_u64;
    while window.len() < WINDOW_LINES
        && let Some(line) = listed.front()
    {
        if let Line::At(pointer) = line {
            bytes = bytes.saturating_add(pointer.length);
        }
        if bytes > WINDOW_BYTES && !window.is_empty() {
            break;
        }
        window.extend(listed.pop_front());
    }
    window
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::ident::Digest;

    fn lines(lengths: impl IntoIterator<Item = u64>) -> VecDeque<Line> {
        let at = |length| Pointer { uri: String::new(), offset: 0, length, sha256: Digest::of(b"") };
        lengths.into_iter().map(|length| Line::At(at(length))).collect()
    }

    #[test]
    fn a_window_is_bounded_in_lines_and_bytes_and_never_empty_before_the_end() {
        assert_eq!(window(&mut lines(vec![100; 2_500])).len(), WINDOW_LINES);
        let mut long = lines([WINDOW_BYTES + 1, WINDOW_BYTES / 2, WINDOW_BYTES / 2, 1]);
        let sizes: Vec<usize> = std::iter::from_fn(|| Some(window(&mut long).len()).filter(|size| *size > 0)).collect();
        assert_eq!(sizes, [1, 2, 1]);
    }
}
