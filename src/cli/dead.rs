//! `aquifer dead`: what could not be worked, and what is to become of it. Bodies are shown on demand only.

pub(super) mod fleet;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::embedded::{DeadMessage, Reader, Redriven};
use crate::job::failure::Class;
use crate::ports::MessageId;

use super::args::{DeadAct, DeadFilter, Places};
use super::exit::{Exit, Report};
use super::states::States;
use super::terminal::say;
use super::{backend, out, wiring};

/// Does it.
///
/// # Errors
/// A report: there is no state, nothing is like that, or it does not say what is meant.
pub(crate) async fn dead(act: &DeadAct) -> Result<Exit, Report> {
    let (DeadAct::List { places, .. }
    | DeadAct::Show { places, .. }
    | DeadAct::Redrive { places, .. }
    | DeadAct::Drop { places, .. }) = act;
    let settings = wiring::settings(places.config.as_deref(), false)?;
    if let Some(fleet) = backend::fleet(&settings).await? {
        let model = settings.default_model().map(|model| &*model.name);
        return fleet::dead(act, &fleet, model).await;
    }
    match act {
        DeadAct::List { which, json, places } => list(which, *json, places),
        DeadAct::Show { id, json, places } => show(id, *json, places),
        DeadAct::Redrive { which, all, json, places } => {
            let chosen = chosen(which, *all, places)?;
            redrive(chosen, *json).await
        }
        DeadAct::Drop { which, all, yes, json, places } => {
            let chosen = chosen(which, *all, places)?;
            drop_them(chosen, *yes, *json).await
        }
    }
}

/// Dead letters of one state.
struct Shelf {
    dir: PathBuf,
    is_simulated: bool,
    reader: Reader,
    letters: Vec<DeadMessage>,
}

/// Those to which all of the filter applies, by the state that has them.
fn shelves(which: &DeadFilter, places: &Places) -> Result<Vec<Shelf>, Report> {
    class_is_known(which)?;
    let below = backend::state_dir(places, true);
    let mut shelves = Vec::new();
    for state in States::open(&places.state)?.readers {
        let dir = if state.simulated && below.exists() { below.clone() } else { places.state.clone() };
        let letters = state.reader.dead()?.into_iter().filter(|letter| applies(which, letter)).collect();
        shelves.push(Shelf { dir, is_simulated: state.simulated, reader: state.reader, letters });
    }
    Ok(shelves)
}

fn applies(which: &DeadFilter, letter: &DeadMessage) -> bool {
    (which.ids.is_empty() || which.ids.contains(&letter.id.0))
        && which.batch.as_deref().is_none_or(|batch| batch == letter.batch.as_str())
        && which.class.as_deref().is_none_or(|class| class == class_of(letter))
}

/// A reason begins with its class.
fn class_of(letter: &DeadMessage) -> &str {
    letter.letter.reason.split(':').next().unwrap_or_default()
}

/// Those that something is to be done with, which has to be said.
fn chosen(which: &DeadFilter, all: bool, places: &Places) -> Result<Vec<Shelf>, Report> {
    chosen_by_somebody(which, all)?;
    let mut shelves = shelves(which, places)?;
    shelves.retain(|shelf| !shelf.letters.is_empty());
    // Real and simulated state number their messages apart: a bare number means the real one, if there is one.
    if which.batch.is_none() && !which.ids.is_empty() {
        shelves.truncate(1);
    }
    let found: Vec<&str> = shelves.iter().flat_map(|shelf| &shelf.letters).map(|letter| letter.id.0.as_str()).collect();
    match which.ids.iter().find(|id| !found.contains(&id.as_str())) {
        Some(missing) => Err(no_letter(missing)),
        None if found.is_empty() => Err(none_is_like_that()),
        None => Ok(shelves),
    }
}

fn class_is_known(which: &DeadFilter) -> Result<(), Report> {
    match which.class.as_deref().filter(|word| Class::from_word(word).is_none()) {
        Some(unknown) => Err(Report::usage(format!("no class is called `{unknown}`"))
            .hint("`aquifer dead list` shows each with its reason, which begins with its class")),
        None => Ok(()),
    }
}

/// A filter that applies to all of them.
fn says_nothing(which: &DeadFilter) -> bool {
    which.ids.is_empty() && which.batch.is_none() && which.class.is_none()
}

fn none_listed(which: &DeadFilter) -> &'static str {
    if says_nothing(which) { "there are no dead letters" } else { NONE_IS_LIKE_THAT }
}

const NONE_IS_LIKE_THAT: &str = "no dead letter is like that";

fn chosen_by_somebody(which: &DeadFilter, all: bool) -> Result<(), Report> {
    if !says_nothing(which) || all {
        return Ok(());
    }
    Err(Report::usage("which of them?").hint("say --id, --batch or --class, or --all"))
}

fn none_is_like_that() -> Report {
    Report::usage(NONE_IS_LIKE_THAT).hint("`aquifer dead list` shows them all")
}

fn nothing_without_yes(count: usize) -> Report {
    Report::usage(format!("{count} messages would be thrown away for good"))
        .hint("say --yes if that is what you want; `aquifer dead show ID` shows what one holds")
}

