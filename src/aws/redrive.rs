//! How is an ended job run again? Its row opens the next generation and leaves its batch's counts, in one transaction, so
//! that the batch is open until it has ended again.

use super::batches::Counts;
use super::counters::{self, Shards};
use super::ledger::look_up;
use super::rows::{self, GENERATION, Row};
use super::table::{self, number, text};
use super::transact::{InTheWay, Transacted, in_words, pauses, transact};
use super::update::Update;
use super::{Inner, trouble};
use crate::job::ident::{Digest, JobKey};
use crate::job::lifecycle::{State, Step};
use crate::job::trail::What;
use crate::ports::rolls::Redriven;
use crate::ports::{StoreError, StoreTrouble};

const DOING: &str = "running a job again";

/// What of an ended row goes: the counts of its generation, and what became of it.
const GOES: [&str; 14] =
    ["att", "susp", "from", "end", "model", "use", "class", "msg", "req", "at", "uri", "off", "len", "sha"];

/// Sets an ended job running again, under its old content or under new; not twice for a request of the same name.
pub(super) async fn redrive(
    inner: &Inner,
    key: &JobKey,
    content: Option<Digest>,
    request: Option<&str>,
) -> Result<Redriven, StoreError> {
    let asked = request.map(rows::request_mark);
    // Who runs jobs again is not who works them: it has no shards of its own.
    let shards = Shards::of(&inner.epoch);
    let mut pauses = pauses();
    loop {
        let Some(row) = look_up(inner, key).await? else { return Ok(Redriven::Unknown) };
        let Some(queued) = row.state.after(Step::Redrive) else { return Ok(Redriven::NotFrom(row.state)) };
        if asked.is_some() && row.asked == asked {
            return Ok(Redriven::NotFrom(row.state));
        }
        let mut counts = Counts::default();
        if let Some(ended) = &row.ended {
            counts.take_out(&row.tally, &ended.ending);
        }
        let shard = shards.take().await;
        let shard = shard.ok_or_else(|| trouble::of_ours(StoreTrouble::Other, DOING, "no shard to count in"))?;
        let items = vec![
            requeued(inner, key, &row, queued, content)
                .set_or_remove(rows::ASKED, asked.as_deref().map(text))
                .in_transaction(inner, DOING, table::job(key))?,
            counters::growth(inner, &key.batch_key(), counts).in_transaction(
                inner,
                DOING,
                shard.key(&key.batch_key()),
            )?,
        ];
        let reasons = match transact(inner, DOING, items).await? {
            Transacted::Done => return Ok(Redriven::Queued { generation: rows::generation(row.token) + 1 }),
            Transacted::Cancelled(reasons) => reasons,
        };
        let refused = || trouble::of_ours(StoreTrouble::Away, DOING, in_words(&reasons));
        // Somebody else ran it again, or is at it: what stands there now decides.
        let again = reasons.iter().all(|reason| match InTheWay::of(reason) {
            InTheWay::No | InTheWay::Condition | InTheWay::Traffic => true,
            InTheWay::Other => false,
        });
        match pauses.next().filter(|_| again) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(refused()),
        }
    }
}

fn requeued(inner: &Inner, key: &JobKey, row: &Row, queued: State, content: Option<Digest>) -> Update {
    let now = inner.clock.now();
    let update = Update::default()
        .set("st", text(queued.word()))
        .set("dig", table::bytes(content.unwrap_or(row.digest).as_bytes()))
        .set("enq", number(now.0))
        .set("ttl", table::ttl(now, inner.settings.keep))
        .add("tok", number(GENERATION));
    let mut trail = row.trail();
    trail.add(now, What::Redriven);
    let update = update.set_or_remove(rows::TRAIL, rows::open_trail(key, &trail));
    let as_read = [("fence", number(row.token.0)), ("ended", text(row.state.word()))];
    GOES.into_iter().fold(update, Update::remove).only_if("#tok = :fence AND #st = :ended", as_read)
}

#[cfg(test)]
mod tests;
