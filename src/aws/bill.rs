//! What will AWS bill for jobs beside the calls to their models? The requests of this back end, counted by the constants with
//! which it makes them, at list prices.
//!
//! Some of a job's requests are its own: its claim, and its part of the write that ends it. All others it shares with the jobs that come
//! within the same half second (see `company`), or with enough of them if they come sooner, so that a slow drain costs more a job than
//! a fast one. One worker is reckoned with; several that drain as fast together share less, each with its own jobs alone.
//!
//! `tests/fleet_e2e/bill.rs` counts the requests of a fleet on the wire, and fails when these figures and that count part.
//!
//! Not in it: what is stored and for how long, logs, deliveries of notices, what leaves the region, the machines that workers
//! run on, and their questions to an empty queue.

use std::time::Duration;

use super::{allowance, calls, company, finish, segments, told};
use crate::job::units::Usd;
use crate::ports::BATCH_ENTRIES;
use crate::ports::rolls::PART_LINES;

/// US dollars for a million, in us-east-1, on demand, without a free tier; as of November 2026.
pub mod prices {
    /// Requests to a standard queue, each of up to [`BILLED_BYTES`]. <https://aws.amazon.com/sqs/pricing/>
    pub const SQS_REQUESTS: f64 = 0.40;
    /// Write units: a kilobyte each, twice as many in a transaction. <https://aws.amazon.com/dynamodb/pricing/on-demand/>
    pub const DYNAMODB_WRITES: f64 = 0.625;
    /// Read units: four kilobytes each, read consistently. The same page.
    pub const DYNAMODB_READS: f64 = 0.125;
    /// `PUT`, `POST` and `LIST` of S3 Standard. <https://aws.amazon.com/s3/pricing/>
    pub const S3_WRITES: f64 = 5.0;
    /// `GET` and `HEAD`. The same page.
    pub const S3_READS: f64 = 0.40;
    /// Publications to a standard topic, each of up to [`BILLED_BYTES`]. <https://aws.amazon.com/sns/pricing/>
    pub const SNS_REQUESTS: f64 = 0.50;
    /// A larger request to SQS or SNS counts as several.
    pub const BILLED_BYTES: u64 = 64 << 10;
    /// A write unit.
    pub const WRITE_BYTES: u64 = 1_024;
}

/// What goes through the fleet, from `enqueue` to the last notice.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Jobs, each of one call.
    pub jobs: u64,
    /// Bytes of all their messages.
    pub message_bytes: u64,
    /// From the first job's claim to the last one's end.
    pub drained_in: Duration,
    /// Jobs in hand at most. In half of them the jobs of a model may wait for quota.
    pub slots: usize,
    /// For how long a job is claimed at a time.
    pub lease: Duration,
    /// Lanes and accounts with a quota, on which the fleet keeps books in common.
    pub paced_lanes: usize,
    /// Whether each result is an object of its own.
    pub an_object_each: bool,
    /// Whether every job's end is published.
    pub notices: bool,
}

/// What it comes to, by service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Bill {
    /// Messages sent, received, held and deleted.
    pub sqs: Usd,
    /// Claims, calls, ends, and the quota that is shared.
    pub dynamodb: Usd,
    /// Results, and what the input held.
    pub s3: Usd,
    /// Notices.
    pub sns: Usd,
}

impl Bill {
    /// All of it.
    pub fn total(&self) -> Usd {
        [self.sqs, self.dynamodb, self.s3, self.sns].into_iter().sum()
    }
}

/// Bytes that a call takes in the log of its process: the name of its job, and eight numbers.
const CALL_BYTES: f64 = 80.0;
/// Write units of a lane's row.
const LANE: f64 = 2.0;
/// Read units of how a batch stands: its head and sixteen counters are less than 8 KiB.
const STANDING: f64 = 2.0;
/// Rows cost twice in a transaction.
const TRANSACTED: f64 = 2.0;

impl Traffic {
    /// What AWS asks for it.
    pub fn bill(&self) -> Bill {
        if self.jobs == 0 {
            return Bill::default();
        }
        let jobs = float(self.jobs);
        let sum = |a_job: f64| Usd::from_dollars(a_job * jobs / 1e6).unwrap_or_default();
        Bill {
            sqs: sum(self.sqs() * prices::SQS_REQUESTS),
            dynamodb: sum(self.writes() * prices::DYNAMODB_WRITES + self.reads() * prices::DYNAMODB_READS),
            s3: sum(self.s3_writes() * prices::S3_WRITES),
            sns: sum(if self.notices { self.shared(BATCH_ENTRIES) * prices::SNS_REQUESTS } else { 0.0 }),
        }
    }

    /// Requests a job.
    fn sqs(&self) -> f64 {
        let body = float(self.message_bytes) / float(self.jobs) / float(prices::BILLED_BYTES);
        let batch = 1.0 / count(BATCH_ENTRIES);
        let (sent, received) = (batch.max(body), self.shared(BATCH_ENTRIES).max(body));
        let deleted = self.shared(BATCH_ENTRIES);
        sent + received + deleted + self.extensions() * batch
    }

