//! How is a job's row read and written? Everything the ledger knows of a job is one item, small enough for one unit of
//! write capacity whatever its names are.

use aws_sdk_dynamodb::types::AttributeValue;

use super::table::{self, Fields, Item, ROW_BYTES, needed, unreadable};
use super::update::Update;
use crate::job::failure::{Class, Failure};
use crate::job::ident::{Digest, JobKey};
use crate::job::lifecycle::{State, Status};
use crate::job::outcome::{Ending, Pointer, Savings, Tally, Usage};
use crate::job::trail::{Trail, What};
use crate::job::units::{Timestamp, Usd};
use crate::ports::{Fence, FencingToken, FinalRow, StoreError};

/// What of a failure's message is kept, where the names leave room for it.
const MESSAGE_BYTES: usize = 300;
/// Longer ids of models and of requests are cut.
const MODEL_BYTES: usize = 128;
const REQUEST_BYTES: usize = 64;
/// What an ended row holds that its end does not know: content, times, suspicion, former owner, and its time to live.
const BESIDE: usize = 140 + MARK;
/// What an open row holds beside its key at most, whatever is counted and whoever claims it next.
const OPEN_BESIDE: usize = 290 + MARK;
/// The attribute of the request that ran it again last, and its weight.
pub(super) const ASKED: &str = "by";
const MARK: usize = ASKED.len() + MARK_DIGITS;
const MARK_DIGITS: usize = 8;
/// The attribute of what happened.
pub(super) const TRAIL: &str = "trail";
/// A token's upper half counts redrives.
const GENERATION_BITS: u32 = 32;
/// What a redrive adds to a token.
pub(super) const GENERATION: u64 = 1 << GENERATION_BITS;

/// A job's row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) state: State,
    pub(super) token: FencingToken,
    pub(super) digest: Digest,
    pub(super) enqueued: Timestamp,
    pub(super) owner: Option<Owner>,
    pub(super) tally: Tally,
    pub(super) suspicion: f64,
    /// The epoch it was last taken over from with a call open.
    pub(super) taken_from: Option<String>,
    /// The mark of the request that ran it again last, if one did.
    pub(super) asked: Option<String>,
    /// As it was last written: the claim under which it is at work may not be on it yet.
    written: Trail,
    pub(super) ended: Option<Ended>,
}

/// Who works on it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Owner {
    pub(super) epoch: String,
    /// Which claim of that process: two that race never share it.
    pub(super) nth: u64,
    /// When it was claimed.
    pub(super) since: Timestamp,
    /// When the lease ends.
    pub(super) until: Timestamp,
}

/// What became of it, and when.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) at: Timestamp,
    pub(super) ending: Ending,
}

/// How often a person ran it again, as its token tells.
pub(super) fn generation(token: FencingToken) -> u32 {
    u32::try_from(token.0 >> GENERATION_BITS).unwrap_or(u32::MAX)
}

/// How often it was claimed since, as its token tells.
pub(super) fn claims(token: FencingToken) -> u32 {
    u32::try_from(token.0 % GENERATION).unwrap_or(u32::MAX)
}

/// What a row knows a request by: it is only told from the next one.
pub(super) fn request_mark(name: &str) -> String {
    let mut mark = Digest::of(name.as_bytes()).to_string();
    mark.truncate(MARK_DIGITS);
    mark
}

impl Row {
    /// Reads the row of this job.
    pub(super) fn read(key: &JobKey, item: &Item) -> Result<Self, StoreError> {
        let fields = Fields(item);
        let state = fields.text("st")?.and_then(State::from_word);
        let state = needed("st", state)?;
        Ok(Self {
            state,
            token: FencingToken(needed("tok", fields.number("tok")?)?),
            digest: needed("dig", fields.digest("dig")?)?,
            enqueued: Timestamp(needed("enq", fields.number("enq")?)?),
            owner: match state {
                State::Running => Some(Owner::read(fields)?),
                State::Queued | State::Final(_) => None,
            },
            tally: read_tally(fields)?,
            suspicion: fields.count("susp")?,
            taken_from: fields.text("from")?.map(str::to_owned),
            asked: fields.text(ASKED)?.map(str::to_owned),
            written: needed(TRAIL, Trail::parse(fields.text(TRAIL)?.unwrap_or_default()))?,
            ended: match state {
                State::Final(status) => Some(Ended::read(key, status, fields)?),
                State::Queued | State::Running => None,
            },
        })
    }

