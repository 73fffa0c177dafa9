//! A durable, queue-driven batch inference worker for Amazon Bedrock.
//!
//! ```text
//! receive -> admit -> route -> infer -> record -> notify -> acknowledge
//! ```
//!
//! The layers, each importing only those above it: [`job`] (the words), [`rules`] (arithmetic), [`ports`] (the
//! seams), [`flow`] (the work), [`document`] (text out of files), the back ends [`bedrock`], [`embedded`] and [`aws`], [`simulate`], [`config`], [`cli`] and
//! [`page`].

pub mod aws;
pub mod bedrock;
pub mod cli;
pub mod config;
pub mod document;
pub mod embedded;
pub mod flow;
pub mod job;
pub mod page;
pub mod ports;
pub mod rules;
pub mod simulate;
pub mod telemetry;
