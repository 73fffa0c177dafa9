//! How does an input come to a fleet? Every job as a message, every line on the roll, and then the batch is sealed. Sent again
//! after a break, an input goes on behind the last part of it that is known to be sent.
//!
//! Whether a job is known already is for the worker that claims it to find out: asking for each of a million would cost more than
//! it saves. Only where jobs that failed are to run again is every row looked at.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Mutex;

use crate::job::control::{Control, Seal};
use crate::job::ident::{BatchName, Digest, JobId, Tenant, short_name};
use crate::job::lifecycle::{State, Status};
use crate::job::spec::{Job, Priority};
use crate::job::units::Timestamp;
use crate::ports::rolls::{Entry, Line, LineContent, PART_LINES, Redriven, Roll, RollLine, Rolls, Standing};
use crate::ports::{BATCH_ENTRIES, Ledger, Outgoing, Queue, Seals, StoreError, StoreTrouble};

use super::intake::{Intake, Read};

/// Batches of messages, and looks at rows, under way at once.
pub(super) const AT_ONCE: usize = 16;

/// With what an input is sent.
#[derive(Clone)]
pub struct Sender {
    /// Where jobs go.
    pub queue: Arc<dyn Queue>,
    /// Who knows what became of them.
    pub ledger: Arc<dyn Ledger>,
    /// Where lines are listed.
    pub rolls: Arc<dyn Rolls>,
    /// Where batches are sealed.
    pub seals: Arc<dyn Seals>,
    /// Nobody waits for any of it after that: the deadline of jobs that have none of their own, or a later one. It is put on them as
    /// they are sent and not as they are read, so that an input that is asked for again, until later, is still the same input.
    pub until: Option<Timestamp>,
}

