//! Whose jobs may take another slot? A model that makes its jobs wait holds no more than half of the slots with them: the
//! rest is for models that could run, however many of its jobs stand before theirs in the queue.
//!
//! Standing in line is not waiting yet: of a model that answers as fast as jobs come, some stand in line at any moment, and
//! to pass it over would leave slots idle. So nothing is held against a model before one of its jobs has stood in line
//! for [`PATIENCE`]. From then on all that stands in its line counts, and all that was asked for and may turn out to be
//! its own, so that its share is not overdrawn and given back over and over. Jobs in calls do not count: they do not wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::lanes::Plan;

/// Who stands in line for longer than this, waits.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Who cannot run for so long waits for no quota of a minute: to put such messages away, one after the other, is soon done with.
const FOR_LONG: Duration = Duration::from_secs(15 * 60);
/// With so many put away in a row there may be nothing behind them: the rest is put away more slowly. A queue in which a hundred thousand
/// messages are hidden gives no more.
const PUT_AWAY: usize = 10_000;

/// The slots of one worker, by whom they are held. Clones share it.
#[derive(Clone, Debug)]
pub struct Shares {
    lines: Arc<Mutex<Lines>>,
    /// Told when a job leaves a line while others wait.
    left: Arc<Notify>,
    /// Told when it was worth it to look behind what is passed over.
    worth: Arc<Notify>,
    /// So many jobs of one model may wait.
    most: usize,
}

/// What may be asked of the queue.
#[derive(Debug)]
pub struct Question {
    /// Jobs of models with these names would only wait.
    pub passing_over: Vec<Arc<str>>,
    /// One for each message that may be asked for: at least one, at most as many as there are slots for.
    pub places: Vec<Place>,
}

/// A slot's place in the lines; left when dropped.
#[derive(Debug)]
pub struct Place {
    number: u64,
    own: OnceLock<Arc<Plan>>,
    shares: Shares,
}

#[derive(Debug, Default)]
struct Lines {
    next: u64,
    /// By the number of the place.
    standing: BTreeMap<u64, Standing>,
    /// How many of them wait: while none does, there is nothing to count.
    waiting: usize,
    /// Messages that were put away for long since the last one came that could run.
    put_away: usize,
}

#[derive(Debug)]
struct Standing {
    /// Who came first has the lower one.
    order: u64,
    /// Since when it stands in a line, and not only on its way there.
    since: Option<Instant>,
    who: Who,
    waits: bool,
}

#[derive(Debug)]
enum Who {
    /// A message that was asked for and not read yet: a job of any model but these.
    Anyone { but: Vec<Arc<Plan>> },
    /// A job, of the model it names, in the line of the one that shall answer it.
    Job { own: Arc<Plan>, line: Arc<Plan> },
}

impl Shares {
    /// Of so many slots.
    pub fn of(slots: usize) -> Self {
        Self { lines: Arc::default(), left: Arc::default(), worth: Arc::default(), most: (slots / 2).max(1) }
    }

    /// What to ask the queue with so many free slots.
    pub fn ask(&self, slots: usize) -> Question {
        let mut lines = self.lock();
        let (mut asked, mut passing) = (slots, Vec::new());
        for (plan, room) in lines.rooms(self.most) {
            if room == 0 {
                passing.push(plan);
            } else {
                asked = asked.min(room);
            }
        }
        let places = (0..asked)
            .map(|_| {
                let number = lines.stand(None, Who::Anyone { but: passing.clone() });
                Place { number, own: OnceLock::new(), shares: self.clone() }
            })
            .collect();
        Question { passing_over: passing.iter().flat_map(|plan| plan.names.iter().cloned()).collect(), places }
    }

    /// Waits until a model that is passed over may be wanted again. Of several who wait, one is told.
    pub async fn changed(&self) {
        self.left.notified().await;
    }

