//! What a queue must do; see `ports::Queue`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use aquifer::job::ident::BatchName;
use aquifer::job::spec::Priority;
use aquifer::job::trace::TraceContext;
use aquifer::ports::{BATCH_ENTRIES, Clock, Depth, EntryError, Message, Outgoing, Queue, ReceiptHandle};

use crate::world::{World, batch, outgoing};

/// Some back ends really wait for it.
const HIDE: Duration = Duration::from_secs(4);
const NOW: Duration = Duration::ZERO;
/// Longer than any test takes, on a machine that does much else.
const HELD: Duration = Duration::from_secs(600);

async fn receive(queue: &dyn Queue) -> Vec<Message> {
    queue.receive(BATCH_ENTRIES, &[], HIDE, NOW).await.unwrap()
}

async fn one(queue: &dyn Queue) -> Message {
    let mut messages = receive(queue).await;
    assert_eq!(messages.len(), 1);
    messages.remove(0)
}

async fn send(queue: &dyn Queue, body: &str) {
    for reply in queue.send(vec![outgoing(body)]).await.unwrap() {
        reply.unwrap();
    }
}

pub(crate) async fn f20_the_queue_really_redelivers(w: World) {
    send(w.queue.as_ref(), "a").await;
    let first = one(w.queue.as_ref()).await;
    assert_eq!((first.receives, first.body.as_str()), (1, "a"));
    assert!(receive(w.queue.as_ref()).await.is_empty(), "hidden while it is in flight");
    w.pass(HIDE - w.can.precision).await;
    assert!(receive(w.queue.as_ref()).await.is_empty(), "hidden to the end of its timeout");
    w.pass(w.can.precision).await;
    let second = one(w.queue.as_ref()).await;
    assert_eq!((second.receives, second.body.as_str()), (2, "a"));
    assert_eq!(second.id, first.id);
    assert_eq!(second.sent, first.sent);
    assert_ne!(second.handle, first.handle);
}

pub(crate) async fn a_handle_is_stale_once_the_message_was_delivered_again(w: World) {
    send(w.queue.as_ref(), "a").await;
    let first = one(w.queue.as_ref()).await;
    w.pass(HIDE).await;
    let second = w.queue.receive(1, &[], HELD, NOW).await.unwrap().remove(0);
    let stale = || first.handle.clone();
    assert_eq!(w.queue.delete(vec![stale()]).await.unwrap(), [Err(EntryError::NotOurs)]);
    assert_eq!(w.queue.change_visibility(vec![(stale(), NOW)]).await.unwrap(), [Err(EntryError::NotOurs)]);
    assert_eq!(w.queue.dead_letter(&first, "why").await.unwrap(), Err(EntryError::NotOurs));
    assert!(receive(w.queue.as_ref()).await.is_empty(), "the new owner still holds it");
    assert_eq!(w.queue.delete(vec![second.handle.clone()]).await.unwrap(), [Ok(())]);
    assert_eq!(w.queue.delete(vec![second.handle]).await.unwrap(), [Err(EntryError::NotOurs)], "already deleted");
    assert_eq!(w.queue.depth().await.unwrap(), Depth::default());
}

pub(crate) async fn a_lapsed_handle_is_good_until_the_next_delivery(w: World) {
    send(w.queue.as_ref(), "a").await;
    let message = one(w.queue.as_ref()).await;
    w.pass(HIDE * 2).await;
    assert_eq!(w.queue.delete(vec![message.handle]).await.unwrap(), [Ok(())]);
    assert!(receive(w.queue.as_ref()).await.is_empty());
}

pub(crate) async fn f19_d11_one_bad_entry_leaves_the_others_done(w: World) {
    for body in ["a", "b", "c"] {
        send(w.queue.as_ref(), body).await;
    }
    let messages = w.queue.receive(BATCH_ENTRIES, &[], HELD, NOW).await.unwrap();
    let bad = || ReceiptHandle("no such handle".to_owned());
    let (a, b, c) = (messages[0].handle.clone(), messages[1].handle.clone(), messages[2].handle.clone());
    let replies = w.queue.change_visibility(vec![(a.clone(), HELD), (bad(), HELD), (b.clone(), NOW)]).await.unwrap();
    assert_eq!(replies, [Ok(()), Err(EntryError::NotOurs), Ok(())]);
    let again = w.queue.receive(BATCH_ENTRIES, &[], HELD, NOW).await.unwrap();
    assert_eq!(again.iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), ["b"]);
    let replies = w.queue.delete(vec![a, bad(), b, c]).await.unwrap();
    assert_eq!(replies, [Ok(()), Err(EntryError::NotOurs), Err(EntryError::NotOurs), Ok(())]);
    let depth = w.queue.depth().await.unwrap();
    assert_eq!(depth, Depth { in_flight: 1, ..Depth::default() });
}

