//! What a fleet leaves behind: rolls, results in both orders, manifests, and what `status`, `explain` and `lanes` read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aquifer::aws::{Fleet, Order, Seal, Settings};
use aquifer::job::ident::{BatchKey, BatchName, Digest, JobId, JobKey, Tenant};
use aquifer::job::lifecycle::{State, Status};
use aquifer::job::outcome::{Ending, Pointer, Tally, Usage};
use aquifer::job::trail::Trail;
use aquifer::job::units::Timestamp;
use aquifer::ports::rolls::{LineContent, Roll, RollLine};
use aquifer::ports::{ClaimReply, Clock, FinishReply, LaneId, StoreTrouble, Version};
use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::Value;

use crate::ministack;

const LEASE: Duration = Duration::from_secs(120);

struct Wall;

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        // Later than now for a long time: the emulator removes rows that have expired, and has a clock of its own.
        Timestamp(2_500_000_000_000)
    }
}

/// A fleet with services of its own.
pub(crate) struct Place {
    pub(crate) fleet: Fleet,
    pub(crate) settings: Settings,
}

impl Place {
    pub(crate) async fn new() -> Self {
        let settings = ministack::settings();
        let fleet = connect(&settings);
        fleet.create_missing().await.unwrap();
        Self { fleet, settings }
    }

    fn another_process(&self) -> Fleet {
        connect(&self.settings)
    }

    /// Works a job to its end; its result line.
    pub(crate) async fn finish(&self, job: &JobKey, status: Status) -> Bytes {
        let ledger = self.fleet.ledger();
        let claimed = ledger.claim(job, Digest::of(b"content"), Timestamp(5), LEASE).await.unwrap();
        let ClaimReply::Claimed(claimed) = claimed else { panic!("{claimed:?}") };
        let line = Bytes::from(format!(
            "{{\"id\":\"{}\",\"tenant\":\"{}\",\"status\":\"{status}\",\"text\":\"{}\"}}",
            job.id,
            job.tenant,
            "x".repeat(job.id.as_str().len() * 10)
        ));
        let result = self.fleet.bodies().append(&job.batch_key(), line.clone()).await.unwrap();
        let ending = Ending { status, model_used: None, usage: Usage::default(), error: None, result };
        let finished = ledger.finish(&claimed.fence, Tally::default(), ending, Trail::default()).await.unwrap();
        assert!(matches!(finished, FinishReply::Recorded { .. }), "{finished:?}");
        line
    }

    pub(crate) async fn finish_all(&self, jobs: &[JobKey]) -> Vec<Bytes> {
        join_all(jobs.iter().map(|job| self.finish(job, Status::Succeeded))).await
    }

    async fn results(&self, order: Order) -> Vec<Bytes> {
        let mut lines = self.fleet.results(&batch(), order).await.unwrap();
        let mut all = Vec::new();
        while let Some(line) = lines.next().await {
            all.push(line.unwrap());
        }
        all
    }

    pub(crate) async fn seal(&self, roll: &mut dyn Roll) {
        let seal = roll.seal().await.unwrap();
        for (key, total) in seal.totals() {
            let name = seal.roll.as_ref().map(ToString::to_string);
            let seal = Seal { total: total.jobs, refused: total.refused, roll: name };
            self.fleet.seal(&key, &seal).await.unwrap();
        }
    }

    /// The lines of the manifest of a batch that is complete, and the result behind each.
    pub(crate) async fn manifest(&self, tenant: &str) -> Vec<(Value, Bytes)> {
        let batch = BatchKey { tenant: Tenant::new(tenant).unwrap(), batch: batch() };
        let complete = self.fleet.ledger().complete_unannounced(&batch).await.unwrap().expect("complete");
        let text = self.object(&complete.manifest).await;
        let lines: Vec<Value> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(json).collect();
        assert_eq!(lines.len() as u64, complete.sums.total, "a line for each that the notice counts");
        let mut objects = BTreeMap::new();
        let mut listed = Vec::new();
        for line in lines {
            let uri = line["object"].as_str().unwrap().to_owned();
            if !objects.contains_key(&uri) {
                objects.insert(uri.clone(), self.object(&uri).await);
            }
            let number = |name: &str| usize::try_from(line[name].as_u64().unwrap()).unwrap();
            let range = number("offset")..number("offset") + number("length");
            let result = objects[&uri].slice(range);
            assert_eq!(line["sha256"], Digest::of(&result).to_string(), "{line}");
            assert_eq!(json(&result)["id"], line["id"]);
            listed.push((line, result));
        }
        listed
    }

