//! One suite for the ports, run on every back end (public failure 20: an in-memory queue that never redelivered made
//! all tests pass). What a back end is not able to do is
//! stated in one table, [`world::Can`]; a test that meets it there asserts what holds instead. What only one back end
//! has is tested beside it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod allowance;
mod arrivals;
mod bodies;
mod desk;
#[path = "../common/dynoxide.rs"]
mod dynoxide;
mod fleet_ledger;
mod fleet_parts;
mod ledger;
mod looking;
#[path = "../common/ministack/mod.rs"]
mod ministack;
mod notices;
mod parts;
mod processes;
mod queue;
mod sqs;
mod trail;
mod uploads;
mod world;

/// Runs each test of a part of the suite on each back end that has that part.
macro_rules! on_every_back_end {
    ($($part:ident on [$($back_end:ident)+] $names:tt)*) => {
        mod suite {
            $(mod $part {
                $(on_one!($back_end $part $names);)+
            })*
        }
    };
}

macro_rules! on_one {
    ($back_end:ident $part:ident { $($name:ident)* }) => {
        mod $back_end {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::$part::$name(crate::world::$back_end::world().await).await;
            })*
        }
    };
}

on_every_back_end! {
    queue on [embedded aws] {
        f20_the_queue_really_redelivers
        a_handle_is_stale_once_the_message_was_delivered_again
        a_lapsed_handle_is_good_until_the_next_delivery
        f19_d11_one_bad_entry_leaves_the_others_done
        more_than_ten_entries_are_refused_and_none_is_a_no_op
        f06_a_delay_is_enforced_by_the_queue
        lower_priority_goes_first_then_the_oldest
        what_is_passed_over_stays_and_the_rest_comes_in_order
        what_comes_back_is_passed_over_like_the_rest
        a_receiver_that_passes_over_all_there_is_waits_for_the_rest
        zero_visibility_is_a_hand_back_at_once
        an_extension_hides_for_longer
        d5_a_dead_letter_is_gone_from_the_queue
        a_waiting_receiver_hears_of_a_message
        hidden_until_is_never_later_than_the_truth
        a_body_may_hold_anything
        a_job_may_be_larger_than_a_message
        deliveries_race_to_one_receiver_each
    }
    ledger on [embedded aws dynoxide] {
        d3_of_sixteen_claims_one_wins
        d3_f02_a_late_writer_is_refused
        d2_an_end_is_recorded_once_and_counted_once
        a_final_row_never_changes
        d12_other_content_under_the_same_identity_is_refused
        tenants_do_not_share_ids
        handing_back_raises_no_suspicion
        a_lapsed_lease_is_taken_over_with_the_next_token
        an_extended_lease_is_not_taken_over
        calls_nobody_settled_are_counted_as_unknown
        the_cap_holds_under_concurrency
        the_cap_is_one_for_all_tenants_of_a_batch
        an_open_call_makes_room_when_it_settles_lower
        a_batch_completes_exactly_when_its_last_job_does
        a_batch_that_is_not_marked_is_announced_again
        an_unsealed_batch_is_never_complete
        f15_cost_and_usage_are_sums_over_final_rows
        a_failure_reads_back_as_it_was_written
        reruns_are_kept_from_claim_to_claim
    }
    parts on [embedded aws dynoxide] {
        parts_are_handed_out_once_and_counted_as_they_end
        the_job_is_delivered_again_when_its_last_part_has_ended
        who_lost_the_job_hands_nothing_out
        w5_a_job_that_runs_again_asks_only_what_failed
        f15_the_sum_is_over_all_rounds
        a_round_of_hundreds_is_handed_out_whole
    }
    trail on [embedded aws dynoxide] {
        o3_what_happened_is_told_from_claim_to_claim
        o3_a_worker_that_was_gone_is_told_of
        the_newest_events_are_kept_however_many_there_were
    }
    allowance on [embedded aws dynoxide] {
        a_lane_that_was_never_written_is_empty_under_version_0
        a_state_reads_back_byte_for_byte_under_a_growing_version
        a_stale_swap_changes_nothing_and_returns_what_stands
        q2_of_fifty_swaps_of_one_version_one_is_done
        q2_fifty_tasks_count_to_fifty
        f07_q1_two_workers_on_one_store_count_as_one
        r16_lanes_do_not_touch_each_other
        a_state_that_is_too_large_is_refused
        r11_what_one_worker_swaps_the_other_sees_at_once
        r12_a_state_outlives_its_writer
        now_is_what_the_clock_of_the_store_says
    }
    bodies on [embedded aws] {
        a_line_reads_back
        d8_lines_of_many_jobs_share_a_segment
        a_damaged_line_is_not_an_answer
        a_pointer_out_of_the_store_is_refused
    }
    notices on [embedded aws] {
        d9_notices_may_be_repeated
    }
}