pub(crate) async fn more_than_ten_entries_are_refused_and_none_is_a_no_op(w: World) {
    let many: Vec<Outgoing> = (0..=BATCH_ENTRIES).map(|_| outgoing("a")).collect();
    w.queue.send(many).await.unwrap_err();
    assert_eq!(w.queue.depth().await.unwrap().ready, 0, "refused as a whole");
    w.queue.receive(BATCH_ENTRIES + 1, &[], HIDE, NOW).await.unwrap_err();
    let handles = || vec![ReceiptHandle("1.1".to_owned()); BATCH_ENTRIES + 1];
    w.queue.delete(handles()).await.unwrap_err();
    w.queue.change_visibility(handles().into_iter().map(|handle| (handle, HIDE)).collect()).await.unwrap_err();
    assert!(w.queue.send(Vec::new()).await.unwrap().is_empty());
    assert!(w.queue.delete(Vec::new()).await.unwrap().is_empty());
    assert!(w.queue.change_visibility(Vec::new()).await.unwrap().is_empty());
    let ten: Vec<Outgoing> = (0..BATCH_ENTRIES).map(|_| outgoing("a")).collect();
    assert_eq!(w.queue.send(ten).await.unwrap().len(), BATCH_ENTRIES);
    assert_eq!(receive(w.queue.as_ref()).await.len(), BATCH_ENTRIES);
}

pub(crate) async fn f06_a_delay_is_enforced_by_the_queue(w: World) {
    let delay = Duration::from_secs(5);
    w.queue.send(vec![Outgoing { delay, ..outgoing("late") }]).await.unwrap().remove(0).unwrap();
    assert!(receive(w.queue.as_ref()).await.is_empty());
    assert_eq!(w.queue.depth().await.unwrap(), Depth { delayed: 1, ..Depth::default() });
    w.pass(delay).await;
    let message = one(w.queue.as_ref()).await;
    assert_eq!(message.receives, 1, "a delay is no delivery");
    assert_eq!(w.queue.change_visibility(vec![(message.handle, delay)]).await.unwrap(), [Ok(())]);
    w.pass(delay - w.can.precision).await;
    assert!(receive(w.queue.as_ref()).await.is_empty());
    w.pass(w.can.precision).await;
    assert_eq!(one(w.queue.as_ref()).await.receives, 2);
}

pub(crate) async fn lower_priority_goes_first_then_the_oldest(w: World) {
    for (body, level) in [("c", 5), ("e", 9), ("a", 0), ("d", 5), ("b", 0)] {
        let priority = Priority::new(level).unwrap();
        w.queue.send(vec![Outgoing { priority, ..outgoing(body) }]).await.unwrap().remove(0).unwrap();
    }
    let other = BatchName::new("another").unwrap();
    let first = Priority::new(1).unwrap();
    let entry = Outgoing { batch: other, priority: first, ..outgoing("between") };
    w.queue.send(vec![entry]).await.unwrap().remove(0).unwrap();
    let mut bodies: Vec<_> = receive(w.queue.as_ref()).await.into_iter().map(|message| message.body).collect();
    if !w.can.order {
        bodies.sort();
        assert_eq!(bodies, ["a", "b", "between", "c", "d", "e"], "in whatever order, but all of them");
        return;
    }
    assert_eq!(bodies, ["a", "b", "between", "c", "d", "e"]);
}

async fn send_of(queue: &dyn Queue, model: Option<&str>, level: u64, body: &str) {
    let (model, priority) = (model.map(str::to_owned), Priority::new(level).unwrap());
    queue.send(vec![Outgoing { model, priority, ..outgoing(body) }]).await.unwrap().remove(0).unwrap();
}

async fn bodies_but(queue: &dyn Queue, max: usize, passing_over: &[&str]) -> Vec<String> {
    let passing_over: Vec<Arc<str>> = passing_over.iter().map(|name| (*name).into()).collect();
    let messages = queue.receive(max, &passing_over, HIDE, NOW).await.unwrap();
    messages.into_iter().map(|message| message.body).collect()
}

pub(crate) async fn what_is_passed_over_stays_and_the_rest_comes_in_order(w: World) {
    let queue = w.queue.as_ref();
    let messages = [
        (Some("a"), 5, "a5"),
        (Some("b"), 5, "b5"),
        (None, 5, "nobody knows"),
        (Some("a"), 0, "a0"),
        (Some("c"), 5, "c5"),
        (Some("b"), 0, "b0"),
        (Some("b"), 5, "b5 again"),
    ];
    for (model, level, body) in messages {
        send_of(queue, model, level, body).await;
    }
    if !w.can.pass_over {
        let mut all = bodies_but(queue, 10, &["a", "never sent"]).await;
        all.sort();
        assert_eq!(all, ["a0", "a5", "b0", "b5", "b5 again", "c5", "nobody knows"], "all the same, each once");
        return;
    }
    assert_eq!(bodies_but(queue, 2, &["a", "never sent"]).await, ["b0", "b5"]);
    assert_eq!(bodies_but(queue, 10, &["a", "c"]).await, ["nobody knows", "b5 again"]);
    assert_eq!(bodies_but(queue, 10, &["a", "c"]).await, [""; 0]);
    assert_eq!(w.queue.depth().await.unwrap(), Depth { ready: 3, in_flight: 4, ..Depth::default() });
    assert_eq!(bodies_but(queue, 10, &[]).await, ["a0", "a5", "c5"], "no delivery has moved them");
}

