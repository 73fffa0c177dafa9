//! How does a document come to its result? Its chunks become jobs of their own, and it goes on when the last of them has ended.
//!
//! Nothing is kept in memory between two deliveries of it: each finds out from the ledger how far it is, takes the next step
//! and lets go of it. A step done twice is done once: the same bytes give the same chunks, and chunks are handed out once.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use crate::job::document::{Document, Partial};
use crate::job::failure::{Class, Failure};
use crate::job::ident::{BatchName, Digest, JobId, JobKey};
use crate::job::lifecycle::Status;
use crate::job::outcome::DocumentResult;
use crate::job::spec::{Job, Request};
use crate::ports::{Opened, Round, RoundStanding, StoreError, StoreTrouble, Unopened};

use super::assembly::{self, Assembled, Part, Piece};
use super::context::{Context, DocumentPorts};
use super::patience::insist;
use super::proof::{Claim, Delivery, Exit, Verdict};

/// A document whose chunks are at work is looked at again after this share of its age: they wake it when the last one ends,
/// and this is for what happens in between. Hundreds of documents that are looked at too often would fill the hands of
/// those who are to work their chunks, which stand behind them in the queue; and where its message cannot be woken, but another
/// is sent, it lies about for as long after the end.
const REST_SHARE: u32 = 2;
/// One whose file is away is looked for again after this share of its age. A queue counts its deliveries, and at a thousand takes
/// it for dead: so it has half of them in the two weeks that it may wait at most.
const AWAY_SHARE: u32 = 20;
const REST_LEAST: Duration = Duration::from_secs(1);
const REST_MOST: Duration = Duration::from_secs(3_600);
/// A source that cannot be read just now is tried again likewise, and not sooner than this.
const AWAY: Duration = Duration::from_secs(5);
/// Results of parts that are read at once.
const READ_AT_ONCE: usize = 16;

/// What is written down with a round of parts.
#[derive(Debug, Deserialize, Serialize)]
struct About {
    kind: String,
    pages: Option<u32>,
    pieces: Vec<Piece>,
}

/// Takes a document as far as it goes now; `None` if the job is none.
///
/// # Errors
/// [`Exit`]: its chunks are at work, its source is away, it is somebody else's, or the back end is in trouble.
pub async fn work(context: &Context, delivery: &Delivery, claim: &mut Claim) -> Result<Option<Verdict>, Exit> {
    let Request::Document(document) = &claim.job.request else { return Ok(None) };
    let document = document.clone();
    let Some(ports) = &context.documents else {
        return Err(Exit::Reject { reason: crate::job::intake::NO_DOCUMENTS_HERE.to_owned() });
    };
    // It waits for its chunks, and not for its model.
    delivery.place.leave();
    let mut result = DocumentResult { source: document.source.clone(), ..DocumentResult::default() };
    let mut chunks: Vec<Part> = Vec::new();
    let mut answers = Vec::new();
    let mut number = 0;
    loop {
        let standing = insist(context, || ports.parts.standing(&claim.fence, claim.generation, number)).await?;
        let standing = match standing {
            Some(standing) => standing,
            None => {
                let round = if number == 0 {
                    match open(context, delivery, claim, ports, &document).await? {
                        Ok(round) => round,
                        Err(over) => return Ok(Some(Verdict::Assembled(over))),
                    }
                } else {
                    let Some(requests) = ports.reader.reduce(&claim.job, &answers) else {
                        return finish(context, claim, ports, &document, result, chunks, None).await.map(Some);
                    };
                    let pieces = vec![Piece::default(); requests.len()];
                    round_of(claim, number, requests, About { kind: String::new(), pages: None, pieces })
                };
                hand_out(context, delivery, claim, ports, round).await?
            }
        };
        if standing.open > 0 {
            return Err(Exit::HandBack { after: rest(context, claim, REST_SHARE, REST_LEAST) });
        }
        let about: About = serde_json::from_str(&standing.about).map_err(|error| unreadable(&error))?;
        let parts = ended(context, claim, ports, &standing, number, about.pieces).await?;
        let texts: Vec<String> = parts.iter().filter_map(|part| part.text.clone()).collect();
        let failed: Vec<String> =
            parts.iter().filter(|part| part.status != Status::Succeeded).map(|part| part.id.clone()).collect();
        let is_short = !failed.is_empty();
        result.failed.extend(failed);
        if number == 0 {
            (result.kind, result.pages) = (Some(about.kind), about.pages);
            result.chunks = u32::try_from(parts.len()).unwrap_or(u32::MAX);
            let is_over = texts.is_empty() || is_short && document.partial == Partial::Fail;
            (chunks, answers) = (parts, texts);
            if is_over || document.reduce.is_none() {
                return finish(context, claim, ports, &document, result, chunks, None).await.map(Some);
            }
        } else if is_short || parts.len() == 1 {
            let last = parts.into_iter().find(|part| part.status != Status::Succeeded || !is_short);
            return finish(context, claim, ports, &document, result, chunks, last).await.map(Some);
        } else {
            answers = texts;
        }
        number += 1;
    }
}

