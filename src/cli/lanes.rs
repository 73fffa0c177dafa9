//! `aquifer lanes`: what do the workers know of each lane, and what does a person have to say of its breaker? From the
//! rows that all workers share, so that it works beside them and after them.

use std::sync::Arc;

use serde_json::json;

use crate::config::Settings;
use crate::embedded::LaneRow;
use crate::flow::lanes::ACCOUNT;
use crate::job::notice::Notice;
use crate::job::units::{PerMinute, Timestamp, Tokens};
use crate::ports::{Allowance, Clock, LaneId, Notices, Swap};
use crate::rules::breaker::Hand;
use crate::rules::lane::LaneBook;
use crate::rules::pace::{Counting, Hypothesis, Terms};
use crate::telemetry::figures::BreakerState;

use super::args::{HandArg, HandLane, LanesArgs, Places};
use super::exit::{Exit, Report};
use super::run::short;
use super::states::{States, place_of};
use super::terminal::say;
use super::wiring;
use super::{SystemClock, backend, out};

/// Shows them, or sets the breaker of one.
///
/// # Errors
/// A report: there is no state, or no such lane.
pub(crate) async fn lanes(args: &LanesArgs) -> Result<Exit, Report> {
    match &args.hand {
        None => show(args, &Known::of(args)?).await,
        Some(HandArg::Open(lane)) => set(lane, Hand::Open).await,
        Some(HandArg::Close(lane)) => set(lane, Hand::Close).await,
        Some(HandArg::Probe(lane)) => set(lane, Hand::Probe).await,
    }
}

/// What the configuration says of lanes; of one that it does not name only the row tells.
struct Known {
    settings: [Settings; 2],
}

impl Known {
    fn of(args: &LanesArgs) -> Result<Self, Report> {
        let read = |simulated| wiring::settings(args.places.config.as_deref(), simulated);
        Ok(Self { settings: [read(false)?, read(true)?] })
    }

    fn book(&self, lane: &LaneId) -> (LaneBook, Terms) {
        let routes = self.settings.iter().flat_map(|settings| wiring::routes(settings, &lane.region));
        let told = routes.into_iter().find(|route| route.lane == *lane).map(|route| route.terms());
        let terms = told.unwrap_or_else(Terms::unknown);
        let [real, _] = &self.settings;
        (LaneBook::new(terms, wiring::breaker_rules(real)), terms)
    }
}

/// The account of a region has a row as well, but nothing is sent to it.
fn is_a_models(lane: &LaneId) -> bool {
    *lane.model_id != *ACCOUNT
}

async fn show(args: &LanesArgs, known: &Known) -> Result<Exit, Report> {
    let now = SystemClock.now();
    let rows = rows(&args.places).await?;
    if rows.is_empty() && !args.json {
        say("no lane is known: nothing was called yet");
    }
    for Row { lane, state, is_simulated } in rows {
        let (mut book, terms) = known.book(&lane);
        if book.load(&state).is_err() {
            continue;
        }
        let (standing, lane) = (Standing::of(&mut book, &terms, now), lane.to_string());
        if args.json {
            out::line(&standing.as_json(&lane, is_simulated).to_string())?;
        } else {
            standing.tell(&lane, is_simulated)?;
        }
    }
    Ok(Exit::AllSucceeded)
}

/// What the workers have written of a lane.
struct Row {
    lane: LaneId,
    state: Vec<u8>,
    is_simulated: bool,
}

async fn rows(places: &Places) -> Result<Vec<Row>, Report> {
    let mut rows = Vec::new();
    if let Some(fleet) = wiring::configured_fleet(places).await? {
        let written = fleet.lanes().await.map_err(backend::of_fleet)?.into_iter();
        rows.extend(written.map(|row| Row { lane: row.lane, state: row.state.to_vec(), is_simulated: false }));
    } else {
        for state in &States::open(&places.state)?.readers {
            let written = state.reader.lanes()?.into_iter();
            rows.extend(written.filter_map(|LaneRow { lane, state: row }| {
                Some(Row { lane: LaneId::parse(&lane)?, state: row, is_simulated: state.simulated })
            }));
        }
    }
    rows.retain(|row| is_a_models(&row.lane));
    Ok(rows)
}

struct Standing {
    limit: Option<u64>,
    configured: Option<u64>,
    used: Tokens,
    counting: Vec<Hypothesis>,
    is_told: bool,
    breaker: String,
    cooled_until: Option<Timestamp>,
}

impl Standing {
    fn of(book: &mut LaneBook, terms: &Terms, now: Timestamp) -> Self {
        let used = book.ledger.used(now);
        let now = book.ledger.latest();
        Self {
            limit: book.ledger.tokens_per_minute(),
            configured: terms.limits.tokens_per_minute.map(PerMinute::get),
            used,
            counting: book.ledger.standing(),
            is_told: terms.counting != Counting::Learn,
            breaker: book.breaker.standing().describe(now),
            cooled_until: Some(book.cool_down.available_at(now)).filter(|until| *until > now),
        }
    }