pub(crate) async fn what_comes_back_is_passed_over_like_the_rest(w: World) {
    send_of(w.queue.as_ref(), Some("a"), 5, "a").await;
    if !w.can.pass_over {
        for receives in 1..=3 {
            let message = w.queue.receive(10, &["a".into()], HIDE, NOW).await.unwrap().remove(0);
            assert_eq!(message.receives, receives, "a delivery like any other");
            assert_eq!(w.queue.change_visibility(vec![(message.handle, NOW)]).await.unwrap(), [Ok(())]);
        }
        return;
    }
    let message = one(w.queue.as_ref()).await;
    assert_eq!(w.queue.change_visibility(vec![(message.handle, NOW)]).await.unwrap(), [Ok(())]);
    assert_eq!(bodies_but(w.queue.as_ref(), 10, &["a"]).await, [""; 0], "handed back");
    one(w.queue.as_ref()).await;
    w.pass(HIDE).await;
    assert_eq!(bodies_but(w.queue.as_ref(), 10, &["a"]).await, [""; 0], "lapsed");
    assert_eq!(one(w.queue.as_ref()).await.receives, 3, "being passed over is no delivery");
}

pub(crate) async fn a_receiver_that_passes_over_all_there_is_waits_for_the_rest(w: World) {
    send_of(w.queue.as_ref(), Some("a"), 0, "a").await;
    let queue = Arc::clone(&w.queue);
    let waiting =
        tokio::spawn(async move { queue.receive(10, &["a".into()], HIDE, Duration::from_secs(60)).await.unwrap() });
    send_of(w.queue.as_ref(), Some("a"), 0, "another a").await;
    send_of(w.queue.as_ref(), Some("b"), 9, "b").await;
    let bodies: Vec<_> = waiting.await.unwrap().into_iter().map(|message| message.body).collect();
    if !w.can.pass_over {
        assert_eq!(bodies[0], "a", "what was there first did not wait for another");
        return;
    }
    assert_eq!(bodies, ["b"]);
}

pub(crate) async fn zero_visibility_is_a_hand_back_at_once(w: World) {
    send(w.queue.as_ref(), "a").await;
    let message = one(w.queue.as_ref()).await;
    assert_eq!(w.queue.change_visibility(vec![(message.handle, NOW)]).await.unwrap(), [Ok(())]);
    assert_eq!(one(w.queue.as_ref()).await.receives, 2);
}

pub(crate) async fn an_extension_hides_for_longer(w: World) {
    send(w.queue.as_ref(), "a").await;
    let message = one(w.queue.as_ref()).await;
    for _ in 0..3 {
        w.pass(HIDE / 4).await;
        assert_eq!(w.queue.change_visibility(vec![(message.handle.clone(), HELD)]).await.unwrap(), [Ok(())]);
    }
    w.pass(HIDE).await;
    assert!(receive(w.queue.as_ref()).await.is_empty());
    assert_eq!(w.queue.delete(vec![message.handle]).await.unwrap(), [Ok(())]);
}

pub(crate) async fn d5_a_dead_letter_is_gone_from_the_queue(w: World) {
    send(w.queue.as_ref(), "no job at all").await;
    let message = one(w.queue.as_ref()).await;
    assert_eq!(w.queue.dead_letter(&message, "line 1: no JSON").await.unwrap(), Ok(()));
    assert_eq!(w.queue.depth().await.unwrap(), Depth { dead: 1, ..Depth::default() });
    w.pass(HIDE * 2).await;
    assert!(receive(w.queue.as_ref()).await.is_empty());
}

pub(crate) async fn a_waiting_receiver_hears_of_a_message(w: World) {
    let queue = Arc::clone(&w.queue);
    let waiting = tokio::spawn(async move { queue.receive(1, &[], HIDE, Duration::from_secs(60)).await.unwrap() });
    send(w.queue.as_ref(), "a").await;
    assert_eq!(waiting.await.unwrap().len(), 1);
    assert!(w.queue.receive(1, &[], HIDE, Duration::from_millis(5)).await.unwrap().is_empty(), "the wait ends");
}

