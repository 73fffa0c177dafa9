//! The work: `receive -> admit -> route -> infer -> record -> notify -> acknowledge`, one file each.
//!
//! A step never imports another step. What they hand to each other are the words of [`proof`]; what they work with
//! is in [`context`], [`lanes`], [`mod@line`], [`shares`] and [`sizing`]; [`worker`] alone knows their order. Messages that are no jobs go by
//! [`control`], [`batch_request`] has inputs read whose lines [`intake`] and [`roster`] make jobs of, [`upload`] makes jobs of files that are dropped in, [`document`] makes many jobs of one, and [`ingest`] asks no model. Early exits are
//! [`proof::Exit`]s, not errors: one function here turns trouble into an exit, one in [`acknowledge`] carries it out.

// Every class, disposition and reply is decided one by one: a new one must not fall into a wildcard.
#![deny(clippy::wildcard_enum_match_arm)]

pub mod acknowledge;
pub mod admit;
pub mod assembly;
pub mod batch_request;
pub mod by_hand;
pub mod context;
pub mod control;
pub mod credentials;
pub mod denial;
pub mod document;
pub mod fallback;
pub mod figures;
pub mod gates;
pub mod infer;
pub mod ingest;
pub mod intake;
pub mod lane;
pub mod lanes;
pub mod lease;
pub mod line;
pub mod line_reader;
pub mod notify;
pub mod pace_clock;
pub mod patience;
pub mod placement;
pub mod proof;
pub mod reading;
pub mod receive;
pub mod record;
pub mod redriver;
pub mod roster;
pub mod route;
pub mod senders;
pub mod shares;
pub mod sizing;
pub mod stop;
pub mod upload;
pub mod worker;