    fn words(&self) -> String {
        match self.counting.as_slice() {
            [counting] if self.is_told => format!("{}, as configured", counting.word()),
            [counting] => format!("{}, learned", counting.word()),
            several => {
                let words: Vec<_> = several.iter().map(|counting| counting.word()).collect();
                format!("not known yet: {}", words.join(" or "))
            }
        }
    }

    fn tell(&self, lane: &str, simulated: bool) -> Result<(), Report> {
        out::line(&format!("{lane}{}", if simulated { " (simulated)" } else { "" }))?;
        let limit =
            self.limit.map_or_else(|| "not known".to_owned(), |limit| format!("{} tokens a minute", short(limit)));
        let told = match self.configured {
            Some(told) if self.limit != Some(told) => format!(", learned; {} are configured", short(told)),
            Some(_) => ", as configured".to_owned(),
            None => String::new(),
        };
        out::line(&format!("  quota      {limit}{told}; {} charged in the last minute", short(self.used.0)))?;
        out::line(&format!("  counting   {}", self.words()))?;
        out::line(&format!("  breaker    {}", self.breaker))?;
        match self.cooled_until {
            Some(until) => out::line(&format!("  cool-down  until {until}")),
            None => Ok(()),
        }
    }

    fn as_json(&self, lane: &str, simulated: bool) -> serde_json::Value {
        json!({
            "lane": lane,
            "simulated": simulated,
            "tokens_per_minute": self.limit,
            "configured_tokens_per_minute": self.configured,
            "charged_tokens": self.used,
            "counting": self.counting,
            "breaker": self.breaker,
            "cool_down_until": self.cooled_until.map(|until| until.to_string()),
        })
    }
}

/// Says it in the row; workers see it within seconds.
async fn set(args: &HandLane, hand: Hand) -> Result<Exit, Report> {
    let name = args.lane.as_str();
    let no_lane = || Report::usage(format!("no lane is called `{name}`")).hint("`aquifer lanes` lists them all");
    let row = rows(&args.places).await?.into_iter().find(|row| row.lane.to_string() == name).ok_or_else(no_lane)?;
    let settings = wiring::settings(args.places.config.as_deref(), row.is_simulated)?;
    let is_told = settings.notify.jobs || settings.notify.batches;
    if let Some(fleet) = wiring::configured_fleet(&args.places).await? {
        turn(&*fleet.allowance(), is_told.then(|| fleet.notices()), &row.lane, hand).await.map_err(Report::of_fleet)?;
    } else {
        let dir = place_of(&args.places.state, row.is_simulated);
        let store = wiring::working_store(&dir, &settings, row.is_simulated).await?;
        let outcome = turn(&*store.allowance(), is_told.then(|| store.notices()), &row.lane, hand).await;
        store.close().await?;
        outcome?;
    }
    say(&format!("{}: {}", row.lane, said_of(hand)));
    Ok(Exit::AllSucceeded)
}

/// Sets it, and makes that known as workers do.
async fn turn(
    allowance: &dyn Allowance,
    told: Option<Arc<dyn Notices>>,
    lane: &LaneId,
    hand: Hand,
) -> Result<(), Report> {
    write(allowance, lane, hand).await?;
    let notice = Notice::of_breaker(&lane.region, &lane.model_id, state_after(hand).word(), None, SystemClock.now());
    if let Some(notices) = told
        && let Err(error) = notices.publish(&notice).await
    {
        say(&format!("note: nobody else was told of it: {error}"));
    }
    Ok(())
}

async fn write(allowance: &dyn Allowance, lane: &LaneId, hand: Hand) -> Result<(), Report> {
    let mut shared = allowance.read(lane).await?;
    loop {
        let row = LaneBook::row_by_hand(&shared.state, hand).map_err(Report::stuck)?;
        match allowance.swap(lane, shared.version, row.into()).await? {
            Swap::Swapped { .. } => return Ok(()),
            Swap::Stale(newer) => shared = newer,
        }
    }
}

const fn state_after(hand: Hand) -> BreakerState {
    match hand {
        Hand::Open => BreakerState::Held,
        Hand::Close => BreakerState::Closed,
        Hand::Probe => BreakerState::HalfOpen,
    }
}

const fn said_of(hand: Hand) -> &'static str {
    match hand {
        Hand::Open => "nothing is sent there until you close it, or have it probed",
        Hand::Close => "calls are sent there again",
        Hand::Probe => "the next call finds out whether it is well",
    }
}