    /// Waits until a look behind what is passed over has brought something that was not, or has put away for long what was: then
    /// the next may bring more. Of several who wait, one is told.
    pub async fn worth_a_look(&self) {
        self.worth.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The job turned out to name this model. Whether it may stay: not if the model's share waits already, and the queue
    /// delivered it all the same.
    pub fn turned_out(&self, own: &Arc<Plan>) -> bool {
        let own = self.own.get_or_init(|| Arc::clone(own));
        let mut lines = self.shares.lock();
        lines.stand(Some(self.number), Who::Job { own: Arc::clone(own), line: Arc::clone(own) });
        let waits = lines.makes_wait(own);
        if !waits && lines.waiting > 0 {
            lines.put_away = 0;
            self.shares.worth.notify_one();
        }
        !waits || lines.before(self.number) < self.shares.most
    }

    /// The job may not stay, and its message comes again after this.
    pub fn put_away(&self, rest: Duration) {
        if rest < FOR_LONG {
            return;
        }
        let mut lines = self.shares.lock();
        lines.put_away += 1;
        if lines.put_away <= PUT_AWAY {
            self.shares.worth.notify_one();
        }
    }

    /// The job stands in this model's line from now on, if it does not already.
    pub fn line_up(&self, line: &Arc<Plan>) {
        let own = self.own.get_or_init(|| Arc::clone(line));
        let mut lines = self.shares.lock();
        let is_known = lines.standing.get(&self.number).is_some_and(|standing| standing.is_of(own));
        if !is_known {
            lines.stand(Some(self.number), Who::Job { own: Arc::clone(own), line: Arc::clone(line) });
        }
        if let Some(standing) = lines.standing.get_mut(&self.number) {
            standing.who = Who::Job { own: Arc::clone(own), line: Arc::clone(line) };
            standing.since.get_or_insert_with(Instant::now);
        }
    }

    /// The job's turn has come, or it is over.
    pub fn leave(&self) {
        let mut lines = self.shares.lock();
        let is_held_against = lines.waiting > 0;
        let left = lines.leave(self.number);
        // A question that brought nothing says nothing new; to be told of it would be a circle.
        if is_held_against && left.is_some_and(|left| matches!(left.who, Who::Job { .. })) {
            self.shares.left.notify_one();
        }
    }

    /// Ends once the job waits. Whether it may go on to: not if its model's share waits before it.
    pub async fn waits(&self) -> bool {
        let since = self.shares.lock().standing.get(&self.number).and_then(|standing| standing.since);
        let Some(since) = since else { return std::future::pending().await };
        tokio::time::sleep_until(since + PATIENCE).await;
        let mut lines = self.shares.lock();
        lines.wait(self.number);
        lines.before(self.number) < self.shares.most
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Lines {
    /// Stands at the end, under the number or a new one.
    fn stand(&mut self, number: Option<u64>, who: Who) -> u64 {
        let order = self.next;
        self.next += 1;
        let number = number.unwrap_or(order);
        self.leave(number);
        self.standing.insert(number, Standing { order, since: None, who, waits: false });
        number
    }

    fn leave(&mut self, number: u64) -> Option<Standing> {
        let left = self.standing.remove(&number)?;
        self.waiting -= usize::from(left.waits);
        Some(left)
    }

    fn wait(&mut self, number: u64) {
        if let Some(standing) = self.standing.get_mut(&number).filter(|standing| !standing.waits) {
            standing.waits = true;
            self.waiting += 1;
        }
    }

    /// How many came before it whose model, or whose line, is its own.
    fn before(&self, number: u64) -> usize {
        let Some(Standing { order, who: Who::Job { own, line }, .. }) = self.standing.get(&number) else { return 0 };
        let others = self.standing.values().filter(|other| other.order < *order);
        others.filter(|other| other.is_of(own) || other.is_of(line)).count()
    }

    /// Whether jobs of this model, or in its line, wait.
    fn makes_wait(&self, plan: &Arc<Plan>) -> bool {
        self.waiting > 0 && self.standing.values().any(|standing| standing.waits && standing.is_of(plan))
    }

    /// How many more jobs there may be of each model that makes jobs wait. One that falls back is held up by those it falls
    /// back to.
    fn rooms(&self, most: usize) -> Vec<(Arc<Plan>, usize)> {
        let mut rooms: Vec<(Arc<Plan>, usize)> = Vec::new();
        if self.waiting == 0 {
            return rooms;
        }
        let mut pairs: Vec<(&Arc<Plan>, &Arc<Plan>)> = Vec::new();
        for standing in self.standing.values().filter(|standing| standing.waits) {
            let Who::Job { own, line } = &standing.who else { continue };
            if !pairs.iter().any(|pair| Arc::ptr_eq(pair.0, own) && Arc::ptr_eq(pair.1, line)) {
                pairs.push((own, line));
            }
        }
        for (own, line) in pairs {
            let room = self.room(line, most);
            for (plan, room) in [(line, room), (own, room.min(self.room(own, most)))] {
                match rooms.iter_mut().find(|(known, _)| Arc::ptr_eq(known, plan)) {
                    Some((_, known)) => *known = room.min(*known),
                    None => rooms.push((Arc::clone(plan), room)),
                }
            }
        }
        rooms
    }

    fn room(&self, plan: &Arc<Plan>, most: usize) -> usize {
        most.saturating_sub(self.standing.values().filter(|standing| standing.may_be_of(plan)).count())
    }
}

impl Standing {
    fn is_of(&self, plan: &Arc<Plan>) -> bool {
        match &self.who {
            Who::Anyone { .. } => false,
            Who::Job { own, line } => Arc::ptr_eq(own, plan) || Arc::ptr_eq(line, plan),
        }
    }

    fn may_be_of(&self, plan: &Arc<Plan>) -> bool {
        match &self.who {
            Who::Anyone { but } => !but.iter().any(|passed| Arc::ptr_eq(passed, plan)),
            Who::Job { .. } => self.is_of(plan),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::num::NonZeroU32;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::flow::lanes::{CallTimeout, Catalogue, PlanSpec};
    use crate::job::units::Timestamp;
    use crate::rules::breaker::BreakerRules;

    fn plans() -> [Arc<Plan>; 3] {
        let spec = |name: &str| PlanSpec {
            names: vec![name.into(), format!("vendor.{name}").into()],
            price: None,
            burndown: 1,
            default_cap: NonZeroU32::MIN,
            call_timeout: CallTimeout { base: PATIENCE, per_token: Duration::ZERO },
            fallback: Vec::new(),
            routes: Vec::new(),
        };
        let breaker = BreakerRules { failures: NonZeroU32::MIN, open_for: PATIENCE, probes: NonZeroU32::MIN };
        let catalogue = Catalogue::new(Timestamp(0), ["a", "b", "c"].map(spec).into(), breaker, |_| None);
        ["a", "b", "c"].map(|name| catalogue.find(name).unwrap())
    }

    /// Jobs of a model that stand in the line of another, or in its own.
    fn stand(shares: &Shares, jobs: usize, own: &Arc<Plan>, line: &Arc<Plan>) -> Vec<Place> {
        let places: Vec<Place> = (0..jobs).flat_map(|_| shares.ask(1).places).collect();
        for place in &places {
            place.turned_out(own);
            place.line_up(line);
        }
        places
    }

    fn passed(question: &Question) -> Vec<&str> {
        question.passing_over.iter().map(|name| &**name).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_is_passed_over_under_all_its_names_while_half_of_the_slots_wait() {
        let [a, ..] = plans();
        let shares = Shares::of(5);
        let mut waiting = stand(&shares, 2, &a, &a);
        assert!(passed(&shares.ask(10)).is_empty(), "they have only just come");
        assert!(waiting[0].waits().await && waiting[1].waits().await);
        let question = shares.ask(3);
        assert_eq!((passed(&question), question.places.len()), (vec!["a", "vendor.a"], 3));
        waiting.remove(0).leave();
        let question = shares.ask(3);
        assert_eq!((passed(&question), question.places.len()), (vec![], 1), "there is room for one");
        assert_eq!(passed(&shares.ask(3)), ["a", "vendor.a"], "which may be on its way");
        drop(question);
        waiting.clear();
        assert_eq!(shares.ask(3).places.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn who_came_last_gives_way_and_calls_count_for_nothing() {
        let [a, b, _] = plans();
        let shares = Shares::of(4);
        let of_a = stand(&shares, 4, &a, &a);
        let of_b = stand(&shares, 1, &b, &b);
        let mut may_stay = Vec::new();
        for place in of_a.iter().chain(&of_b) {
            may_stay.push(place.waits().await);
        }
        assert_eq!(may_stay, [true, true, false, false, true]);
        of_a[0].leave();
        assert!(of_a[2].waits().await, "the first is in a call, and holds nobody up");
        of_a[0].line_up(&a);
        assert!(!of_a[0].waits().await, "back from its call it stands at the end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_was_to_be_passed_over_may_not_stay() {
        let [a, b, _] = plans();
        let shares = Shares::of(4);
        let waiting = stand(&shares, 2, &a, &a);
        for place in &waiting {
            place.waits().await;
        }
        let places = shares.ask(2).places;
        assert!(!places[0].turned_out(&a));
        assert!(places[1].turned_out(&b));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_is_worth_it_that_brings_what_can_run_or_puts_away_for_long_what_cannot() {
        let [a, b, _] = plans();
        let shares = Shares::of(4);
        let is_worth = || shares.worth_a_look().now_or_never().is_some();
        let waiting = stand(&shares, 2, &a, &a);
        for place in &waiting {
            place.waits().await;
        }
        assert!(!is_worth());
        let put_away = |rest| {
            let places = shares.ask(1).places;
            assert!(!places[0].turned_out(&a));
            places[0].put_away(rest);
        };
        put_away(FOR_LONG - PATIENCE);
        assert!(!is_worth(), "it comes again soon");
        (0..PUT_AWAY).for_each(|_| put_away(FOR_LONG));
        assert!(is_worth());
        put_away(FOR_LONG);
        assert!(!is_worth(), "nothing else came between so many");
        assert!(shares.ask(1).places[0].turned_out(&b));
        assert!(is_worth());
        put_away(FOR_LONG);
        assert!(is_worth());
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_whose_jobs_fell_back_is_held_up_by_the_line_they_stand_in() {
        let [a, b, c] = plans();
        let shares = Shares::of(6);
        let own = stand(&shares, 3, &c, &c);
        let fallen = stand(&shares, 1, &a, &c);
        let well = stand(&shares, 3, &b, &b);
        for place in own.iter().chain(&fallen) {
            place.waits().await;
        }
        well.iter().for_each(Place::leave);
        let question = shares.ask(2);
        assert_eq!(passed(&question), ["c", "vendor.c", "a", "vendor.a"]);
        assert_eq!(question.places.len(), 2, "for the others");
    }

    #[tokio::test(start_paused = true)]
    async fn with_one_slot_or_two_one_job_may_wait() {
        let [a, ..] = plans();
        for slots in [1, 2] {
            let shares = Shares::of(slots);
            let waiting = stand(&shares, 1, &a, &a);
            assert!(waiting[0].waits().await, "{slots}");
            waiting[0].leave();
            assert!(passed(&shares.ask(1)).is_empty(), "{slots}: it is in a call");
        }
    }
}
