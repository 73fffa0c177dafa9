//! One quota for many processes that are killed: what a dead worker took of it stays taken until it ages out.
//!
//! The service refuses nothing; it counts the calls that its quota would have refused. There must be none.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use crate::books::assert_complete;
use crate::relay::Log;
use crate::support::{Place, job};
use crate::world::{Count, Dead, Life, MODEL, Service, configure_with, dice, moment};

/// Tokens a minute, as the service has them and as the workers are told.
const QUOTA: usize = 60_000;
/// A job of these tests comes to some 170 tokens.
const TEXT: &str = "It came in time, it was as described, and it does what it should do; I would buy it again. ";

const WORKERS: usize = 8;
const SLOTS: usize = 2;
/// Two windows of the quota and a little more, so that there is work until two minutes after the first call.
const JOBS: usize = 780;
const KILLS: usize = 30;

#[test]
fn q1_q5_eight_processes_killed_at_random_never_exceed_the_quota_and_answer_every_job_once() {
    let mut dice = dice("eight_processes");
    let place = place_with(JOBS, SLOTS);
    // So slow that the workers need half of each minute for its quota: there are open calls at many of the kills.
    let service = judge(&place, "1500ms");
    let outputs: Vec<String> = (1..=WORKERS).map(|worker| format!("{worker}.jsonl")).collect();
    let start = |worker: usize| Life::start(&place, &["run", "demo.jsonl", "-o", &outputs[worker]], &service);

    let mut lives: Vec<Life> = (0..WORKERS).map(start).collect();
    let mut dead = Vec::new();
    let mut kill = |lives: &mut Vec<Life>, worker: usize| {
        dead.push(lives.remove(worker).kill());
        lives.insert(worker, start(worker));
    };
    let mut open_at_kills = 0;
    for number in 1..=KILLS {
        std::thread::sleep(moment(&mut dice, 1_000..5_000));
        if number == KILLS / 2 {
            for worker in 0..WORKERS {
                kill(&mut lives, worker);
            }
        }
        let worker = victim(&mut dice, &lives);
        open_at_kills += open_calls(&lives[worker]);
        kill(&mut lives, worker);
    }
    let mut logs = Vec::new();
    for life in lives {
        let (ended, log) = life.finish();
        ended.exits(0);
        logs.push((log, 0));
    }
    logs.extend(dead.into_iter().map(|dead| (without_haste(dead), SLOTS)));

    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let results = assert_complete(&place, "demo", JOBS, &outputs);
    let lost = lost_calls(&logs);
    let requests: usize = logs.iter().map(|(log, _)| log.requests.len()).sum();
    let count = service.finish();
    println!("{JOBS} jobs, {} kills, {open_at_kills} calls open at them, {lost} made twice: {count:?}", logs.len() - 8);
    assert!(open_at_kills > 0, "no kill met a call");
    assert_eq!(requests, JOBS + lost);
    let on_record: u64 = results.iter().map(|result| result["model_calls"].as_u64().unwrap()).sum();
    let on_record = usize::try_from(on_record).unwrap();
    let held: usize = logs.iter().map(|(_, held)| held).sum();
    assert!((requests..=JOBS + held).contains(&on_record), "{on_record} on record, {requests} made");
    assert_eq!(count.answered, requests, "the service's own count");
    assert!(count.twice <= lost, "{count:?}");
    assert_within_quota(&count, 2);
}

#[test]
fn q5_who_starts_after_a_kill_does_not_take_the_quota_of_the_minute_again() {
    let mut dice = dice("restarted");
    let jobs = 480;
    let place = place_with(jobs, 24);
    let service = judge(&place, "300ms");
    let run = ["run", "demo.jsonl"];
    let began = Instant::now();
    let mut dead = Vec::new();
    // Some 340 calls make a minute's quota. Most of it is taken when the last life starts, which alone could use it up.
    for answers in [dice.random_range(100..180), 50, 1] {
        let life = Life::start(&place, &run, &service);
        life.relay.until("answers", |log| log.answers >= answers);
        dead.push(life.kill());
    }
    assert!(began.elapsed() < Duration::from_secs(50), "all of these lives are of one minute: {:?}", began.elapsed());
    let (ended, _) = Life::start(&place, &run, &service).finish();
    ended.exits(0);
    for dead in dead {
        without_haste(dead);
    }
    assert_complete(&place, "demo", jobs, &["results.jsonl"]);
    assert_within_quota(&service.finish(), 1);
}

/// Nothing was over the quota, though it was used up so many times: what is more had to wait.
fn assert_within_quota(count: &Count, times: usize) {
    assert!(count.settled_tokens > times * QUOTA, "the quota did not bind: {count:?}");
    assert_eq!(count.over_quota, 0, "{count:?}");
}

fn place_with(jobs: usize, slots: usize) -> Place {
    let place = Place::new();
    let lines: Vec<_> = (1..=jobs)
        .map(|number| {
            let mut job = job(number);
            job["prompt"] = format!("{}Summarise review number {number}.", TEXT.repeat(5)).into();
            job
        })
        .collect();
    place.write_lines("demo.jsonl", &lines);
    let model = format!("tokens_per_minute = {QUOTA}\ncounting = \"sliding\"\noutput_burndown = 1");
    configure_with(&place, &model, &format!("slots = {slots}"));
    place
}

/// A service that counts but refuses nothing.
fn judge(place: &Place, latency: &str) -> Service {
    let scenario = format!(
        "enforce = false\ncounting = \"sliding\"\n\n[latency]\nconstant = \"{latency}\"\nper_output_token = \"0s\"\n\n\
         [answer]\nmean = 60.0\n\n[[model]]\nid = \"{MODEL}\"\ntokens_per_minute = {QUOTA}\nburndown = 1\n"
    );
    Service::playing(place, &scenario, "127.0.0.1:0")
}

/// Anyone; but every other time somebody with open calls, if there is one.
fn victim(dice: &mut StdRng, lives: &[Life]) -> usize {
    let busy: Vec<usize> = (0..lives.len()).filter(|worker| open_calls(&lives[*worker]) > 0).collect();
    if dice.random() { busy.choose(dice).copied() } else { None }.unwrap_or_else(|| dice.random_range(0..lives.len()))
}

fn open_calls(life: &Life) -> usize {
    let log = life.relay.seen();
    log.requests.len() - log.answers
}

/// Waits for the end of its calls. That it called soon cannot be asked of who had to wait for the quota.
fn without_haste(dead: Dead) -> Log {
    dead.relay.finish()
}

/// How many calls were made for nothing: all but the last of each job. Each is of a life that was killed, and none has
/// more of them than it had slots.
fn lost_calls(logs: &[(Log, usize)]) -> usize {
    let mut calls: BTreeMap<usize, Vec<(Instant, usize)>> = BTreeMap::new();
    for (life, (log, _)) in logs.iter().enumerate() {
        for request in &log.requests {
            calls.entry(request.job).or_default().push((request.at, life));
        }
    }
    let mut lost = vec![0; logs.len()];
    for calls in calls.values_mut() {
        calls.sort_unstable();
        for (_, life) in &calls[..calls.len() - 1] {
            lost[*life] += 1;
        }
    }
    for (life, (log, held)) in logs.iter().enumerate() {
        assert!(lost[life] <= *held, "{} calls for nothing, {held} slots held: {log:?}", lost[life]);
    }
    lost.iter().sum()
}