impl Sender {
    /// Sends jobs, in no order.
    ///
    /// # Errors
    /// What the queue said. Some may be sent.
    pub async fn send(&self, jobs: Vec<Job>) -> Result<(), StoreError> {
        let outgoing = |mut job: Job| {
            job.deadline = job.deadline.into_iter().chain(self.until).min();
            Outgoing {
                body: job.to_message(),
                batch: job.key.batch,
                tenant: job.key.tenant,
                model: Some(job.model),
                priority: job.priority,
                delay: Duration::ZERO,
                trace: job.trace,
            }
        };
        let queue = &self.queue;
        let mut batches = Vec::new();
        let mut jobs = jobs.into_iter().map(outgoing).peekable();
        while jobs.peek().is_some() {
            batches.push(jobs.by_ref().take(BATCH_ENTRIES).collect::<Vec<_>>());
        }
        let sent = batches.into_iter().map(|batch| send_all(&**queue, batch));
        stream::iter(sent).buffer_unordered(AT_ONCE).try_collect().await
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

/// The list of an input on its way to a fleet.
pub struct Roster {
    with: Sender,
    batch: BatchName,
    desk: Mutex<Desk>,
}

/// A job on its way, by its entry's place.
struct Pending {
    place: usize,
    job: Job,
    /// By an earlier process.
    is_sent: bool,
    is_stale: bool,
}

/// What goes on the roll for a line, and the job that is to be sent.
type Taken = (Tenant, LineContent, Option<Job>);

struct Desk {
    roll: Box<dyn Roll>,
    /// So many lines at the beginning were sent by an earlier process.
    sent_before: u64,
    names: Names,
    /// Of all lines so far.
    digest: Digest,
    lines: u64,
    /// Lines whose messages are sent and that stand in no part yet.
    part: Vec<RollLine>,
    jobs: u64,
    refused: u64,
}

impl Roster {
    /// Begins, or goes on with, the list of a batch: of the one tenant for whom all of it is enqueued, or of whoever its lines name.
    ///
    /// # Errors
    /// What a service said.
    pub async fn begin(with: Sender, batch: &BatchName, of: Option<&Tenant>) -> Result<Self, StoreError> {
        let roll = with.rolls.begin(batch, of).await?;
        let desk = Desk {
            sent_before: 0,
            roll,
            names: Names::default(),
            digest: Digest::of(b""),
            lines: 0,
            part: Vec::new(),
            jobs: 0,
            refused: 0,
        };
        Ok(Self { with, batch: batch.clone(), desk: Mutex::new(desk) })
    }

    /// How many lines an earlier process has sent, and the digest of them; see [`Roster::go_on`].
    pub async fn sent_before(&self) -> Option<(u64, Digest)> {
        self.desk.lock().await.roll.already_sent().map(|sent| (sent.lines, sent.digest))
    }

    /// Whether the input begins with the lines that were sent before; if so they are not sent again.
    ///
    /// # Errors
    /// `Denied` if it does not, and the other input was not sent to its end.
    pub async fn go_on(&self, begins_so: bool) -> Result<(), StoreError> {
        let mut desk = self.desk.lock().await;
        match desk.roll.already_sent() {
            Some(sent) if begins_so => desk.sent_before = sent.lines,
            Some(_) => desk.roll.start_over()?,
            None => {}
        }
        Ok(())
    }

    /// Sends jobs and lists lines, in input order; standings stand in the order of the entries.
    ///
    /// # Errors
    /// What a service said. Some of the jobs may be sent: sent again, they are the same jobs.
    pub async fn enrol(&self, entries: Vec<Entry>, retry_failed: bool) -> Result<Vec<Standing>, StoreError> {
        let mut desk = self.desk.lock().await;
        // Not between the lines of a lot and those of it that are refused late: whoever goes on behind the part would miss them.
        let are_next = entries.first().is_some_and(|entry| entry.position >= desk.lines);
        if are_next && desk.part.len() >= PART_LINES {
            desk.write_part().await?;
        }
        let mut standings = Vec::with_capacity(entries.len());
        let mut jobs = Vec::new();
        for Entry { position, line } in entries {
            let is_sent = position < desk.sent_before;
            if position >= desk.lines {
                desk.lines = position + 1;
                desk.digest = chained(desk.digest, &line);
            }
            let is_stale = matches!(line, Line::Job { stale_deadline: true, .. });
            let (standing, content) = match line {
                Line::Job { stale_deadline: true, .. } if !is_sent => (Standing::StaleDeadline, None),
                Line::Job { job, auto_id, .. } => desk.take_in(*job, auto_id, is_sent),
                Line::Refused { tenant, id, result_line } => {
                    desk.refused += 1;
                    let content = LineContent::Refused { id, result: result_line.into() };
                    (Standing::Refused, Some((tenant, content, None)))
                }
            };
            standings.push(standing);
            let Some((tenant, content, job)) = content else { continue };
            if !is_sent {
                desk.part.push(RollLine { position, tenant, content });
            }
            jobs.extend(job.map(|job| Pending { place: standings.len() - 1, job, is_sent, is_stale }));
        }
        let mut again = HashSet::new();
        if retry_failed {
            for (place, standing) in self.redrive(&jobs).await? {
                standings[place] = standing;
                // One that is queued may be so by a redrive whose message was never sent.
                if matches!(standing, Standing::Redriven | Standing::Queued) {
                    again.insert(place);
                }
            }
        }
        let to_send = jobs.into_iter().filter(|pending| !pending.is_sent || again.contains(&pending.place));
        self.with.send(to_send.map(|pending| pending.job).collect()).await?;
        Ok(standings)
    }

    /// Ends the input: the rest goes on the roll, and the batch is sealed.
    ///
    /// # Errors
    /// What a service said; the call may be repeated.
    pub async fn seal(&self) -> Result<Seal, StoreError> {
        let mut desk = self.desk.lock().await;
        if desk.lines > desk.sent_before || !desk.part.is_empty() {
            desk.write_part().await?;
        }
        let seal = desk.roll.seal().await?;
        self.with.seals.seal(&seal).await?;
        Ok(seal)
    }

    /// Sends the message that seals the batch behind its jobs, so that it is sealed whatever becomes of this process.
    ///
    /// # Errors
    /// What a service said; the call may be repeated.
    pub async fn send_seal(&self, seal: Seal) -> Result<(), StoreError> {
        let tenant = seal.total.keys().next().cloned().unwrap_or_else(Tenant::unnamed);
        let outgoing = Outgoing {
            body: Control::Seal(seal).to_message(),
            batch: self.batch.clone(),
            tenant,
            model: None,
            priority: Priority::default(),
            delay: Duration::ZERO,
            trace: None,
        };
        send_all(&*self.with.queue, vec![outgoing]).await
    }

    /// Jobs of this input, and its refused lines, so far.
    pub async fn counts(&self) -> (u64, u64) {
        let desk = self.desk.lock().await;
        (desk.jobs, desk.refused)
    }

    /// Opens the next generation of those that failed or expired, but for those that would only expire.
    async fn redrive(&self, jobs: &[Pending]) -> Result<Vec<(usize, Standing)>, StoreError> {
        let named =
            jobs.iter().map(|Pending { place, job, is_stale, .. }| (*place, job.key.clone(), job.digest(), *is_stale));
        let named: Vec<_> = named.collect();
        let again = named.into_iter().map(|(place, key, content, is_stale)| async move {
            let standing = match self.with.ledger.look_up(&key).await? {
                Some((State::Final(Status::Failed | Status::Expired), _)) if !is_stale => {
                    match self.with.rolls.redrive(&key, content, None).await? {
                        Redriven::Queued { .. } => Some(Standing::Redriven),
                        Redriven::NotFrom(State::Final(status)) => Some(Standing::Final(status)),
                        Redriven::NotFrom(State::Queued) => Some(Standing::Queued),
                        Redriven::NotFrom(State::Running) | Redriven::Unknown => None,
                    }
                }
                Some((State::Final(status), _)) => Some(Standing::Final(status)),
                Some((State::Running, _)) => Some(Standing::Running),
                Some((State::Queued, _)) => Some(Standing::Queued),
                None => None,
            };
            Ok::<_, StoreError>(standing.map(|standing| (place, standing)))
        });
        let again: Vec<_> = stream::iter(again).buffered(AT_ONCE).try_collect().await?;
        Ok(again.into_iter().flatten().collect())
    }
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roster").field("batch", &self.batch).finish_non_exhaustive()
    }
}

impl Desk {
    async fn write_part(&mut self) -> Result<(), StoreError> {
        // Lines that were refused late came behind others.
        self.part.sort_by_key(|line| line.position);
        self.roll.part(&self.part, self.lines, self.digest).await?;
        self.part.clear();
        Ok(())
    }

