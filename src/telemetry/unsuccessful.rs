//! Which jobs ended without success lately? The newest of each class, so that a flood of one kind hides no other; their ids
//! only, since what happened to each is on record and `explain` tells it.

use std::collections::VecDeque;

use crate::job::failure::Class;
use crate::job::ident::JobKey;
use crate::job::units::Timestamp;

/// So many are kept of each class.
pub const NEWEST: usize = 5;

/// A job that ended without success.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unsuccessful {
    /// Which job.
    pub key: JobKey,
    /// When this worker recorded its end.
    pub at: Timestamp,
}

/// By class, in the order of [`Class::ALL`]; the newest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Newest([VecDeque<Unsuccessful>; Class::ALL.len()]);

impl Newest {
    pub(super) fn note(&mut self, class: Class, job: Unsuccessful) {
        let of_class = &mut self.0[class as usize];
        of_class.truncate(NEWEST - 1);
        of_class.push_front(job);
    }

    pub(super) fn all(&self) -> Vec<(Class, Unsuccessful)> {
        let each = Class::ALL.into_iter().flat_map(|class| self.0[class as usize].iter().map(move |job| (class, job)));
        each.map(|(class, job)| (class, job.clone())).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::job::ident::{BatchName, JobId, Tenant};

    #[test]
    fn the_newest_of_each_class_are_kept_and_no_class_hides_another() {
        let job = |n: i64| Unsuccessful {
            key: JobKey {
                tenant: Tenant::unnamed(),
                batch: BatchName::new("b").unwrap(),
                id: JobId::new(&format!("job-{n}")).unwrap(),
            },
            at: Timestamp(n),
        };
        let mut newest = Newest::default();
        newest.note(Class::Invalid, job(0));
        (1..=100).for_each(|n| newest.note(Class::Timeout, job(n)));
        let all: Vec<_> = newest.all().into_iter().map(|(class, job)| (class, job.at.0)).collect();
        let timeouts = (96..=100).rev().map(|n| (Class::Timeout, n));
        assert_eq!(all, timeouts.chain([(Class::Invalid, 0)]).collect::<Vec<_>>());
    }
}