    async fn object(&self, uri: &str) -> Bytes {
        let prefix = format!("s3://{}/", self.settings.bucket);
        let key = uri.strip_prefix(&prefix).unwrap_or_else(|| panic!("{uri} is not below {prefix}"));
        let s3 = ministack::s3(&ministack::sdk(ministack::url()));
        let got = s3.get_object().bucket(&self.settings.bucket).key(key).send().await.unwrap();
        got.body.collect().await.unwrap().into_bytes()
    }
}

fn connect(settings: &Settings) -> Fleet {
    Fleet::connect_to(&ministack::emulated(ministack::url()), settings.clone(), Arc::new(Wall))
}

fn json(text: impl AsRef<[u8]>) -> Value {
    serde_json::from_slice(text.as_ref()).unwrap()
}

pub(crate) fn batch() -> BatchName {
    BatchName::new("reviews: ä 2026").unwrap()
}

pub(crate) fn job(tenant: &str, number: usize) -> JobKey {
    let id = JobId::new(&format!("o-{number}")).unwrap();
    JobKey { tenant: Tenant::new(tenant).unwrap(), batch: batch(), id }
}

pub(crate) fn listed(position: usize, job: &JobKey) -> RollLine {
    let content = LineContent::Job(job.id.clone());
    RollLine { position: position as u64, tenant: job.tenant.clone(), content }
}

fn refused(position: usize, tenant: &str) -> (RollLine, Bytes) {
    let id = format!("line-{position}");
    let result = Bytes::from(format!("{{\"id\":\"{id}\",\"tenant\":\"{tenant}\",\"status\":\"rejected\"}}"));
    let content = LineContent::Refused { id, result: result.clone() };
    (RollLine { position: position as u64, tenant: Tenant::new(tenant).unwrap(), content }, result)
}

/// Puts an input on the batch's roll, in parts of so many lines, as `enqueue` does.
pub(crate) async fn enqueue(roll: &mut dyn Roll, lines: &[RollLine], part: usize) {
    let mut read = 0;
    for part in lines.chunks(part) {
        read += part.len();
        roll.part(part, read as u64, digest(&lines[..read])).await.unwrap();
    }
}

