//! Whole fleets on AWS services, and what they leave behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

#[path = "../common/ministack/mod.rs"]
mod ministack;
mod stored;
