//! Whole fleets on AWS services that have bad days, and the proxy that gives them those.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod bad_days;
#[path = "../common/ministack/mod.rs"]
mod ministack;
#[path = "../common/proxy/mod.rs"]
mod proxy;