    /// A job finds its id and, if it is no repetition, its place.
    fn take_in(&mut self, job: Job, auto_id: bool, is_sent: bool) -> (Standing, Option<Taken>) {
        let job = match self.names.find(job, auto_id) {
            Ok(job) => job,
            Err(standing) => return (standing, None),
        };
        self.jobs += 1;
        let standing = if is_sent { Standing::Queued } else { Standing::New };
        let place = LineContent::Job(job.key.id.clone());
        (standing, Some((job.key.tenant.clone(), place, Some(job))))
    }
}

/// What the jobs of an input are called.
#[derive(Debug, Default)]
pub struct Names {
    /// Every job so far, and its content: both by digests short enough that millions fit in memory, and long enough that no two
    /// are alike.
    seen: HashMap<u128, u128>,
    /// How often content without an id occurred.
    repeats: HashMap<u128, u32>,
}

impl Names {
    /// The next job of the input, under its id.
    ///
    /// # Errors
    /// [`Standing::SameLineTwice`] or [`Standing::Conflict`]: the id was there before.
    pub fn find(&mut self, mut job: Job, auto_id: bool) -> Result<Job, Standing> {
        let content = job.digest().half();
        if auto_id {
            let times = self.repeats.entry(content).or_default();
            *times += 1;
            if *times > 1
                && let Ok(id) = JobId::new(&format!("{}-{times}", job.key.id))
            {
                job.key.id = id;
            }
        }
        let name = short_name(&job.key.tenant, &job.key.id);
        match self.seen.get(&name) {
            Some(first) if *first == content => Err(Standing::SameLineTwice),
            Some(_) => Err(Standing::Conflict { with: State::Queued }),
            None => {
                self.seen.insert(name, content);
                Ok(job)
            }
        }
    }
}

/// How does an input begin? The digest of its first lines, as a [`Roster`] counts them.
#[derive(Debug)]
pub struct Beginning<'a> {
    intake: &'a Intake,
    digest: Digest,
    left: u64,
}

impl<'a> Beginning<'a> {
    /// Of so many lines, which are still to come.
    pub fn of(lines: u64, intake: &'a Intake) -> Self {
        Self { intake, digest: Digest::of(b""), left: lines }
    }

    /// These come next; whether more are wanted.
    pub fn add(&mut self, now: Timestamp, lines: Vec<Read>) -> bool {
        for Read { place, parsed } in lines.into_iter().take(usize::try_from(self.left).unwrap_or(usize::MAX)) {
            self.digest = chained(self.digest, &self.intake.line(now, &place, parsed).0);
            self.left -= 1;
        }
        self.left > 0
    }

    /// The digest; of all of it, if it has fewer lines.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// The digest of an input that goes on with this line.
fn chained(digest: Digest, line: &Line) -> Digest {
    let line = match line {
        Line::Job { job, .. } => Digest::of(job.to_message().as_bytes()),
        Line::Refused { result_line, .. } => Digest::of(result_line),
    };
    Digest::of(&[digest.as_bytes().as_slice(), line.as_bytes().as_slice()].concat())
}

/// Sends up to a batch of messages.
async fn send_all(queue: &dyn Queue, messages: Vec<Outgoing>) -> Result<(), StoreError> {
    for entry in queue.send(messages).await? {
        entry.map_err(|error| StoreError {
            kind: StoreTrouble::Other,
            doing: "sending jobs".to_owned(),
            why: error.to_string(),
        })?;
    }
    Ok(())
}
