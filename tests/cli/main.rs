//! The binary as a person uses it: command lines, files and signals in; exit statuses, files and words out.
//!
//! Every test works in a directory of its own with an empty environment, so that neither the tests nor the machine
//! they run on can get into each other's way. What is asserted is the contract of design.md and the table "Bad
//! input gets": no test knows how the program keeps its state.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that panics has failed")]

mod agents;
mod bad_input;
mod check;
mod commands;
mod dead;
mod documents;
mod enqueue;
mod folders;
mod inputs;
mod lanes;
#[path = "../documents/made.rs"]
mod made;
mod money;
mod plan;
mod results;
mod right_sizing;
mod signals;
mod support;
mod together;
mod trouble;
mod watch;
mod webhook;
mod words;
mod worker;
