//! The real binary, killed: `kill -9` at any moment, a disk that is full, a service that is away, a process that slept
//! past its lease.
//!
//! The service is `aquifer simulate` in a process of its own. Before it stands a relay of ours, a new one for every life of
//! a worker, which knows exactly how many calls that life made, when, and for which jobs; and which lets every call that
//! began come to its end whether or not its caller still lives, as a service that bills does. Between a kill and the next
//! life the ledger is read from a copy, so that recovery is left to the program.
//!
//! Where a quota is the question (`quota`), the service is a judge: it answers everything and counts what the quota would
//! have refused.
//!
//! Moments are random but seeded. The seed is printed; `CRASH_SEED` sets it. The long form of the crash test is
//! `CRASH_JOBS=10000 CRASH_KILLS=100 cargo test --release --test crash thirty_kills -- --nocapture`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and a seed must be seen"
)]

mod books;
mod disk_full;
mod documents;
mod edited;
mod forget;
mod kills;
mod last_result;
#[path = "../documents/made.rs"]
mod made;
mod network;
mod pair;
mod quota;
mod relay;
#[allow(dead_code, reason = "shared with the command line's tests, which use all of it")]
#[path = "../cli/support.rs"]
mod support;
mod world;
