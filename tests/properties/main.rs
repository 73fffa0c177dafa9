//! The rules, against independent and slower arithmetic, and against a service that counts by itself: generated
//! arrivals, sizes, latencies and clocks.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]

mod client;
mod drains;
mod estimates;
mod grants;
mod ingest;
mod lanes;
mod ledger;
mod throttles;
