//! What became of each entry of a batch call? SQS and SNS answer 200 and fail single entries: each is told by its id, what
//! failed only for now is asked again by itself, and an entry that the reply leaves out has not been carried out.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use super::trouble;
use crate::ports::{Entry, EntryError, StoreError, StoreTrouble};

/// How often an entry is asked for in all; the SDK repeats whole calls only.
const ROUNDS: u32 = 4;
/// Before the second round; doubles from round to round.
const NAP: Duration = Duration::from_millis(100);

/// What the service said to one entry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Said<T> {
    /// Carried out.
    Done(T),
    /// Not, and asking again would change nothing.
    Never(EntryError),
    /// Not, and not because of the entry.
    Trouble(StoreTrouble, String),
}

impl<T> Said<T> {
    /// What a failed entry's code means. A code that speaks of the service counts before `sender_fault`, which is set
    /// for throttling and for keys that may not be used, too.
    pub(super) fn failed(code: &str, message: Option<&str>, sender_fault: bool) -> Self {
        let why = message.map_or_else(|| code.to_owned(), |message| format!("{code}: {message}"));
        match trouble::of_code(Some(code)) {
            kind @ (StoreTrouble::Away | StoreTrouble::Denied) => Self::Trouble(kind, why),
            StoreTrouble::Full | StoreTrouble::Newer | StoreTrouble::Damaged | StoreTrouble::Other if sender_fault => {
                Self::Never(EntryError::Refused(why))
            }
            StoreTrouble::Full | StoreTrouble::Newer | StoreTrouble::Damaged | StoreTrouble::Other => {
                Self::Trouble(StoreTrouble::Away, why)
            }
        }
    }
}

/// The id of the entry at `place` of a batch.
pub(super) fn id(place: usize) -> String {
    place.to_string()
}

/// What was said, in the order of the entries.
pub(super) fn in_order<T>(entries: usize, said: impl IntoIterator<Item = (String, Said<T>)>) -> Vec<Said<T>> {
    let mut by_id: HashMap<String, Said<T>> = said.into_iter().collect();
    let nothing = || Said::Trouble(StoreTrouble::Away, "the reply says nothing of it".to_owned());
    (0..entries).map(|place| by_id.remove(&id(place)).unwrap_or_else(nothing)).collect()
}