pub(crate) async fn hidden_until_is_never_later_than_the_truth(w: World) {
    send(w.queue.as_ref(), "a").await;
    let before = w.clock.now();
    let message = one(w.queue.as_ref()).await;
    assert!(message.hidden_until <= before.after(HIDE));
    assert!(message.hidden_until > before);
}

pub(crate) async fn a_body_may_hold_anything(w: World) {
    let odd = "\u{feff}'); DROP TABLE message; -- \u{1F30A}\r\n".repeat(20_000);
    let not_text = ["\u{0}", ""];
    send(w.queue.as_ref(), &odd).await;
    for body in not_text {
        let reply = w.queue.send(vec![outgoing(body), outgoing("beside it")]).await.unwrap();
        assert_eq!(reply.len(), 2);
        match &reply[0] {
            Ok(_) => assert!(w.can.hold_any_text, "{body:?}"),
            Err(error) => assert!(!w.can.hold_any_text && matches!(error, EntryError::Refused(_)), "{body:?}: {error}"),
        }
        reply[1].as_ref().unwrap();
    }
    let mut bodies: Vec<_> = receive(w.queue.as_ref()).await.into_iter().map(|message| message.body).collect();
    let mut sent = vec![odd.as_str(), "beside it", "beside it"];
    if w.can.hold_any_text {
        sent.extend(not_text);
    }
    bodies.sort();
    sent.sort();
    assert!(bodies == sent, "{} bodies, {} sent, or not the same", bodies.len(), sent.len());
}

pub(crate) async fn a_job_may_be_larger_than_a_message(w: World) {
    // Three times what one message of SQS can be; and one that others sent into the same call must not suffer from.
    let prompt = "\"; \u{1F30A}\\u0000 ".repeat(300_000).replace('"', "'");
    let large = format!("{{\"id\":\"large\",\"prompt\":\"{prompt}\"}}");
    assert!(large.len() > 3 << 20);
    let replies = w.queue.send(vec![outgoing("{\"id\":\"small\"}"), outgoing(&large)]).await.unwrap();
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    let message = loop {
        let mut got = receive(w.queue.as_ref()).await;
        assert!(!got.is_empty(), "it never came");
        got.retain(|message| message.body.len() > 100);
        if let Some(message) = got.pop() {
            break message;
        }
    };
    // The same job; where its keys stand says nothing.
    let read = |job: &str| serde_json::from_str::<serde_json::Value>(job).unwrap();
    assert!(read(&message.body) == read(&large), "{} bytes came of {}", message.body.len(), large.len());
    assert_eq!(w.queue.delete(vec![message.handle]).await.unwrap(), [Ok(())]);
}

pub(crate) async fn deliveries_race_to_one_receiver_each(w: World) {
    for chunk in 0..10 {
        let entries = (0..10).map(|n| outgoing(&format!("{chunk}-{n}"))).collect();
        w.queue.send(entries).await.unwrap();
    }
    let racers: Vec<_> = (0..16)
        .map(|_| {
            let queue = Arc::clone(&w.queue);
            tokio::spawn(async move {
                let mut mine = Vec::new();
                loop {
                    let got = queue.receive(3, &[], HELD, NOW).await.unwrap();
                    if got.is_empty() {
                        return mine;
                    }
                    mine.extend(got.into_iter().map(|message| message.body));
                }
            })
        })
        .collect();
    let mut all = Vec::new();
    for racer in racers {
        all.extend(racer.await.unwrap());
    }
    assert_eq!(all.len(), 100);
    assert_eq!(all.into_iter().collect::<HashSet<_>>().len(), 100);
    assert_eq!(w.place.queue_of(&batch()).depth().await.unwrap().in_flight, 100);
}

pub(crate) async fn a_trace_travels_beside_the_body(w: World) {
    let plain = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None).unwrap();
    let traced = [None, Some(plain.clone()), Some(plain.with_state("vendor=t61rcWkgMzE,other=1"))];
    let entries = traced.iter().zip(["none", "plain", "stateful"]);
    let entries = entries.map(|(trace, body)| Outgoing { trace: trace.clone(), ..outgoing(body) });
    for sent in w.queue.send(entries.collect()).await.unwrap() {
        sent.unwrap();
    }
    let mut received = receive(w.queue.as_ref()).await;
    received.sort_by(|one, other| one.body.cmp(&other.body));
    let found: Vec<_> = received.iter().map(|message| (&*message.body, message.trace.clone())).collect();
    let [none, plain, stateful] = traced;
    assert_eq!(found, [("none", none), ("plain", plain.clone()), ("stateful", stateful)]);
    let handle = received.remove(1).handle;
    w.queue.change_visibility(vec![(handle, Duration::ZERO)]).await.unwrap().remove(0).unwrap();
    assert_eq!(one(w.queue.as_ref()).await.trace, plain, "at every delivery");
}
