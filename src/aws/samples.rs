//! What were the last answers of a fleet like? Some result lines of its newest batches, for whoever plans the next one: a look
//! costs the same for ten results as for ten million.
//!
//! Of a batch those days are looked at on which it was first heard of and on which the fleet worked last. Of a day's segments the
//! first page of names is listed, and of all that are listed an even choice is read, each up to some KiB. Lines of attempts that a crash
//! superseded may be among them: what they say of a model is as true, so that no row has to be asked.
//!
//! That is at most 49 lists and 96 ranges of up to 128 KiB, beside the index of batches: 12 MiB, and at list prices three
//! hundredths of a cent.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::listing::{self, Listed};
use super::objects::{Objects, Part};
use super::segments::in_key;
use super::{Fleet, Inner, report};
use crate::job::ident::{BatchKey, BatchName};
use crate::job::units::Timestamp;
use crate::ports::StoreError;

const DOING: &str = "reading earlier results";
/// Batches looked at.
const BATCHES: usize = 12;
/// Segments read, of all batches together.
const SEGMENTS: usize = 96;
/// Of which the batch that is asked for by name may take so many.
const OWN_SEGMENTS: usize = 32;
/// Read of each. A segment holds some dozens to some thousands of lines.
const READ_BYTES: u64 = 128 << 10;
/// Requests at once.
const AT_ONCE: usize = 16;

/// Result lines of a batch, of whichever of its tenants.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The batch.
    pub batch: BatchName,
    /// Its lines, each without its line feed.
    pub lines: Vec<Bytes>,
}

/// A batch, and what of it is listed.
struct Found {
    batch: BatchName,
    segments: Vec<Listed>,
}

/// Which batch, by its place, and lines of it.
type Read = (usize, Vec<Bytes>);

impl Fleet {
    /// Some result lines of this batch, if there is one of that name, and of the newest others behind it. A batch of which nothing
    /// has ended is left out.
    ///
    /// # Errors
    /// What table or bucket said.
    pub async fn samples(&self, own: &BatchName) -> Result<Vec<Sample>, StoreError> {
        let inner = &self.inner;
        let known = newest(report::index(inner).await?, own);
        let results = format!("{}results/", inner.settings.prefix);
        let days = listing::folders(inner, DOING, &results).await?;
        let mut lists: Vec<BoxFuture<'_, Result<Found, StoreError>>> = Vec::new();
        for (batch, first) in known {
            let first = format!("{results}date={}", date(first));
            let days = days_of(&first, &days);
            lists.push(Box::pin(async move { listed(inner, batch, days).await }));
        }
        let found: Vec<Found> = stream::iter(lists).buffered(AT_ONCE / 4).try_collect().await?;
        read(inner, chosen(found, own)).await
    }
}

/// The batches that are looked at: this one, and the newest. Those of several tenants by one name are one.
fn newest(mut index: Vec<(BatchKey, Timestamp)>, own: &BatchName) -> Vec<(BatchName, Timestamp)> {
    index.sort_by_key(|(key, first)| (key.batch != *own, std::cmp::Reverse(*first)));
    let mut newest: Vec<(BatchName, Timestamp)> = Vec::new();
    for (BatchKey { batch, .. }, first) in index {
        if newest.len() == BATCHES {
            break;
        }
        if newest.iter().all(|(other, _)| *other != batch) {
            newest.push((batch, first));
        }
    }
    newest
}

fn date(of: Timestamp) -> String {
    let text = of.to_string();
    text.get(..10).unwrap_or(&text).to_owned()
}

/// Of the days with results, in their order, the first two from this one on and the last two.
fn days_of<'d>(first: &str, days: &'d [String]) -> Vec<&'d str> {
    let since = days.iter().map(String::as_str).skip_while(|day| *day < first);
    let since: Vec<&str> = since.collect();
    let middle = 2..since.len().saturating_sub(2);
    since.into_iter().enumerate().filter(|(place, _)| !middle.contains(place)).map(|(_, day)| day).collect()
}

/// The first page of each day's names.
async fn listed(inner: &Inner, batch: BatchName, days: Vec<&str>) -> Result<Found, StoreError> {
    let mut pages: Vec<BoxFuture<'_, Result<Vec<Listed>, StoreError>>> = Vec::new();
    for day in days {
        let prefix = format!("{day}batch={}/", in_key(batch.as_str()));
        pages.push(Box::pin(async move { listing::first(inner, DOING, &prefix).await }));
    }
    let pages: Vec<Vec<Listed>> = stream::iter(pages).buffered(AT_ONCE / 4).try_collect().await?;
    Ok(Found { batch, segments: pages.concat() })
}

/// Which segments of each batch are read: for the one that was asked for and for all others together there is a share, which
/// those others part evenly.
fn chosen(found: Vec<Found>, own: &BatchName) -> Vec<Found> {
    let others = found.iter().filter(|found| found.batch != *own && !found.segments.is_empty()).count();
    let each = (SEGMENTS - OWN_SEGMENTS) / others.max(1);
    let choose = |Found { batch, segments }| {
        let most = if batch == *own { OWN_SEGMENTS } else { each };
        Found { batch, segments: evenly(segments, most) }
    };
    found.into_iter().map(choose).collect()
}

fn evenly(segments: Vec<Listed>, most: usize) -> Vec<Listed> {
    let all = segments.len();
    if all <= most {
        return segments;
    }
    // Of every `all / most` the last.
    let is_chosen = |place: usize| (place + 1) * most / all > place * most / all;
    segments.into_iter().enumerate().filter(|(place, _)| is_chosen(*place)).map(|(_, segment)| segment).collect()
}

