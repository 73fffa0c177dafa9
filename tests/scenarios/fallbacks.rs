//! When does another model answer, and who is told?

use aquifer::flow::lanes::PlanSpec;
use aquifer::job::outcome::JobResult;
use aquifer::job::spec::Job;
use aquifer::rules::pace::Counting;

use crate::play::{EAST, HAIKU, Play, Setup, WEST, assert_all_answered, model, small};

const NOVA: &str = "us.amazon.nova-lite-v1:0";

/// Both models, and what is wrong with the first for a minute.
fn play(trouble: &str) -> Play {
    Play::of(&format!(
        "counting = 'sliding'\n[latency]\nconstant = '1s'\n[[model]]\nid = '{NOVA}'\n[[model]]\nid = '{HAIKU}'\n{trouble}"
    ))
}

fn with_fallback(regions: &[&str], fallback: PlanSpec) -> Setup {
    let mut setup = Setup::new(HAIKU, regions);
    setup.models[0].fallback = vec!["n".into()];
    setup.models.push(fallback);
    setup
}

/// 10 jobs that may fall back, and 10 that may not.
fn jobs() -> Vec<Job> {
    let with = |(number, job): (usize, Job)| Job { fallback: number < 10, ..job };
    small(20).into_iter().enumerate().map(with).collect()
}

fn answered_by<'r>(results: &'r [JobResult], model: &str) -> Vec<&'r JobResult> {
    results.iter().filter(|result| result.model_used.as_deref() == Some(model)).collect()
}

const OVERLOADED: &str = "[[brownout]]\nmodel = 'MODEL'\nuntil = '60s'\ncapacity = 0\nerror = 'overloaded'";

#[tokio::test(start_paused = true)]
async fn t5_an_overloaded_model_is_stood_in_for_only_where_the_job_allows_it_and_the_result_says_so() {
    let play = play(&OVERLOADED.replace("MODEL", HAIKU));
    let results = play.drained(&with_fallback(&[EAST], model("n", NOVA, &[EAST])), 1, jobs()).await;
    assert_all_answered(&results, 20);
    let (stood_in, own) = (answered_by(&results, NOVA), answered_by(&results, HAIKU));
    assert!(!stood_in.is_empty() && !own.is_empty(), "{} and {}", stood_in.len(), own.len());
    assert_eq!((stood_in.len(), own.len()), (10, 10));
    for result in &results {
        let may = may_fall_back(result);
        assert_eq!((result.degraded, result.model.as_deref()), (may, Some("m")), "{result:?}");
        assert_eq!(result.model_used.as_deref(), Some(if may { NOVA } else { HAIKU }), "{result:?}");
    }
    // They did not wait for the minute to end.
    assert!(stood_in.iter().all(|result| result.timing.queued_ms + result.timing.paced_ms < 40_000), "{stood_in:?}");
}

fn may_fall_back(result: &JobResult) -> bool {
    let number: usize = result.id.trim_start_matches("small-").parse().unwrap();
    number < 10
}

#[tokio::test(start_paused = true)]
async fn t5_a_model_whose_quota_is_used_up_is_waited_for() {
    let play = play("tokens_per_minute = 2000");
    let setup = with_fallback(&[EAST], model("n", NOVA, &[EAST])).told(2_000, Counting::Learn);
    let results = play.drained(&setup, 1, small(40)).await;
    assert_all_answered(&results, 40);
    assert_eq!(answered_by(&results, HAIKU).len(), 40);
    assert!(results.iter().all(|result| !result.degraded));
    assert!(play.report().last_answer_ms.unwrap() > 60_000, "it had to be waited for");
}

#[tokio::test(start_paused = true)]
async fn t5_a_model_that_is_away_is_waited_for() {
    let play = play(&format!("[[fault]]\nmodel = '{HAIKU}'\nkind = 'ServiceUnavailableException'\nuntil = '30s'"));
    let setup = with_fallback(&[EAST], model("n", NOVA, &[EAST]));
    let results = play.drained(&setup, 1, small(20)).await;
    assert_all_answered(&results, 20);
    assert_eq!(answered_by(&results, HAIKU).len(), 20);
    assert!(play.report().faults["ServiceUnavailableException"] >= 5, "{}", play.report());
}

#[tokio::test(start_paused = true)]
async fn r14_an_overload_sends_nobody_out_of_its_residence() {
    // At home the own model is overloaded; both are well abroad, and the other one is also at home.
    let play = play(&format!("{}\nregion = '{WEST}'", OVERLOADED.replace("MODEL", HAIKU)));
    let at_home = |job: Job| Job { residency: Some(vec![WEST.into()]), ..job };
    let jobs: Vec<_> = jobs().into_iter().map(at_home).collect();
    let results = play.drained(&with_fallback(&[EAST, WEST], model("n", NOVA, &[EAST, WEST])), 1, jobs).await;
    assert_all_answered(&results, 20);
    assert!(results.iter().all(|result| result.region.as_deref() == Some(WEST)));
    assert_eq!((answered_by(&results, NOVA).len(), answered_by(&results, HAIKU).len()), (10, 10));
    assert_eq!(play.report().lanes.into_keys().collect::<Vec<_>>(), [WEST], "nobody was even asked abroad");
}

#[tokio::test(start_paused = true)]
async fn r14_a_fallback_that_is_only_abroad_is_none() {
    let play = play(&format!("{}\nregion = '{WEST}'", OVERLOADED.replace("MODEL", HAIKU)));
    let at_home = |job: Job| Job { residency: Some(vec![WEST.into()]), ..job };
    let jobs: Vec<_> = small(10).into_iter().map(at_home).collect();
    let results = play.drained(&with_fallback(&[EAST, WEST], model("n", NOVA, &[EAST])), 1, jobs).await;
    assert_all_answered(&results, 10);
    assert_eq!(answered_by(&results, HAIKU).len(), 10);
    assert!(results.iter().all(|result| !result.degraded && result.region.as_deref() == Some(WEST)));
}
