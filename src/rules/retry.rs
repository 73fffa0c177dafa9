//! How long does a job wait before it is tried again?
//!
//! Full jitter: anything between nothing and a ceiling that doubles with every failure, so that jobs which
//! failed together do not come back together. Each class has a base and a cap of its own, because a model without
//! capacity needs longer than an empty answer. What waits for something other than time (a quota, credentials,
//! another lane) gets no back-off here.

use std::time::Duration;

use crate::job::failure::Class;

/// How long to wait after the failure number `attempt` (from 1) of a job; `random` is uniform in `[0, 1)`.
///
/// Uniform in `[0, min(cap, base x 2^(attempt - 1)))`. Zero for every class that is not tried again after a while.
pub fn back_off(class: Class, attempt: u32, random: f64) -> Duration {
    // A random number that is none must not make a panic or a wait without end.
    let share = if (0.0..1.0).contains(&random) { random } else { 1.0 };
    ceiling(class, attempt).mul_f64(share)
}

/// The longest that [`back_off`] can come to.
pub fn ceiling(class: Class, attempt: u32) -> Duration {
    let Some((base, cap)) = base_and_cap(class) else { return Duration::ZERO };
    let doublings = attempt.saturating_sub(1);
    2_u32.checked_pow(doublings).and_then(|factor| base.checked_mul(factor)).map_or(cap, |grown| grown.min(cap))
}

const fn base_and_cap(class: Class) -> Option<(Duration, Duration)> {
    match class {
        // The service's own guidance starts at one second.
        Class::Overloaded => Some((Duration::from_secs(1), Duration::from_secs(30))),
        Class::Unavailable => Some((Duration::from_millis(500), Duration::from_secs(20))),
        // A time-out has waited long already.
        Class::Timeout | Class::ModelError => Some((Duration::from_millis(500), Duration::from_secs(10))),
        // Says nothing about the health of the service: the next call may well bring an answer.
        Class::Empty => Some((Duration::from_millis(100), Duration::from_secs(5))),
        Class::QuotaMinute
        | Class::QuotaDay
        | Class::Invalid
        | Class::Denied
        | Class::Credentials
        | Class::Unknown
        | Class::BadInput
        | Class::IdConflict
        | Class::TooLarge
        | Class::OverBudget
        | Class::Residency
        | Class::NoText
        | Class::Expired
        | Class::Poison
        | Class::LostLease
        | Class::Shutdown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::failure::Consequence;

    #[test]
    fn t2_the_ceiling_doubles_from_the_base_up_to_the_cap() {
        let ceilings: Vec<_> = (1..=7).map(|attempt| ceiling(Class::Overloaded, attempt).as_secs()).collect();
        assert_eq!(ceilings, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(ceiling(Class::Overloaded, 0), ceiling(Class::Overloaded, 1));
    }

    #[test]
    fn t2_jitter_reaches_from_nothing_to_the_ceiling() {
        assert_eq!(back_off(Class::Unavailable, 3, 0.0), Duration::ZERO);
        assert_eq!(back_off(Class::Unavailable, 3, 0.5), Duration::from_secs(1));
        assert!(back_off(Class::Unavailable, 3, 0.999_999) < Duration::from_secs(2));
    }

    #[test]
    fn t3_exactly_what_is_tried_again_has_a_back_off() {
        for class in Class::ALL {
            let waits = ceiling(class, 1) > Duration::ZERO;
            assert_eq!(waits, class.consequence() == Consequence::Again, "{class}");
        }
    }

    #[test]
    fn a_random_number_that_is_none_waits_for_the_ceiling() {
        for bad in [f64::NAN, f64::INFINITY, -1.0, 1.0, 7.0] {
            assert_eq!(back_off(Class::Empty, 1, bad), ceiling(Class::Empty, 1), "{bad}");
        }
    }
}
