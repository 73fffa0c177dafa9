//! Parse, wire, run, exit code.

fn main() {}