    /// Write units a job.
    fn writes(&self) -> f64 {
        let claimed = 1.0;
        let begun = self.shared(calls::ROOM.enough) + CALL_BYTES / float(prices::WRITE_BYTES);
        let ended = TRANSACTED * (1.0 + self.shared(finish::ROOM.enough));
        let told = self.timed(told::WRITTEN_EVERY) + count(told::ENTRY) / float(prices::WRITE_BYTES);
        let paced = LANE * count(self.paced_lanes) * self.timed(allowance::PACE);
        let listed = 1.0 / count(PART_LINES);
        // Before the first answers more than may wait are in hand: their rows are given back, and claimed once more.
        let given_back = 2.0 * self.waiting() / float(self.jobs);
        claimed + begun + ended + told + paced + listed + given_back + self.extensions()
    }

    /// Read units a job: whether it is still ours when its call begins, how its batch stands when it has ended, and where its
    /// result lies, for the manifest.
    fn reads(&self) -> f64 {
        1.0 + STANDING * self.shared(finish::ROOM.enough) + 1.0
    }

    /// Objects a job.
    fn s3_writes(&self) -> f64 {
        let result = if self.an_object_each { 1.0 } else { self.shared(segments::ROOM.enough) };
        result + 1.0 / count(PART_LINES)
    }

    /// Calls a job of a kind that leaves with so many jobs, if they come soon enough.
    fn shared(&self, enough: usize) -> f64 {
        self.timed(company::APART).max(1.0 / count(enough))
    }

    /// Calls a job of a kind that leaves so often while there is something to carry.
    fn timed(&self, every: Duration) -> f64 {
        (self.seconds_a_job() / every.as_secs_f64()).min(1.0)
    }

    /// How often a job's lease is extended while it waits: by a third of its length each time.
    fn extensions(&self) -> f64 {
        let waits = self.waiting() * self.seconds_a_job();
        (waits / (self.lease.as_secs_f64() / 3.0)).floor()
    }

    /// Jobs that wait at any moment.
    fn waiting(&self) -> f64 {
        count(self.slots / 2).min(float(self.jobs))
    }

    fn seconds_a_job(&self) -> f64 {
        self.drained_in.as_secs_f64() / float(self.jobs)
    }
}

#[expect(clippy::cast_precision_loss, reason = "means over many jobs")]
fn float(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "small")]
fn count(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A million jobs at so many a second.
    fn at(rate: f64) -> Traffic {
        Traffic {
            jobs: 1_000_000,
            message_bytes: 1_000_000_000,
            drained_in: Duration::from_secs_f64(1e6 / rate),
            slots: 256,
            lease: Duration::from_secs(120),
            paced_lanes: 1,
            an_object_each: false,
            notices: true,
        }
    }

    fn dollars(traffic: Traffic) -> f64 {
        traffic.bill().total().dollars()
    }

    #[test]
    fn d12_a_million_jobs_at_thirty_a_second_and_more_cost_three_dollars_at_most() {
        assert!((2.0..=3.0).contains(&dollars(at(30.0))), "{:?}", at(30.0).bill());
        assert!(dollars(at(1_000.0)) < dollars(at(30.0)));
        let at_once = Traffic { drained_in: Duration::ZERO, ..at(1.0) };
        assert!((2.0..=2.5).contains(&dollars(at_once)), "{:?}", at_once.bill());
    }

    #[test]
    fn a_slow_drain_shares_less_and_extends_leases() {
        let alone = Traffic { slots: 1, paced_lanes: 0, ..at(0.01) };
        // Nothing is shared: every write, object and notice is one job's.
        assert!((10.0..=12.0).contains(&dollars(alone)), "{:?}", alone.bill());
        // A job waits for a hundred seconds, under a lease that is extended after forty.
        let waiting = Traffic { slots: 600, ..at(3.0) };
        let extended = waiting.bill().dynamodb.dollars() - Traffic { slots: 1, ..waiting }.bill().dynamodb.dollars();
        assert!((extended - 2.0 * prices::DYNAMODB_WRITES).abs() < 0.01, "{extended}");
    }

    #[test]
    fn objects_of_their_own_large_messages_and_silence_change_the_bill() {
        let usual = at(100.0).bill();
        let objects = Traffic { an_object_each: true, ..at(100.0) }.bill();
        assert!((4.5..=5.0).contains(&(objects.s3.dollars() - usual.s3.dollars())), "{objects:?}");
        // Four units of 64 KiB out and in, instead of a tenth of one.
        let large = Traffic { message_bytes: (256 << 10) * 1_000_000, ..at(100.0) }.bill();
        assert!((large.sqs.dollars() - (8.1 * prices::SQS_REQUESTS)).abs() < 1e-6, "{large:?}");
        assert_eq!(Traffic { notices: false, ..at(100.0) }.bill().sns, Usd::ZERO);
        assert_eq!(Traffic { jobs: 0, ..at(100.0) }.bill(), Bill::default());
    }
}