fn digest(lines: &[RollLine]) -> Digest {
    Digest::of(format!("{lines:?}").as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o6_results_come_in_the_order_of_the_input_or_as_they_ended() {
    let place = Place::new().await;
    let jobs: Vec<JobKey> = (0..230).map(|n| job(if n % 3 == 0 { "acme" } else { "beta" }, n)).collect();
    let mut lines: Vec<RollLine> = jobs.iter().enumerate().map(|(n, job)| listed(n, job)).collect();
    let (bad, bad_result) = refused(230, "acme");
    lines.insert(40, bad);
    let mut roll = place.fleet.rolls().begin(&batch(), None).await.unwrap();
    enqueue(&mut *roll, &lines, 100).await;

    // A worker died after it had written this line; the row never said so.
    let superseded = r#"{"id":"o-7","tenant":"beta","text":"superseded"}"#.into();
    place.fleet.bodies().append(&jobs[7].batch_key(), superseded).await.unwrap();
    let open = 200;
    let (first, second) = jobs[..open].split_at(open / 2);
    let late = place.finish_all(second).await;
    let early = place.finish_all(first).await;

    let mut expected: Vec<Bytes> = early.iter().chain(&late).cloned().collect();
    expected.insert(40, bad_result.clone());
    assert_eq!(place.results(Order::Input).await, expected);

    let done = place.results(Order::Done).await;
    assert_eq!(done[0], bad_result, "it ended before any job began");
    assert_eq!(done.len(), expected.len());
    assert_eq!(done.iter().collect::<BTreeSet<_>>(), expected.iter().collect());
    let position = |line: &Bytes| done.iter().position(|found| found == line).unwrap();
    let (last_late, first_early) = (late.iter().map(position).max(), early.iter().map(position).min());
    assert!(last_late < first_early, "what ended first comes first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d8_a_manifest_lists_each_tenants_batch_in_the_order_of_its_input() {
    let place = Place::new().await;
    let jobs: Vec<JobKey> = (0..150).map(|n| job(if n % 3 == 0 { "acme" } else { "beta" }, n)).collect();
    let mut lines: Vec<RollLine> = jobs.iter().enumerate().map(|(n, job)| listed(n, job)).collect();
    lines.insert(1, refused(150, "acme").0);
    let mut roll = place.fleet.rolls().begin(&batch(), None).await.unwrap();
    enqueue(&mut *roll, &lines, 64).await;
    place.seal(&mut *roll).await;
    let backwards: Vec<JobKey> = jobs.iter().rev().cloned().collect();
    place.finish_all(&backwards).await;

    let ids = |manifest: &[(Value, Bytes)]| -> Vec<String> {
        manifest.iter().map(|(line, _)| line["id"].as_str().unwrap().to_owned()).collect()
    };
    let of = |tenant: &str| -> Vec<String> {
        jobs.iter().filter(|job| job.tenant.as_str() == tenant).map(|job| job.id.to_string()).collect()
    };
    let acme = place.manifest("acme").await;
    let mut expected = of("acme");
    expected.insert(1, "line-150".to_owned());
    assert_eq!(ids(&acme), expected);
    let statuses = BTreeSet::from_iter(acme.iter().map(|(line, _)| line["status"].as_str().unwrap()));
    assert_eq!(statuses, BTreeSet::from(["rejected", "succeeded"]));
    assert_eq!(ids(&place.manifest("beta").await), of("beta"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_producers_sent_is_in_the_manifest_without_a_roll_and_beside_one() {
    let place = Place::new().await;
    let jobs: Vec<JobKey> = (0..120).map(|n| job("acme", n)).collect();
    let key = jobs[0].batch_key();
    let sealed = |total| Seal { total, refused: 0, roll: None };
    place.finish_all(&jobs[..50]).await;
    place.fleet.seal(&key, &sealed(50)).await.unwrap();
    assert_eq!(place.manifest("acme").await.len(), 50);
    assert_eq!(place.results(Order::Input).await.len(), 50, "without an input, as they ended");

    let lines: Vec<RollLine> = jobs[60..].iter().enumerate().map(|(n, job)| listed(n, job)).collect();
    let mut roll = place.fleet.rolls().begin(&batch(), None).await.unwrap();
    enqueue(&mut *roll, &lines, 100).await;
    roll.seal().await.unwrap();
    place.finish_all(&jobs[60..]).await;
    place.fleet.seal(&key, &sealed(110)).await.unwrap();
    let manifest = place.manifest("acme").await;
    let ids: Vec<&str> = manifest.iter().map(|(line, _)| line["id"].as_str().unwrap()).collect();
    let listed: Vec<&str> = jobs[60..].iter().map(|job| job.id.as_str()).collect();
    assert_eq!(ids[..60], listed);
    let others: BTreeSet<&str> = jobs[..50].iter().map(|job| job.id.as_str()).collect();
    assert_eq!(ids[60..].iter().copied().collect::<BTreeSet<_>>(), others);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_of_more_than_a_part_is_whole() {
    let place = Place::new().await;
    let (lines, results): (Vec<RollLine>, Vec<Bytes>) = (0..45_000).map(|n| refused(n, "acme")).unzip();
    let mut roll = place.fleet.rolls().begin(&batch(), None).await.unwrap();
    let mut read = 0;
    for part in lines.chunks(5_000) {
        read += part.len() as u64;
        roll.part(part, read, Digest::of(&read.to_le_bytes())).await.unwrap();
    }
    place.seal(&mut *roll).await;
    let manifest = place.manifest("acme").await;
    let bytes: usize = manifest.iter().map(|(line, _)| line.to_string().len() + 1).sum();
    assert!(bytes > 8 << 20, "{bytes} bytes are one part");
    assert!(manifest.iter().map(|(_, result)| result).eq(&results));
    assert_eq!(place.results(Order::Input).await, results);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enqueue_that_died_goes_on_where_it_was() {
    let place = Place::new().await;
    let lines: Vec<RollLine> = (0..150).map(|n| listed(n, &job("acme", n))).collect();
    let mut died = place.fleet.rolls().begin(&batch(), None).await.unwrap();
    assert_eq!(died.already_sent(), None);
    enqueue(&mut *died, &lines[..100], 50).await;
    drop(died);

    let fleet = place.another_process();
    let mut other = fleet.rolls().begin(&batch(), None).await.unwrap();
    let refused = other.start_over().unwrap_err();
    assert_eq!(refused.kind, StoreTrouble::Denied);
    assert!(refused.why.contains("100 lines of another input"), "{refused}");

    let mut rerun = fleet.rolls().begin(&batch(), None).await.unwrap();
    let sent = rerun.already_sent().unwrap();
    assert_eq!((sent.lines, sent.digest, sent.sealed), (100, digest(&lines[..100]), false));
    rerun.part(&lines[100..], 150, digest(&lines)).await.unwrap();
    let seal = rerun.seal().await.unwrap();
    assert_eq!(seal.total, BTreeMap::from([(Tenant::new("acme").unwrap(), 150)]));

    // Whoever runs it once more has nothing to send but the seal.
    let mut again = fleet.rolls().begin(&batch(), None).await.unwrap();
    assert_eq!(again.already_sent().map(|sent| (sent.lines, sent.sealed)), Some((150, true)));
    assert_eq!(again.seal().await.unwrap(), seal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_input_of_a_batch_counts_only_the_jobs_that_are_new() {
    let place = Place::new().await;
    let jobs: Vec<JobKey> = (0..90).map(|n| job("acme", n)).collect();
    let lines = |jobs: &[JobKey]| jobs.iter().enumerate().map(|(n, job)| listed(n, job)).collect::<Vec<_>>();
    let mut first = place.fleet.rolls().begin(&batch(), None).await.unwrap();
    enqueue(&mut *first, &lines(&jobs[..60]), 25).await;
    place.seal(&mut *first).await;

    let mut second = place.fleet.rolls().begin(&batch(), None).await.unwrap();
    second.start_over().unwrap();
    enqueue(&mut *second, &lines(&jobs[40..]), 25).await;
    let seal = second.seal().await.unwrap();
    assert_eq!(seal.total.values().sum::<u64>(), 90, "sixty, and thirty that are new");
    place.seal(&mut *second).await;

    let results = place.finish_all(&jobs).await;
    assert_eq!(place.results(Order::Input).await, results[40..], "the newest input's");
    let ids: Vec<Value> = place.manifest("acme").await.into_iter().map(|(line, _)| line["id"].clone()).collect();
    let expected: Vec<&str> = jobs[40..].iter().chain(&jobs[..40]).map(|job| job.id.as_str()).collect();
    assert_eq!(ids, expected, "the newest input's first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_enqueue_to_one_batch_do_not_mix_their_lists() {
    let place = Place::new().await;
    let lines: Vec<RollLine> = (0..20).map(|n| listed(n, &job("acme", n))).collect();
    let mut one = place.fleet.rolls().begin(&batch(), None).await.unwrap();
    let mut other = place.another_process().rolls().begin(&batch(), None).await.unwrap();
    enqueue(&mut *one, &lines[..10], 10).await;
    let refused = other.part(&lines[10..], 10, digest(&lines[10..])).await.unwrap_err();
    assert_eq!(refused.kind, StoreTrouble::Denied, "{refused}");
    enqueue(&mut *one, &lines[..], 10).await;
}

/// The premise: tenants whose workflows called their batches alike shared one list. Whoever came second waited for the first, and took
/// the refused lines of the first out of his manifest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tenants_who_call_their_batches_alike_have_a_list_each() {
    let place = Place::new().await;
    let of = |name: &str| {
        let jobs: Vec<JobKey> = (1..21).map(|n| job(name, n)).collect();
        let mut lines: Vec<RollLine> = jobs.iter().enumerate().map(|(n, job)| listed(n + 1, job)).collect();
        lines.insert(0, refused(0, name).0);
        (Tenant::new(name).unwrap(), jobs, lines)
    };
    let ((acme, jobs, lines), (beta, others, other_lines)) = (of("acme"), of("beta"));
    let mut died = place.fleet.rolls().begin(&batch(), Some(&acme)).await.unwrap();
    let mut other = place.another_process().rolls().begin(&batch(), Some(&beta)).await.unwrap();
    enqueue(&mut *died, &lines[..10], 5).await;
    assert_eq!(other.already_sent(), None);
    enqueue(&mut *other, &other_lines, 7).await;
    place.seal(&mut *other).await;
    let mut rerun = place.another_process().rolls().begin(&batch(), Some(&acme)).await.unwrap();
    assert_eq!(rerun.already_sent().map(|sent| (sent.lines, sent.sealed)), Some((10, false)));
    rerun.part(&lines[10..], 21, digest(&lines)).await.unwrap();
    let seal = rerun.seal().await.unwrap();
    assert_eq!((seal.total, seal.refused), (BTreeMap::from([(acme.clone(), 20)]), BTreeMap::from([(acme.clone(), 1)])));
    place.seal(&mut *rerun).await;

    place.finish_all(&jobs).await;
    place.finish_all(&others).await;
    for tenant in ["acme", "beta"] {
        let listed: Vec<Value> = place.manifest(tenant).await.into_iter().map(|(line, _)| line["id"].clone()).collect();
        let mut expected = vec!["line-0".to_owned()];
        expected.extend((1..21).map(|n| format!("o-{n}")));
        assert_eq!(listed, expected, "{tenant}");
    }
    assert_eq!(place.results(Order::Input).await.len(), 42);
    assert_eq!(place.results(Order::Done).await.len(), 42);
    // A person's file may hold anybody's lines: on which list would they stand?
    let refused = place.fleet.rolls().begin(&batch(), None).await.err().unwrap();
    assert_eq!(refused.kind, StoreTrouble::Denied, "{refused}");
    for tenant in [&acme, &beta] {
        let key = BatchKey { tenant: tenant.clone(), batch: batch() };
        place.fleet.ledger().mark_announced(&key, 0).await.unwrap();
    }
    assert_eq!(place.fleet.forget(&batch()).await.unwrap().jobs, 40);
    let person = place.fleet.rolls().begin(&batch(), None).await.unwrap();
    assert_eq!(person.already_sent(), None, "no mark is left");
}

/// The premise: the mark of a batch outlived the rows of its jobs, so that its input, enqueued again long after, was taken for one that
/// was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_of_a_batch_goes_together() {
    let place = Place::new().await;
    let acme = Tenant::new("acme").unwrap();
    let jobs = [job("acme", 0), job("acme", 1)];
    let lines: Vec<RollLine> = jobs.iter().enumerate().map(|(n, job)| listed(n, job)).collect();
    let mut roll = place.fleet.rolls().begin(&batch(), Some(&acme)).await.unwrap();
    enqueue(&mut *roll, &lines, 10).await;
    place.seal(&mut *roll).await;
    let until = async || -> BTreeMap<String, u64> {
        let dynamodb = aws_sdk_dynamodb::Client::new(&ministack::sdk(ministack::url()));
        let items = dynamodb.scan().table_name(&place.settings.table).send().await.unwrap().items.unwrap_or_default();
        let named = items.iter().map(|item| {
            let name = [&item["pk"], &item["sk"]].map(|part| part.as_s().unwrap().as_str()).join(" ");
            (name, item.get("ttl").map_or(u64::MAX, |ttl| ttl.as_n().unwrap().parse().unwrap()))
        });
        named.collect()
    };
    let gone = u64::try_from(Wall.now().after(place.settings.keep).0).unwrap() / 1_000;
    let open = until().await;
    assert_eq!(open.len(), 4, "the mark, the word that there is one, the head, the list: {open:?}");
    assert!(open.values().all(|at| *at == gone + 14 * 86_400), "a message may wait for so long: {open:?}");
    place.finish_all(&jobs).await;
    place.manifest("acme").await;
    place.fleet.ledger().mark_announced(&jobs[0].batch_key(), 0).await.unwrap();
    let ended = until().await;
    let name = batch();
    for named in [
        format!("batch/acme/{name} head"),
        format!("batches acme/{name}"),
        format!("job/acme/{name}/o-0 -"),
        format!("roll/{name} of/acme"),
    ] {
        assert_eq!(ended.get(&named), Some(&gone), "{named}: {ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_has_one_list_whoever_began_it() {
    let acme = Tenant::new("acme").unwrap();
    let lines: Vec<RollLine> = (0..20).map(|n| listed(n, &job("acme", n))).collect();
    // What a workflow enqueued, a person enqueues again; but no other tenant's lines.
    let place = Place::new().await;
    let mut workflow = place.fleet.rolls().begin(&batch(), Some(&acme)).await.unwrap();
    let mut late = place.another_process().rolls().begin(&batch(), None).await.unwrap();
    enqueue(&mut *workflow, &lines, 10).await;
    place.seal(&mut *workflow).await;
    let refused = late.part(&lines[..10], 10, digest(&lines[..10])).await.unwrap_err();
    assert_eq!(refused.kind, StoreTrouble::Denied, "they began at the same time: {refused}");
    let mut person = place.another_process().rolls().begin(&batch(), None).await.unwrap();
    let sent = person.already_sent().unwrap();
    assert_eq!((sent.lines, sent.digest, sent.sealed), (20, digest(&lines), true));
    person.start_over().unwrap();
    let refused = person.part(&[listed(0, &job("beta", 0))], 1, digest(&lines)).await.unwrap_err();
    assert!(refused.kind == StoreTrouble::Denied && refused.why.contains("tenant acme alone"), "{refused}");

    // And the other way round.
    let place = Place::new().await;
    let mut person = place.fleet.rolls().begin(&batch(), None).await.unwrap();
    let mut late = place.another_process().rolls().begin(&batch(), Some(&acme)).await.unwrap();
    enqueue(&mut *person, &lines, 10).await;
    let refused = late.part(&lines[..10], 10, digest(&lines[..10])).await.unwrap_err();
    assert_eq!(refused.kind, StoreTrouble::Denied, "{refused}");
    let workflow = place.another_process().rolls().begin(&batch(), Some(&acme)).await.unwrap();
    assert_eq!(workflow.already_sent().map(|sent| sent.lines), Some(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_segment_is_an_error_and_not_a_result() {
    let place = Place::new().await;
    let jobs: Vec<JobKey> = (0..5).map(|n| job("acme", n)).collect();
    let mut roll = place.fleet.rolls().begin(&batch(), None).await.unwrap();
    enqueue(&mut *roll, &jobs.iter().enumerate().map(|(n, job)| listed(n, job)).collect::<Vec<_>>(), 10).await;
    place.finish_all(&jobs).await;
    let report = place.fleet.jobs(Some(&batch()), &jobs[0].id, None).await.unwrap().remove(0);
    let Pointer { uri, .. } = report.ending.unwrap().ending.result;
    let changed = String::from_utf8(place.object(&uri).await.to_vec()).unwrap().replace("succeeded", "succeedee");
    let s3 = ministack::s3(&ministack::sdk(ministack::url()));
    let key = uri.strip_prefix(&format!("s3://{}/", place.settings.bucket)).unwrap();
    s3.put_object().bucket(&place.settings.bucket).key(key).body(changed.into_bytes().into()).send().await.unwrap();
    for order in [Order::Input, Order::Done] {
        let mut lines = place.fleet.results(&batch(), order).await.unwrap();
        let mut errors = Vec::new();
        while let Some(line) = lines.next().await {
            errors.extend(line.err());
        }
        assert_eq!(errors.iter().map(|error| error.kind).collect::<Vec<_>>(), [StoreTrouble::Damaged], "{order:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o3_status_and_explain_read_what_the_table_says() {
    let place = Place::new().await;
    let jobs: Vec<JobKey> = (0..10).map(|n| job("acme", n)).collect();
    let mut lines: Vec<RollLine> = jobs.iter().enumerate().map(|(n, job)| listed(n, job)).collect();
    lines.push(refused(10, "acme").0);
    let mut roll = place.fleet.rolls().begin(&batch(), None).await.unwrap();
    enqueue(&mut *roll, &lines, 100).await;
    let nobody = BatchName::new("nobody").unwrap();
    let unknown = place.fleet.results(&nobody, Order::Input).await.unwrap_err();
    assert!(unknown.why.contains("no batch nobody"), "{unknown}");

    place.finish(&jobs[0], Status::Failed).await;
    place.finish_all(&jobs[1..4]).await;
    let before = place.fleet.batches(Some(&batch())).await.unwrap();
    assert_eq!(before.len(), 1);
    assert_eq!((before[0].jobs, before[0].sealed), (Some(10), false), "what was enqueued so far");
    place.seal(&mut *roll).await;
    let [summary] = &place.fleet.batches(None).await.unwrap()[..] else { panic!("one batch") };
    assert_eq!(summary.key, jobs[0].batch_key());
    let sums = summary.ended;
    assert_eq!((sums.succeeded, sums.failed, sums.rejected, sums.total), (3, 1, 1, 5));
    assert_eq!((summary.jobs, summary.open(), summary.sealed, summary.announced), (Some(10), Some(6), true, 0));
    assert!(place.fleet.batches(Some(&nobody)).await.unwrap().is_empty());

    let claim = place.fleet.ledger().claim(&jobs[5], Digest::of(b"content"), Timestamp(5), LEASE).await.unwrap();
    assert!(matches!(claim, ClaimReply::Claimed(_)));
    let running = place.fleet.jobs(None, &jobs[5].id, None).await.unwrap().remove(0);
    assert_eq!((running.state, running.claims, running.ended), (State::Running, 1, None));
    assert_eq!(running.owner.unwrap().until, Wall.now().after(LEASE));
    let failed = place.fleet.jobs(Some(&batch()), &jobs[0].id, Some(&jobs[0].tenant)).await.unwrap().remove(0);
    assert_eq!((failed.state, failed.owner), (State::Final(Status::Failed), None));
    assert!(place.fleet.jobs(None, &jobs[9].id, None).await.unwrap().is_empty(), "only the queue knows it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_lane_that_was_written_is_listed() {
    let place = Place::new().await;
    let lane = |region: &str, model: &str| LaneId { region: region.into(), model_id: model.into() };
    let lanes = [
        lane("us-west-2", "us.vendor.m-v1:0"),
        lane("us-east-1", "arn:aws:bedrock:us-east-1:1:inference-profile/us.vendor.m-v1:0"),
    ];
    let allowance = place.fleet.allowance();
    for lane in &lanes {
        allowance.swap(lane, Version(0), Bytes::from(lane.to_string())).await.unwrap();
    }
    // Read and never written: nothing is known of it.
    allowance.read(&lane("us-west-2", "other")).await.unwrap();
    let mut listed = place.fleet.lanes().await.unwrap();
    listed.sort_by(|one, next| next.lane.cmp(&one.lane));
    let listed: Vec<_> = listed.into_iter().map(|row| (row.lane, row.state)).collect();
    assert_eq!(listed, lanes.map(|lane| (lane.clone(), Bytes::from(lane.to_string()))));
}