    /// What happened to the job so far.
    pub(super) fn trail(&self) -> Trail {
        let mut trail = self.written.clone();
        if let Some(owner) = &self.owner
            && trail.last_claim() != Some((owner.since, owner.epoch.as_str()))
        {
            trail.add(owner.since, What::Claimed { by: owner.epoch.clone() });
        }
        trail
    }

    /// The row as the ports tell it, if it is final.
    pub(super) fn final_row(&self, key: &JobKey) -> Option<FinalRow> {
        let ending = self.ended.as_ref()?.ending.clone();
        Some(FinalRow { key: key.clone(), generation: generation(self.token), tally: self.tally, ending })
    }
}

impl Owner {
    fn read(fields: Fields<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            epoch: needed("own", fields.text("own")?)?.to_owned(),
            nth: needed("nth", fields.number("nth")?)?,
            since: Timestamp(needed("since", fields.number("since")?)?),
            until: Timestamp(needed("until", fields.number("until")?)?),
        })
    }
}

impl Ended {
    fn read(key: &JobKey, status: Status, fields: Fields<'_>) -> Result<Self, StoreError> {
        let uri = match fields.text("at")? {
            Some(short) => in_full(key, short),
            None => needed("uri", fields.text("uri")?)?.to_owned(),
        };
        let ending = Ending {
            status,
            model_used: fields.text("model")?.map(str::to_owned),
            usage: read_usage(fields)?,
            error: read_failure(fields)?,
            result: Pointer {
                uri,
                offset: fields.count("off")?,
                length: fields.count("len")?,
                sha256: needed("sha", fields.digest("sha")?)?,
            },
        };
        Ok(Self { at: Timestamp(needed("end", fields.number("end")?)?), ending })
    }
}

/// An update that is only carried out while the job is at work under this fence.
pub(super) fn under_fence(update: Update, fence: &Fence) -> Update {
    let values = [("fence", table::number(fence.token.0)), ("running", table::text(State::Running.word()))];
    update.only_if("#tok = :fence AND #st = :running", values)
}