/// Carries out a batch: `call` makes one call and says what was said to each of its entries, in their order. Each reply
/// is the last word on its entry; [`StoreError`] where that is no word at all.
pub(super) async fn carry_out<R, T, C, F>(doing: &str, entries: Vec<R>, call: C) -> Vec<Result<Entry<T>, StoreError>>
where
    R: Clone,
    C: Fn(Vec<R>) -> F,
    F: Future<Output = Result<Vec<Said<T>>, StoreError>>,
{
    let unsaid = || Err(trouble::of_ours(StoreTrouble::Away, doing, "no reply"));
    let mut replies: Vec<Result<Entry<T>, StoreError>> = entries.iter().map(|_| unsaid()).collect();
    let mut open: Vec<usize> = (0..entries.len()).collect();
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(NAP * 2_u32.pow(round - 1)).await;
        }
        let these = open.iter().filter_map(|place| entries.get(*place).cloned()).collect();
        let said = call(these).await;
        let mut again = Vec::new();
        let all_alike = said.as_ref().err().cloned();
        let mut said = said.unwrap_or_default().into_iter();
        for place in open {
            let reply = match (&all_alike, said.next()) {
                (Some(error), _) => Err(error.clone()),
                (None, Some(Said::Done(done))) => Ok(Ok(done)),
                (None, Some(Said::Never(error))) => Ok(Err(error)),
                (None, Some(Said::Trouble(kind, why))) => {
                    if kind == StoreTrouble::Away {
                        again.push(place);
                    }
                    Err(trouble::of_ours(kind, doing, why))
                }
                (None, None) => unsaid(),
            };
            if let Some(slot) = replies.get_mut(place) {
                *slot = reply;
            }
        }
        open = again;
        if open.is_empty() {
            break;
        }
    }
    replies
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn refused() -> Said<u32> {
        Said::failed("InvalidMessageContents", Some("no"), true)
    }

    #[test]
    fn f19_d11_replies_are_told_by_id_and_a_missing_one_is_no_success() {
        let said = [("2".to_owned(), Said::Done(22)), ("0".to_owned(), refused())];
        let in_order = in_order(3, said);
        assert_eq!(in_order[0], refused());
        assert!(matches!(&in_order[1], Said::Trouble(StoreTrouble::Away, _)), "{in_order:?}");
        assert_eq!(in_order[2], Said::Done(22));
    }

    #[test]
    fn whose_fault_a_failed_entry_is() {
        assert_eq!(refused(), Said::Never(EntryError::Refused("InvalidMessageContents: no".to_owned())));
        let kind = |code, sender_fault| match Said::<()>::failed(code, None, sender_fault) {
            Said::Trouble(kind, _) => Some(kind),
            Said::Done(()) | Said::Never(_) => None,
        };
        assert_eq!(kind("InternalError", false), Some(StoreTrouble::Away));
        assert_eq!(kind("NeverHeardOf", false), Some(StoreTrouble::Away));
        assert_eq!(kind("NeverHeardOf", true), None);
        assert_eq!(kind("RequestThrottled", true), Some(StoreTrouble::Away), "throttled is not refused");
        assert_eq!(kind("AccessDenied", true), Some(StoreTrouble::Denied), "a permission is not the entry's fault");
        assert_eq!(kind("KMS.AccessDeniedException", true), Some(StoreTrouble::Denied));
        assert_eq!(kind("KmsThrottled", true), Some(StoreTrouble::Away));
    }

    /// Carries out entries 0 to 3 by a service of which `answer` says what it says to an entry in a round.
    async fn played(answer: impl Fn(u32, usize) -> Said<u32>) -> (Vec<Result<Entry<u32>, StoreError>>, Vec<Vec<u32>>) {
        let calls = Mutex::new(Vec::new());
        let replies = carry_out("testing", vec![0, 1, 2, 3], |entries: Vec<u32>| {
            let mut calls = calls.lock().unwrap();
            let said = entries.iter().map(|entry| answer(*entry, calls.len())).collect();
            calls.push(entries);
            async move { Ok(said) }
        })
        .await;
        (replies, calls.into_inner().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn f19_what_failed_for_now_is_asked_again_alone() {
        let (replies, calls) = played(|entry, round| match (entry, round) {
            (1, 0) | (3, 0 | 1) => Said::failed("InternalError", None, false),
            (2, _) => refused(),
            _ => Said::Done(entry * 10),
        })
        .await;
        assert_eq!(calls, [vec![0, 1, 2, 3], vec![1, 3], vec![3]]);
        let refused = EntryError::Refused("InvalidMessageContents: no".to_owned());
        assert_eq!(replies, [Ok(Ok(0)), Ok(Ok(10)), Ok(Err(refused)), Ok(Ok(30))]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_on_and_on_is_trouble_of_that_entry_alone() {
        let (replies, calls) = played(|entry, _| match entry {
            1 => Said::failed("InternalError", None, false),
            2 => Said::failed("AccessDenied", None, true),
            _ => Said::Done(entry),
        })
        .await;
        assert_eq!(calls.len(), ROUNDS as usize);
        assert_eq!(calls[1], [1], "who may not is not asked again");
        assert_eq!((replies[0].clone(), replies[3].clone()), (Ok(Ok(0)), Ok(Ok(3))));
        assert_eq!(replies[1].clone().unwrap_err().kind, StoreTrouble::Away);
        assert_eq!(replies[2].clone().unwrap_err().kind, StoreTrouble::Denied);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_fails_as_a_whole_fails_each_entry_still_open() {
        let error = trouble::of_ours(StoreTrouble::Denied, "testing", "no");
        let rounds = Mutex::new(0);
        let replies = carry_out("testing", vec![0, 1], |entries: Vec<u32>| {
            let mut rounds = rounds.lock().unwrap();
            *rounds += 1;
            let said = match *rounds {
                1 => Ok(vec![Said::Done(entries[0]), Said::failed("InternalError", None, false)]),
                _ => Err(error.clone()),
            };
            async move { said }
        })
        .await;
        assert_eq!(replies, [Ok(Ok(0)), Err(error)]);
    }
}
