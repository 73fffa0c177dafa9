//! How are many lines read that lie here and there? Neighbours in one object with one request, some requests at once.

use std::ops::Range;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::objects::{Objects, Part};
use super::{Inner, trouble};
use crate::job::ident::Digest;
use crate::job::outcome::Pointer;
use crate::ports::{StoreError, StoreTrouble};

/// A request reads at most this much, but for a line that is longer by itself.
const SPAN_BYTES: u64 = 8 << 20;
/// What lies between two lines is read along, rather than asked for twice, up to this.
const GAP_BYTES: u64 = 16 << 10;
/// Requests at once.
const REQUESTS: usize = 8;

/// Bytes of one object, and the lines in them by their places among those asked for.
#[derive(Debug, Eq, PartialEq)]
struct Span<'p> {
    uri: &'p str,
    bytes: Range<u64>,
    lines: Vec<usize>,
}

/// The lines behind these pointers, in their order, each checked. They are all in memory at once.
pub(super) async fn read(inner: &Inner, doing: &str, pointers: &[Pointer]) -> Result<Vec<Bytes>, StoreError> {
    let objects = &Objects::new(inner.clients.s3.clone(), inner.settings.bucket.clone());
    let mut requests: Vec<BoxFuture<'_, Result<(Span<'_>, Bytes), StoreError>>> = Vec::new();
    for span in spans(pointers) {
        requests.push(Box::pin(async move { of_span(inner, objects, doing, &span).await.map(|bytes| (span, bytes)) }));
    }
    let mut lines = vec![Bytes::new(); pointers.len()];
    let mut answers = stream::iter(requests).buffer_unordered(REQUESTS);
    while let Some((span, bytes)) = answers.try_next().await? {
        for place in span.lines {
            let (Some(pointer), Some(line)) = (pointers.get(place), lines.get_mut(place)) else { continue };
            *line = slice(&bytes, span.bytes.start, pointer).ok_or_else(|| {
                let why = format!("the line at {} of {} is not the one that was written", pointer.offset, pointer.uri);
                trouble::of_ours(StoreTrouble::Damaged, doing, why)
            })?;
        }
    }
    Ok(lines)
}

async fn of_span(inner: &Inner, objects: &Objects, doing: &str, span: &Span<'_>) -> Result<Bytes, StoreError> {
    let damaged = |why| trouble::of_ours(StoreTrouble::Damaged, doing, format!("{}: {why}", span.uri));
    let Some((bucket, key)) = Objects::place(span.uri) else { return Err(damaged("is no object's URI")) };
    if bucket != inner.settings.bucket {
        return Err(damaged("lies outside the bucket of results"));
    }
    // There is no range of no bytes, but a line feed behind every line.
    let last = span.bytes.end.saturating_sub(1).max(span.bytes.start);
    let read = objects.read(doing, key, Part::Range { first: span.bytes.start, last }).await?;
    read.ok_or_else(|| damaged("is gone, or ends before a line does"))
}

/// A line out of the bytes from `start`, if it is the right one.
fn slice(bytes: &Bytes, start: u64, pointer: &Pointer) -> Option<Bytes> {
    let from = usize::try_from(pointer.offset.checked_sub(start)?).ok()?;
    let to = from.checked_add(usize::try_from(pointer.length).ok()?)?;
    let line = (to <= bytes.len()).then(|| bytes.slice(from..to))?;
    (Digest::of(&line) == pointer.sha256).then_some(line)
}

fn spans(pointers: &[Pointer]) -> Vec<Span<'_>> {
    let mut order: Vec<(usize, &Pointer)> = pointers.iter().enumerate().collect();
    order.sort_by(|(_, one), (_, next)| (&one.uri, one.offset).cmp(&(&next.uri, next.offset)));
    let mut spans: Vec<Span<'_>> = Vec::new();
    for (place, pointer) in order {
        let end = pointer.offset.saturating_add(pointer.length);
        match spans.last_mut() {
            Some(span)
                if span.uri == pointer.uri
                    && pointer.offset <= span.bytes.end.saturating_add(GAP_BYTES)
                    && end.saturating_sub(span.bytes.start) <= SPAN_BYTES =>
            {
                span.bytes.end = span.bytes.end.max(end);
                span.lines.push(place);
            }
            _ => spans.push(Span { uri: &pointer.uri, bytes: pointer.offset..end, lines: vec![place] }),
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(uri: &str, offset: u64, length: u64) -> Pointer {
        Pointer { uri: uri.to_owned(), offset, length, sha256: Digest::of(b"") }
    }

    fn shown(pointers: &[Pointer]) -> Vec<(&str, Range<u64>, Vec<usize>)> {
        spans(pointers).into_iter().map(|span| (span.uri, span.bytes, span.lines)).collect()
    }

    #[test]
    fn neighbours_of_one_object_are_read_together_in_whatever_order_they_are_wanted() {
        let pointers = [at("b", 0, 10), at("a", 11, 10), at("a", 0, 10), at("a", 22, 10)];
        assert_eq!(shown(&pointers), [("a", 0..32, vec![2, 1, 3]), ("b", 0..10, vec![0])]);
    }

    #[test]
    fn what_lies_far_apart_is_asked_for_twice() {
        let far = 10 + GAP_BYTES + 1;
        let pointers = [at("a", 0, 10), at("a", far, 10)];
        assert_eq!(shown(&pointers), [("a", 0..10, vec![0]), ("a", far..far + 10, vec![1])]);
    }

    #[test]
    fn no_request_reads_more_than_a_span_but_for_a_longer_line() {
        let half = SPAN_BYTES / 2;
        let pointers = [at("a", 0, half), at("a", half, half), at("a", 2 * half, 1), at("a", 2 * half + 1, 3 * half)];
        let sizes: Vec<u64> = spans(&pointers).iter().map(|span| span.bytes.end - span.bytes.start).collect();
        assert_eq!(sizes, [SPAN_BYTES, 1, 3 * half]);
    }

    #[test]
    fn a_line_that_was_changed_or_cut_is_not_told() {
        let bytes = Bytes::from("0123456789");
        let pointer = |text: &str, offset| Pointer {
            uri: String::new(),
            offset,
            length: text.len() as u64,
            sha256: Digest::of(text.as_bytes()),
        };
        assert_eq!(slice(&bytes, 100, &pointer("345", 103)), Some("345".into()));
        assert_eq!(slice(&bytes, 100, &pointer("345", 102)), None, "another line");
        assert_eq!(slice(&bytes, 100, &pointer("9x", 109)), None, "cut");
        assert_eq!(slice(&bytes, 100, &pointer("0", 99)), None, "before its beginning");
    }
}