/// The attributes of a tally, and what each stands at; `None` where nothing was counted.
pub(super) fn tally(tally: &Tally) -> [(&'static str, Option<AttributeValue>); 6] {
    let savings = tally.savings;
    [
        ("att", counted(tally.attempts.into())),
        ("calls", counted(tally.model_calls.into())),
        ("cost", counted(tally.spent.nanos())),
        ("unk", counted(tally.unknown.nanos())),
        ("rer", counted(savings.reruns)),
        // Which tokens an answer was spared is known only of the call that ends its job.
        ("rcost", counted(savings.rerun_cost.nanos())),
    ]
}

/// The attributes of an ending; those it has none of are left out.
pub(super) fn ending(key: &JobKey, ending: &Ending) -> Vec<(&'static str, AttributeValue)> {
    let Usage { input_tokens, output_tokens, cache_read_tokens, cache_write_tokens } = ending.usage;
    let error = ending.error.as_ref();
    let uri = ending.result.uri.as_str();
    let place = match in_short(key, uri) {
        Some(short) => ("at", Some(table::text(short))),
        None => ("uri", Some(table::text(uri))),
    };
    let fields = [
        ("model", ending.model_used.as_deref().map(table::text)),
        (
            "use",
            Some(format!("{input_tokens} {output_tokens} {cache_read_tokens} {cache_write_tokens}")).map(table::text),
        ),
        ("class", error.map(|error| table::text(error.class.word()))),
        ("msg", error.map(|error| table::text(error.message.as_str()))),
        ("req", error.and_then(|error| error.request_id.as_deref()).map(table::text)),
        place,
        ("off", counted(ending.result.offset)),
        ("len", counted(ending.result.length)),
        ("sha", Some(table::bytes(ending.result.sha256.as_bytes()))),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// An ending as the row can hold it: ids of unheard-of length are cut, and messages to what the names leave room for.
pub(super) fn fitted(key: &JobKey, counts: &Tally, mut end: Ending) -> Ending {
    if let Some(model) = &mut end.model_used {
        cut(model, MODEL_BYTES);
    }
    let Some(mut error) = end.error.take() else { return end };
    if let Some(request) = &mut error.request_id {
        cut(request, REQUEST_BYTES);
    }
    let message = std::mem::take(&mut error.message);
    end.error = Some(error);
    let room = ROW_BYTES.saturating_sub(ended_weight(key, counts, &end)).min(MESSAGE_BYTES);
    if let Some(error) = &mut end.error {
        error.message = message;
        cut(&mut error.message, room);
    }
    end
}

/// The trail of a job that goes on, as its row can hold it.
pub(super) fn open_trail(key: &JobKey, trail: &Trail) -> Option<AttributeValue> {
    let taken = table::weight(&table::job(key)) + OPEN_BESIDE + TRAIL.len();
    said(trail, ROW_BYTES.saturating_sub(taken))
}

/// The trail of a job that has ended, in what its fitted ending leaves of the row.
pub(super) fn ended_trail(key: &JobKey, counts: &Tally, end: &Ending, trail: &Trail) -> Option<AttributeValue> {
    let taken = ended_weight(key, counts, end) + TRAIL.len();
    said(trail, ROW_BYTES.saturating_sub(taken))
}

fn said(trail: &Trail, room: usize) -> Option<AttributeValue> {
    let text = trail.text(room);
    (!text.is_empty()).then(|| table::text(text))
}

/// What an ended row weighs at most.
fn ended_weight(key: &JobKey, counts: &Tally, end: &Ending) -> usize {
    let mut item = table::job(key);
    item.insert("st".to_owned(), table::text(end.status.word()));
    item.insert("tok".to_owned(), table::number(u64::MAX));
    let counted = tally(counts).into_iter().filter_map(|(name, value)| Some((name, value?)));
    item.extend(counted.chain(ending(key, end)).map(|(name, value)| (name.to_owned(), value)));
    table::weight(&item) + BESIDE
}

/// Cut to so many bytes; a text that lost its end says so.
fn cut(text: &mut String, bytes: usize) {
    const MORE: &str = "...";
    if text.len() > bytes {
        let kept = table::beginning(text, bytes.saturating_sub(MORE.len())).len();
        text.truncate(kept);
        text.push_str(table::beginning(MORE, bytes));
    }
}

/// A URI in which the batch's folder is `=`, and the job's id in the object's name `*`: the row's key has both already.
/// `None` if it would not read back, as a bucket's keys may hold anything.
fn in_short(key: &JobKey, uri: &str) -> Option<String> {
    let short = uri.replacen(&format!("/{}/", table::folder(&key.batch_key())), "/=/", 1);
    let (above, name) = short.rsplit_once('/')?;
    let short = format!("{above}/{}", name.replacen(key.id.as_str(), "*", 1));
    (in_full(key, &short) == uri).then_some(short)
}

fn in_full(key: &JobKey, short: &str) -> String {
    let uri = short.replacen("/=/", &format!("/{}/", table::folder(&key.batch_key())), 1);
    match uri.rsplit_once('/') {
        Some((above, name)) => format!("{above}/{}", name.replacen('*', key.id.as_str(), 1)),
        None => uri,
    }
}

fn read_tally(fields: Fields<'_>) -> Result<Tally, StoreError> {
    let usd = |name: &str| -> Result<Usd, StoreError> { Ok(Usd::from_nanos(fields.count(name)?)) };
    let savings = Savings { reruns: fields.count("rer")?, rerun_cost: usd("rcost")?, ..Savings::default() };
    Ok(Tally {
        attempts: fields.count("att")?,
        model_calls: fields.count("calls")?,
        spent: usd("cost")?,
        unknown: usd("unk")?,
        savings,
    })
}

fn read_usage(fields: Fields<'_>) -> Result<Usage, StoreError> {
    let text = needed("use", fields.text("use")?)?;
    let counts: Option<Vec<u64>> = text.split(' ').map(|count| count.parse().ok()).collect();
    match counts.as_deref() {
        Some(&[input_tokens, output_tokens, cache_read_tokens, cache_write_tokens]) => {
            Ok(Usage { input_tokens, output_tokens, cache_read_tokens, cache_write_tokens })
        }
        _ => Err(unreadable("use")),
    }
}

fn read_failure(fields: Fields<'_>) -> Result<Option<Failure>, StoreError> {
    let Some(word) = fields.text("class")? else { return Ok(None) };
    Ok(Some(Failure {
        class: needed("class", Class::from_word(word))?,
        message: fields.text("msg")?.unwrap_or_default().to_owned(),
        request_id: fields.text("req")?.map(str::to_owned),
    }))
}

fn counted(count: u64) -> Option<AttributeValue> {
    (count > 0).then(|| table::number(count))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::job::ident::{BatchName, JobId, Tenant};
    use crate::job::trail::{Call, CameTo};

    fn job(name: &str) -> JobKey {
        JobKey {
            tenant: Tenant::new(name).unwrap(),
            batch: BatchName::new("reviews 2026").unwrap(),
            id: JobId::new(name).unwrap(),
        }
    }

    fn end(key: &JobKey, object: &str) -> Ending {
        let folder = table::folder(&key.batch_key());
        Ending {
            status: Status::Failed,
            model_used: Some("us.anthropic.claude-haiku-4-5-20251001-v1:0".to_owned()),
            usage: Usage { input_tokens: 812, output_tokens: 97, cache_read_tokens: 0, cache_write_tokens: 5 },
            error: Some(Failure {
                class: Class::Invalid,
                message: "the model refused it".to_owned(),
                request_id: Some("req-1".to_owned()),
            }),
            result: Pointer {
                uri: format!("s3://bucket/aquifer/results/date=2026-11-21/{folder}/{object}"),
                offset: 0,
                length: 812,
                sha256: Digest::of(b"line"),
            },
        }
    }

    fn item(key: &JobKey, counts: &Tally, end: &Ending) -> Item {
        let mut item = table::job(key);
        let mut put = |name: &str, value: AttributeValue| item.insert(name.to_owned(), value);
        put("st", table::text(end.status.word()));
        put("tok", table::number(u64::MAX));
        put("dig", table::bytes(Digest::of(b"content").as_bytes()));
        put("enq", table::number(1_795_000_000_000_i64));
        put("end", table::number(1_795_000_100_000_i64));
        put("ttl", table::number(1_797_000_000_i64));
        put("susp", table::number(0.333_333));
        put("from", table::text("0123456789abcdef"));
        put(ASKED, table::text(request_mark("redrive-1")));
        for (name, value) in tally(counts) {
            value.map(|value| put(name, value));
        }
        for (name, value) in ending(key, end) {
            put(name, value);
        }
        item
    }

    #[test]
    fn an_ended_row_reads_back_as_it_was_written() {
        let key = job("acme");
        for object in ["0123456789abcdef-7.jsonl", "acme.jsonl", "*=*"] {
            let counts = Tally { attempts: 2, model_calls: 4, spent: Usd::from_nanos(1_297_000), ..Tally::default() };
            let end = end(&key, object);
            let row = Row::read(&key, &item(&key, &counts, &end)).unwrap();
            assert_eq!((row.tally, row.ended.unwrap().ending), (counts, end));
        }
    }

    #[test]
    fn a_row_takes_one_unit_of_capacity_whatever_its_names_are() {
        let long = "\u{1f980}".repeat(128);
        let key = JobKey { batch: BatchName::new(&long).unwrap(), ..job(&"x".repeat(128)) };
        let most = Usd::from_nanos(u64::MAX);
        let counts =
            Tally { attempts: 1_000, model_calls: u32::MAX, spent: most, unknown: most, savings: Savings::default() };
        let mut end = end(&key, &format!("{}.jsonl", "x".repeat(128)));
        end.result.uri = end.result.uri.replace("bucket/aquifer", &format!("{}/aquifer", "b".repeat(63)));
        end.model_used = Some("m".repeat(2_048));
        end.error = Some(Failure {
            class: Class::ModelError,
            message: "\u{e4}".repeat(5_000),
            request_id: Some("r".repeat(500)),
        });
        (end.result.offset, end.result.length) = (64 << 20, 4 << 20);
        let fitted = fitted(&key, &counts, end);
        let mut item = item(&key, &counts, &fitted);
        let trail = ended_trail(&key, &counts, &fitted, &long_trail());
        item.extend(trail.map(|trail| (TRAIL.to_owned(), trail)));
        assert!(table::weight(&item) <= ROW_BYTES, "{} bytes", table::weight(&item));
        assert_eq!(Row::read(&key, &item).unwrap().ended.unwrap().ending, fitted);
        assert!(fitted.error.unwrap().message.ends_with("..."));
    }

    fn long_trail() -> Trail {
        let mut trail = Trail::default();
        for n in 0..200 {
            let (region, model) = ("ap-southeast-2".to_owned(), format!("{n}{}", "m".repeat(2_048)));
            let (took, came_to) = (std::time::Duration::from_millis(u64::MAX), CameTo::Failed(Class::QuotaMinute));
            trail.add(Timestamp(1_795_000_000_000), What::Called(Call { region, model, took, came_to }));
        }
        trail
    }

    /// A row as another claim would make it, with everything counted that can be.
    fn open_item(key: &JobKey, trail: &Trail) -> Item {
        let mut item = table::job(key);
        let most = Usd::from_nanos(u64::MAX);
        let savings = Savings { reruns: u64::MAX, rerun_cost: most, ..Savings::default() };
        let counts = Tally { attempts: 1_000, model_calls: u32::MAX, spent: most, unknown: most, savings };
        let numbers = [
            ("tok", i64::MAX),
            ("nth", i64::MAX),
            ("since", 1_795_000_000_000),
            ("until", 1_795_000_120_000),
            ("enq", 1_795_000_000_000),
            ("ttl", 1_797_000_000),
        ];
        item.extend(numbers.map(|(name, value)| (name.to_owned(), table::number(value))));
        item.extend(
            [("st", "running"), ("own", "0123456789abcdef"), ("from", "0123456789abcdef"), (ASKED, "01234567")]
                .map(|(name, value)| (name.to_owned(), table::text(value))),
        );
        item.insert("dig".to_owned(), table::bytes(Digest::of(b"content").as_bytes()));
        item.insert("susp".to_owned(), table::number(3.333_333));
        let counted = tally(&counts).into_iter().filter_map(|(name, value)| Some((name, value?)));
        item.extend(counted.map(|(name, value)| (name.to_owned(), value)));
        item.extend(open_trail(key, trail).map(|trail| (TRAIL.to_owned(), trail)));
        item
    }

    #[test]
    fn an_open_row_takes_one_unit_of_capacity_however_much_happened() {
        let long = JobKey { batch: BatchName::new(&"\u{1f980}".repeat(128)).unwrap(), ..job(&"x".repeat(128)) };
        for key in [long, job("acme")] {
            let item = open_item(&key, &long_trail());
            assert!(table::weight(&item) <= ROW_BYTES, "{} bytes", table::weight(&item));
            let trail = Row::read(&key, &item).unwrap().trail();
            assert!(trail.events().count() > 1, "{trail:?}");
            assert_eq!(trail.events().count() as u64 + trail.older(), 201, "and the claim: {trail:?}");
        }
    }

    #[test]
    fn a_claim_is_on_the_trail_once_whether_it_was_written_or_not() {
        let key = job("acme");
        let unwritten = Row::read(&key, &open_item(&key, &Trail::default())).unwrap().trail();
        assert_eq!(unwritten.last_claim(), Some((Timestamp(1_795_000_000_000), "0123456789abcdef")));
        assert_eq!(Row::read(&key, &open_item(&key, &unwritten)).unwrap().trail(), unwritten);
    }

    #[test]
    fn a_short_message_is_kept_whole_and_a_long_one_says_that_it_was_cut() {
        let key = job("acme");
        let mut end = end(&key, "0123456789abcdef-7.jsonl");
        assert_eq!(fitted(&key, &Tally::default(), end.clone()), end);
        end.error.as_mut().unwrap().message = "a b ".repeat(200);
        let message = fitted(&key, &Tally::default(), end).error.unwrap().message;
        assert_eq!(message.len(), MESSAGE_BYTES);
        assert!(message.ends_with("..."));
    }

    #[test]
    fn a_token_tells_how_often_its_job_was_redriven() {
        assert_eq!(generation(FencingToken(1)), 0);
        assert_eq!(generation(FencingToken(7 + 2 * GENERATION)), 2);
    }
}
