//! The real binary on AWS services: `aquifer enqueue`, three workers, a topic that somebody listens to, and then everything
//! is compared with the input. While they work, workers are killed, services fail or go away, and messages come three times.
//!
//! The services are ministack behind the fault proxy; the model is `aquifer simulate`, before which every life of a worker has
//! a relay of its own that counts its calls by job (see `tests/crash`). What is looked at afterwards is looked at past the
//! proxy.
//!
//! One test runs at a time: rates are measured, and all of them share one emulator.
//!
//! Moments are random but seeded. The seed is printed; `CRASH_SEED` sets it. The long forms are
//! `FLEET_JOBS=10000 FLEET_KILLS=100 FLEET_SLOTS=64 cargo test --release --test fleet_e2e kills -- --nocapture` and
//! `FLEET_UPLOADS=500 FLEET_UPLOAD_KILLS=20 FLEET_LIMIT_S=900 cargo test --release --test fleet_e2e uploads -- --nocapture` and
//! `FLEET_AWAY_S=120 cargo test --release --test fleet_e2e away -- --nocapture` and
//! `FLEET_JOBS=5000 FLEET_SLOTS=256 FLEET_LIMIT_S=900 cargo test --release --test fleet_e2e parked -- --nocapture`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and figures and a seed must be seen"
)]

mod away;
mod bill;
mod books;
mod documents;
mod ears;
mod ingest;
mod kills;
#[allow(dead_code, reason = "shared with the embedded back end's crash tests, which use all of it")]
#[path = "../crash/world.rs"]
mod lives;
#[path = "../documents/made.rs"]
mod made;
#[allow(dead_code, reason = "shared with the tests of single ports, which use all of it")]
#[path = "../common/ministack/mod.rs"]
mod ministack;
mod parked;
mod producers;
#[allow(dead_code, reason = "shared with the tests of single ports, which use all of it")]
#[path = "../common/proxy/mod.rs"]
mod proxy;
#[allow(dead_code, reason = "shared with the embedded back end's crash tests, which use all of it")]
#[path = "../crash/relay.rs"]
mod relay;
mod stop;
#[allow(dead_code, reason = "shared with the command line's tests, which use all of it")]
#[path = "../cli/support.rs"]
mod support;
mod thrice;
mod uploads;
mod workflows;
mod world;
