//! What the benchmark makes of its numbers, without measuring any. The benchmark itself (`beside/`) is a program
//! without a harness: its modules have their tests here.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "as in the benchmark")]
#![allow(dead_code, reason = "what measures is not called here")]

#[path = "../node/support.rs"]
mod support;

mod budgets;
mod held;

#[path = "beside/budget.rs"]
mod budget;
#[path = "beside/check.rs"]
mod check;
#[path = "beside/containerd.rs"]
mod containerd;
#[path = "beside/engine.rs"]
mod engine;
#[path = "beside/options.rs"]
mod options;
#[path = "beside/publish.rs"]
mod publish;
#[path = "beside/report.rs"]
mod report;
