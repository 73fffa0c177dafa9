//! Dead letters of a fleet: looked through a few at a time, and each dealt with as it is found, so that memory holds no more than
//! ten of them.

use serde_json::{Value, json};

use super::{
    chosen_by_somebody, class_is_known, no_letter, none_is_like_that, none_listed, nothing_without_yes, says_nothing,
};
use crate::aws::{DeadLetters, Fleet, FleetLetter, PutBack};
use crate::cli::args::{DeadAct, DeadFilter};
use crate::cli::backend::of_fleet;
use crate::cli::exit::{Exit, Report};
use crate::cli::out;
use crate::cli::terminal::say;
use crate::ports::StoreError;

/// A look goes no further: with more, something is wrong that is not found by reading on.
const LIMIT: usize = 10_000;
const NO_REASON: &str = "moved by SQS: it was received too often without an end";

pub(super) async fn dead(act: &DeadAct, fleet: &Fleet, model: Option<&str>) -> Result<Exit, Report> {
    match act {
        DeadAct::List { which, json, .. } => list(fleet, which, *json).await,
        DeadAct::Show { id, json, .. } => show(fleet, id, *json).await,
        DeadAct::Redrive { which, all, json, .. } => {
            chosen_by_somebody(which, *all)?;
            redrive(fleet, which, model, *json).await
        }
        DeadAct::Drop { which, all, yes, json, .. } => {
            chosen_by_somebody(which, *all)?;
            drop_them(fleet, which, *yes, *json).await
        }
    }
}

/// What came of a look.
#[derive(Debug, Default)]
struct Looked {
    found: Vec<String>,
    /// It ended before the letters did.
    is_cut: bool,
}

/// Does something with each letter to which all of the filter applies, and lets the rest go.
async fn each<F>(fleet: &Fleet, which: &DeadFilter, mut act: F) -> Result<Looked, Report>
where
    F: AsyncFnMut(&mut DeadLetters, &FleetLetter) -> Result<(), Report>,
{
    class_is_known(which)?;
    let (mut letters, mut looked, mut seen) = (fleet.dead_letters(), Looked::default(), 0);
    let outcome = loop {
        let page = match letters.next().await.map_err(of_fleet) {
            Ok(page) => page,
            Err(report) => break Err(report),
        };
        if page.is_empty() {
            break Ok(());
        }
        seen += page.len();
        let mut failed = None;
        for letter in page.iter().filter(|letter| applies(which, letter)) {
            if let Err(report) = act(&mut letters, letter).await {
                failed = Some(report);
                break;
            }
            looked.found.push(letter.id.0.clone());
        }
        if let Some(report) = failed {
            break Err(report);
        }
        let all_named = !which.ids.is_empty() && which.ids.iter().all(|id| looked.found.contains(id));
        if all_named {
            break Ok(());
        }
        if seen >= LIMIT {
            looked.is_cut = true;
            break Ok(());
        }
    };
    letters.let_go().await;
    outcome.map(|()| looked)
}

fn applies(which: &DeadFilter, letter: &FleetLetter) -> bool {
    (which.ids.is_empty() || which.ids.contains(&letter.id.0))
        && which.batch.as_deref().is_none_or(|batch| letter.job.as_ref().is_some_and(|job| job.batch.as_str() == batch))
        && which.class.as_deref().is_none_or(|class| class == class_of(letter))
}

fn class_of(letter: &FleetLetter) -> &str {
    letter.reason.as_deref().and_then(|reason| reason.split(':').next()).unwrap_or_default()
}

fn tell_cut(looked: &Looked) {
    if looked.is_cut {
        say(&format!("there are more: the first {LIMIT} were looked at; run it again once these are dealt with"));
    }
}

async fn list(fleet: &Fleet, which: &DeadFilter, as_json: bool) -> Result<Exit, Report> {
    let mut is_first = true;
    let looked = each(fleet, which, async |_, letter| {
        if as_json {
            return out::line(&to_json(letter).to_string());
        }
        if std::mem::take(&mut is_first) {
            out::line(&format!("{:<36} {:<20} {:<24} {:<25} REASON", "ID", "BATCH", "JOB", "SINCE"))?;
        }
        let (batch, job) = letter.job.as_ref().map_or(("-", "-"), |job| (job.batch.as_str(), job.id.as_str()));
        let reason = letter.reason.as_deref().unwrap_or(NO_REASON);
        out::line(&format!("{:<36} {batch:<20} {job:<24} {:<25} {reason}", letter.id.0, letter.since.to_string()))
    })
    .await?;
    if looked.found.is_empty() && !as_json {
        // Nobody is shown what somebody else is looking at.
        match fleet.queue().depth().await.map_err(of_fleet)?.dead {
            hidden @ 1.. if says_nothing(which) => say(&format!(
                "none of the {hidden} dead letters can be seen now: somebody else looks at them, or did and was killed; two minutes later they \
                 can be seen again"
            )),
            _ => say(none_listed(which)),
        }
    }
    tell_cut(&looked);
    Ok(Exit::AllSucceeded)
}