/// Reads the document, or says how it ends without that.
async fn open(
    context: &Context,
    delivery: &Delivery,
    claim: &Claim,
    ports: &DocumentPorts,
    document: &Document,
) -> Result<Result<Round, Box<Assembled>>, Exit> {
    let refused = |failure: Failure, kind| {
        let result = DocumentResult { source: document.source.clone(), kind, ..DocumentResult::default() };
        Err(Box::new(Assembled::without_parts(failure, result)))
    };
    if claim.job.deadline.is_some_and(|deadline| deadline <= context.now()) {
        return Ok(refused(Failure::new(Class::Expired, "its deadline passed before it was read"), None));
    }
    let opened = tokio::select! {
        opened = ports.reader.open(&claim.job) => opened,
        () = context.stop.drained() => return Err(Exit::HandBack { after: Duration::ZERO }),
        () = delivery.lease.lost() => return Err(Exit::Lost),
    };
    match opened {
        Ok(Opened { kind, pages, chunks }) => {
            let (requests, pieces) = chunks
                .into_iter()
                .map(|chunk| {
                    (chunk.request, Piece { page: chunk.page, offset: Some(chunk.offset), length: Some(chunk.length) })
                })
                .unzip();
            Ok(Ok(round_of(claim, 0, requests, About { kind, pages, pieces })))
        }
        Err(Unopened::Refused { failure, kind }) => Ok(refused(failure, kind)),
        Err(Unopened::Away { why }) if context.now().since(claim.enqueued) >= context.settings.give_up_after => {
            Ok(refused(Failure::new(Class::Unavailable, why), None))
        }
        Err(Unopened::Away { why }) => {
            context.meter.document_away(&claim.job.key.id, &why);
            Err(Exit::HandBack { after: rest(context, claim, AWAY_SHARE, AWAY) })
        }
    }
}

/// When it is looked at again, by its age.
fn rest(context: &Context, claim: &Claim, share: u32, least: Duration) -> Duration {
    (context.now().since(claim.enqueued) / share).clamp(least, REST_MOST)
}

/// Jobs out of requests: each is the document's own job in all but what it asks.
fn round_of(claim: &Claim, number: u32, requests: Vec<Request>, about: About) -> Round {
    let of = &claim.job;
    let mut parts: Vec<Job> = requests
        .into_iter()
        .zip(ids(number))
        .map(|(request, id)| Job { request, callback: None, key: JobKey { id, ..of.key.clone() }, ..of.clone() })
        .collect();
    let contents: String = parts.iter().map(|part| part.digest().to_string()).collect();
    let JobKey { tenant, batch, id } = &of.key;
    let name = Digest::of(format!("{tenant}\0{batch}\0{id}\0{number}\0{contents}").as_bytes());
    for part in &mut parts {
        part.key.batch = BatchName::of_parts(&name);
        part.metadata = serde_json::Map::new();
    }
    // Numbers and words: there is nothing in here that JSON cannot say.
    Round { number, of: Box::new(of.clone()), parts, about: serde_json::to_string(&about).unwrap_or_default() }
}

/// Of the parts of a round: `1`, `2`, ... for chunks; `reduce-1.1` for what brings together.
fn ids(round: u32) -> impl Iterator<Item = JobId> {
    (1_u64..).filter_map(move |number| {
        JobId::new(&if round == 0 { number.to_string() } else { format!("reduce-{round}.{number}") }).ok()
    })
}

async fn hand_out(
    context: &Context,
    delivery: &Delivery,
    claim: &Claim,
    ports: &DocumentPorts,
    round: Round,
) -> Result<RoundStanding, Exit> {
    let (message, number) = (&delivery.message.id, round.number);
    let handed =
        insist(context, || ports.parts.hand_out(&claim.fence, claim.generation, message, round.clone())).await?;
    if !handed {
        return Err(Exit::Lost);
    }
    let standing = insist(context, || ports.parts.standing(&claim.fence, claim.generation, number)).await?;
    standing.ok_or(Exit::Lost)
}

/// The parts of a round that has ended, in their order.
async fn ended(
    context: &Context,
    claim: &Claim,
    ports: &DocumentPorts,
    standing: &RoundStanding,
    number: u32,
    pieces: Vec<Piece>,
) -> Result<Vec<Part>, Exit> {
    let ids: Vec<JobId> = ids(number).take(pieces.len()).collect();
    let rows = insist(context, || ports.parts.ends(&standing.batch, &ids)).await?;
    let mut reads = Vec::with_capacity(pieces.len());
    for ((id, piece), row) in ids.iter().zip(pieces).zip(rows) {
        let shown = format!("{}#{id}", claim.job.key.id);
        let Some(row) = row else { return Err(missing(&shown).into()) };
        reads.push(async move {
            let line = insist(context, || context.bodies.read(&row.ending.result)).await?;
            let line = serde_json::from_slice(&line).map_err(|error| unreadable(&error))?;
            Ok(Part::of(shown, piece, line))
        });
    }
    stream::iter(reads).buffered(READ_AT_ONCE).try_collect().await
}

async fn finish(
    context: &Context,
    claim: &mut Claim,
    ports: &DocumentPorts,
    document: &Document,
    result: DocumentResult,
    chunks: Vec<Part>,
    last: Option<Part>,
) -> Result<Verdict, Exit> {
    claim.tally = insist(context, || ports.parts.sum(&claim.fence)).await?;
    Ok(Verdict::Assembled(Box::new(assembly::assemble(document.partial, result, chunks, last))))
}

fn missing(part: &str) -> StoreError {
    let (doing, why) = ("bringing a document together".to_owned(), format!("the result of {part} is not there"));
    StoreError { kind: StoreTrouble::Damaged, doing, why }
}

fn unreadable(error: &serde_json::Error) -> Exit {
    let doing = "bringing a document together".to_owned();
    Exit::Store(StoreError {
        kind: StoreTrouble::Damaged,
        doing,
        // What serde says shows what it met, which may be an answer.
        why: format!("a record of ours does not parse at line {}, column {}", error.line(), error.column()),
    })
}
