//! The words of the program: what a job is, what becomes of it, and in which units it is counted.
//!
//! Nothing here touches a clock, a disk or a network, so that every other layer can share these words
//! without sharing anything else. Values are parsed once, at the edge; past it, a bad one cannot be built.

pub mod agent;
pub mod batch_request;
pub mod control;
pub mod document;
pub mod dropped;
pub mod failure;
pub mod ident;
pub mod ingest;
pub mod intake;
pub mod lifecycle;
pub mod notice;
pub mod outcome;
pub mod prompt_template;
pub mod spec;
pub mod trail;
pub mod units;
pub mod upload;
pub mod webhook;
