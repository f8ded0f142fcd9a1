//! The pod monitor.
fn main() {}