fn no_letter(id: &str) -> Report {
    Report::usage(format!("no dead letter has the number `{id}`")).hint("`aquifer dead list` shows them all")
}

fn list(which: &DeadFilter, as_json: bool, places: &Places) -> Result<Exit, Report> {
    let shelves = shelves(which, places)?;
    if as_json {
        for (shelf, letter) in each(&shelves) {
            out::line(&to_json(shelf, letter).to_string())?;
        }
        return Ok(Exit::AllSucceeded);
    }
    if each(&shelves).next().is_none() {
        say(none_listed(which));
        return Ok(Exit::AllSucceeded);
    }
    out::line(&format!("{:<8} {:<20} {:<24} {:<25} REASON", "ID", "BATCH", "JOB", "SINCE"))?;
    for (shelf, letter) in each(&shelves) {
        let job = letter.job.as_ref().map_or("-", |key| key.id.as_str());
        let mark = if shelf.is_simulated { " (simulated)" } else { "" };
        let DeadMessage { id, batch, letter, .. } = letter;
        out::line(&format!(
            "{:<8} {:<20} {job:<24} {:<25} {}{mark}",
            id.0,
            batch.as_str(),
            letter.died.to_string(),
            letter.reason
        ))?;
    }
    Ok(Exit::AllSucceeded)
}

fn each(shelves: &[Shelf]) -> impl Iterator<Item = (&Shelf, &DeadMessage)> {
    shelves.iter().flat_map(|shelf| shelf.letters.iter().map(move |letter| (shelf, letter)))
}

fn to_json(shelf: &Shelf, letter: &DeadMessage) -> Value {
    json!({
        "message_id": letter.id.0,
        "batch": letter.batch,
        "id": letter.job.as_ref().map(|key| &key.id),
        "tenant": letter.job.as_ref().map(|key| &key.tenant),
        "class": class_of(letter),
        "reason": letter.letter.reason,
        "sent": letter.sent.to_string(),
        "died": letter.letter.died.to_string(),
        "receives": letter.letter.receives,
        "simulated": shelf.is_simulated,
    })
}

fn show(id: &str, as_json: bool, places: &Places) -> Result<Exit, Report> {
    let which = DeadFilter { ids: vec![id.to_owned()], ..DeadFilter::default() };
    let shelves = shelves(&which, places)?;
    let (shelf, letter) = each(&shelves).next().ok_or_else(|| no_letter(id))?;
    let body = shelf.reader.dead_body(&letter.id)?.ok_or_else(|| no_letter(id))?;
    if as_json {
        let mut told = to_json(shelf, letter);
        told["body"] = Value::String(body);
        out::line(&told.to_string())?;
        return Ok(Exit::AllSucceeded);
    }
    let mark = if shelf.is_simulated { " (simulated)" } else { "" };
    say(&format!("message {} of batch `{}`{mark}", letter.id.0, letter.batch));
    if let Some(key) = &letter.job {
        say(&format!("  job        `{}`, tenant `{}`", key.id, key.tenant));
    }
    say(&format!("  dead       since {}: {}", letter.letter.died, letter.letter.reason));
    say(&format!("  message    sent {}, delivered {} times", letter.sent, letter.letter.receives));
    out::line(&body)?;
    Ok(Exit::AllSucceeded)
}

async fn redrive(shelves: Vec<Shelf>, as_json: bool) -> Result<Exit, Report> {
    let (mut queued, mut again) = (0_u64, 0_u64);
    for shelf in shelves {
        let ids = ids(&shelf);
        drop(shelf.reader);
        let store = wiring::store(&shelf.dir).await?;
        let redriven = store.redrive(ids).await;
        store.close().await?;
        for outcome in redriven? {
            match outcome {
                Redriven::Queued => queued += 1,
                Redriven::RunsAgain => again += 1,
                Redriven::Gone => {}
            }
        }
    }
    if as_json {
        out::line(&json!({ "redriven": queued + again, "run_again": again }).to_string())?;
    } else {
        say(&format!(
            "{} messages are in the queue again; {again} of them hold jobs that had failed or expired, which run again",
            queued + again
        ));
    }
    Ok(Exit::AllSucceeded)
}

async fn drop_them(shelves: Vec<Shelf>, yes: bool, as_json: bool) -> Result<Exit, Report> {
    let count: usize = shelves.iter().map(|shelf| shelf.letters.len()).sum();
    if !yes {
        return Err(nothing_without_yes(count));
    }
    let mut dropped = 0;
    for shelf in shelves {
        let ids = ids(&shelf);
        drop(shelf.reader);
        let store = wiring::store(&shelf.dir).await?;
        let gone = store.drop_dead(ids).await;
        store.close().await?;
        dropped += gone?;
    }
    if as_json {
        out::line(&json!({ "dropped": dropped }).to_string())?;
    } else {
        say(&format!("{dropped} messages are gone"));
    }
    Ok(Exit::AllSucceeded)
}

fn ids(shelf: &Shelf) -> Vec<MessageId> {
    shelf.letters.iter().map(|letter| letter.id.clone()).collect()
}
