//! The node's metrics, for Prometheus: one page over HTTP, made of plain values when somebody asks.
//!
//! | file | what |
//! |---|---|
//! | `config` | where to listen: nowhere, on a unix socket, on loopback |
//! | `family` | a metric and its samples, as text in the exposition format |
//! | `endpoint` | the connections: few, short, and none in another's way |
//!
//! Never knows: what is measured. It is given a function that tells all of it, from memory.

mod config;
mod endpoint;
mod family;

pub use config::{Address, Config, Error};
pub use endpoint::{Endpoint, Listener};
pub use family::{Family, Sample};