async fn read(inner: &Arc<Inner>, found: Vec<Found>) -> Result<Vec<Sample>, StoreError> {
    let objects = &Objects::new(inner.clients.s3.clone(), inner.settings.bucket.clone());
    let mut samples: Vec<Sample> = Vec::with_capacity(found.len());
    let mut reads: Vec<BoxFuture<'_, Result<Read, StoreError>>> = Vec::new();
    for (place, Found { batch, segments }) in found.into_iter().enumerate() {
        samples.push(Sample { batch, lines: Vec::new() });
        for segment in segments {
            reads.push(Box::pin(async move { Ok((place, beginning(objects, &segment).await?)) }));
        }
    }
    let mut reads = stream::iter(reads).buffered(AT_ONCE);
    while let Some((place, lines)) = reads.try_next().await? {
        if let Some(sample) = samples.get_mut(place) {
            sample.lines.extend(lines);
        }
    }
    samples.retain(|sample| !sample.lines.is_empty());
    Ok(samples)
}

/// The first lines of a segment; none if it was purged meanwhile.
async fn beginning(objects: &Objects, segment: &Listed) -> Result<Vec<Bytes>, StoreError> {
    if segment.bytes == 0 {
        return Ok(Vec::new());
    }
    let part = Part::Range { first: 0, last: segment.bytes.min(READ_BYTES) - 1 };
    let read = objects.read(DOING, &segment.key, part).await?;
    Ok(read.map_or_else(Vec::new, |text| whole_lines(&text, segment.bytes <= READ_BYTES)))
}

/// The lines of a text; the last only if it ends there, or if the text is all there is.
fn whole_lines(text: &Bytes, is_all: bool) -> Vec<Bytes> {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let whole = lines.filter(|line| is_all || line.ends_with(b"\n"));
    let whole = whole.map(|line| line.strip_suffix(b"\n").unwrap_or(line)).filter(|line| !line.is_empty());
    whole.map(|line| text.slice_ref(line)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::job::ident::Tenant;

    fn name(name: &str) -> BatchName {
        BatchName::new(name).unwrap()
    }

    fn found(batch: &str, segments: usize) -> Found {
        let listed = |n: usize| Listed { written_s: 0, key: n.to_string().into(), bytes: 1 };
        Found { batch: name(batch), segments: (0..segments).map(listed).collect() }
    }

    #[test]
    fn the_batch_of_that_name_comes_first_and_then_the_newest_each_once() {
        let key = |tenant: &str, batch: &str| BatchKey { tenant: Tenant::new(tenant).unwrap(), batch: name(batch) };
        let mut index: Vec<_> = (0..20).map(|n| (key("t", &format!("b-{n}")), Timestamp(n))).collect();
        index.push((key("another", "b-19"), Timestamp(50)));
        let newest = newest(index, &name("b-3"));
        assert_eq!(newest.len(), BATCHES);
        assert_eq!(
            newest[..3],
            [(name("b-3"), Timestamp(3)), (name("b-19"), Timestamp(50)), (name("b-18"), Timestamp(18))]
        );
    }

    #[test]
    fn days_are_those_on_which_it_began_and_on_which_the_fleet_worked_last() {
        let days: Vec<String> = (1..10).map(|n| format!("p/results/date=2026-11-0{n}/")).collect();
        let of = |first: &str| {
            let days = days_of(&format!("p/results/date={first}"), &days);
            days.into_iter().map(|day| day[day.len() - 2..day.len() - 1].parse().unwrap()).collect::<Vec<u8>>()
        };
        assert_eq!(of("2026-11-03"), [3, 4, 8, 9]);
        assert_eq!(of("2026-11-07"), [7, 8, 9]);
        assert_eq!(of("2026-11-09"), [9]);
        assert_eq!(of("2025-01-01"), [1, 2, 8, 9]);
        assert!(of("2026-12-01").is_empty());
    }

    #[test]
    fn never_more_segments_are_read_than_were_said_and_they_are_evenly_spread() {
        let count = |found: &[Found]| found.iter().map(|found| found.segments.len()).collect::<Vec<_>>();
        let many = chosen(vec![found("own", 4_000), found("a", 4_000), found("b", 3), found("none", 0)], &name("own"));
        assert_eq!(count(&many), [OWN_SEGMENTS, 32, 3, 0]);
        let all: Vec<Found> = (0..BATCHES).map(|n| found(&n.to_string(), 4_000)).collect();
        assert!(count(&chosen(all, &name("0"))).iter().sum::<usize>() <= SEGMENTS);
        let places: Vec<usize> = many[0].segments.iter().map(|segment| segment.key.parse().unwrap()).collect();
        assert!(places.windows(2).all(|two| two[1] - two[0] == 4_000 / OWN_SEGMENTS), "{places:?}");
    }

    #[test]
    fn a_line_that_was_cut_is_no_line() {
        let lines = |text: &'static str, is_all| whole_lines(&Bytes::from_static(text.as_bytes()), is_all);
        assert_eq!(lines("{1}\n{2}\n{3", false), ["{1}", "{2}"]);
        assert_eq!(lines("{1}\n{2}\n{3}", true), ["{1}", "{2}", "{3}"]);
        assert!(lines("{1", false).is_empty());
    }
}
