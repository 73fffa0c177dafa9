//! `aquifer forget`: purge a batch, so that prompts and answers do not lie about for ever.

use crate::aws::{Fleet, Unforgotten};
use crate::job::ident::BatchName;
use crate::ports::StoreError;

use super::args::ForgetArgs;
use super::exit::{Exit, Report};
use super::states::{States, place_of};
use super::terminal::say;
use super::{backend, wiring};

/// Purges it.
///
/// # Errors
/// A report: no such batch, or it is not complete.
pub(crate) async fn forget(args: &ForgetArgs) -> Result<Exit, Report> {
    let settings = wiring::settings(args.places.config.as_deref(), false)?;
    if let Some(fleet) = backend::fleet(&settings).await? {
        return of_fleet(&fleet, &args.batch).await;
    }
    let simulated = {
        let states = States::open(&args.places.state)?;
        states.holding(&args.batch)?.simulated
    };
    let batch = BatchName::new(&args.batch).map_err(Report::usage)?;
    let store = wiring::store(&place_of(&args.places.state, simulated)).await?;
    let forgotten = store.forget(&batch).await;
    store.close().await?;
    match forgotten {
        Ok(forgotten) => say(&format!(
            "batch `{batch}` is forgotten: {} jobs, {} files of results and manifests",
            forgotten.jobs, forgotten.files
        )),
        // It was there before the directory was opened, and opening it carries on with what was begun.
        Err(_) if States::open(&args.places.state)?.holding(&args.batch).is_err() => {
            say(&format!("batch `{batch}` is forgotten: that had been begun before, and is done now"));
        }
        Err(error) => return Err(Report::usage(error.why).hint("only a complete batch can be forgotten")),
    }
    Ok(Exit::AllSucceeded)
}

async fn of_fleet(fleet: &Fleet, name: &str) -> Result<Exit, Report> {
    let batch = BatchName::new(name).map_err(Report::usage)?;
    match fleet.forget(&batch).await {
        Ok(forgotten) => {
            say(&format!(
                "batch `{batch}` is forgotten: {} jobs, {} objects of results, rolls and manifests",
                forgotten.jobs, forgotten.objects
            ));
            say(&format!("`aquifer dead drop --batch {batch}` throws away what is left of it among the dead letters"));
            Ok(Exit::AllSucceeded)
        }
        Err(Unforgotten::NotYet(why)) => Err(Report::usage(why).hint("only a complete batch can be forgotten")),
        Err(Unforgotten::Store(error)) => Err(backend::of_fleet(StoreError {
            why: format!("{}; run the same command again to go on", error.why),
            ..error
        })),
    }
}
