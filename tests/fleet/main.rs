//! Whole fleets on AWS services: on bad days, with the proxy that gives them those, and what they leave behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

use aquifer::job::units::Timestamp;
use aquifer::ports::Clock;

mod bad_days;
mod check;
mod dead;
#[path = "../common/ministack/mod.rs"]
mod ministack;
mod provision;
#[allow(dead_code, reason = "shared with those who ask what was touched, too")]
#[path = "../common/proxy/mod.rs"]
mod proxy;
mod purged;
mod stored;

/// For what asks no time. Later than now for a long time: the emulator removes rows that have expired, and has a clock of its own.
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp(2_500_000_000_000)
    }
}