fn to_json(letter: &FleetLetter) -> Value {
    json!({
        "message_id": letter.id.0,
        "batch": letter.job.as_ref().map(|key| &key.batch),
        "id": letter.job.as_ref().map(|key| &key.id),
        "tenant": letter.job.as_ref().map(|key| &key.tenant),
        "class": class_of(letter),
        "reason": letter.reason.as_deref().unwrap_or(NO_REASON),
        "died": letter.since.to_string(),
        "simulated": false,
    })
}

async fn show(fleet: &Fleet, id: &str, as_json: bool) -> Result<Exit, Report> {
    let which = DeadFilter { ids: vec![id.to_owned()], ..DeadFilter::default() };
    let looked = each(fleet, &which, async |_, letter| {
        if as_json {
            let mut told = to_json(letter);
            told["body"] = Value::String(letter.body.clone());
            return out::line(&told.to_string());
        }
        say(&format!("message {}", letter.id.0));
        if let Some(key) = &letter.job {
            say(&format!("  job        `{}` of batch `{}`, tenant `{}`", key.id, key.batch, key.tenant));
        }
        say(&format!("  dead       since {}: {}", letter.since, letter.reason.as_deref().unwrap_or(NO_REASON)));
        out::line(&letter.body)
    })
    .await?;
    if looked.found.is_empty() { Err(no_letter(id)) } else { Ok(Exit::AllSucceeded) }
}

async fn redrive(fleet: &Fleet, which: &DeadFilter, model: Option<&str>, as_json: bool) -> Result<Exit, Report> {
    let mut again = 0_u64;
    let looked = each(fleet, which, async |letters, letter| {
        match letters.put_back(letter, model).await.map_err(begun)? {
            PutBack::RunsAgain => again += 1,
            PutBack::Queued => {}
        }
        Ok(())
    })
    .await?;
    all_found(which, &looked)?;
    let count = looked.found.len();
    if as_json {
        out::line(&json!({ "redriven": count, "run_again": again }).to_string())?;
    } else {
        say(&format!(
            "{count} messages are in the queue again; {again} of them hold jobs that had failed or expired, which run again"
        ));
    }
    tell_cut(&looked);
    Ok(Exit::AllSucceeded)
}

/// Puts all of them back into the queue; how many there were.
pub(in crate::cli) async fn put_all_back(fleet: &Fleet, model: Option<&str>) -> Result<u64, Report> {
    let (mut letters, mut count) = (fleet.dead_letters(), 0);
    let outcome = loop {
        let page = match letters.next().await.map_err(of_fleet) {
            Ok(page) if page.is_empty() || count >= LIMIT => break Ok(()),
            Ok(page) => page,
            Err(report) => break Err(report),
        };
        let mut failed = None;
        for letter in &page {
            match letters.put_back(letter, model).await {
                Ok(PutBack::Queued | PutBack::RunsAgain) => count += 1,
                Err(error) => {
                    failed = Some(begun(error));
                    break;
                }
            }
        }
        if let Some(report) = failed {
            break Err(report);
        }
    };
    letters.let_go().await;
    outcome.map(|()| u64::try_from(count).unwrap_or(u64::MAX))
}

async fn drop_them(fleet: &Fleet, which: &DeadFilter, yes: bool, as_json: bool) -> Result<Exit, Report> {
    let looked = each(
        fleet,
        which,
        async |letters, letter| {
            if yes { letters.remove(letter).await.map_err(begun) } else { Ok(()) }
        },
    )
    .await?;
    all_found(which, &looked)?;
    let count = looked.found.len();
    if !yes {
        return Err(nothing_without_yes(count));
    }
    if as_json {
        out::line(&json!({ "dropped": count }).to_string())?;
    } else {
        say(&format!("{count} messages are gone"));
    }
    tell_cut(&looked);
    Ok(Exit::AllSucceeded)
}

/// Some may be dealt with already.
fn begun(error: StoreError) -> Report {
    of_fleet(StoreError { why: format!("{}; run the same command again to go on", error.why), ..error })
}

fn all_found(which: &DeadFilter, looked: &Looked) -> Result<(), Report> {
    match which.ids.iter().find(|id| !looked.found.contains(id)) {
        Some(missing) => Err(no_letter(missing)),
        None if looked.found.is_empty() => Err(none_is_like_that()),
        None => Ok(()),
    }
}
