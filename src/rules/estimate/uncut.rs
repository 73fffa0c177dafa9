//! How long would answers have been that were cut at their caps? Of one that was cut only the least is known; that it ended
//! there would make every longer cap look cheaper than it is.
//!
//! Those that were cut at a length would have gone on like the others that came so far: they are spread evenly over the
//! longer ones, from the longest cut on down (Efron's redistribution to the right, which is the estimate of Kaplan and Meier,
//! 1958). Where nothing longer was seen, nothing longer is made up.

/// The length of an answer in tokens, and whether its cap cut it there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seen {
    /// Tokens, as they came.
    pub length: u64,
    /// Whether it would have been longer.
    pub is_cut: bool,
}

/// The lengths that these would have had under no cap, each in its place.
pub fn uncut(seen: &[Seen]) -> Vec<u64> {
    let mut lengths: Vec<u64> = seen.iter().map(|one| one.length).collect();
    let mut longest_first: Vec<usize> = (0..seen.len()).collect();
    longest_first.sort_by_key(|index| std::cmp::Reverse(seen.get(*index).map(|one| one.length)));
    let mut longer: Vec<u64> = Vec::new();
    for same in longest_first.chunk_by(|a, b| seen.get(*a).map(|one| one.length) == seen.get(*b).map(|one| one.length))
    {
        let cut = || same.iter().copied().filter(|index| seen.get(*index).is_some_and(|one| one.is_cut));
        let count = cut().count();
        for (place, index) in cut().enumerate() {
            let like = (2 * place + 1) * longer.len() / (2 * count);
            if let (Some(length), Some(like)) = (lengths.get_mut(index), longer.get(like)) {
                *length = *like;
            }
        }
        longer.extend(same.iter().filter_map(|index| lengths.get(*index)));
        longer.sort_unstable();
    }
    lengths
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(length: u64) -> Seen {
        Seen { length, is_cut: false }
    }

    fn cut(length: u64) -> Seen {
        Seen { length, is_cut: true }
    }

    #[test]
    fn what_was_cut_is_as_long_as_those_that_went_on() {
        assert_eq!(
            uncut(&[whole(10), cut(50), whole(100), cut(50), whole(200), whole(50)]),
            [10, 100, 100, 200, 200, 50]
        );
    }

    #[test]
    fn nothing_is_made_up_beyond_the_longest_that_was_seen() {
        assert_eq!(uncut(&[cut(50), whole(30), cut(50)]), [50, 30, 50]);
        assert_eq!(uncut(&[]), Vec::<u64>::new());
    }

    proptest! {
        #[test]
        fn none_becomes_shorter_and_what_was_whole_stays(seen in prop::collection::vec((1_u64..500, any::<bool>()), 0..100)) {
            let seen: Vec<Seen> = seen.into_iter().map(|(length, is_cut)| Seen { length, is_cut }).collect();
            for (one, length) in seen.iter().zip(uncut(&seen)) {
                prop_assert!(length >= one.length && (one.is_cut || length == one.length));
            }
        }

        /// Half of the answers have a cap at which some are cut: the mean is that of all, had none been.
        #[test]
        fn the_mean_is_that_of_answers_that_were_not_cut(cap in 60_u64..250, longest in 200_u64..400) {
            let lengths = || (0..2_000_u64).map(|number| 1 + number * 7_919 % longest);
            let seen: Vec<Seen> = lengths()
                .enumerate()
                .map(|(number, length)| if number % 2 == 0 && length > cap { cut(cap) } else { whole(length) })
                .collect();
            let (told, truth): (u64, u64) = (uncut(&seen).iter().sum(), lengths().sum());
            prop_assert!(told.abs_diff(truth) * 100 <= 3 * truth, "{told} of {truth}");
        }
    }
}
