//! Estimates and right-sizing over whole batches of realistic sizes: what they promise is a property of thousands of
//! calls, not of one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub, reason = "tests")]

mod draws;
mod estimates;
mod right_size;
