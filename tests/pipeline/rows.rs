//! Two workers, one row a lane: what one has said is neither lost nor said twice, whoever writes first.

use std::sync::Arc;
use std::time::Duration;

use aquifer::flow::lane::{Asked, Lane, Take, Taken};
use aquifer::flow::lanes::Catalogue;
use aquifer::job::failure::Class;
use aquifer::job::units::Tokens;
use aquifer::ports::{Allowance, Clock as _};
use aquifer::rules::lane::Word;
use aquifer::rules::pace::{Event, Limits, Quota};

use crate::harness::*;

fn lane(state: &State) -> Arc<Lane> {
    let setup = Setup { limits: Limits::default(), ..Setup::default() };
    let plans = vec![plan("m", setup.limits, &setup)];
    let catalogue = Catalogue::new(state.clock.now(), plans, setup.settings.breaker, |_| None);
    catalogue.lanes().remove(0)
}

async fn take(lane: &Lane, allowance: &dyn Allowance, tokens: u64) -> Taken {
    match lane.take(allowance, &Asked { tokens: Tokens(tokens), behind: Vec::new() }).await.unwrap() {
        Take::Taken(taken) => taken,
        other => panic!("nothing was had: {other:?}"),
    }
}

/// The premise: a lane without a configured limit learned one from throttles while another worker, which had not, wrote
/// the row first. The ledger stayed, because that row had none, and everything was said to it a second time.
#[tokio::test(start_paused = true)]
async fn what_is_said_of_a_ledger_that_a_row_does_not_replace_is_said_once() {
    let state = State::new();
    let store = state.open().await;
    let allowance = store.allowance();
    let (one, other) = (lane(&state), lane(&state));

    let first = take(&one, &*allowance, 7).await;
    one.say([Word::Quota(Event::Settled(first.reservation, Tokens(7))), Word::Answered(first.permit)]);
    let mut taken = Vec::new();
    for tokens in [100, 100, 1_000] {
        // Towards a quota that nobody knows calls go one after the other.
        tokio::time::advance(Duration::from_millis(100)).await;
        taken.push(take(&one, &*allowance, tokens).await);
    }
    let theirs = take(&other, &*allowance, 5).await;
    other.say([Word::Failed(theirs.permit, Class::Unavailable)]);
    other.write(&*allowance).await.unwrap();

    for refused in [1, 2] {
        one.say([Word::Quota(Event::Throttled(taken[refused].reservation, Quota::Tokens, None))]);
    }
    one.say([Word::Quota(Event::Settled(taken[0].reservation, Tokens(40)))]);
    one.write(&*allowance).await.unwrap();
    let now = one.now();
    assert_eq!(one.state().book.ledger.used(now), Tokens(47));
    other.refresh(&*allowance).await.unwrap();
    assert_eq!(other.state().book.ledger.used(now), Tokens(47), "and the other knows as much");
}
